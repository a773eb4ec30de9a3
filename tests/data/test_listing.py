from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from equipoise.data.decode import decode
from equipoise.data.listing import manifest_of_list, read_list
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
    assert read_list(listing) == [("a b.mp4", "x")]
