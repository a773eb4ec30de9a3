"""From stored uint8 frames to what an encoder sees: temporal sampling, random crops, evaluation crops, normalisation.

Shapes: B clips, T frames, H x W stored pixels, S output pixels. Frames are uint8 RGB ``[B, T, H, W, 3]``, clips for the
encoder float32 ``[B, 3, T, S, S]``. Everything random takes its parameters from outside, so that a batch can be
repeated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from equipoise.data.decode import uniform_indices
from equipoise.data.errors import DataError

MEAN = (0.485, 0.456, 0.406)
"""ImageNet channel means (RGB, of values in 0 to 1)."""
STD = (0.229, 0.224, 0.225)
"""ImageNet channel standard deviations."""


class TransformError(DataError, ValueError):
    """A transform's settings or its input do not fit."""


def _check_frames(frames: Tensor) -> None:
    if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
        raise TransformError(f"Frames must be uint8 [B, T, H, W, 3], got {frames.dtype} {list(frames.shape)}.")


@cache
def _scale_and_shift(device: torch.device) -> tuple[Tensor, Tensor]:
    """Once for each device: to copy them there at every step would wait for what is queued on it."""
    with torch.inference_mode(False):  # whoever asks first
        std, mean = torch.tensor(STD), torch.tensor(MEAN)
        return tuple(x.view(3, 1, 1, 1).to(device) for x in (1 / (255 * std), mean / std))  # type: ignore[return-value]


def _scaled(pixels: Tensor) -> Tensor:
    """uint8 ``[B, 3, T, H, W]`` to normalised float32 of the same shape."""
    scale, shift = _scale_and_shift(pixels.device)
    return pixels.to(torch.float32).mul_(scale).sub_(shift)


def normalise(frames: Tensor) -> Tensor:
    """Scales uint8 frames ``[B, T, H, W, 3]`` to 0..1 and normalises with ImageNet statistics.

    Returns:
        float32 ``[B, 3, T, H, W]``, contiguous, on the device of ``frames``.

    Raises:
        TransformError: If ``frames`` is not uint8 ``[B, T, H, W, 3]``.
    """
    _check_frames(frames)
    return _scaled(frames.permute(0, 4, 1, 2, 3).contiguous())


def sample_frames(
    n_available: int,
    frames: int,
    mode: Literal["uniform", "random"] = "uniform",
    stride: int | None = None,
    generator: np.random.Generator | None = None,
) -> NDArray[np.int64]:
    """Frame numbers of one clip of ``frames`` frames, int64 ``[frames]``, ascending.

    ``uniform`` (evaluation): the middles of equal segments of the whole clip; with fewer frames than asked for, frames
    repeat. ``random`` (training): ``frames`` numbers ``stride`` apart (1 if not given) from a random start; beyond the
    end of a short clip its last frame repeats.

    Raises:
        TransformError: If a number is below 1, the mode is neither, ``uniform`` is given a stride, or ``random`` no
            generator.
    """
    if n_available < 1 or frames < 1:
        raise TransformError(
            f"Both the available and the wanted frames must be at least 1, got {n_available} and {frames}."
        )
    if mode == "uniform":
        if stride is not None:
            raise TransformError(
                f"mode 'uniform' spreads frames over the whole clip; stride {stride} cannot take effect."
            )
        return uniform_indices(n_available, frames)
    if mode != "random":
        raise TransformError(f"mode is {mode!r}; it must be 'uniform' or 'random'.")
    if generator is None:
        raise TransformError("mode 'random' needs a generator.")
    step = 1 if stride is None else stride
    if step < 1:
        raise TransformError(f"stride is {step}; it must be at least 1.")
    room = max(0, n_available - 1 - (frames - 1) * step)
    start = int(generator.integers(room + 1))
    return np.minimum(start + step * np.arange(frames, dtype=np.int64), n_available - 1)


def _resample(frames: Tensor, size: int) -> Tensor:
    """uint8 frames ``[T, h, w, 3]`` to uint8 ``[3, T, size, size]``, antialiased bilinear."""
    pixels = frames.permute(0, 3, 1, 2)
    if frames.shape[1:3] != (size, size):
        if frames.device.type == "cpu":  # the uint8 kernel is several times faster, and exists on the CPU only
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        else:
            smooth = F.interpolate(pixels.float(), (size, size), mode="bilinear", antialias=True)
            pixels = smooth.round_().clamp_(0, 255).to(torch.uint8)
    return pixels.transpose(0, 1)


def center_square(frames: Tensor, size: int, place: float = 0.5) -> Tensor:
    """The centre square of uint8 frames ``[B, T, H, W, 3]``, resized: uint8 ``[B, T, size, size, 3]``.

    With another ``place`` it lies elsewhere on the longer side: 0 at its beginning, 1 at its end.

    Raises:
        TransformError: If ``frames`` is not uint8 ``[B, T, H, W, 3]``, or ``size`` is below 1.
    """
    _check_frames(frames)
    if size < 1:
        raise TransformError(f"size is {size}; it must be at least 1.")
    height, width = frames.shape[2:4]
    side = min(height, width)
    top, left = int((height - side) * place), int((width - side) * place)
    square = frames[:, :, top : top + side, left : left + side]
    if side == size:
        return square
    return torch.stack([_resample(clip, size).permute(1, 2, 3, 0) for clip in square])


def center_crop_resize(frames: Tensor, size: int, place: float = 0.5) -> Tensor:
    """Evaluation: centre square, resized and normalised.

    Args:
        frames: uint8 ``[B, T, H, W, 3]``.
        size: Output side, px.
        place: Of the square on the longer side, from 0 to 1.

    Returns:
        float32 ``[B, 3, T, size, size]``.

    Raises:
        TransformError: If ``frames`` is not uint8 ``[B, T, H, W, 3]``, or ``size`` is below 1.
    """
    return normalise(center_square(frames, size, place))


@dataclass(frozen=True, eq=False)
class AugmentParams:
    """The random choices of a batch, as fractions: they fit frames of any size.

    Each is float32 or bool ``[B]``, on the CPU.

    Attributes:
        area: Share of the frame's area that the crop covers.
        ratio: Width over height of the crop.
        top: Vertical place, 0 (top edge) to 1 (bottom edge).
        left: Horizontal place, 0 to 1.
        flip: Whether to mirror left and right.
    """

    area: Tensor
    ratio: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor

    def __len__(self) -> int:
        return len(self.area)

    def select(self, rows: Tensor | NDArray[np.int64]) -> AugmentParams:
        """The choices of some rows, e.g. of those rows of a global batch that one rank holds."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return AugmentParams(self.area[index], self.ratio[index], self.top[index], self.left[index], self.flip[index])

    def boxes(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        """Crops ``(top, left, height, width)`` in pixels for frames of a size; a side is cut to the frame's."""
        h = (self.area / self.ratio * height * width).sqrt().round().clamp(1, height)
        w = (self.area * self.ratio * height * width).sqrt().round().clamp(1, width)
        top, left = (self.top * (height - h)).round(), (self.left * (width - w)).round()
        rows = torch.stack([top, left, h, w], dim=1).to(torch.int64).tolist()
        return [(int(t), int(x), int(a), int(b)) for t, x, a, b in rows]


class Augment:
    """Random resized crop and mirror image, one choice per clip (all its frames alike), then normalisation.

    The area is drawn uniformly, the aspect ratio log-uniformly (as in Inception-style crops); a crop taller or wider
    than the frame is cut to it. Resampling is antialiased bilinear with uint8 results.

    Args:
        size: Output side, px.
        scale: Smallest and largest share of the frame's area.
        ratio: Smallest and largest width over height.
        hflip: Probability of mirroring. Set 0 where left and right carry the label.

    Raises:
        TransformError: If a range is empty or out of bounds.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.3, 1.0),
        ratio: tuple[float, float] = (0.75, 1.35),
        hflip: float = 0.5,
    ) -> None:
        if size < 1:
            raise TransformError(f"size is {size}; it must be at least 1.")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise TransformError(
                f"scale is {scale}; it must be two shares of the area, ascending, above 0 and at most 1."
            )
        if not 0 < ratio[0] <= ratio[1]:
            raise TransformError(f"ratio is {ratio}; it must be two positive numbers, ascending.")
        if not 0 <= hflip <= 1:
            raise TransformError(f"hflip is {hflip}; it is a probability, from 0 to 1.")
        self.size = size
        self.scale = scale
        self.ratio = ratio
        self.hflip = hflip

    def draw(self, batch: int, generator: torch.Generator) -> AugmentParams:
        """Draws the choices for ``batch`` clips from a CPU generator."""
        u = torch.rand((batch, 5), generator=generator)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        return AugmentParams(
            area=self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, 0],
            ratio=torch.exp(low + (high - low) * u[:, 1]),
            top=u[:, 2],
            left=u[:, 3],
            flip=u[:, 4] < self.hflip,
        )

    def __call__(self, frames: Tensor, params: AugmentParams) -> Tensor:
        """Crops, mirrors and normalises.

        Args:
            frames: uint8 ``[B, T, H, W, 3]`` on any device.
            params: Choices for B clips.

        Returns:
            float32 ``[B, 3, T, size, size]`` on the device of ``frames``.

        Raises:
            TransformError: If ``frames`` is not uint8 ``[B, T, H, W, 3]``, or ``params`` is for another number of
                clips.
        """
        _check_frames(frames)
        B, T, H, W, _ = frames.shape
        if len(params) != B:
            raise TransformError(f"The parameters are for {len(params)} clips, the batch has {B}.")
        out = torch.empty((B, 3, T, self.size, self.size), dtype=torch.uint8, device=frames.device)
        for row, ((top, left, h, w), flip) in enumerate(zip(params.boxes(H, W), params.flip.tolist(), strict=True)):
            pixels = _resample(frames[row, :, top : top + h, left : left + w], self.size)
            out[row] = pixels.flip(-1) if flip else pixels
        return _scaled(out)
