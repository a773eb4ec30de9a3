"""Objectives that share the work between appearance and dynamics channels."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.models.objectives.base import Objective
from equipoise.models.objectives.latents import Latents
from equipoise.models.objectives.split import ChannelSplit
from equipoise.models.workers import Workers, total


class StaticAppearance(Objective):
    """Mean over P of ``|dz|`` on the ``app`` channels: appearance should not change along time."""

    def __init__(self, channels: int, *, app_ratio: float = 0.5, split: str = "channels", levels: int = 4) -> None:
        super().__init__()
        self.parts = ChannelSplit(channels, app_ratio, split, levels)

    def forward(self, latents: Latents) -> Tensor | None:
        """None without a pair."""
        if not len(latents.pairs):
            return None
        return self.parts.take_app(latents.dz).abs().mean()


class CrossCovariance(Objective):
    """Mean of the squared covariances (n - 1) of ``app`` with ``dyn`` channels over all visible tokens of the batch."""

    def __init__(self, channels: int, *, app_ratio: float = 0.5, split: str = "channels", levels: int = 4) -> None:
        super().__init__()
        self.parts = ChannelSplit(channels, app_ratio, split, levels)

    def elements(self, latents: Latents) -> None:
        """A covariance of the whole batch is no mean of those of its parts."""

    def forward(self, latents: Latents) -> Tensor | None:
        """None with fewer than two visible tokens."""
        z = latents.tokens
        if latents.lacks(z, 2):
            return None
        return cross_covariance(self.parts.take_app(z), self.parts.take_dyn(z), latents.workers).square().mean()


def cross_covariance(a: Tensor, b: Tensor, workers: Workers | None = None) -> Tensor:
    """Covariance matrix (n - 1) ``[A, C]`` between ``a`` ``[n, A]`` and ``b`` ``[n, C]``, never in half precision.

    With ``workers`` that have rows each, of all their rows.
    """
    with torch.autocast(a.device.type, enabled=False):
        n = total(a.new_full((), len(a)), workers)
        # At the mean the covariance does not change with it, so that its gradient is 0 and need not be kept.
        a, b = (x - total(x.detach().sum(0), workers) / n for x in (a, b))
        return total(a.T @ b, workers) / (n - 1)
