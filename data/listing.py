"""Manifests of one's own files: from a list, a folder for each class, tar shards, or a data set of `datasets`."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from equipoise.data._files import Progress, run_jobs, sha256_of
from equipoise.data.decode import DecodeError, image_facts, video_facts
from equipoise.data.decode_report import DecodeReport
from equipoise.data.manifest import Manifest, ManifestError
from equipoise.data.pieces import PieceError, arrow_items, ending_of, is_arrow, tar_items

VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp"})
IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
NUMBERED = re.compile(r"(?P<path>\S+?)(?:::|\s+)(?P<label>\d{1,6})")
NUMBERED_LIST = (
    "It was read as one of V-JEPA's lists, a path and a number in every line; a CSV has path,label in its first line."
)
KINETICS = ("youtube_id", "time_start", "time_end")
CHUNK = 64  # files a process describes at a time


@dataclass(frozen=True)
class Listing:
    """Files and their classes, as a person has them.

    Attributes:
        items: path, relative to a root, and label name of every file.
        classes: label names in the order of their ids, where that is given; None: sorted.
        read_as: what it was taken for, where that is not said in it; for the end of an error.
    """

    items: list[tuple[str, str]]
    classes: tuple[str, ...] | None = None
    read_as: str = field(default="", compare=False)


def list_folders(root: Path) -> Listing:
    """Every video and picture in the sub-folders of a folder, each of which is a class; deeper ones belong to it.

    Raises:
        ManifestError: if there is no such file.
    """
    inside = sorted(file.relative_to(root) for file in root.glob("*/**/*") if file.suffix.lower() in VIDEOS | IMAGES)
    found = [
        (file.as_posix(), file.parts[0]) for file in inside if not any(part.startswith(".") for part in file.parts)
    ]
    if not found:
        known = ", ".join(sorted(VIDEOS | IMAGES))
        raise ManifestError(f"{root} has no sub-folder with a video or picture in it ({known}): one for each class.")
    return Listing(found)


def list_root(root: Path) -> Listing:
    """What a folder holds: a data set that Hugging Face's ``datasets`` saved, WebDataset's tar shards, class folders.

    Raises:
        ManifestError: it is none of them.
    """
    try:
        if is_arrow(root):
            return Listing(*arrow_items(root, VIDEOS | IMAGES))
        if next(root.rglob("*.tar"), None) is None:
            return list_folders(root)
        items = tar_items(root, VIDEOS | IMAGES)
    except PieceError as error:
        raise ManifestError(str(error)) from None
    if all(label.isdigit() for _, label in items):  # ids, as V-JEPA's lists have
        most = max(int(label) for _, label in items)
        return Listing([(path, str(int(label))) for path, label in items], tuple(map(str, range(most + 1))))
    return Listing(items)


def read_list(path: Path, root: Path | None = None) -> Listing:
    """Paths and labels of a list: of a CSV file, or one of those that V-JEPA and Kinetics use.

    - A CSV file with a header ``path,label``, less blanks around them and a mark of UTF-8.
    - Lines of a path and a whole number, parted by a blank or ``::``, as V-JEPA's: the numbers are the ids.
    - Kinetics' CSV: a clip's file is ``ID_START_END`` with any ending, wherever it lies below the root.

    Args:
        path: the list.
        root: where files are looked for that a list does not name by their path.

    Raises:
        ManifestError: if the file is missing, has other columns or separators, an empty cell or no row.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        numbered = _numbered(text)
        if numbered is not None:
            return numbered
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        if set(KINETICS) <= set(reader.fieldnames):
            return _kinetics(path, list(reader), root)
        _check_header(path, list(reader.fieldnames))
        rows = [((r["path"] or "").strip(), (r["label"] or "").strip()) for r in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ManifestError(f"The list {path} cannot be read ({reason}); give a CSV in UTF-8.") from error
    for line, (file, label) in enumerate(rows, start=2):
        if not file or not label:
            raise ManifestError(f"{path}, line {line}: path is {file!r} and label {label!r}; expected both.")
    if not rows:
        raise ManifestError(f"The list {path} has no rows; give one for each file below its first line.")
    return Listing(rows)


def _numbered(text: str) -> Listing | None:
    """A list of V-JEPA's, whose labels are the ids themselves; None for another file."""
    found = [NUMBERED.fullmatch(line.strip()) for line in text.splitlines() if line.strip()]
    rows = [(line["path"], int(line["label"])) for line in found if line is not None]
    if not rows or len(rows) < len(found):
        return None
    most = max(label for _, label in rows)
    return Listing([(file, str(label)) for file, label in rows], tuple(map(str, range(most + 1))), NUMBERED_LIST)


def _kinetics(path: Path, rows: list[dict[str, str]], root: Path | None) -> Listing:
    """A list of Kinetics', whose files are named by their video and its seconds."""
    if not rows or any(not (row.get("label") or "").strip() for row in rows):
        raise ManifestError(f"{path} has the columns of Kinetics' lists, rows without a label: give a labelled split.")
    lie = {} if root is None else {file.stem: file.relative_to(root).as_posix() for file in sorted(root.rglob("*.*"))}
    found = []
    for line, row in enumerate(rows, start=2):
        try:
            start, end = (int(float(row[key])) for key in KINETICS[1:])
        except (TypeError, ValueError):
            raise ManifestError(f"{path}, line {line}: {KINETICS[1:]} are no seconds: {row}.") from None
        stem = f"{row[KINETICS[0]].strip()}_{start:06d}_{end:06d}"
        found.append((lie.get(stem, f"{stem}.mp4"), row["label"].strip()))
    return Listing(found)


def _check_header(path: Path, header: list[str]) -> None:
    """Refuse a first line that names other columns, with what it looks like and what to write.

    Raises:
        ManifestError: naming the cause.
    """
    wanted = "path", "label"
    if header.count("path") == header.count("label") == 1:
        return
    first = ",".join(header)
    advice = "write path,label as its first line"
    twice = [name for name in wanted if header.count(name) > 1]
    for sign, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if set(wanted) <= {part.strip() for part in first.split(sign)}:
            raise ManifestError(f"{path} separates its columns by {name}: save it with commas, {advice}.")
    if twice:
        raise ManifestError(f"{path} has the column {twice[0]!r} twice: which one counts? Leave one out.")
    alike = {name.casefold(): name for name in header}
    if set(wanted) <= set(alike):
        raise ManifestError(f"{path} has {first} in its first line: column names are in small letters, {advice}.")
    parts = first.split()
    if len(header) == 1 and len(parts) == 2 and parts[1].lstrip("-").isdigit():
        raise ManifestError(
            f"{path} begins with a file and a number, as V-JEPA's lists do, and has lines that do not: every line is a "
            "path without blanks, a blank, and a whole number from 0 on."
        )
    if len(header) == 2 and "." in header[0]:
        raise ManifestError(f"{path} begins with {first}, which looks like a row: {advice}, above it.")
    raise ManifestError(f"{path} has {first or 'no columns'} in its first line; expected path and label: {advice}.")


def _describe(job: tuple[str, list[str]]) -> list[dict[str, Any] | tuple[str, str]]:
    """Row of each file, or (path, reason) where it cannot be read."""
    root, files = job
    found: list[dict[str, Any] | tuple[str, str]] = []
    for file in files:
        path = Path(root) / file
        try:
            kind = "image" if ending_of(path) in IMAGES else "video"
            facts = image_facts(path) if kind == "image" else video_facts(path)
            found.append({"path": file, "kind": kind, "sha256": _sha256(path), **facts})
        except DecodeError as error:
            found.append((file, error.reason))
    return found


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise DecodeError(path, f"it cannot be read: {error.strerror}") from error


def _refuse_twins(name: str, split: str, classes: Sequence[str]) -> None:
    """One class in two spellings would be two, which no accuracy shows."""
    seen: dict[str, str] = {}
    for label in classes:
        other = seen.setdefault(unicodedata.normalize("NFC", label).casefold(), label)
        if other != label:
            one, two = (ascii(x) if ascii(x) != repr(x) else repr(x) for x in (other, label))
            raise ManifestError(
                f"{name}/{split}: classes {one} and {two} differ in capitals or in how accents are encoded alone, and "
                "would be two: write them in one way, or give them numbers, as V-JEPA's lists do."
            )


def manifest_of_list(
    name: str,
    split: str,
    root: Path,
    items: Sequence[tuple[str, str]],
    *,
    classes: Sequence[str] | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> tuple[Manifest, DecodeReport]:
    """Describe every file of a list.

    Args:
        name: name of the data set.
        split: its split.
        root: folder the paths are relative to.
        items: path and label name of every file.
        classes: label names in the order of their ids; None: the list's own, sorted.
        workers: processes that read. One that dies, or hangs for five minutes, is replaced, and the file it was at
            reported; 0 reads in this process, without that protection.
        progress: called with what, files done and files in all.

    Returns:
        The manifest of the files that can be read, and a report of those that cannot.

    Raises:
        ManifestError: if a label is not among the classes, a path is listed twice, no file can be read, or two classes
            of the list differ in nothing but capitals or the encoding of accents.
        equipoise.data._files.WorkerError: if processes keep dying, and not at a file.
    """
    named = tuple(classes) if classes is not None else tuple(sorted({label for _, label in items}))
    if classes is None:
        _refuse_twins(name, split, named)
    ids = {label: i for i, label in enumerate(named)}
    labels = dict(items)
    if len(labels) != len(items):
        raise ManifestError(f"{name}/{split}: {len(items) - len(labels)} paths are listed more than once.")
    unknown = sorted(set(labels.values()) - set(ids))
    if unknown:
        raise ManifestError(f"{name}/{split}: label {unknown[0]!r} is not among the {len(named)} classes.")
    files = list(labels)
    jobs = [(str(root), files[i : i + CHUNK]) for i in range(0, len(files), CHUNK)]
    parts: dict[int, list[dict[str, Any] | tuple[str, str]]] = {}
    for number, part in run_jobs(_describe, jobs, workers):
        parts[number] = part
        if progress is not None:
            progress(f"{name}/{split}", sum(map(len, parts.values())), len(files))
    found = [entry for number in sorted(parts) for entry in parts[number]]
    rows = [{**e, "label": ids[labels[e["path"]]]} for e in found if isinstance(e, dict)]
    failures = [e for e in found if isinstance(e, tuple)]
    if not rows:
        raise ManifestError(f"{name}/{split}: none of {len(files)} files below {root} can be read; {failures[0][1]}.")
    return Manifest.from_rows(name, split, root, named, rows), DecodeReport(len(files), failures)
