"""Objectives that read the coming change of the picture out of a token."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.models.checks import integer
from equipoise.models.errors import ModelError
from equipoise.models.objectives.base import HeadObjective, mlp
from equipoise.models.objectives.latents import Latents, full
from equipoise.models.objectives.split import ChannelSplit


class Action(HeadObjective):
    """Mean over P of ``|a(z[t]) - d|``, a the head, d the change of the token's mean colour from t to t + 1."""

    def __init__(self, channels: int, *, hidden: int = 256) -> None:
        super().__init__(mlp([channels, integer("hidden", hidden, 1), 3]))

    def read(self, z: Tensor) -> Tensor:
        """The channels the head sees."""
        return z

    def forward(self, latents: Latents) -> Tensor | None:
        """None without a pair.

        Raises:
            ValueError: if there is no clip, or it does not fit the token grid.
        """
        if not len(latents.pairs):
            return None
        colour = token_colour(latents)
        change = latents.rows(colour, latents.pairs, 1) - latents.rows(colour, latents.pairs)
        read: Tensor = self.head(self.read(latents.z_now))
        return (read - change).abs().mean()


class FactorizedAction(Action):
    """``Action`` whose head reads the ``dyn`` channels only."""

    def __init__(
        self, channels: int, *, hidden: int = 256, app_ratio: float = 0.5, split: str = "channels", levels: int = 4
    ) -> None:
        parts = ChannelSplit(channels, app_ratio, split, levels)
        super().__init__(parts.dyn, hidden=hidden)
        self.parts = parts

    def read(self, z: Tensor) -> Tensor:
        """The channels the head sees."""
        return self.parts.take_dyn(z)


def token_colour(latents: Latents) -> Tensor:
    """Mean RGB of every tubelet-patch, ``[B, T, H, W, 3]``.

    Raises:
        ValueError: if there is no clip, or it does not fit the token grid.
    """
    B, T, H, W = latents.shape
    expected = (B, 3, T * latents.tubelet, H * latents.patch, W * latents.patch)
    if latents.clip is None or latents.clip.shape != expected:
        given = None if latents.clip is None else tuple(latents.clip.shape)
        raise ModelError(f"action terms need the clip: shape {expected} expected for this token grid, {given} given")
    with torch.no_grad():
        blocks = full(latents.clip).reshape(B, 3, T, latents.tubelet, H, latents.patch, W, latents.patch)
        return blocks.mean(dim=(3, 5, 7)).movedim(1, -1)
