"""Batches for pretraining: a mixture's draws, cut in time, read from the clip caches ahead of their use."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equipoise.data.errors import DataError
from equipoise.data.mixture import Draw, Mixture
from equipoise.data.transforms import center_square, sample_frames

_AHEAD = 2  # batches prepared beside the one in use: a slow one then holds nobody up


class LoaderError(DataError, ValueError):
    """A stream's settings, or the state it should continue from, do not fit."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One rank's part of a global batch. Videos and stills are apart; a kind that was not drawn is None.

    Attributes:
        video: uint8 ``[Bv, T, H, W, 3]`` or None.
        image: uint8 ``[Bi, 1, H, W, 3]`` or None.
        video_source: Number of each video's source in the mixture, int64 ``[Bv]``.
        image_source: The same for the images, int64 ``[Bi]``.
        video_rows: Row of each video in the global batch, int64 ``[Bv]``. Draw random parameters for the global batch
            and select these rows: then they do not depend on the number of ranks.
        image_rows: The same for the images, int64 ``[Bi]``.
        stills: Which rows of the global batch are still images, bool ``[B]``: the same on every rank.
        step: Number of the batch in the stream, from 0.
    """

    video: Tensor | None
    image: Tensor | None
    video_source: NDArray[np.int64]
    image_source: NDArray[np.int64]
    video_rows: NDArray[np.int64]
    image_rows: NDArray[np.int64]
    stills: NDArray[np.bool_]
    step: int


class ClipStream(Iterator[Batch]):
    """An endless stream of batches, the same global batches for every number of ranks, exactly resumable.

    Every rank draws the same global plan from its own copy of the mixture and takes rows ``rank, rank + world, ...``.
    The start of a training clip in time is drawn from (seed, step, global row). Two batches are prepared ahead in
    a thread; use the stream as a context manager, or call `close`.

    Frame size: where all clips of all sources have the same height and width, whole frames are given (the augmentation
    crops them). Otherwise each clip's centre square is resized to the smallest cached size of the sources, so that they
    can be stacked.

    Args:
        mixture: The sources. The stream advances it two batches ahead: use the stream's state, not the mixture's.
        frames: Frames per video.
        stride: Distance between them, in stored frames.
        batch: Clips in a global batch, a multiple of ``world``.
        seed: Of the temporal sampling, 0 or more.
        rank: Which part of each batch to give.
        world: Number of parts.
        pin: Give page-locked tensors, whose copy to a GPU does not wait for the work queued there.
        readers: Threads that read the clips of a batch, which gives the same batches however many there are. None: one
            for raw caches, of which reading is copying; for JPEG images one for each usable CPU, at most 4.

    Raises:
        LoaderError: If a number is out of its range or ``batch`` is no multiple of ``world``.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        frames: int,
        stride: int,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
        readers: int | None = None,
    ) -> None:
        if readers is None:
            packed = any(source.cache.storage != "raw" for source in mixture.sources)
            cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            readers = min(4, cpus) if packed else 1
        for name, value, least in (
            ("frames", frames, 1),
            ("stride", stride, 1),
            ("batch", batch, 1),
            ("seed", seed, 0),
            ("world", world, 1),
            ("readers", readers, 1),
        ):
            if value < least:
                raise LoaderError(f"{name} is {value}; it must be at least {least}.")
        if not 0 <= rank < world:
            raise LoaderError(f"rank is {rank}; with world {world} it must be from 0 to {world - 1}.")
        if batch % world:
            raise LoaderError(f"A global batch of {batch} clips cannot be shared equally by {world} ranks.")
        self.mixture = mixture
        self.frames = frames
        self.stride = stride
        self.batch = batch
        self.seed = seed
        self.rank = rank
        self.world = world
        self.pin = pin
        sizes = (np.unique(source.cache.shapes[:, 1:], axis=0) for source in mixture.sources)
        shapes = {(int(height), int(width)) for size in sizes for height, width in size}
        self._square = None if len(shapes) == 1 else min(source.cache.size for source in mixture.sources)
        self._shape = shapes.pop() if self._square is None else (self._square, self._square)
        self._step = 0
        self._state = self._snapshot()
        self._thread: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="clip-stream")
        self._ahead: deque[Future[tuple[Batch, dict[str, Any]]]] = deque()
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="clip-reader") if readers > 1 else None

    def _snapshot(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "batch": self.batch,
            "frames": self.frames,
            "stride": self.stride,
            "step": self._step,
            "mixture": self.mixture.state_dict(),
        }

    def _stills(self, draw: Draw) -> NDArray[np.bool_]:
        """Which rows of the global batch are still images, ``[B]``."""
        sources = self.mixture.sources
        drawn = zip(draw.source, draw.clip, strict=True)
        return np.array([sources[int(source)].cache.kinds[int(clip)] == "image" for source, clip in drawn])

    def _fill(self, draw: Draw, step: int, row: int, place: Tensor) -> None:
        """Puts the frames of one row of the global batch into their place ``[T, H, W, 3]``."""
        cache, clip = self.mixture.sources[int(draw.source[row])].cache, int(draw.clip[row])
        if cache.kinds[clip] == "image":
            chosen = np.zeros(1, dtype=np.int64)
        else:
            rng = np.random.default_rng([self.seed, step, row])
            chosen = sample_frames(int(cache.shapes[clip, 0]), self.frames, "random", self.stride, rng)
        if self._square is None:
            cache.frames(clip, chosen, out=place.numpy())
        else:
            place.copy_(center_square(torch.from_numpy(cache.frames(clip, chosen))[None], self._square)[0])

    def _make(self) -> tuple[Batch, dict[str, Any]]:
        step = self._step
        draw = self.mixture.next(self.batch)
        stills = self._stills(draw)
        mine = np.arange(self.rank, self.batch, self.world)
        video_rows, image_rows = mine[~stills[mine]], mine[stills[mine]]
        video, image = self._room(len(video_rows), self.frames), self._room(len(image_rows), 1)
        rows = [*video_rows.tolist(), *image_rows.tolist()]
        places = [place for part in (video, image) if part is not None for place in part]
        spread = map if self._readers is None else self._readers.map
        for _ in spread(partial(self._fill, draw, step), rows, places):
            pass
        self._step += 1
        batch = Batch(
            video=video,
            image=image,
            video_source=draw.source[video_rows],
            image_source=draw.source[image_rows],
            video_rows=video_rows,
            image_rows=image_rows,
            stills=stills,
            step=step,
        )
        return batch, self._snapshot()

    def _room(self, clips: int, frames: int) -> Tensor | None:
        """Uninitialised frames, filled row by row without a copy in between."""
        if not clips:
            return None
        return torch.empty((clips, frames, *self._shape, 3), dtype=torch.uint8, pin_memory=self.pin)

    def __iter__(self) -> ClipStream:
        return self

    def __next__(self) -> Batch:
        if self._thread is None:
            raise LoaderError("This stream is closed; make a new one and load its state.")
        while len(self._ahead) < _AHEAD:
            self._ahead.append(self._thread.submit(self._make))
        batch, self._state = self._ahead.popleft().result()
        self._ahead.append(self._thread.submit(self._make))
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The state after the last batch handed out (not those being prepared): small and JSON-able."""
        return self._state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues after the batch at which ``state`` was taken. The number of ranks may have changed.

        Raises:
            LoaderError: If the state is of a stream with another seed, batch, frames or stride.
            equipoise.data.mixture.MixtureError: If it is of another mixture.
        """
        for key in ("seed", "batch", "frames", "stride"):
            if state.get(key) != getattr(self, key):
                raise LoaderError(f"The saved stream has {key} {state.get(key)}, this one has {getattr(self, key)}.")
        for prepared in self._ahead:
            prepared.result()  # it advances the mixture: let it end first
        self._ahead.clear()
        self.mixture.load_state_dict(state["mixture"])
        self._step = int(state["step"])
        self._state = self._snapshot()

    def close(self) -> None:
        """Ends the threads. Closing twice does no harm."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._thread = None
            self._ahead.clear()
        if self._readers is not None:
            self._readers.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> ClipStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
