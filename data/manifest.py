"""Manifests: one Parquet file per split that says which clips there are, what they show and where they lie."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from equipoise.data.errors import DataError

Kind = Literal["video", "image"]

_COLUMNS: dict[str, Any] = {
    "path": pa.string(),
    "label": pa.int64(),
    "label_name": pa.string(),
    "kind": pa.string(),
    "frames": pa.int64(),
    "fps": pa.float64(),
    "width": pa.int64(),
    "height": pa.int64(),
    "sha256": pa.string(),
}
_DTYPES: dict[str, Any] = {"string": np.str_, "int64": np.int64, "double": np.float64}
_METADATA_KEY = b"equipoise.manifest"
_FORMAT = 1


class ManifestError(DataError, ValueError):
    """A manifest is missing, unreadable or contradicts itself."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Manifest:
    """The clips of one split of one data set. Columns are arrays of equal length, one entry per clip.

    Attributes:
        name: Name of the data set, e.g. ``mini_ssv2``.
        split: ``train``, ``test`` or another name.
        root: Folder that ``path`` is relative to.
        classes: Class names; ``label`` indexes them.
        path: File of the clip, relative to ``root``, with forward slashes.
        label: Class number, int64.
        label_name: Class name.
        kind: ``video`` or ``image``.
        frames: Number of frames (1 for images), int64.
        fps: Frames per second (0 for images), float64.
        width: Pixels, int64.
        height: Pixels, int64.
        sha256: Hex digest of the file, or an empty string where it was not taken.

    Raises:
        ManifestError: If the columns differ in length, are empty, or a value is out of its range.
    """

    name: str
    split: str
    root: Path
    classes: tuple[str, ...]
    path: NDArray[np.str_]
    label: NDArray[np.int64]
    label_name: NDArray[np.str_]
    kind: NDArray[np.str_]
    frames: NDArray[np.int64]
    fps: NDArray[np.float64]
    width: NDArray[np.int64]
    height: NDArray[np.int64]
    sha256: NDArray[np.str_]
    _where: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        where = self._where or f"The manifest {self.name}/{self.split}"
        lengths = {column: len(getattr(self, column)) for column in _COLUMNS}
        if len(set(lengths.values())) != 1:
            raise ManifestError(f"{where} has columns of different lengths: {lengths}.")
        if len(self.path) == 0:
            raise ManifestError(f"{where} is empty; it needs at least one clip.")
        if not self.classes:
            raise ManifestError(f"{where} has an empty class list.")
        bad = np.flatnonzero((self.label < 0) | (self.label >= len(self.classes)))
        if len(bad):
            row = int(bad[0])
            raise ManifestError(
                f"{where} has label {int(self.label[row])} in row {row} ({self.path[row]}), "
                f"but labels go from 0 to {len(self.classes) - 1} ({len(self.classes)} classes)."
            )
        wrong = np.flatnonzero(~np.isin(self.kind, ["video", "image"]))
        if len(wrong):
            row = int(wrong[0])
            raise ManifestError(f"{where} has kind {str(self.kind[row])!r} in row {row}; use 'video' or 'image'.")
        for column in ("frames", "width", "height"):
            small = np.flatnonzero(getattr(self, column) < 1)
            if len(small):
                row = int(small[0])
                raise ManifestError(
                    f"{where} has {column} {int(getattr(self, column)[row])} in row {row} ({self.path[row]}); "
                    f"it must be at least 1."
                )
        for column in _COLUMNS:
            getattr(self, column).setflags(write=False)

    def shared(self, other: Manifest) -> list[str]:
        """Paths of this one's clips that are also the other's: the same file, or one of the same content (sha256)."""
        files = {os.path.realpath(other.root / str(path)) for path in other.path}
        digests = set(map(str, other.sha256)) - {""}
        pairs = zip(map(str, self.path), map(str, self.sha256), strict=True)
        return [path for path, digest in pairs if digest in digests or os.path.realpath(self.root / path) in files]

    @classmethod
    def from_rows(
        cls, name: str, split: str, root: Path, classes: Sequence[str], rows: Sequence[Mapping[str, Any]]
    ) -> Manifest:
        """Builds a manifest from one mapping per clip; ``label_name`` is filled in from ``classes``.

        Raises:
            ManifestError: As the constructor, or if a row lacks a column.
        """
        where = f"The manifest {name}/{split}"
        columns: dict[str, Any] = {}
        for column, kind in _COLUMNS.items():
            if column == "label_name":
                continue
            try:
                columns[column] = np.array([row[column] for row in rows], dtype=_DTYPES[str(kind)])
            except KeyError:
                raise ManifestError(f"{where} has a row without {column!r}; give every row all columns.") from None
        inside = [classes[label] if 0 <= label < len(classes) else "" for label in columns["label"]]
        columns["label_name"] = np.array(inside, dtype=np.str_)
        return cls(name=name, split=split, root=Path(root), classes=tuple(classes), **columns)

    @classmethod
    def read(cls, path: Path | str) -> Manifest:
        """Reads a manifest that `write` wrote.

        Raises:
            ManifestError: If the file is missing or no Parquet file, lacks a column, a value or the metadata, has a
                column of another type or a label that its name contradicts, its root folder does not exist, or as the
                constructor.
        """
        path = Path(path)
        where = f"The manifest {path}"
        if not path.is_file():
            raise ManifestError(f"{where} does not exist; build or import the data set first.")
        try:
            table = pq.ParquetFile(path, page_checksum_verification=True).read()
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ManifestError(
                f"{where} is not a readable Parquet file ({reason.rstrip('.')}); give one that `equipoise data` wrote, "
                "or import or build the data set again."
            ) from error
        raw = (table.schema.metadata or {}).get(_METADATA_KEY)
        for column in _COLUMNS:
            if column not in table.column_names:
                near = difflib.get_close_matches(column, table.column_names, n=1, cutoff=0.4)
                hint = f" (the nearest column it has is {near[0]!r})" if near else ""
                raise ManifestError(f"{where} has no column {column!r}{hint}.")
        if raw is None:
            raise ManifestError(
                f"{where} carries no root folder and class list in its schema metadata. Was it written anew by another "
                "program? Let it keep the schema's metadata, or list the files in a CSV for `equipoise data manifest`."
            )
        name, split, classes, below = _meta_of(raw, where)
        root = Path(os.path.normpath(path.parent / below))
        if not root.is_dir():
            raise ManifestError(
                f"{where} names the root folder {root}, which does not exist; was it moved or deleted? Put it back, or "
                "import or build the data set again."
            )
        found = cls(
            name=name,
            split=split,
            root=root,
            classes=classes,
            _where=where,
            **_columns_of(table, where),
        )
        other = np.flatnonzero(np.array(found.classes)[found.label] != found.label_name)
        if len(other):
            row = int(other[0])
            number, name = int(found.label[row]), str(found.label_name[row])
            raise ManifestError(
                f"{where} has label {number}, which is {found.classes[number]!r}, and label_name {name!r} in row {row} "
                f"({found.path[row]}); they must say the same."
            )
        return found

    def write(self, path: Path | str) -> None:
        """Writes the manifest as Parquet, atomically.

        The root folder is stored relative to the manifest where one of the two contains the other, so that a folder
        holding both can be moved; otherwise it is stored as an absolute path.
        """
        path = Path(path)
        folder, root = path.parent.resolve(), self.root.resolve()
        related = folder == root or folder in root.parents or root in folder.parents
        meta = {
            "format": _FORMAT,
            "name": self.name,
            "split": self.split,
            "root": os.path.relpath(root, folder) if related else str(root),
            "classes": list(self.classes),
        }
        schema = pa.schema(list(_COLUMNS.items()), metadata={_METADATA_KEY: json.dumps(meta).encode()})
        table = pa.table({column: getattr(self, column).tolist() for column in _COLUMNS}, schema=schema)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        pq.write_table(table, partial, write_page_checksum=True)
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut leaves its name without its content
        os.replace(partial, path)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the rows and the class list; it does not depend on where the files lie."""
        content: dict[str, Any] = {column: getattr(self, column).tolist() for column in _COLUMNS}
        content["classes"] = list(self.classes)
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.path)

    def file(self, row: int) -> Path:
        """Full path of clip number ``row``."""
        return self.root / str(self.path[row])


def _meta_of(raw: bytes, where: str) -> tuple[str, str, tuple[str, ...], str]:
    """Name, split, class list and root folder, as the schema's metadata has them."""
    try:
        meta = json.loads(raw)
        return str(meta["name"]), str(meta["split"]), tuple(map(str, meta["classes"])), str(meta["root"])
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{where} is damaged: its root folder and class list cannot be read ({str(error).splitlines()[0]}); "
            "import or build the data set again."
        ) from None


def _columns_of(table: pa.Table, where: str) -> dict[str, Any]:
    """Columns of a Parquet table as arrays, every value there and of its type."""
    columns: dict[str, Any] = {}
    for column, kind in _COLUMNS.items():
        values = table.column(column)
        if values.null_count:
            row = values.is_null().to_pylist().index(True)
            raise ManifestError(f"{where} has no {column} in row {row}; give every row all columns.")
        try:
            columns[column] = np.asarray(values.cast(kind).to_pylist(), dtype=_DTYPES[str(kind)])
        except pa.ArrowException as error:
            raise ManifestError(
                f"{where} has {values.type} in column {column!r}, expected {kind}: {str(error).splitlines()[0]}."
            ) from error
    return columns
