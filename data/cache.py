"""The clip cache: every clip of a manifest decoded and resized once, then read by all trials through memory maps.

A cache is a folder ``NAME-SPLIT-KEY`` of Arrow IPC files with uint8 frames, a report of the files that failed, and a
small JSON with what it was built from. It appears by a rename when it is complete, or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray
from PIL import Image

from equipoise.data._files import locked, run_jobs, unfinished
from equipoise.data.decode import DecodeError, DecodeReport, Frames, decode, uniform_indices
from equipoise.data.manifest import Manifest

Progress = Callable[[str, int, int], None]

_FORMAT = 1
_SHARD_BYTES = 64 * 2**20
_BATCH_BYTES = 8 * 2**20  # a record batch: what a builder holds in memory beside one decoded clip
_SPARE = 1.05  # of the estimated size, for offsets, metadata and rounding
_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("label", pa.int64()),
        ("kind", pa.string()),
        ("path", pa.string()),
        ("frames", pa.int64()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("pixels", pa.large_binary()),
    ]
)


class CacheError(ValueError):
    """A clip cache cannot be built where it was asked for, or with these settings."""


def _target_shape(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height after scaling the shorter side to ``size``."""
    scale = size / min(width, height)
    return max(size, round(width * scale)), max(size, round(height * scale))


def _resized(frames: Frames, size: int) -> Frames:
    """Frames ``[T, H, W, 3]`` with the shorter side at ``size`` pixels (antialiased bilinear)."""
    height, width = frames.shape[1:3]
    target = _target_shape(width, height, size)
    if target == (width, height):
        return np.ascontiguousarray(frames)
    return np.stack([np.asarray(Image.fromarray(f).resize(target, Image.Resampling.BILINEAR)) for f in frames])


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


def _load(clip: _Clip, size: int, frames: int | None) -> Frames:
    """Decodes and resizes one clip, refusing a file that is not the one the manifest describes."""
    if clip.sha256 and Path(clip.file).is_file():
        with open(clip.file, "rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
        if found != clip.sha256:
            raise DecodeError(clip.file, f"the file has changed since the manifest was written (sha256 {found[:12]}…)")

    def choose(available: int) -> NDArray[np.int64]:
        if available < clip.frames:
            raise DecodeError(clip.file, f"it has {available} frames, the manifest says {clip.frames}")
        return uniform_indices(available, available if frames is None else min(frames, available))

    return _resized(decode(clip.file, clip.kind, frame_indices=choose), size)


def _write_shard(shard: _Shard) -> list[tuple[int, str]]:
    """Decodes the clips of a shard into its Arrow file; returns ``(row, reason)`` of those that failed."""
    failed: list[tuple[int, str]] = []
    batch: list[tuple[_Clip, Frames]] = []

    def flush(writer: pa.RecordBatchWriter) -> None:
        if not batch:
            return
        columns: list[list[Any]] = [
            [clip.row for clip, _ in batch],
            [clip.label for clip, _ in batch],
            [clip.kind for clip, _ in batch],
            [clip.path for clip, _ in batch],
            *([frames.shape[axis] for _, frames in batch] for axis in range(3)),
            [frames.data.cast("B") for _, frames in batch],
        ]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
        writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
        batch.clear()

    with pa.OSFile(shard.file, "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for clip in shard.clips:
            try:
                batch.append((clip, _load(clip, shard.size, shard.frames)))
            except DecodeError as error:
                failed.append((clip.row, error.reason))
            if sum(frames.nbytes for _, frames in batch) >= _BATCH_BYTES:
                flush(writer)
        flush(writer)
    return failed


def _plan(manifest: Manifest, size: int, frames: int | None) -> tuple[list[list[_Clip]], int]:
    """Consecutive clips grouped into shards of about 64 MiB, and the estimated size of all in bytes."""
    shards: list[list[_Clip]] = [[]]
    filled = total = 0
    for row in range(len(manifest)):
        count = int(manifest.frames[row])
        width, height = _target_shape(int(manifest.width[row]), int(manifest.height[row]), size)
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


def _check_space(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if needed > free:
        raise CacheError(
            f"The clip cache needs about {needed / 1e9:.2f} GB in {root}, which has {free / 1e9:.2f} GB free; "
            f"free some space, name another folder, or store smaller or fewer frames."
        )


def _build(
    folder: Path, manifest: Manifest, settings: dict[str, Any], workers: int, progress: Progress | None
) -> DecodeReport:
    """Fills ``folder`` with shards, index and report."""
    size, frames = settings["size"], settings["frames"]
    plan, needed = _plan(manifest, size, frames)
    _check_space(folder, needed)
    shards = [
        _Shard(tuple(clips), str(folder / f"shard-{number:05d}.arrow"), size, frames)
        for number, clips in enumerate(plan)
    ]
    failed: dict[int, str] = {}
    done = 0
    for number, failures in run_jobs(_write_shard, shards, workers):
        failed.update(failures)
        done += len(shards[number].clips)
        if progress is not None:
            progress(f"cache {manifest.name}/{manifest.split}", done, len(manifest))
    report = DecodeReport(len(manifest), [(str(manifest.file(row)), failed[row]) for row in sorted(failed)])
    report.write(folder / "report.json")
    index = {**settings, "shards": [Path(shard.file).name for shard in shards], "clips": len(manifest) - len(failed)}
    (folder / "index.json").write_text(json.dumps(index, indent=2) + "\n")
    return report


class ClipCache:
    """The decoded clips of one manifest, memory-mapped. Get one with `ClipCache.open`.

    Clips that failed to decode are not in it: indices run over the others, in manifest order. A cache can be pickled:
    the copy maps the same files. Frames keep their aspect ratio; the shorter side is ``size`` pixels.

    Attributes:
        folder: Where the shards lie.
        name: Name of the data set.
        split: Its split.
        classes: Class names.
        manifest_hash: `Manifest.hash` of what it was built from.
        size: Shorter side of the frames, px.
        labels: int64 ``[N]``.
        rows: Manifest row of each clip, int64 ``[N]``.
        kinds: ``video`` or ``image``, per clip.
        paths: File of each clip relative to the manifest's root.
        shapes: Frames, height and width, int64 ``[N, 3]``.
        report: What failed to decode.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = json.loads((folder / "index.json").read_text())
        self.name: str = index["name"]
        self.split: str = index["split"]
        self.classes: tuple[str, ...] = tuple(index["classes"])
        self.manifest_hash: str = index["manifest"]
        self.size: int = index["size"]
        self.report = DecodeReport.read(folder / "report.json")
        self._pixels: list[NDArray[np.uint8]] = []
        columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names if name != "pixels"}
        for shard in index["shards"]:
            reader = pa.ipc.open_file(pa.memory_map(str(folder / shard), "r"))
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                for name, values in columns.items():
                    values.extend(batch.column(name).to_pylist())
                self._pixels.extend(_views(batch.column("pixels")))
        self.labels: NDArray[np.int64] = np.array(columns["label"], dtype=np.int64)
        self.rows: NDArray[np.int64] = np.array(columns["row"], dtype=np.int64)
        self.kinds: list[str] = columns["kind"]
        self.paths: list[str] = columns["path"]
        self.shapes: NDArray[np.int64] = np.array(
            [columns["frames"], columns["height"], columns["width"]], dtype=np.int64
        ).T

    @classmethod
    def open(
        cls,
        manifest: Manifest,
        root: Path | str,
        *,
        size: int,
        frames: int | None = None,
        workers: int = 2,
        budget: float = 0.01,
        progress: Progress | None = None,
    ) -> ClipCache:
        """Opens the cache of a manifest, building it first if it is not there.

        Two processes that ask at once: one builds, the other waits and opens. A killed build is started again.

        Args:
            manifest: The clips.
            root: Folder that holds caches, one sub-folder each.
            size: Shorter side of stored frames, px.
            frames: At most this many frames per clip, spread uniformly over it; None stores all.
            workers: Processes that decode.
            budget: Share of files that may fail.
            progress: Called as ``progress(stage, done, total)``.

        Raises:
            CacheError: If ``root`` cannot be written or is too small, or a setting is out of its range.
            DecodeBudgetError: If more than ``budget`` of the files failed; the cache stays, so asking again with a
                larger budget decodes nothing twice.
        """
        for what, value in (("size", size), ("frames", 1 if frames is None else frames), ("workers", workers)):
            if value < 1:
                raise CacheError(f"{what} is {value}; it must be at least 1.")
        settings = {
            "format": _FORMAT,
            "name": manifest.name,
            "split": manifest.split,
            "classes": list(manifest.classes),
            "manifest": manifest.hash,
            "size": size,
            "frames": frames,
        }
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        root = Path(root).absolute()
        folder = root / f"{manifest.name}-{manifest.split}-{key}"
        if not folder.is_dir():
            with _writable(root), locked(root / f".{folder.name}.lock"):
                if not folder.is_dir():  # built while we waited for the lock
                    with unfinished(folder) as working:
                        _build(working, manifest, settings, workers, progress)
        cache = cls(folder)
        cache.report.check(budget)
        return cache

    def __len__(self) -> int:
        return len(self._pixels)

    def clip(self, index: int) -> Frames:
        """Clip number ``index`` as uint8 ``[T, H, W, 3]``: a read-only view of the memory map, nothing is copied."""
        return self._pixels[index].reshape(*self.shapes[index], 3)

    def __reduce__(self) -> tuple[Any, ...]:
        return (ClipCache, (self.folder,))


def _views(pixels: pa.LargeBinaryArray) -> list[NDArray[np.uint8]]:
    """One flat uint8 view per value of an Arrow binary array."""
    _, offsets_buffer, values = pixels.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int64)[pixels.offset : pixels.offset + len(pixels) + 1]
    return [np.frombuffer(values, np.uint8, int(end - start), int(start)) for start, end in itertools.pairwise(offsets)]


@contextlib.contextmanager
def _writable(root: Path) -> Iterator[None]:
    """Creates ``root`` and turns what the file system refuses into one sentence."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise CacheError(f"The clip cache folder {root} cannot be written ({error.strerror}); name another.") from error
    except OSError as error:
        if error.errno not in (28, 30, 122):  # ENOSPC, EROFS, EDQUOT
            raise
        raise CacheError(f"The clip cache folder {root} cannot be written ({error.strerror}); name another.") from error
