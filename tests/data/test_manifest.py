from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from equipoise.data.manifest import Manifest, ManifestError


def row(number: int, label: int, **other: Any) -> dict[str, Any]:
    values = {
        "path": f"clips/{number}.mp4",
        "label": label,
        "kind": "video",
        "frames": 10 + number,
        "fps": 12.5,
        "width": 64,
        "height": 48,
        "sha256": f"{number:064x}",
    }
    return {**values, **other}


def manifest(root: Path, **other: Any) -> Manifest:
    return Manifest.from_rows("toy", "train", root, ("jump", "fall"), [row(0, 1), row(1, 0, **other)])


def rewrite(path: Path, change: Any) -> None:
    table = pq.read_table(path)
    pq.write_table(change(table), path)


def test_what_two_splits_share_is_found_by_path_and_by_content(tmp_path: Path) -> None:
    train = manifest(tmp_path)
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "1.mp4").write_bytes(b"x")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "clips" / "1.mp4")
    rows = [row(5, 0), row(6, 0, path="copy.mp4", sha256=f"{0:064x}"), row(7, 0, path="link.mp4", sha256="")]
    test = Manifest.from_rows("toy", "test", tmp_path, ("jump", "fall"), rows)
    assert test.shared(train) == ["copy.mp4", "link.mp4"]
    unhashed = Manifest.from_rows("toy", "more", tmp_path / "b", ("jump",), [row(0, 0, sha256="")])
    assert unhashed.shared(Manifest.from_rows("toy", "else", tmp_path, ("jump",), [row(0, 0, sha256="")])) == []


def test_round_trip_keeps_every_column_and_the_hash(tmp_path: Path) -> None:
    before = manifest(tmp_path)
    before.write(tmp_path / "train.parquet")
    after = Manifest.read(tmp_path / "train.parquet")
    assert (after.name, after.split, after.classes, len(after)) == ("toy", "train", ("jump", "fall"), 2)
    assert after.root == tmp_path
    assert after.label_name.tolist() == ["fall", "jump"]
    for column in ("path", "label", "label_name", "kind", "frames", "fps", "width", "height", "sha256"):
        left, right = getattr(before, column), getattr(after, column)
        assert left.dtype.kind == right.dtype.kind
        np.testing.assert_array_equal(left, right)
    assert after.hash == before.hash
    assert after.file(1) == tmp_path / "clips/1.mp4"


def test_columns_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        manifest(tmp_path).label[0] = 0


@pytest.mark.parametrize("layout", ["beside", "below", "above"])
def test_a_moved_folder_still_reads(tmp_path: Path, layout: str) -> None:
    home = tmp_path / "before"
    root, path = {
        "beside": (home, home / "train.parquet"),
        "below": (home / "files", home / "train.parquet"),
        "above": (home, home / "lists/train.parquet"),
    }[layout]
    root.mkdir(parents=True)
    written = manifest(root)
    written.write(path)
    moved = tmp_path / "elsewhere" / "after"
    moved.parent.mkdir()
    shutil.move(home, moved)
    read = Manifest.read(moved / path.relative_to(home))
    assert read.root == moved / root.relative_to(home)
    assert read.hash == written.hash


def test_an_unrelated_root_is_absolute(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "lists").mkdir()
    manifest(tmp_path / "files").write(tmp_path / "lists/train.parquet")
    (tmp_path / "other").mkdir()
    shutil.move(tmp_path / "lists/train.parquet", tmp_path / "other/train.parquet")
    assert Manifest.read(tmp_path / "other/train.parquet").root == tmp_path / "files"


def test_the_hash_is_of_rows_and_classes_only(tmp_path: Path) -> None:
    base = manifest(tmp_path)
    assert replace(base, root=tmp_path / "other").hash == base.hash
    assert replace(base, classes=("jump", "drop")).hash != base.hash
    assert manifest(tmp_path, frames=12).hash != base.hash
    assert manifest(tmp_path, sha256="").hash != base.hash


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.parquet does not exist; build or import"):
        Manifest.read(tmp_path / "none.parquet")


@pytest.mark.parametrize("content", [b"", b"path,label\na,1\n", b"PAR1" + b"\0" * 40])
def test_not_parquet(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.parquet").write_bytes(content)
    with pytest.raises(ManifestError, match="is not a readable Parquet file"):
        Manifest.read(tmp_path / "m.parquet")


def test_empty(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is empty"):
        Manifest.from_rows("toy", "train", tmp_path, ("a",), [])
    manifest(tmp_path).write(tmp_path / "m.parquet")
    rewrite(tmp_path / "m.parquet", lambda table: table.slice(0, 0))
    with pytest.raises(ManifestError, match="is empty"):
        Manifest.read(tmp_path / "m.parquet")


def test_missing_column_names_the_nearest(tmp_path: Path) -> None:
    manifest(tmp_path).write(tmp_path / "m.parquet")
    rewrite(
        tmp_path / "m.parquet",
        lambda table: table.rename_columns(["heigth" if n == "height" else n for n in table.column_names]),
    )
    with pytest.raises(ManifestError, match=r"no column 'height' \(the nearest column it has is 'heigth'\)"):
        Manifest.read(tmp_path / "m.parquet")


def test_missing_metadata(tmp_path: Path) -> None:
    manifest(tmp_path).write(tmp_path / "m.parquet")
    rewrite(tmp_path / "m.parquet", lambda table: table.replace_schema_metadata(None))
    with pytest.raises(ManifestError, match="no root folder and class list"):
        Manifest.read(tmp_path / "m.parquet")


@pytest.mark.parametrize("label", [-1, 2])
def test_label_out_of_range(tmp_path: Path, label: int) -> None:
    with pytest.raises(ManifestError, match=rf"label {label} in row 1 \(clips/1.mp4\), but labels go from 0 to 1"):
        Manifest.from_rows("toy", "train", tmp_path, ("a", "b"), [row(0, 0), row(1, label)])
    manifest(tmp_path).write(tmp_path / "m.parquet")
    place = pq.read_table(tmp_path / "m.parquet").column_names.index("label")
    rewrite(tmp_path / "m.parquet", lambda t: t.set_column(place, "label", pa.array([0, label], pa.int64())))
    with pytest.raises(ManifestError, match="labels go from 0 to 1"):
        Manifest.read(tmp_path / "m.parquet")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("label", ["0", "one"], "has string in column 'label', expected int64: Failed to parse string: 'one'"),
        ("label", [0.0, 0.5], "has double in column 'label', expected int64"),
        ("label", [1, 1], r"has label 1, which is '.*', and label_name '.*' in row 1 \(clips/1.mp4\); they must say"),
        ("frames", [8, None], "has no frames in row 1; give every row all columns"),
        ("path", [None, "a.mp4"], "has no path in row 0"),
    ],
)
def test_edited_by_hand(tmp_path: Path, column: str, values: list[object], message: str) -> None:
    manifest(tmp_path).write(tmp_path / "m.parquet")
    place = pq.read_table(tmp_path / "m.parquet").column_names.index(column)
    rewrite(tmp_path / "m.parquet", lambda t: t.set_column(place, column, pa.array(values)))
    with pytest.raises(ManifestError, match=message):
        Manifest.read(tmp_path / "m.parquet")


def test_missing_root(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    manifest(tmp_path / "files").write(tmp_path / "m.parquet")
    (tmp_path / "files").rmdir()
    with pytest.raises(ManifestError, match=r"names the root folder .*files, which does not exist"):
        Manifest.read(tmp_path / "m.parquet")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("frames", 0, "has frames 0 in row 1"), ("width", -3, "has width -3"), ("kind", "film", "kind 'film' in row 1")],
)
def test_values_out_of_range(tmp_path: Path, column: str, value: object, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        manifest(tmp_path, **{column: value})


def test_a_row_without_a_column(tmp_path: Path) -> None:
    lacking = row(0, 0)
    del lacking["fps"]
    with pytest.raises(ManifestError, match="a row without 'fps'"):
        Manifest.from_rows("toy", "train", tmp_path, ("a",), [lacking])
