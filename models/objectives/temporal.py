"""Objectives that hold the student's change along time to the target's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from equipoise.models.checks import choice, integer, number
from equipoise.models.objectives.base import HeadObjective, Objective, hard_weights_of_batch, mlp
from equipoise.models.objectives.latents import Latents, full
from equipoise.models.objectives.split import ChannelSplit


class Delta(Objective):
    """Mean over P of ``|dz - dh|``."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, latents: Latents) -> Tensor | None:
        """None without a pair."""
        return (latents.dz - latents.dh).abs().mean() if len(latents.pairs) else None


class LatentDynamics(HeadObjective):
    """Mean over P of ``|f(z[t]) - dh|``, f the head.

    With ``subspace`` "dynamics" f reads the ``dyn`` channels; its output is always all channels. With ``weighting``
    "hard" pair errors are weighted by ``n softmax(mean_channels(error) / tau)`` over the n pairs of the batch.
    ``app_ratio``, ``split`` and ``levels`` take effect with subspace "dynamics", ``tau`` with weighting "hard".
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden: int = 256,
        weighting: str = "none",
        tau: float = 1.0,
        subspace: str = "all",
        app_ratio: float = 0.5,
        split: str = "channels",
        levels: int = 4,
    ) -> None:
        dynamics = choice("subspace", subspace, ("all", "dynamics")) == "dynamics"
        parts = ChannelSplit(channels, app_ratio, split, levels) if dynamics else None
        super().__init__(mlp([parts.dyn if parts else channels, integer("hidden", hidden, 1), channels]))
        self.parts = parts
        self.hard = choice("weighting", weighting, ("none", "hard")) == "hard"
        self.tau = number("tau", tau, 0.0, low_open=True)

    def forward(self, latents: Latents) -> Tensor | None:
        """None without a pair."""
        if latents.lacks(latents.pairs):
            return None
        z = self.parts.take_dyn(latents.z_now) if self.parts else latents.z_now
        read: Tensor = self.head(z)
        error = (read - latents.dh).abs().mean(-1)
        weighted = hard_weights_of_batch(error, self.tau, latents) * error if self.hard else error
        return weighted.mean() if len(weighted) else None


class TemporalContrast(Objective):
    """Mean over P of ``max(0, margin - cos(z[t], h[t]) + cos(z[t], h[t + 1]))``."""

    def __init__(self, channels: int, *, margin: float = 0.5) -> None:
        super().__init__()
        self.margin = number("margin", margin, 0.0)

    def forward(self, latents: Latents) -> Tensor | None:
        """None without a pair."""
        if not len(latents.pairs):
            return None
        same = functional.cosine_similarity(latents.z_now, latents.h_now, dim=-1)
        next_ = functional.cosine_similarity(latents.z_now, latents.h_next, dim=-1)
        return functional.relu(self.margin - same + next_).mean()


class Spectral(Objective):
    """Weighted distance of student and target spectra along time.

    Over places visible at every t: mean over frequencies and channels of ``|g (Z - H)|``, Z and H the unnormalised real
    FFTs along time, g linear from ``low`` at frequency 0 to ``high`` at the highest.
    """

    def __init__(self, channels: int, *, low: float = 0.1, high: float = 1.0) -> None:
        super().__init__()
        self.low, self.high = number("low", low, 0.0), number("high", high, 0.0)

    def elements(self, latents: Latents) -> int:
        """Places that are visible at every t."""
        return len(latents.steps_index(latents.shape[1] - 1))

    def forward(self, latents: Latents) -> Tensor | None:
        """None with fewer than 4 time slots, or without a place that is always visible."""
        _, T, H, W = latents.shape
        if T < 4:
            return None
        first = latents.steps_index(T - 1)
        if not len(first):
            return None
        times = (first[:, None] + torch.arange(T, device=first.device) * (H * W)).flatten()
        z, h = latents.student_rows(times), latents.rows(latents.target, times)
        spectrum = torch.fft.rfft((z - h).reshape(-1, T, z.shape[-1]), dim=1)
        gain = torch.linspace(self.low, self.high, spectrum.shape[1], device=z.device, dtype=z.dtype)
        modulus: Tensor = spectrum.abs()
        return (modulus * gain[:, None]).mean()


class VelocityGate(Objective):
    """Mean over P of ``|dz|`` where the target hardly moves.

    A pair counts where the norm of ``dh`` is at most its quantile ``percentile`` (linear between ranks) over all H * W
    places of that clip and frame pair, and is 0 elsewhere.
    """

    def __init__(self, channels: int, *, percentile: float = 0.5) -> None:
        super().__init__()
        self.percentile = number("percentile", percentile, 0.0, 1.0)

    def forward(self, latents: Latents) -> Tensor | None:
        """None without a pair."""
        if not len(latents.pairs):
            return None
        still = quiet_places(latents.target, self.percentile).unsqueeze(-1)
        gate = still.flatten(0, 3).index_select(0, latents.pairs)
        return (latents.dz.abs() * gate).mean()


def quiet_places(target: Tensor, percentile: float) -> Tensor:
    """Bool ``[B, T, H, W]``: True where the target's change to the next slot is at most its quantile over the frame."""
    h = full(target.detach())
    # Slot by slot: the differences of all slots at once would be as large as the grid.
    speed = torch.stack([(h[:, t + 1] - h[:, t]).norm(dim=-1) for t in range(h.shape[1] - 1)], dim=1)
    limit = torch.quantile(speed.flatten(2), percentile, dim=-1)
    return functional.pad(speed <= limit[..., None, None], (0, 0, 0, 0, 0, 1))
