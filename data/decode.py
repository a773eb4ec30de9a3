"""From a file to uint8 frames, and a report of the files that failed.

decord decodes where it is importable, PyAV elsewhere; both seek exactly. A decoder is opened inside the call, so that
no handle is shared between processes. Nothing is retried, skipped or replaced here: a file that fails raises
`DecodeError`.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Frames = NDArray[np.uint8]
FrameChoice = Sequence[int] | NDArray[np.int64] | Callable[[int], NDArray[np.int64]] | None
"""Which frames to return: their numbers, a function from the number of frames in the file to them, or None for all."""


class DecodeError(ValueError):
    """A file cannot be decoded.

    Attributes:
        path: The file.
        reason: One line that says why.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path = str(path)
        self.reason = " ".join(reason.split())[:200]
        super().__init__(f"{self.path} cannot be decoded: {self.reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (DecodeError, (self.path, self.reason))


class DecodeBudgetError(ValueError):
    """More files failed to decode than a study accepts."""


@lru_cache(maxsize=1)
def decoder_name() -> str:
    """The video decoder in use: ``decord`` where it can be imported, else ``pyav``."""
    return "decord" if importlib.util.find_spec("decord") is not None else "pyav"


def uniform_indices(available: int, count: int) -> NDArray[np.int64]:
    """``count`` frame numbers spread uniformly over ``available`` frames: the middles of equal segments.

    With fewer frames than asked for, frames repeat. Shape ``[count]``, ascending.
    """
    if available < 1 or count < 1:
        raise ValueError(f"uniform_indices needs at least one frame and one index, got {available} and {count}.")
    return ((2 * np.arange(count, dtype=np.int64) + 1) * available) // (2 * count)


def _chosen(path: Path, choice: FrameChoice, available: int) -> NDArray[np.int64]:
    if available < 1:
        raise DecodeError(path, "the file has no frames")
    if choice is None:
        return np.arange(available, dtype=np.int64)
    wanted = np.asarray(choice(available) if callable(choice) else choice, dtype=np.int64)
    if wanted.ndim != 1 or len(wanted) == 0:
        raise ValueError(f"frame_indices must name at least one frame, got shape {wanted.shape}.")
    if wanted.min() < 0 or wanted.max() >= available:
        raise DecodeError(path, f"frame {int(wanted.max())} was asked for, the file has {available} frames")
    return wanted


def _decode_decord(path: Path, choice: FrameChoice) -> Frames:
    import decord

    decord.logging.set_level(decord.logging.FATAL)  # what it would print is in the DecodeError
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    except (RuntimeError, decord.DECORDError) as error:
        raise DecodeError(path, "it cannot be opened as a video (damaged, cut off, or another format)") from error
    wanted = _chosen(path, choice, len(reader))
    try:
        frames: Frames = reader.get_batch(wanted.tolist()).asnumpy()
    except decord.DECORDError as error:
        raise DecodeError(path, _decord_reason(str(error))) from error
    return frames


def _decord_reason(message: str) -> str:
    """The telling line of a decord error: without its source position and stack trace."""
    line = message.strip().splitlines()[0] if message.strip() else "decord failed without a message"
    return line.rsplit("] ", maxsplit=1)[-1]


def _decode_pyav(path: Path, choice: FrameChoice) -> Frames:
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DecodeError(path, "the file has no video stream")
            container.streams.video[0].thread_count = 1
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, DecodeError):
            raise
        raise DecodeError(path, str(error)) from error
    return np.stack([frames[number] for number in _chosen(path, choice, len(frames))])


def _decode_image(path: Path, choice: FrameChoice) -> Frames:
    try:
        with Image.open(path) as picture:
            frames: Frames = np.asarray(picture.convert("RGB"))[None]
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DecodeError(path, str(error) or type(error).__name__) from error
    return frames[_chosen(path, choice, 1)]


def decode(path: Path | str, kind: str, *, frame_indices: FrameChoice = None) -> Frames:
    """Decodes a video or an image.

    Args:
        path: The file.
        kind: ``video`` or ``image``; an image has one frame.
        frame_indices: Which frames; None for all.

    Returns:
        uint8 RGB frames ``[T, H, W, 3]``.

    Raises:
        DecodeError: If the file is missing, empty, not what ``kind`` says, damaged, or shorter than asked for.
        ValueError: If ``kind`` is neither, or ``frame_indices`` names no frame.
    """
    path = Path(path)
    if kind not in ("video", "image"):
        raise ValueError(f"kind is {kind!r}; it must be 'video' or 'image'.")
    if not path.is_file():
        raise DecodeError(path, "no such file")
    if path.stat().st_size == 0:
        raise DecodeError(path, "the file is empty (0 bytes)")
    if kind == "image":
        return _decode_image(path, frame_indices)
    return (_decode_decord if decoder_name() == "decord" else _decode_pyav)(path, frame_indices)


@dataclass
class DecodeReport:
    """Which of a manifest's files could not be decoded, and why.

    Attributes:
        total: Files tried.
        failures: ``(path, reason)`` of each file that failed, in manifest order.
        path: Where the report was last written or read, if anywhere.
    """

    total: int
    failures: list[tuple[str, str]] = field(default_factory=list)
    path: Path | None = None

    def check(self, budget: float = 0.01) -> None:
        """Refuses a data set of which more than ``budget`` (a share, 0 to 1) failed.

        Raises:
            DecodeBudgetError: If more failed.
            ValueError: If ``budget`` is no share.
        """
        if not 0 <= budget <= 1:
            raise ValueError(f"budget is {budget}; it is a share of files, from 0 to 1.")
        if len(self.failures) <= budget * self.total:
            return
        first = "; ".join(f"{path} ({reason})" for path, reason in self.failures[:3])
        more = f" and {len(self.failures) - 3} more" if len(self.failures) > 3 else ""
        where = f"; all are listed in {self.path}" if self.path is not None else ""
        raise DecodeBudgetError(
            f"{len(self.failures)} of {self.total} files could not be decoded, more than the budget of {budget:.2%}: "
            f"{first}{more}{where}."
        )

    def write(self, path: Path | str) -> None:
        """Writes the report as JSON, atomically."""
        path = Path(path)
        content = {
            "total": self.total,
            "failed": len(self.failures),
            "failures": [{"path": file, "reason": reason} for file, reason in self.failures],
        }
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(content, indent=2) + "\n")
        os.replace(partial, path)
        self.path = path

    @classmethod
    def read(cls, path: Path | str) -> DecodeReport:
        """Reads a report that `write` wrote."""
        path = Path(path)
        content = json.loads(path.read_text())
        return cls(content["total"], [(entry["path"], entry["reason"]) for entry in content["failures"]], path)
