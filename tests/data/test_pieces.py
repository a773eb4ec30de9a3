"""Clips inside tar shards and Arrow files are read in place; clips without a cache are those that a cache holds."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import webdataset
from PIL import Image

from equipoise.data.cache import ClipCache
from equipoise.data.check import check_manifest
from equipoise.data.decode import DecodeError, decode
from equipoise.data.direct import DirectClips
from equipoise.data.listing import Listing, list_root, manifest_of_list
from equipoise.data.manifest import Manifest, ManifestError
from equipoise.data.miniature import encode_video
from equipoise.data.pieces import piece_of

SIZES = ((5, 32, 64), (9, 48, 40), (7, 32, 32), (12, 40, 40))


@pytest.fixture
def clips(tmp_path: Path) -> dict[str, bytes]:
    """Four videos and a picture, by name."""
    rng = np.random.default_rng(0)
    found = {
        f"clip{i}.mp4": encode_video(rng.integers(0, 255, (*shape, 3), dtype=np.uint8), 12)
        for i, shape in enumerate(SIZES)
    }
    still = tmp_path / "still.png"
    Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(still)
    found["still.png"] = still.read_bytes()
    still.unlink()
    return found


def shards(folder: Path, samples: list[dict[str, Any]], each: int = 2) -> None:
    """Tar shards as the library `webdataset` writes them."""
    folder.mkdir(exist_ok=True)
    for first in range(0, len(samples), each):
        with webdataset.TarWriter(str(folder / f"train-{first // each:03d}.tar")) as writer:
            for sample in samples[first : first + each]:
                writer.write(sample)


def described(root: Path) -> tuple[Listing, Manifest]:
    listing = list_root(root)
    manifest, report = manifest_of_list("own", "train", root, listing.items, classes=listing.classes, workers=0)
    assert report.failures == []
    return listing, manifest


def same_content(manifest: Manifest, clips: dict[str, bytes], folder: Path) -> None:
    """Every row decodes as the file that it was made of, and has its hash and facts."""
    folder.mkdir()
    by_hash = {hashlib.sha256(content).hexdigest(): name for name, content in clips.items()}
    names = [by_hash[str(digest)] for digest in manifest.sha256]
    assert sorted(names) == sorted(clips)
    for row, name in enumerate(names):
        (folder / name).write_bytes(clips[name])
        own = decode(folder / name, str(manifest.kind[row]))
        np.testing.assert_array_equal(decode(manifest.file(row), str(manifest.kind[row])), own)
        assert (manifest.frames[row], manifest.height[row], manifest.width[row]) == own.shape[:3]
        assert manifest.kind[row] == ("image" if name.endswith("png") else "video")


@pytest.mark.parametrize("form", ["cls", "json", "name"])
def test_tar_shards_of_webdataset_are_read_in_place(form: str, clips: dict[str, bytes], tmp_path: Path) -> None:
    labels = {name: ("jump" if i % 2 else "dive") if form == "name" else i % 2 for i, name in enumerate(clips)}
    samples: list[dict[str, Any]] = []
    for name, content in clips.items():
        key, ending = name.split(".")
        labelled: dict[str, dict[str, Any]] = {
            "cls": {"cls": labels[name]},
            "json": {"json": {"label": labels[name], "fps": 12}},
            "name": {"label.txt": str(labels[name]), "txt": "a caption"},
        }
        samples.append({"__key__": f"some/{key}", ending: content, **labelled[form]})
    shards(tmp_path / "shards", samples)
    _, manifest = described(tmp_path / "shards")
    same_content(manifest, clips, tmp_path / "plain")
    assert manifest.classes == (("dive", "jump") if form == "name" else ("0", "1"))
    of_name = {
        str(p).split("/")[-1].split("@")[0]: str(n) for p, n in zip(manifest.path, manifest.label_name, strict=True)
    }
    assert of_name == {name: str(label) for name, label in labels.items()}
    assert str(manifest.path[0]).startswith("train-000.tar/some/clip0.mp4@")
    # What reads manifests reads these: written, read again, checked, cached.
    manifest.write(tmp_path / "train.parquet")
    again = Manifest.read(tmp_path / "train.parquet")
    assert check_manifest(again, workers=0).failures == []
    cache = ClipCache.open(again, tmp_path / "cache", size=16, workers=0)
    assert len(cache) == len(clips)
    # A shard that was cut off, or written anew, is noticed.
    shard = tmp_path / "shards" / "train-000.tar"
    whole = bytearray(shard.read_bytes())
    piece = piece_of(again.file(1))
    assert piece is not None
    shard.write_bytes(whole[: piece.start + 10])
    with pytest.raises(DecodeError, match=r"train-000.tar is cut off before its end"):
        decode(again.file(1), "video")
    whole[piece.start + 5] ^= 255
    shard.write_bytes(whole)
    assert [reason.split(" (")[0] for _, reason in check_manifest(again, workers=0).failures] == [
        "the file has changed since the manifest was written"
    ]


@pytest.mark.parametrize("given", ["content", "paths"])
def test_a_data_set_of_hugging_faces_datasets_is_read_in_place(
    given: str, clips: dict[str, bytes], tmp_path: Path
) -> None:
    root, videos = tmp_path / "saved", {n: c for n, c in clips.items() if n.endswith("mp4")}
    (tmp_path / "files").mkdir()
    for name, content in videos.items():
        (tmp_path / "files" / name).write_bytes(content)
    rows = [
        {"bytes": content, "path": name} if given == "content" else str(tmp_path / "files" / name)
        for name, content in videos.items()
    ]
    features = datasets.Features(
        {
            "clip": datasets.Video(decode=False),
            "move": datasets.ClassLabel(names=["turn", "fall"]),
            "note": datasets.Value("string"),
        }
    )
    made = datasets.Dataset.from_dict({"clip": rows, "move": [0, 1, 1, 0], "note": ["x"] * 4}, features=features)
    made.save_to_disk(str(root), num_shards=2)
    _, manifest = described(root)
    same_content(manifest, videos, tmp_path / "plain")
    assert manifest.classes == ("turn", "fall"), "in the order of the data set, not sorted"
    assert manifest.label.tolist() == [0, 1, 1, 0]
    assert all(piece_of(path) is not None for path in map(str, manifest.path))


def test_pictures_of_datasets_keep_their_names_ending(clips: dict[str, bytes], tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("string")})
    rows = [{"bytes": clips["still.png"], "path": given} for given in ("a.png", "b.jpeg", None)]
    made = datasets.Dataset.from_dict({"image": rows, "label": ["x", "y", "x"]}, features=features)
    made.save_to_disk(str(tmp_path / "saved"))
    _, manifest = described(tmp_path / "saved")
    assert [str(p).split("@")[0].rsplit(".")[-1] for p in manifest.path] == ["png", "jpeg", "png"]
    assert set(manifest.kind) == {"image"}
    assert manifest.classes == ("x", "y")


def _tar(folder: Path, members: dict[str, bytes], mode: Any = "w") -> None:
    folder.mkdir()
    with tarfile.open(folder / "a.tar", mode) as tar:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda f: _tar(f, {"a.mp4": b"x"}), "a.tar/a.mp4 has no label beside it; expected a member of the same name"),
        (lambda f: _tar(f, {"a.txt": b"x"}), "has no tar shard with a video or picture in it"),
        (lambda f: _tar(f, {"a.mp4": b"x", "a.json": b"{"}), "has no label beside it"),
        (lambda f: _tar(f, {"a.mp4": b"x", "a.cls": b"1"}, "w:gz"), "cannot be read as a tar file without compression"),
        (lambda f: _saved(f, {}), "is no data set that can be read: KeyError"),
        (lambda f: _saved(f, {"features": {"x": {"_type": "Value"}}}), "expected one of images or videos"),
    ],
)
def test_what_has_no_clips_with_labels_is_a_sentence(
    make: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    make(tmp_path / "root")
    with pytest.raises(ManifestError, match=sentence) as raised:
        list_root(tmp_path / "root")
    assert "\n" not in str(raised.value)


def _saved(folder: Path, info: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps({"_data_files": []}))
    (folder / "dataset_info.json").write_text(json.dumps(info))


def test_clips_without_a_cache_are_those_that_a_raw_cache_holds(clips: dict[str, bytes], tmp_path: Path) -> None:
    samples = [{"__key__": n.split(".")[0], n.split(".")[1]: c, "cls": 0} for n, c in clips.items()]
    shards(tmp_path / "shards", samples)
    _, manifest = described(tmp_path / "shards")
    for frames in (None, 6):
        cache = ClipCache.open(manifest, tmp_path / f"cache{frames}", size=16, frames=frames, workers=0)
        direct = DirectClips(manifest, 16, frames)
        assert len(direct) == len(cache)
        assert (direct.labels == cache.labels).all()
        assert (direct.shapes == cache.shapes).all()
        assert (direct.paths, direct.kinds, direct.manifest_hash) == (cache.paths, cache.kinds, cache.manifest_hash)
        for index in range(len(cache)):
            np.testing.assert_array_equal(direct.clip(index), cache.clip(index))
            numbers = np.array([0, 0, cache.shapes[index, 0] - 1])
            place = np.empty((3, *cache.shapes[index, 1:], 3), np.uint8)
            assert direct.frames(index, numbers, place) is place
            np.testing.assert_array_equal(place, cache.frames(index, numbers))
    # A file that is not the one described is an error where it is read.
    (tmp_path / "shards" / "train-000.tar").unlink()
    with pytest.raises(DecodeError, match="no such file"):
        DirectClips(manifest, 16, None).clip(0)
