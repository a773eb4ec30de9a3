from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from equipoise.data.decode import decode
from equipoise.data.listing import Listing, list_folders, manifest_of_list, read_list
from equipoise.data.manifest import Manifest, ManifestError
from equipoise.data.miniature import encode_video


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i, frames in enumerate((5, 9)):
        clip = rng.integers(0, 255, (frames, 32, 64, 3), dtype=np.uint8)
        (tmp_path / f"clip {i} é.mp4").write_bytes(encode_video(clip, 12))
    Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "still.png")
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    return tmp_path


def test_describes_what_decoding_finds(files: Path) -> None:
    items = [("clip 1 é.mp4", "b"), ("still.png", "a"), ("clip 0 é.mp4", "a")]
    manifest, report = manifest_of_list("own", "train", files, items, workers=0)
    assert report.failures == []
    assert manifest.classes == ("a", "b")
    assert manifest.label.tolist() == [1, 0, 0]
    for row in range(3):
        frames = decode(manifest.file(row), str(manifest.kind[row]))
        shape = (manifest.frames[row], manifest.height[row], manifest.width[row], 3)
        assert frames.shape == shape
    assert manifest.fps[0] == 12
    manifest.write(files / "train.parquet")
    assert Manifest.read(files / "train.parquet").hash == manifest.hash


def test_unreadable_files_are_counted_and_named(files: Path) -> None:
    items = [("clip 0 é.mp4", "a"), ("broken.mp4", "a"), ("missing.mp4", "b")]
    manifest, report = manifest_of_list("own", "train", files, items, workers=0)
    assert len(manifest) == 1
    assert report.total == 3
    assert [path for path, _ in report.failures] == ["broken.mp4", "missing.mp4"]
    with pytest.raises(ManifestError, match=rf"none of 2 files below .* can be read; {report.failures[0][1]}"):
        manifest_of_list("own", "train", files, items[1:], workers=0)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpath,label\nx.mp4,jump\ny.mp4,jump\n",
        "path, label\nx.mp4, jump\ny.mp4,jump \n",
        " path ,label \n x.mp4,jump\ny.mp4 , jump \n",
        "label,path,more\njump,x.mp4,1\njump,y.mp4,2\n",
        'path,label\r\n"x.mp4",jump\r\n y.mp4,"jump"\r\n',
    ],
)
def test_a_list_as_people_have_it_is_read(text: str, tmp_path: Path) -> None:
    listing = tmp_path / "list.csv"
    listing.write_text(text, encoding="utf-8", newline="")
    assert read_list(listing) == Listing([("x.mp4", "jump"), ("y.mp4", "jump")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path;label\nx;a\n", "separates its columns by semicolons"),
        ("path\tlabel\nx\ta\n", "separates its columns by tabs"),
        ("/data/x.mp4 166\n/data/y z.mp4 0\n", "as V-JEPA's lists do, and has lines that do not"),
        ("/data/x.mp4 166\n/data/y.mp4 -1\n", "a whole number from 0 on"),
        ("label,youtube_id,time_start,time_end,split\n,a,1,2,test\n", "rows without a label: give a labelled split"),
        ("label,youtube_id,time_start,time_end,split\njump,a,one,2,test\n", "line 2: .* are no seconds"),
        ("x.mp4,a\ny.mp4,b\n", "begins with x.mp4,a, which looks like a row: write path,label as its first line"),
        ("Path,Label\nx,a\n", "column names are in small letters"),
        ("path,label,label\nx,a,b\n", "has the column 'label' twice"),
        ("path,label\nx.mp4,  \n", "line 2: path is 'x.mp4' and label ''"),
        ("", "has no columns in its first line"),
    ],
)
def test_what_is_no_list_is_told_what_it_is(text: str, message: str, tmp_path: Path) -> None:
    listing = tmp_path / "list.csv"
    listing.write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=message):
        read_list(listing)


@pytest.mark.parametrize("sign", [" ", "  ", "\t", "::"])
def test_numbers_of_a_list_of_vjepas_are_the_ids(sign: str, files: Path) -> None:
    listing = files / "list.csv"
    listing.write_text(f"still.png{sign}3\nmore/clip.mp4{sign}0\n")
    found = read_list(listing)
    assert found == Listing([("still.png", "3"), ("more/clip.mp4", "0")], ("0", "1", "2", "3"))
    manifest, _ = manifest_of_list("own", "train", files, found.items[:1], classes=found.classes, workers=0)
    assert manifest.label.tolist() == [3]


def test_a_list_of_kinetics_names_files_by_their_seconds(files: Path) -> None:
    (files / "jump").mkdir()
    shutil.copy(files / "clip 0 é.mp4", files / "jump" / "-a_b_000003_000013.webm")
    listing = files / "train.csv"
    head = "label,youtube_id,time_start,time_end,split,is_cc"
    listing.write_text(f"{head}\njump,-a_b,3,13,train,0\nhigh jump,gone,7.0,17,train,0\n")
    found = read_list(listing, files)
    assert found.items == [("jump/-a_b_000003_000013.webm", "jump"), ("gone_000007_000017.mp4", "high jump")]
    manifest, report = manifest_of_list("own", "train", files, found.items, workers=0)
    assert manifest.path.tolist() == ["jump/-a_b_000003_000013.webm"]
    assert [path for path, _ in report.failures] == ["gone_000007_000017.mp4"]


def test_a_folder_for_each_class(files: Path) -> None:
    root = files / "sorted"
    for place in ("run/a.MP4", "jump/day 1/b.webm", "jump/c.png", "jump/notes.txt", ".hidden/d.mp4", "e.mp4"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(b"x")
    assert list_folders(root) == Listing([("jump/c.png", "jump"), ("jump/day 1/b.webm", "jump"), ("run/a.MP4", "run")])
    with pytest.raises(ManifestError, match="has no sub-folder with a video or picture"):
        list_folders(root / "jump" / "day 1")


def test_mistakes(files: Path) -> None:
    with pytest.raises(ManifestError, match="'c' is not among the 2 classes"):
        manifest_of_list("own", "test", files, [("still.png", "c")], classes=("a", "b"), workers=0)
    with pytest.raises(ManifestError, match="more than once"):
        manifest_of_list("own", "test", files, [("still.png", "a"), ("still.png", "b")], workers=0)
    with pytest.raises(ManifestError, match="none of 1 files"):
        manifest_of_list("own", "test", files, [("missing.mp4", "a")], workers=0)
    listing = files / "list.csv"
    listing.write_text("file,label\nx,y\n")
    with pytest.raises(ManifestError, match="expected path and label"):
        read_list(listing)
    listing.write_text("path,label\na.mp4,x\n,y\n")
    with pytest.raises(ManifestError, match="line 3"):
        read_list(listing)
    listing.write_text("path,label\n")
    with pytest.raises(ManifestError, match="no rows"):
        read_list(listing)
    listing.write_text("path,label\na b.mp4,x\n")
    assert read_list(listing).items == [("a b.mp4", "x")]
