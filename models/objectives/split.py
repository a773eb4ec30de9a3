"""Appearance and dynamics channels of the concatenated levels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from equipoise.models.checks import choice, integer, number
from equipoise.models.errors import ModelError

SPLITS = ("channels", "levels")


@dataclass(frozen=True)
class ChannelSplit:
    """Which channels are ``app`` and which are ``dyn``.

    Attributes:
        channels: D, all channels.
        app_ratio: share that is ``app``.
        split: ``channels``: the first ``int(D / levels * app_ratio)`` channels of each level; ``levels``: the first
            ``int(D * app_ratio)`` of the concatenation, with ratio 0.5 the shallow levels (the published code).
        levels: levels concatenated on the channel axis.

    Raises:
        ValueError: if a value is out of range, the levels do not divide D, or a part would have no channel.
    """

    channels: int
    app_ratio: float = 0.5
    split: str = "channels"
    levels: int = 4

    def __post_init__(self) -> None:
        number("app_ratio", self.app_ratio, 0.0, 1.0)
        choice("split", self.split, SPLITS)
        if self.channels % integer("levels", self.levels, 1):
            raise ModelError(f"{self.channels} channels do not divide into {self.levels} levels; set levels to match")
        if not 0 < self.app < self.channels:
            raise ModelError(
                f"app_ratio {self.app_ratio} with split {self.split!r} gives {self.app} of {self.channels} channels to "
                "app; expected at least one for app and one for dyn"
            )

    @property
    def app(self) -> int:
        """Number of ``app`` channels."""
        return self._groups * int(self.channels // self._groups * self.app_ratio)

    @property
    def dyn(self) -> int:
        """Number of ``dyn`` channels."""
        return self.channels - self.app

    @property
    def _groups(self) -> int:
        return self.levels if self.split == "channels" else 1

    def take_app(self, x: Tensor) -> Tensor:
        """``[..., app]`` of ``[..., D]``."""
        return self._by_group(x)[..., : self.app // self._groups].flatten(-2)

    def take_dyn(self, x: Tensor) -> Tensor:
        """``[..., dyn]`` of ``[..., D]``."""
        return self._by_group(x)[..., self.app // self._groups :].flatten(-2)

    def _by_group(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self._groups, self.channels // self._groups)
