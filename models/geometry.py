"""Token geometry: which token of a clip lies where.

Tokens are in raster order with time slowest: ``index = t * H * W + y * W + x``.
Shapes: B clips, K tokens of one set, D channels, T time slots, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from equipoise.models.errors import ModelError


@dataclass(frozen=True)
class TokenGrid:
    """Grid of tokens of one clip.

    Attributes:
        time: T, time slots.
        height: H, rows.
        width: W, columns.
        patch: side of a token in pixels.
        tubelet: frames of a token.

    Raises:
        ValueError: if a size is below 1.
    """

    time: int
    height: int
    width: int
    patch: int = 16
    tubelet: int = 2

    def __post_init__(self) -> None:
        for f in fields(self):
            if getattr(self, f.name) < 1:
                raise ModelError(f"token grid {f.name} is {getattr(self, f.name)}; expected at least 1")

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(T, H, W)``."""
        return self.time, self.height, self.width

    @property
    def count(self) -> int:
        """Tokens of one clip, ``T * H * W``."""
        return self.time * self.height * self.width

    def scatter(self, tokens: Tensor, index: Tensor) -> Tensor:
        """Lay tokens out on the grid; differentiable.

        Args:
            tokens: ``[B, K, D]``.
            index: int64 ``[B, K]``, no index twice in a row.

        Returns:
            ``[B, T, H, W, D]`` with zeros where no token was given.
        """
        B, _, D = tokens.shape
        flat = tokens.new_zeros(B, self.count, D).scatter(1, index.unsqueeze(-1).expand(-1, -1, D), tokens)
        return flat.reshape(B, *self.shape, D)

    def visible(self, index: Tensor) -> Tensor:
        """Bool ``[B, T, H, W]``: True at the tokens named by int64 ``index`` ``[B, K]``."""
        flat = torch.zeros(index.shape[0], self.count, dtype=torch.bool, device=index.device)
        return flat.scatter(1, index, True).reshape(index.shape[0], *self.shape)

    def coordinates(self, index: Tensor) -> Tensor:
        """Int64 ``[..., 3]``: (t, y, x) of every entry of int64 ``index`` ``[...]``."""
        place = self.height * self.width
        row = torch.div(index % place, self.width, rounding_mode="floor")
        return torch.stack([torch.div(index, place, rounding_mode="floor"), row, index % self.width], dim=-1)


def squared_distance_to(marked: Tensor) -> Tensor:
    """Squared Euclidean distance of every grid place to the nearest marked one, in grid units.

    Exact for any set: the minimum over the three coordinates separates, so it is taken axis by axis.

    Args:
        marked: bool ``[B, T, H, W]``.

    Returns:
        float32 ``[B, T, H, W]``; infinity for clips with nothing marked.
    """
    best = torch.zeros(marked.shape, device=marked.device).masked_fill(~marked, torch.inf)
    for axis in (1, 2, 3):
        step = torch.arange(marked.shape[axis], device=marked.device, dtype=best.dtype)
        cost = (step[:, None] - step[None, :]).square()  # [to, from]
        best = (best.movedim(axis, -1).unsqueeze(-2) + cost).amin(-1).movedim(-1, axis)
    return best
