"""The clip cache: every clip of a manifest decoded and resized once, then read by all trials through memory maps.

A cache is a folder ``NAME-SPLIT-KEY`` of Arrow IPC files with uint8 frames or JPEG images of them, a report of the
files that failed, and a small JSON with what it was built from. It appears by a rename when it is complete, or not at
all. Each Arrow file of an unfinished one is complete or not there either: a build that was killed goes on where it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.data._building import (
    LESS,
    CacheError,
    Runner,
    amount,
    build,
    cache_place,
    cache_settings,
    to_build,
    unfinished,
    working_folder,
    writable,
)
from equipoise.data._files import Progress, locked
from equipoise.data._storage import DAMAGE, SCHEMA, SHAPE, Read, Storage, from_jpeg, read_shard
from equipoise.data.decode import Frames
from equipoise.data.decode_report import DecodeBudgetError, DecodeReport
from equipoise.data.manifest import Manifest

__all__ = ["CacheError", "ClipCache", "Runner"]


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
        storage: ``raw``, ``jpeg``, or ``none`` of clips without a cache.
        labels: int64 ``[N]``.
        rows: Manifest row of each clip, int64 ``[N]``.
        kinds: ``video`` or ``image``, per clip.
        paths: File of each clip relative to the manifest's root.
        shapes: Frames, height and width, int64 ``[N, 3]``.
        report: What failed to decode.

    Raises:
        CacheError: If the folder's files are not those that were written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            index = json.loads((folder / "index.json").read_text())
            self.report = DecodeReport.read(folder / "report.json")
            sizes = [(folder / shard["file"]).stat().st_size for shard in index["shards"]]
        except DAMAGE as error:
            raise _damaged(folder, error) from None
        for shard, size in zip(index["shards"], sizes, strict=True):
            if size != shard["bytes"]:
                raise _damaged(folder, f"{shard['file']} has {size} bytes, {shard['bytes']} were written")
        self._pixels: list[NDArray[np.uint8]] = []
        columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names if name != "pixels"}
        where = "index.json"
        try:
            self.name: str = index["name"]
            self.split: str = index["split"]
            self.classes: tuple[str, ...] = tuple(index["classes"])
            self.manifest_hash: str = index["manifest"]
            self.size: int = index["size"]
            self.storage: Read = index["storage"]
            for shard in index["shards"]:
                where = shard["file"]
                found, pixels = read_shard(folder / where)
                for name, values in found.items():
                    columns[name].extend(values)
                self._pixels.extend(pixels)
        except DAMAGE as error:
            raise _damaged(folder, f"{where}: {error}") from None
        self.labels: NDArray[np.int64] = np.array(columns["label"], dtype=np.int64)
        self.rows: NDArray[np.int64] = np.array(columns["row"], dtype=np.int64)
        self.kinds: list[str] = columns["kind"]
        self.paths: list[str] = columns["path"]
        self._ends: list[list[int]] = columns["ends"]
        self.shapes: NDArray[np.int64] = np.array([columns[name] for name in SHAPE], dtype=np.int64).T

    @classmethod
    def open(
        cls,
        manifest: Manifest,
        root: Path | str,
        *,
        size: int,
        frames: int | None = None,
        storage: Storage = "raw",
        workers: int = 2,
        budget: float = 0.01,
        progress: Progress | None = None,
        run: Runner | None = None,
    ) -> ClipCache:
        """Opens the cache of a manifest, building it first if it is not there.

        Two processes that ask at once: one builds, the other waits and opens. A build that was killed goes on with the
        shards it lacks; a cache whose files were changed is mended; one of which more than ``budget`` failed tries
        those shards again, so that a store that was not there for a while spoils nothing.

        Args:
            manifest: The clips.
            root: Folder that holds caches, one sub-folder each.
            size: Shorter side of stored frames, px.
            frames: At most this many frames per clip, spread uniformly over it; None stores all.
            storage: ``raw`` frames, mapped and copied; or ``jpeg`` images of them (quality 90), which take a sixth to a
                tenth of the space and have to be decoded at every reading.
            workers: Processes that decode. One that dies, or hangs for five minutes, is replaced, and the file it was
                at counted as failed. 0 decodes in this process, without that protection; decord always needs one.
            budget: Share of files that may fail.
            progress: Called as ``progress(stage, done, total)``.
            run: Spreads the shards over other processes or machines; ``workers`` is passed on to it.

        Raises:
            CacheError: If ``root`` cannot be written or is too small, a setting is out of its range, or decoding
                processes keep dying.
            DecodeBudgetError: If more than ``budget`` of the files failed; the cache stays, so asking again with a
                larger budget decodes nothing twice.
        """
        settings = cache_settings(manifest, size, frames, storage, workers)
        folder = cache_place(Path(root).absolute(), settings)
        root = folder.parent

        cache = cls._usable(folder, budget)
        if cache is None:
            with writable(root), locked(root / f".{folder.name}.lock"):
                cache = cls._usable(folder, budget)  # built while we waited for the lock?
                if cache is None:
                    with unfinished(folder) as working:
                        build(working, manifest, settings, workers, progress, run)
                    cache = cls(folder)
            cache.report.check(budget)
        return cache

    @classmethod
    def _usable(cls, folder: Path, budget: float) -> ClipCache | None:
        """The cache of a folder; None where it is not there, is damaged, or lacks more than ``budget`` of its clips."""
        try:
            cache = cls(folder) if folder.is_dir() else None
            if cache is not None:
                cache.report.check(budget)
        except (CacheError, DecodeBudgetError):
            return None
        return cache

    @classmethod
    def check_space(
        cls,
        manifests: Sequence[Manifest],
        root: Path | str,
        *,
        size: int,
        frames: int | None = None,
        storage: Storage = "raw",
        workers: int = 2,
    ) -> None:
        """Checks that the caches of several manifests fit on the disk together, before any of them is built.

        Args:
            manifests: The clips of each.
            root: As for `open`, like the others.
            size: Shorter side of stored frames, px.
            frames: At most this many frames per clip.
            storage: ``raw`` or ``jpeg``.
            workers: Processes that decode a few clips, to know the size of JPEG images.

        Raises:
            CacheError: If they do not fit, or a setting is out of its range.
        """
        root = Path(root).absolute()
        needed: dict[str, int] = {}
        for manifest in manifests:
            settings = cache_settings(manifest, size, frames, storage, workers)
            target = cache_place(root, settings)
            if not target.is_dir():  # one that is there and damaged is mended in its place
                _, _, lacking = to_build(working_folder(target), manifest, settings, workers)
                needed[f"{manifest.name}-{manifest.split}"] = lacking
        with writable(root):
            free = shutil.disk_usage(root).free
        # Of a single one `open` says more: what older caches hold.
        if len(needed) > 1 and sum(needed.values()) > free:
            parts = ", ".join(f"{name} {amount(lacking)}" for name, lacking in needed.items())
            raise CacheError(
                f"The clip caches need about {amount(sum(needed.values()))} in {root}, which has {amount(free)} free "
                f"({parts}); {LESS}"
            )

    def __len__(self) -> int:
        return len(self._pixels)

    def clip(self, index: int) -> Frames:
        """Clip number ``index`` as uint8 ``[T, H, W, 3]``.

        Of raw frames it is a read-only view of the memory map, nothing is copied; JPEG images are decoded.
        """
        if self.storage == "raw":
            return self._pixels[index].reshape(*self.shapes[index], 3)
        return self.frames(index, np.arange(self.shapes[index, 0]))

    def frames(self, index: int, numbers: NDArray[np.int64], out: Frames | None = None) -> Frames:
        """Some frames of clip number ``index``, copied or decoded: uint8 ``[len(numbers), H, W, 3]``.

        Args:
            index: Which clip.
            numbers: Which of its frames, int64, from 0 to one less than it has.
            out: Where to put them; None: into a new array.

        Raises:
            CacheError: If a JPEG image cannot be decoded.
        """
        chosen = np.empty((len(numbers), *self.shapes[index, 1:], 3), np.uint8) if out is None else out
        if self.storage == "raw":
            # Any mode but "raise" writes into `out` itself; there are no numbers to be clipped.
            return np.take(self.clip(index), numbers, axis=0, out=chosen, mode="clip")
        starts = [0, *self._ends[index]]
        for number in np.unique(numbers).tolist():
            try:
                chosen[numbers == number] = from_jpeg(self._pixels[index][starts[number] : starts[number + 1]])
            except RuntimeError as error:
                raise CacheError(
                    f"The clip cache {self.folder} is damaged (frame {number} of {self.paths[index]}: {error}); "
                    f"delete it to have it built again."
                ) from None
        return chosen

    def __reduce__(self) -> tuple[Any, ...]:
        return (ClipCache, (self.folder,))


def _damaged(folder: Path, what: object) -> CacheError:
    said = (str(what).splitlines() or [type(what).__name__])[0]
    return CacheError(f"The clip cache {folder} is damaged ({said}); delete it to have it built again.")
