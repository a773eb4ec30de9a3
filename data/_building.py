"""Building a clip cache: what it is made from, shard by shard, in a folder that appears when it is complete."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray

from equipoise.data._files import Progress, WorkerError, run_jobs, sha256_of, write_json
from equipoise.data._storage import DAMAGE, SCHEMA, Storage, jpeg, read_shard, stored
from equipoise.data.decode import (
    DecodeError,
    Frames,
    check_workers,
    decode,
    decoder_name,
    handled,
    regular_file,
    scaled_shape,
    uniform_indices,
)
from equipoise.data.decode_report import DecodeReport
from equipoise.data.errors import DataError
from equipoise.data.manifest import Manifest

_FORMAT = 2
_SHARD_BYTES = 64 * 2**20  # of frames, before they become JPEG images
_BATCH_BYTES = 8 * 2**20  # a record batch: what a builder holds in memory beside one decoded clip
_SPARE = 1.05  # of the estimated size, for offsets, metadata and rounding
_JPEG_SAMPLE = 8  # clips whose JPEG size is taken for that of all
_JPEG_SPARE = 1.25  # of the size estimated from them
LESS = (
    "free some space, take a home on a larger disk (--home), or store less: JPEG images (cache_storage=jpeg, about a "
    "tenth), smaller frames (cache_size) or fewer (cache_frames)."
)


class CacheError(DataError, ValueError):
    """A clip cache cannot be built where it was asked for, or with these settings."""


@dataclass(frozen=True)
class _Clip:
    row: int
    path: str
    file: str
    label: int
    kind: str
    frames: int
    sha256: str


@dataclass(frozen=True)
class _Shard:
    """The clips of one Arrow file."""

    clips: tuple[_Clip, ...]
    file: str
    size: int
    frames: int | None
    storage: Storage

    @property
    def rows(self) -> list[int]:
        """First and last row of the manifest."""
        return [self.clips[0].row, self.clips[-1].row]

    @property
    def note(self) -> Path:
        """Says that the Arrow file is complete: its size, its rows, and which of them failed."""
        return Path(self.file).with_suffix(".json")


class Runner(Protocol):
    """What spreads jobs over processes or machines; `equipoise.data._files.run_jobs` on this one."""

    def __call__(
        self, work: Callable[[_Shard], dict[str, Any]], jobs: list[_Shard], workers: int, /
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields the number of a job and what ``work`` made of it, in any order."""


def _load(clip: _Clip, size: int, frames: int | None) -> Frames:
    """Decodes and resizes one clip, refusing a file that is not the one the manifest describes."""
    path = Path(clip.file)
    if clip.sha256:
        regular_file(path, may_be_empty=True)
        with handled(path):
            try:
                found = sha256_of(path)
            except OSError as error:
                raise DecodeError(path, f"it cannot be read: {error.strerror}") from error
        if found != clip.sha256:
            raise DecodeError(path, f"the file has changed since the manifest was written (sha256 {found[:12]}…)")

    def choose(available: int) -> NDArray[np.int64]:
        if available < clip.frames:
            raise DecodeError(path, f"it has {available} frames, the manifest says {clip.frames}")
        return uniform_indices(available, available if frames is None else min(frames, available))

    return decode(path, clip.kind, frame_indices=choose, short_side=size)


def _write_shard(shard: _Shard) -> dict[str, Any]:
    """Decodes the clips of a shard into its Arrow file, which appears when it is complete; returns its note."""
    failed: list[tuple[int, str]] = []
    batch: list[tuple[_Clip, tuple[int, ...], Any, list[int]]] = []

    def flush(writer: pa.RecordBatchWriter) -> None:
        if not batch:
            return
        columns: list[list[Any]] = [
            [clip.row for clip, *_ in batch],
            [clip.label for clip, *_ in batch],
            [clip.kind for clip, *_ in batch],
            [clip.path for clip, *_ in batch],
            *([shape[axis] for _, shape, *_ in batch] for axis in range(3)),
            [content for _, _, content, _ in batch],
            [ends for *_, ends in batch],
        ]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
        writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
        batch.clear()

    # On a cluster a task that was thought lost can still be writing: each has a file of its own.
    part = f"{shard.file}.{os.uname().nodename}.{os.getpid()}.part"
    with pa.OSFile(part, "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for clip in shard.clips:
            try:
                frames = _load(clip, shard.size, shard.frames)
            except DecodeError as error:
                failed.append((clip.row, error.reason))
                continue
            batch.append((clip, frames.shape, *stored(frames, shard.storage)))
            if sum(memoryview(content).nbytes for _, _, content, _ in batch) >= _BATCH_BYTES:
                flush(writer)
        flush(writer)
    with open(part, "rb") as file:
        os.fsync(file.fileno())  # else a power cut may leave the right size without the content
    note = {"bytes": os.path.getsize(part), "rows": shard.rows, "failed": failed}
    os.replace(part, shard.file)
    write_json(shard.note, note)
    return note


def _note(shard: _Shard) -> dict[str, Any] | None:
    """The note of a shard that an earlier build completed."""
    try:
        note: dict[str, Any] = json.loads(shard.note.read_text())
        complete = os.path.getsize(shard.file) == note["bytes"] and shard.rows == note["rows"]
        failed = {row for row, _ in note["failed"]}
        if complete and read_shard(Path(shard.file))[0]["row"] == [c.row for c in shard.clips if c.row not in failed]:
            return note
    except DAMAGE:
        pass  # it is not there, or not as it was written: it is made again
    return None


def _plan(manifest: Manifest, size: int, frames: int | None) -> tuple[list[list[_Clip]], int]:
    """Consecutive clips grouped into shards of about 64 MiB of frames, and the estimated size of all in bytes."""
    shards: list[list[_Clip]] = [[]]
    filled = total = 0
    for row in range(len(manifest)):
        count = int(manifest.frames[row])
        width, height = scaled_shape(int(manifest.width[row]), int(manifest.height[row]), size)
        weight = 3 * width * height * (count if frames is None else min(count, frames))
        if shards[-1] and filled + weight > _SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(
            _Clip(
                row=row,
                path=str(manifest.path[row]),
                file=str(manifest.file(row)),
                label=int(manifest.label[row]),
                kind=str(manifest.kind[row]),
                frames=count,
                sha256=str(manifest.sha256[row]),
            )
        )
        filled += weight
        total += weight
    return shards, round(total * _SPARE)


def _sizes(clip: _Clip, size: int, frames: int | None) -> tuple[int, int]:
    """Bytes of a clip's frames, raw and as JPEG images; none of a clip that fails."""
    try:
        found = _load(clip, size, frames)
    except DecodeError:
        return 0, 0
    return found.nbytes, sum(len(jpeg(frame)) for frame in found)


def _jpeg_share(clips: list[_Clip], size: int, frames: int | None, workers: int) -> float:
    """Size of JPEG images over that of raw frames, from a few clips spread over all."""
    sample = [clips[number] for number in uniform_indices(len(clips), min(_JPEG_SAMPLE, len(clips)))]
    take = partial(_sizes, size=size, frames=frames)
    found = [sizes for _, sizes in run_jobs(take, sample, workers)]
    raw, images = (sum(column) for column in zip(*found, strict=True))
    return min(1.0, _JPEG_SPARE * images / raw) if raw else 1.0


def _check_space(folder: Path, needed: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed <= free:
        return
    others = [p for p in folder.parent.glob(f"{name}-*") if p.is_dir()]
    others += [p for p in folder.parent.glob(f".{name}-*.unfinished") if p != folder]
    held = sum(file.stat().st_size for other in others for file in other.iterdir())
    hint = f" ({amount(held)} are held there by {', '.join(p.name for p in sorted(others))})" if others else ""
    raise CacheError(
        f"The clip cache {name} needs about {amount(needed)} in {folder.parent}, which has {amount(free)} "
        f"free{hint}; {LESS}"
    )


def amount(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB"


def to_build(
    folder: Path, manifest: Manifest, settings: dict[str, Any], workers: int
) -> tuple[list[_Shard], dict[int, dict[str, Any]], int]:
    """Shards of a cache, notes of those that ``folder`` holds, and the estimated bytes of the others."""
    size, frames, storage = settings["size"], settings["frames"], settings["storage"]
    plan, needed = _plan(manifest, size, frames)
    shards = [
        _Shard(tuple(clips), str(folder / f"shard-{number:05d}.arrow"), size, frames, storage)
        for number, clips in enumerate(plan)
    ]
    notes = {number: note for number, shard in enumerate(shards) if (note := _note(shard)) is not None}
    if len(notes) < len(shards) and storage == "jpeg":
        needed = round(needed * _jpeg_share([clip for clips in plan for clip in clips], size, frames, workers))
    return shards, notes, needed - sum(note["bytes"] for note in notes.values())


def build(
    folder: Path,
    manifest: Manifest,
    settings: dict[str, Any],
    workers: int,
    progress: Progress | None,
    run: Runner | None = None,
) -> DecodeReport:
    """Fills ``folder`` with what is missing of shards, index and report."""
    shards, notes, needed = to_build(folder, manifest, settings, workers)
    known = {path for shard in shards for path in (Path(shard.file), shard.note)}
    for leftover in set(folder.iterdir()) - known:
        leftover.unlink()
    missing = [number for number in range(len(shards)) if number not in notes]
    _check_space(folder, needed, f"{manifest.name}-{manifest.split}")
    done = sum(len(shards[number].clips) for number in notes)
    runner: Runner = run or run_jobs
    for place, note in runner(_write_shard, [shards[number] for number in missing], workers):
        number = missing[place]
        notes[number] = note
        done += len(shards[number].clips)
        if progress is not None:
            progress(f"cache {manifest.name}/{manifest.split}", done, len(manifest))
    for unfinished in folder.glob("*.part"):  # of a process or node that died; its shards were made again
        unfinished.unlink(missing_ok=True)
    failed = [(row, reason) for number in sorted(notes) for row, reason in notes[number]["failed"]]
    report = DecodeReport(len(manifest), [(str(manifest.file(row)), reason) for row, reason in failed])
    report.write(folder / "report.json")
    files = [{"file": Path(shard.file).name, "bytes": notes[number]["bytes"]} for number, shard in enumerate(shards)]
    write_json(folder / "index.json", {**settings, "shards": files, "clips": len(manifest) - len(failed)})
    return report


def cache_settings(manifest: Manifest, size: int, frames: int | None, storage: Storage, workers: int) -> dict[str, Any]:
    """What a cache is made from; raises what `ClipCache.open` does for a setting out of its range."""
    for what, value in (("size", size), ("frames", 1 if frames is None else frames)):
        if value < 1:
            raise CacheError(f"{what} is {value}; it must be at least 1.")
    if storage not in get_args(Storage):
        raise CacheError(f"storage is {storage!r}; use one of {', '.join(get_args(Storage))}.")
    try:
        decoder = decoder_name()
        check_workers(workers)
    except ValueError as error:
        raise CacheError(str(error)) from None
    return {
        "format": _FORMAT,
        "name": manifest.name,
        "split": manifest.split,
        "classes": list(manifest.classes),
        "manifest": manifest.hash,
        "size": size,
        "frames": frames,
        "storage": storage,
        "decoder": decoder,
    }


def cache_place(root: Path, settings: dict[str, Any]) -> Path:
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    return root / f"{settings['name']}-{settings['split']}-{key}"


def working_folder(target: Path) -> Path:
    return target.parent / f".{target.name}.unfinished"


@contextlib.contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """Gives the folder in which ``target`` is built, with what an earlier build completed, and renames it at the end.

    Call it with the lock of ``target`` held. A ``target`` that is there, but cannot be used, is taken apart: its shards
    without a failed clip are kept. A build that is refused by a full disk gives back what it took.
    """
    working = working_folder(target)
    if target.is_dir():
        shutil.rmtree(working, ignore_errors=True)
        os.rename(target, working)
        for note in working.glob("shard-*.json"):
            try:
                failed = json.loads(note.read_text())["failed"]
            except DAMAGE:
                failed = True
            if failed:
                note.unlink()
    working.mkdir(parents=True, exist_ok=True)
    try:
        yield working
    except OSError as error:
        if error.errno in _FULL:
            shutil.rmtree(working, ignore_errors=True)
        raise
    os.rename(working, target)


_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def writable(root: Path) -> Iterator[None]:
    """Creates ``root`` and turns what the file system refuses, or what ends every worker, into one sentence."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except WorkerError as error:
        raise CacheError(f"The clip cache in {root} cannot be built: {error}") from error
    except (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError) as error:
        raise CacheError(f"The clip cache folder {root} cannot be written ({error.strerror}); name another.") from error
    except OSError as error:
        if error.errno not in (*_FULL, errno.EROFS):
            raise
        raise CacheError(f"The clip cache folder {root} cannot be written ({error.strerror}); name another.") from error
