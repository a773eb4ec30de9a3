"""Files that lie inside others and are read in place: members of WebDataset's tar shards, values of Arrow tables.

A path says which: ``train-000.tar/clip_1.mp4@512+34567`` are 34,567 bytes of ``train-000.tar`` from its byte 512 on. It
stands wherever a manifest or a decoder has a file.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from equipoise.data.errors import DataError

PIECE = re.compile(r"(?P<file>.*?\.(?:tar|arrow))/(?P<name>.+)@(?P<start>\d+)\+(?P<size>\d+)", re.S)
LABELS = ("cls", "cls.txt", "label", "label.txt")  # endings of WebDataset's labels: a number or a name
LABEL_KEYS = ("label", "cls", "class", "label_name")  # the same in its JSON


class PieceError(DataError, ValueError):
    """A shard is damaged, or has no items that can be used."""


@dataclass(frozen=True)
class Piece:
    """A file inside another.

    Attributes:
        file: the other.
        name: its own.
        start: first byte.
        size: bytes.
    """

    file: Path
    name: str
    start: int
    size: int

    def read(self) -> bytes:
        """Its content.

        Raises:
            OSError: if it cannot be read, or the file ends before it does.
        """
        with self.file.open("rb") as file:
            file.seek(self.start)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError(f"{self.file} ends before {self.name} does")
        return content

    def __str__(self) -> str:
        return f"{self.file}/{self.name}@{self.start}+{self.size}"


def piece_of(path: Path | str) -> Piece | None:
    """The piece that a path names; None where it names a file."""
    found = PIECE.fullmatch(str(path))
    if found is None:
        return None
    return Piece(Path(found["file"]), found["name"], int(found["start"]), int(found["size"]))


def source_of(path: Path) -> Any:
    """What a decoder opens: the path of a file, or the content of a piece.

    Raises:
        OSError: if a piece cannot be read.
    """
    piece = piece_of(path)
    return str(path) if piece is None else io.BytesIO(piece.read())


def ending_of(path: Path | str) -> str:
    """Ending of a file's or a piece's name, small."""
    piece = piece_of(path)
    return Path(path if piece is None else piece.name).suffix.lower()


def tar_items(root: Path, endings: frozenset[str]) -> list[tuple[str, str]]:
    """Path and label of every video or picture in the tar shards below a folder, as WebDataset writes them.

    Members of a sample have one name and several endings: the clip, and its label as ``.cls``, ``.label`` or in a
    ``.json``. Members that are no clip and no label are left out.

    Args:
        root: folder of the shards; paths are relative to it.
        endings: of clips.

    Raises:
        PieceError: a shard is compressed or damaged, a clip has no label, or there is no clip.
    """
    found: list[tuple[str, str]] = []
    for shard in sorted(root.rglob("*.tar")):
        clips: dict[str, str] = {}
        labels: dict[str, str] = {}
        for key, ending, member, content in _members(shard, endings):
            if f".{ending.rsplit('.')[-1]}".lower() in endings:
                where = Piece(shard.relative_to(root), member.name, member.offset_data, member.size)
                clips[key] = where.file.as_posix() + str(where).removeprefix(str(where.file))
            elif ending in LABELS:
                labels[key] = content.decode("utf-8", "replace").strip()
            elif ending == "json":
                label = _label_in(content)
                if label is not None:
                    labels.setdefault(key, label)
        lacking = next((clip for key, clip in clips.items() if not labels.get(key)), None)
        if lacking is not None:
            raise PieceError(
                f"{shard}: {lacking.split('@')[0]} has no label beside it; expected a member of the same name that "
                f"ends in .cls or .label, or in .json with one of {', '.join(LABEL_KEYS)}"
            )
        found += [(path, labels[key]) for key, path in clips.items()]
    if not found:
        raise PieceError(f"{root} has no tar shard with a video or picture in it.")
    return found


def _members(shard: Path, endings: frozenset[str]) -> Iterator[tuple[str, str, tarfile.TarInfo, bytes]]:
    """Key, ending, header and (of labels) content of the files of a shard."""
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if member.isfile() and stem:
                    label = ending in LABELS or ending == "json"
                    content = tar.extractfile(member) if label else None
                    yield f"{folder}/{stem}", ending, member, b"" if content is None else content.read()
    except (tarfile.TarError, OSError) as error:
        raise PieceError(f"{shard} cannot be read as a tar file without compression: {error}") from None


def _label_in(content: bytes) -> str | None:
    try:
        found = json.loads(content)
    except ValueError:
        return None
    given = next((found[key] for key in LABEL_KEYS if key in found), None) if isinstance(found, dict) else None
    return None if given is None else str(given)


def is_arrow(root: Path) -> bool:
    """Whether a folder is one that Hugging Face's ``datasets`` saved."""
    return (root / "state.json").is_file() and (root / "dataset_info.json").is_file()


def arrow_items(root: Path, endings: frozenset[str]) -> tuple[list[tuple[str, str]], tuple[str, ...] | None]:
    """Path and label of every row of a data set that ``datasets`` saved to a folder, and its classes in their order.

    The clip is the first column of images or videos, whose content ``datasets`` keeps in its Arrow files; the label is
    the first of class labels, or a column ``label``.

    Args:
        root: folder of the data set (of one split); paths are relative to it.
        endings: of clips.

    Raises:
        PieceError: it has no such columns, is damaged, or a row has no content.
    """
    try:
        features = json.loads((root / "dataset_info.json").read_text())["features"]
        files = [entry["filename"] for entry in json.loads((root / "state.json").read_text())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PieceError(f"{root} is no data set that can be read: {type(error).__name__}: {error}") from None
    kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    clip = next((name for name, kind in kinds.items() if kind in ("Image", "Video")), None)
    label = next((name for name, kind in kinds.items() if kind == "ClassLabel"), "label")
    if clip is None or label not in features:
        raise PieceError(
            f"{root} has the columns {', '.join(f'{n} ({k})' for n, k in kinds.items())}; expected one of images or "
            "videos, and one of class labels or named label"
        )
    names = features[label].get("names")
    ending = ".png" if kinds[clip] == "Image" else ".mp4"
    found: list[tuple[str, str]] = []
    for file in files:
        for path, value in _rows(root, file, clip, label, endings, ending):
            found.append((path, str(value) if names is None else str(names[int(value)])))
    return found, None if names is None else tuple(names)


def _rows(
    root: Path, file: str, clip: str, label: str, endings: frozenset[str], usual: str
) -> Iterator[tuple[str, Any]]:
    """Path and label of the rows of an Arrow file; what it holds by its place in the file."""
    number = 0
    try:
        with pa.memory_map(str(root / file)) as mapped:
            base = mapped.read_buffer().address if mapped.size() else 0
            mapped.seek(0)
            for batch in pa.ipc.open_stream(mapped):
                column, labels = batch.column(clip), batch.column(label).to_pylist()
                content, paths = column.field("bytes"), column.field("path").to_pylist()
                offsets, data = content.buffers()[1:]
                width = 8 if pa.types.is_large_binary(content.type) else 4
                ends = memoryview(offsets).cast("q" if width == 8 else "i")
                for row, value in enumerate(labels):
                    given = str(paths[row] or "")
                    if content[row].is_valid:
                        at, end = ends[content.offset + row], ends[content.offset + row + 1]
                        suffix = Path(given).suffix.lower()
                        name = f"{number:08d}{suffix if suffix in endings else usual}"
                        yield f"{file}/{name}@{data.address - base + at}+{end - at}", value
                    else:
                        raise PieceError(f"{root}, row {number} of {file}: {clip} has no content (path {given!r})")
                    number += 1
    except (pa.ArrowException, OSError, KeyError) as error:
        raise PieceError(f"{root / file} cannot be read: {error}") from None
