"""Batches for pretraining: a mixture's draws, cut in time, read from the clip caches one batch ahead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equipoise.data.mixture import Draw, Mixture
from equipoise.data.transforms import center_square, sample_frames


class LoaderError(ValueError):
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
    The start of a training clip in time is drawn from (seed, step, global row). One batch is prepared ahead in a
    thread; use the stream as a context manager, or call `close`.

    Frame size: where all clips of all sources have the same height and width, whole frames are given (the augmentation
    crops them). Otherwise each clip's centre square is resized to the smallest cached size of the sources, so that they
    can be stacked.

    Args:
        mixture: The sources. The stream advances it one batch ahead: use the stream's state, not the mixture's.
        frames: Frames per video.
        stride: Distance between them, in stored frames.
        batch: Clips in a global batch, a multiple of ``world``.
        seed: Of the temporal sampling, 0 or more.
        rank: Which part of each batch to give.
        world: Number of parts.
        pin: Give page-locked tensors, whose copy to a GPU does not wait for the work queued there.

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
    ) -> None:
        for name, value, least in (
            ("frames", frames, 1),
            ("stride", stride, 1),
            ("batch", batch, 1),
            ("seed", seed, 0),
            ("world", world, 1),
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
        shapes = {tuple(shape) for source in mixture.sources for shape in np.unique(source.cache.shapes[:, 1:], axis=0)}
        self._square = None if len(shapes) == 1 else min(source.cache.size for source in mixture.sources)
        self._step = 0
        self._state = self._snapshot()
        self._thread: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="clip-stream")
        self._ahead: Future[tuple[Batch, dict[str, Any]]] | None = None

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

    def _frames_of(self, draw: Draw, row: int, step: int, still: bool) -> Tensor:
        """Frames ``[T, H, W, 3]`` of one row of the global batch."""
        clip = self.mixture.sources[int(draw.source[row])].cache.clip(int(draw.clip[row]))
        if still:
            chosen = np.zeros(1, dtype=np.int64)
        else:
            rng = np.random.default_rng([self.seed, step, row])
            chosen = sample_frames(len(clip), self.frames, "random", self.stride, rng)
        frames = torch.from_numpy(clip[chosen])  # indexing copies out of the read-only map
        if self._square is not None:
            frames = center_square(frames[None], self._square)[0]
        return frames

    def _make(self) -> tuple[Batch, dict[str, Any]]:
        step = self._step
        draw = self.mixture.next(self.batch)
        stills = self._stills(draw)
        videos: list[Tensor] = []
        images: list[Tensor] = []
        rows: tuple[list[int], list[int]] = ([], [])
        for row in range(self.rank, self.batch, self.world):
            still = bool(stills[row])
            frames = self._frames_of(draw, row, step, still)
            (images if still else videos).append(frames)
            rows[still].append(row)
        self._step += 1
        video_rows, image_rows = (np.array(part, dtype=np.int64) for part in rows)
        batch = Batch(
            video=self._stacked(videos),
            image=self._stacked(images),
            video_source=draw.source[video_rows],
            image_source=draw.source[image_rows],
            video_rows=video_rows,
            image_rows=image_rows,
            stills=stills,
            step=step,
        )
        return batch, self._snapshot()

    def _stacked(self, frames: list[Tensor]) -> Tensor | None:
        if not frames:
            return None
        stacked = torch.stack(frames)
        return stacked.pin_memory() if self.pin else stacked

    def __iter__(self) -> ClipStream:
        return self

    def __next__(self) -> Batch:
        if self._thread is None:
            raise LoaderError("This stream is closed; make a new one and load its state.")
        ahead = self._ahead if self._ahead is not None else self._thread.submit(self._make)
        self._ahead = None  # so that a batch that failed is not handed out again
        batch, self._state = ahead.result()
        self._ahead = self._thread.submit(self._make)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The state after the last batch handed out (not the one being prepared): small and JSON-able."""
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
        if self._ahead is not None:
            self._ahead.result()  # it advances the mixture: let it end first
            self._ahead = None
        self.mixture.load_state_dict(state["mixture"])
        self._step = int(state["step"])
        self._state = self._snapshot()

    def close(self) -> None:
        """Ends the thread. Closing twice does no harm."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._thread = None
            self._ahead = None

    def __enter__(self) -> ClipStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
