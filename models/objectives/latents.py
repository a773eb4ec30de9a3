"""What an objective sees of one mask, with everything that several objectives share computed once.

Shapes: B clips, T time slots, H rows, W columns, D channels, M masked tokens, n pairs or tokens that qualify.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import TypeVar

import torch
from torch import Tensor

from equipoise.models.workers import Workers, total

Out = TypeVar("Out")


def full(x: Tensor) -> Tensor:
    """``x`` in float32 if it is of half precision; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def _with_gradient(compute: Callable[[Latents], Out]) -> Callable[[Latents], Out]:
    """Record the graph even under ``no_grad``: an objective that runs detached may be the first to ask for a value."""

    @wraps(compute)
    def run(self: Latents) -> Out:
        with torch.enable_grad():
            return compute(self)

    return run


@dataclass(frozen=True, eq=False)
class Latents:
    """One mask of one step.

    Hidden entries of ``student`` are never read. Which entries qualify is decided on the CPU from ``visible_host``;
    without it ``visible`` is copied once, which waits for the device.

    Attributes:
        student: ``[B, T, H, W, D]`` context-encoder features, zeros where hidden.
        visible: bool ``[B, T, H, W]``.
        target: ``[B, T, H, W, D]`` target features.
        predicted: ``[B, M, D]`` predictor output at the masked tokens.
        masked: int64 ``[B, M]`` flat grid indices.
        clip: ``[B, 3, frames, height, width]``, or None.
        patch: side of a token in pixels.
        tubelet: frames of a token.
        still: bool ``[B]``, best on the CPU: clips to leave out of every temporal term. None leaves none out.
        visible_host: CPU copy of ``visible``, so that no objective waits for the device.
        workers: those that share the batch, of which these are some clips; None: they are all of it.
    """

    student: Tensor
    visible: Tensor
    target: Tensor
    predicted: Tensor
    masked: Tensor
    clip: Tensor | None = None
    patch: int = 16
    tubelet: int = 2
    still: Tensor | None = None
    visible_host: Tensor | None = None
    workers: Workers | None = None

    def total(self, x: Tensor) -> Tensor:
        """Sum of ``x`` over the workers that share the batch, with gradient; all of them have to call it.

        What enters another total has to be detached (:func:`equipoise.models.workers.total`).
        """
        return total(x, self.workers)

    def largest(self, x: Tensor) -> Tensor:
        """Largest of each element of ``x`` over the workers, without gradient; all of them have to call it."""
        return x.detach() if self.workers is None else self.workers.largest(x.detach().clone())

    def count(self, rows: Tensor) -> Tensor:
        """How many rows the workers have together, a scalar of their dtype; all of them have to call it."""
        return self.total(rows.new_full((), len(rows)))

    def lacks(self, rows: Tensor, least: int = 1) -> bool:
        """Whether there are too few rows for a term of the whole batch.

        A worker among several cannot say so: others may have them, and wait for this one's part of the sums.
        """
        return self.workers is None and len(rows) < least

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(B, T, H, W)``."""
        B, T, H, W = self.visible.shape
        return B, T, H, W

    @cached_property
    def on_host(self) -> Tensor:
        """Bool ``[B, T, H, W]`` on the CPU."""
        return self.visible.cpu() if self.visible_host is None else self.visible_host

    @cached_property
    def moving(self) -> Tensor:
        """Bool ``[B]`` on the CPU: clips that take part in temporal terms."""
        return torch.ones(self.shape[0], dtype=torch.bool) if self.still is None else ~self.still.cpu()

    def _index(self, mask: Tensor) -> Tensor:
        """Flat indices of the true entries of a CPU mask ``[B, T, H, W]``, on the device of the features."""
        return self.sent(mask.flatten().nonzero().squeeze(1))

    def sent(self, host: Tensor) -> Tensor:
        """A CPU tensor on the device of the features, copied without waiting for the work queued there."""
        device = self.visible.device
        return (host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True)

    def steps_index(self, order: int) -> Tensor:
        """Flat indices of tokens visible together with the next ``order`` tokens at their place, moving clips only."""
        T = self.shape[1]
        if order >= T:
            return self._index(torch.zeros(0, dtype=torch.bool))
        run = self.on_host & self.moving[:, None, None, None]
        start = torch.stack([run[:, k : T - order + k] for k in range(order + 1)]).all(0)
        return self._index(torch.cat([start, torch.zeros_like(run[:, :order])], dim=1))

    @cached_property
    def pairs(self) -> Tensor:
        """Int64 ``[n]``: P, as flat indices of its first tokens."""
        return self.steps_index(1)

    def rows(self, grid: Tensor, index: Tensor, later: int = 0) -> Tensor:
        """``[n, C]``: entries of ``grid`` ``[B, T, H, W, C]``, ``later`` time slots after ``index`` ``[n]``."""
        return full(grid.flatten(0, 3).index_select(0, index + later * self.shape[2] * self.shape[3]))

    @cached_property
    @_with_gradient
    def tokens(self) -> Tensor:
        """``[n, D]``: student features of all visible tokens."""
        return self.rows(self.student, self._index(self.on_host))

    @cached_property
    def _place(self) -> Tensor:
        """Int64 ``[B * T * H * W]``: row of ``tokens`` that a visible place of the grid has."""
        return self.sent(self.on_host.flatten().cumsum(0) - 1)

    def student_rows(self, index: Tensor, later: int = 0) -> Tensor:
        """``[n, D]``: student features ``later`` time slots after the visible tokens at flat ``index`` ``[n]``.

        Taken from ``tokens``, so that the gradient of an objective is as large as the visible part of the grid and not
        as the grid.
        """
        return self.tokens.index_select(0, self._place[index + later * self.shape[2] * self.shape[3]])

    @cached_property
    @_with_gradient
    def z_now(self) -> Tensor:
        """``[n, D]``: ``z[t]`` over P."""
        return self.student_rows(self.pairs)

    @cached_property
    @_with_gradient
    def z_next(self) -> Tensor:
        """``[n, D]``: ``z[t + 1]`` over P."""
        return self.student_rows(self.pairs, 1)

    @cached_property
    @_with_gradient
    def h_now(self) -> Tensor:
        """``[n, D]``: ``h[t]`` over P."""
        return self.rows(self.target, self.pairs)

    @cached_property
    @_with_gradient
    def h_next(self) -> Tensor:
        """``[n, D]``: ``h[t + 1]`` over P."""
        return self.rows(self.target, self.pairs, 1)

    @cached_property
    @_with_gradient
    def dz(self) -> Tensor:
        """``[n, D]``: ``z[t + 1] - z[t]`` over P."""
        return self.z_next - self.z_now

    @cached_property
    @_with_gradient
    def dh(self) -> Tensor:
        """``[n, D]``: ``h[t + 1] - h[t]`` over P."""
        return self.h_next - self.h_now

    @cached_property
    @_with_gradient
    def bend(self) -> Tensor:
        """``[n, D]``: ``z[t + 2] - 2 z[t + 1] + z[t]`` where all three tokens are visible."""
        index = self.steps_index(2)
        return self.student_rows(index, 2) - 2 * self.student_rows(index, 1) + self.student_rows(index)

    @cached_property
    @_with_gradient
    def masked_error(self) -> Tensor:
        """``[B, M, D]``: ``|prediction - h|`` at the masked tokens."""
        D = self.target.shape[-1]
        h = self.target.flatten(1, 3).gather(1, self.masked.unsqueeze(-1).expand(-1, -1, D))
        return (full(self.predicted) - full(h)).abs()
