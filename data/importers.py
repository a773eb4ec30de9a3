"""Importers: from an official release on disk to the manifests that regimes and benchmarks name.

A release is read as it lies: its own lists say what there is, every listed file is described, and the numbers are
compared with the official ones. A difference is an error unless it is accepted; either way it is written down. Nothing
is copied or changed in the release's folder.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from equipoise.data._files import Progress, write_json
from equipoise.data._lists import Items, Release, ReleaseError, ReleaseListing
from equipoise.data.decode_report import DecodeReport
from equipoise.data.importers_layouts import RELEASES
from equipoise.data.listing import manifest_of_list
from equipoise.data.manifest import Manifest

__all__ = ["RELEASES", "Imported", "ReleaseError", "SplitCount", "command_for", "duplicates", "import_release"]

_NAMED = 3  # files named in an error; the report names all


@dataclass(frozen=True, kw_only=True)
class SplitCount:
    """How many clips one split has.

    Attributes:
        expected: In the official release.
        listed: In the release's lists on this disk.
        missing: Listed files that are not there.
        unreadable: Files that are there and cannot be read.
    """

    expected: int
    listed: int
    missing: int
    unreadable: int

    @property
    def usable(self) -> int:
        """Clips that the manifest has."""
        return self.listed - self.missing - self.unreadable


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import found.

    Attributes:
        release: Which one.
        root: Its folder.
        classes: Class names in the order of their ids.
        counts: Per split.
        failures: Per split, path and reason of every file that cannot be used.
        set_aside: Files that were found and not taken, and why.
        duplicates: Groups of files with the same content, as ``SPLIT: PATH``.
        differences: Sentences, one for each number that is not the official one.
        manifests: Per split; empty where nothing was written.
    """

    release: Release
    root: Path
    classes: tuple[str, ...]
    counts: dict[str, SplitCount]
    failures: dict[str, list[tuple[str, str]]]
    set_aside: tuple[tuple[str, str], ...]
    duplicates: list[list[str]]
    differences: list[str]
    manifests: dict[str, Manifest]

    @property
    def across(self) -> list[list[str]]:
        """Duplicates that are in more than one split: test items that were trained on."""
        return [group for group in self.duplicates if len({entry.partition(": ")[0] for entry in group}) > 1]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {
            "release": self.release.name,
            "title": self.release.title,
            "root": str(self.root),
            "classes": len(self.classes),
            "classes_expected": self.release.classes,
            "splits": {
                split: {
                    "expected": count.expected,
                    "listed": count.listed,
                    "usable": count.usable,
                    "missing": count.missing,
                    "unreadable": count.unreadable,
                    "hash": self.manifests[split].hash if split in self.manifests else None,
                    "failures": [{"path": path, "reason": reason} for path, reason in self.failures[split]],
                }
                for split, count in self.counts.items()
            },
            "differences": self.differences,
            "duplicates": self.duplicates,
            "duplicates_across_splits": len(self.across),
            "set_aside": [{"path": path, "reason": reason} for path, reason in self.set_aside],
            "written": bool(self.manifests),
        }


Alike = dict[str, tuple[str, str]]  # missing file to what lies there instead, and how it differs


def _missing(root: Path, items: Items) -> set[str]:
    """Listed files that are not there. Folders are listed instead of asking for every file: one call for thousands."""
    present: dict[str, set[str]] = {}
    lacking = set()
    for path, _ in items:
        folder, _, name = path.rpartition("/")
        if folder not in present:
            present[folder] = set(os.listdir(root / folder)) if (root / folder).is_dir() else set()
        if name not in present[folder]:
            lacking.add(path)
    return lacking


class _Folders:
    """Names below a root, as they are and without regard to capitals."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, list[str]] = {}

    def names(self, folder: str) -> list[str]:
        """Names in a folder; none where it is not there."""
        if folder not in self._names:
            path = self.root / folder
            self._names[folder] = sorted(os.listdir(path)) if path.is_dir() else []
        return self._names[folder]

    def alike(self, path: str) -> tuple[str, str] | None:
        """What lies there instead of a file, and how its name differs; None where nothing like it does."""
        *folders, name = path.split("/")
        folder, other = "", False
        for part in folders:
            there = self.names(folder)
            found = part if part in there else next((n for n in there if n.casefold() == part.casefold()), None)
            if found is None:
                return None
            other |= found != part
            folder = f"{folder}/{found}".lstrip("/")
        there = self.names(folder)
        prefix = f"{folder}/" if folder else ""
        for candidate in there:
            if candidate.casefold() == name.casefold() and (other or candidate != name):
                return prefix + candidate, LETTERS
        stem = name.rpartition(".")[0].casefold()
        for candidate in there:
            if candidate.rpartition(".")[0].casefold() == stem:
                return prefix + candidate, f"{ENDING} ({Path(candidate).suffix})"
        return None


LETTERS, ENDING = "same name in other letters", "same name with another ending"


def _alike(root: Path, lacking: Iterable[str]) -> Alike:
    """Missing files to what lies there instead, and how it differs."""
    folders = _Folders(root)
    found = ((path, folders.alike(path)) for path in lacking)
    return {path: one for path, one in found if one is not None}


def _told(alike: Alike, missing: int) -> list[str]:
    """What lies there instead of missing files, counted, with one as an example."""
    how: dict[str, list[str]] = defaultdict(list)
    for path, (_, difference) in alike.items():
        how[difference].append(path)
    return [
        f"{difference}: {len(paths):,} of {missing:,}, such as {alike[paths[0]][0]} for {paths[0]}"
        for difference, paths in how.items()
    ]


def duplicates(manifests: Sequence[Manifest]) -> list[list[str]]:
    """Groups of two or more files with the same content, as ``SPLIT: PATH``, in the order of the manifests."""
    same: dict[str, list[str]] = defaultdict(list)
    for manifest in manifests:
        for digest, path in zip(manifest.sha256.tolist(), manifest.path.tolist(), strict=True):
            if digest:
                same[digest].append(f"{manifest.split}: {path}")
    return [group for group in same.values() if len(group) > 1]


def _differences(
    release: Release, listing: ReleaseListing, counts: dict[str, SplitCount], alike: dict[str, Alike], usable: Items
) -> list[str]:
    found = []
    if len(listing.classes) != release.classes:
        found.append(f"it has {len(listing.classes)} classes, the release has {release.classes}")
    seen = {label for _, label in usable}
    empty = [name for name in listing.classes if name not in seen]
    if empty and usable:
        more = f" and {len(empty) - _NAMED} more" if len(empty) > _NAMED else ""
        named = ", ".join(map(repr, empty[:_NAMED])) + more
        found.append(f"{len(empty)} of its classes {'has' if len(empty) == 1 else 'have'} no clip at all: {named}")
    for split, count in counts.items():
        if count.usable == count.expected:
            continue
        lacking = [f"{n:,} {what}" for n, what in ((count.missing, "missing"), (count.unreadable, "unreadable")) if n]
        told = _told(alike[split], count.missing)
        listed = f"{count.listed:,} are listed here" + "".join(f", {part}" for part in (*lacking, *told))
        found.append(f"{split} has {count.usable:,} of {count.expected:,} clips ({listed})")
    if found and release.advice:
        found.append(release.advice)
    return found


class _Release:
    """A release on this disk: what it lists, and what of that is there."""

    def __init__(self, release: Release, root: Path, split: int, listing: ReleaseListing) -> None:
        self.release, self.root, self.listing = release, root, listing
        self.expected = dict(zip(("train", "test"), release.counts[split], strict=True))
        self.lacking = {part: _missing(root, items) for part, items in listing.splits.items()}
        self.alike = {part: _alike(root, sorted(lacking)) for part, lacking in self.lacking.items()}

    @property
    def usable(self) -> dict[str, Items]:
        """Listed files that are there."""
        found = {}
        for part, items in self.listing.splits.items():
            found[part] = tuple(item for item in items if item[0] not in self.lacking[part])
            if not found[part]:
                told = "".join(f" {one[0].upper()}{one[1:]}." for one in _told(self.alike[part], len(items)))
                raise ReleaseError(
                    f"None of the {len(items):,} listed {part} clips of {self.release.title} lies in {self.root}."
                    + (f"{told} Rename them as the lists do, or get the release as it is." if told else "")
                )
        return found

    def _there(self, reports: dict[str, DecodeReport]) -> Items:
        """Listed files of all splits that are there, less those that turned out to be unreadable."""
        bad = {path for report in reports.values() for path, _ in report.failures}
        return tuple(
            item
            for part, items in self.listing.splits.items()
            for item in items
            if item[0] not in self.lacking[part] and item[0] not in bad
        )

    def found(self, reports: dict[str, DecodeReport], manifests: dict[str, Manifest]) -> Imported:
        """What is known so far."""
        counts, failures = {}, {}
        for part, items in self.listing.splits.items():
            unreadable = dict(reports[part].failures) if part in reports else {}
            instead = {path: f"no such file; there is {other}" for path, (other, _) in self.alike[part].items()}
            reasons = {**dict.fromkeys(self.lacking[part], "no such file"), **instead, **unreadable}
            counts[part] = SplitCount(
                expected=self.expected[part],
                listed=len(items),
                missing=len(self.lacking[part]),
                unreadable=len(unreadable),
            )
            failures[part] = [(path, reasons[path]) for path, _ in items if path in reasons]
        return Imported(
            release=self.release,
            root=self.root,
            classes=self.listing.classes,
            counts=counts,
            failures=failures,
            set_aside=self.listing.set_aside,
            duplicates=duplicates(list(manifests.values())),
            differences=_differences(self.release, self.listing, counts, self.alike, self._there(reports)),
            manifests=manifests,
        )


def _refuse(found: Imported, folder: Path) -> None:
    named = [f"{path} ({reason})" for failures in found.failures.values() for path, reason in failures]
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    files = f" Not usable: {'; '.join(named[:_NAMED])}{more}." if named else ""
    raise ReleaseError(
        f"{found.release.title} in {found.root} is not the official release: {'; '.join(found.differences)}.{files} "
        f"All is written in {folder / 'import.json'}. Complete the data, or accept it with --allow-incomplete."
    )


def _write(found: Imported, folder: Path) -> None:
    """Writes manifests and report; the report last, so that it never speaks of manifests that are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, manifest in found.manifests.items():
        manifest.write(folder / f"{split}.parquet")
    write_json(folder / "import.json", found.to_dict())


def import_release(
    name: str,
    root: Path | str,
    folder: Path | str,
    *,
    split: int = 1,
    classes: Path | None = None,
    workers: int = 2,
    progress: Progress | None = None,
    allow_incomplete: bool = False,
) -> Imported:
    """Describes an official release and writes its manifests.

    Args:
        name: Which release, see `RELEASES`.
        root: The folder it lies in, exactly as it was unpacked.
        folder: Where to write ``train.parquet``, ``test.parquet`` and ``import.json``.
        split: Which of UCF-101's three splits.
        classes: ImageNet-100's list of classes, where the root holds none.
        workers: Processes that read, see `manifest_of_list`.
        progress: Called with what, files done and files in all.
        allow_incomplete: Write manifests although a number differs from the official one.

    Returns:
        What was found; also written to ``import.json``.

    Raises:
        ReleaseError: If the release does not lie as expected, a list cannot be used, or a number differs from the
            official one (and not ``allow_incomplete``): then no manifest is written, but the report is.
    """
    if name not in RELEASES:
        raise ReleaseError(f"There is no release {name!r}; use one of {', '.join(RELEASES)}.")
    release = RELEASES[name]
    if split not in release.counts:
        raise ReleaseError(f"{release.title} has no split {split}; use one of {', '.join(map(str, release.counts))}.")
    root, folder = Path(root).resolve(), Path(folder)
    if not root.is_dir():
        raise ReleaseError(
            f"{root} is no folder; --root takes the one in which {release.title} lies as {release.layout}."
        )
    there = _Release(release, root, split, release.read(root, split, classes))
    early = there.found({}, {})
    if early.differences and not allow_incomplete:  # known before hours of reading
        _write(early, folder)
        _refuse(early, folder)
    manifests, reports = {}, {}
    for part, items in there.usable.items():
        manifests[part], reports[part] = manifest_of_list(
            name, part, root, items, classes=there.listing.classes, workers=workers, progress=progress
        )
    late = there.found(reports, manifests)
    if late.differences and not allow_incomplete:
        _write(replace(late, manifests={}), folder)
        _refuse(late, folder)
    _write(late, folder)
    return late


def command_for(manifest: str) -> str:
    """The command that makes a manifest which a regime names, such as ``ssv2/train.parquet``."""
    name = manifest.partition("/")[0]
    if name in ("miniature", "synthetic", "miniature_synthetic"):
        return f"equipoise data build {name}"
    if name in RELEASES:
        return f"equipoise data import {name} --root FOLDER"
    return f"equipoise data manifest {name} {Path(manifest).stem} --list CSV --root FOLDER"
