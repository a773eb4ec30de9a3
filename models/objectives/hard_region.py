"""Prediction loss that counts the masked tokens it gets wrong more."""

from __future__ import annotations

from torch import Tensor

from equipoise.models.checks import number
from equipoise.models.objectives.base import Objective, hard_weights
from equipoise.models.objectives.latents import Latents


class HardRegion(Objective):
    """Mean over masked tokens of ``w[k] e[k]``, ``w = M softmax(mean_channels(e) / tau)`` over the M of one clip."""

    def __init__(self, channels: int, *, tau: float = 1.0) -> None:
        super().__init__()
        self.tau = number("tau", tau, 0.0, low_open=True)

    def elements(self, latents: Latents) -> int:
        """Masked tokens."""
        return latents.masked.numel()

    def forward(self, latents: Latents) -> Tensor | None:
        """None without a masked token."""
        if latents.masked.numel() == 0:
            return None
        error = latents.masked_error.mean(-1)
        return (hard_weights(error, self.tau) * error).mean()
