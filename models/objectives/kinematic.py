"""Kinematic priors: features should move slowly, or at constant speed, along time."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from equipoise.models.checks import choice, number
from equipoise.models.errors import ModelError
from equipoise.models.objectives.base import Objective
from equipoise.models.objectives.latents import Latents, full


class Kinematic(Objective):
    """A penalty on the difference of some order along time.

    ``on`` "student" takes places where all tokens of the difference are visible; "target" takes the whole grid of the
    target, with gradient where the target carries one (the published code). Clips that are still are left out of both.

    Args:
        order: 1 velocity, 2 acceleration; with T < 3 acceleration falls back to velocity.
        on: ``student`` or ``target``.
        penalty: of a difference, element by element.
        used: leading channels the term sees; None is all.
    """

    def __init__(self, order: int, on: str, penalty: Callable[[Tensor], Tensor], used: int | None = None) -> None:
        super().__init__()
        self.order = order
        self.on_target = choice("on", on, ("student", "target")) == "target"
        self.penalty = penalty
        self.used = used

    def elements(self, latents: Latents) -> int:
        """Differences along time."""
        return len(self._change(latents))

    def _change(self, latents: Latents) -> Tensor:
        order = self.order if latents.shape[1] >= 3 else 1
        if self.on_target:
            return _target_change(latents, order)
        return latents.bend if order == 2 else latents.dz

    def forward(self, latents: Latents) -> Tensor | None:
        """None where no place qualifies."""
        change = self._change(latents)
        return None if change.numel() == 0 else self.penalty(change[..., : self.used]).mean()


def _target_change(latents: Latents, order: int) -> Tensor:
    h = full(latents.target)
    if latents.still is not None:
        h = h[latents.sent(latents.moving.nonzero().squeeze(1))]
    return h.diff(n=order, dim=1)


class KinematicVelocity(Kinematic):
    """Mean ``|x[t + 1] - x[t]|``."""

    def __init__(self, channels: int, *, on: str = "student") -> None:
        super().__init__(1, on, Tensor.abs)


class KinematicHuber(Kinematic):
    """Mean Huber penalty of ``x[t + 1] - x[t]``: half its square up to ``delta``, then ``delta (|x| - delta / 2)``."""

    def __init__(self, channels: int, *, on: str = "student", delta: float = 0.1) -> None:
        delta = number("delta", delta, 0.0, low_open=True)
        super().__init__(
            1, on, lambda x: functional.huber_loss(x, x.new_zeros(()).expand_as(x), reduction="none", delta=delta)
        )


class KinematicAcceleration(Kinematic):
    """Mean ``|x[t + 2] - 2 x[t + 1] + x[t]|``; velocity if T < 3."""

    def __init__(self, channels: int, *, on: str = "student") -> None:
        super().__init__(2, on, Tensor.abs)


class KinematicSplit(Kinematic):
    """``KinematicAcceleration`` on the first ``int(D * ratio)`` channels; the others may move freely."""

    def __init__(self, channels: int, *, on: str = "student", ratio: float = 0.5) -> None:
        used = int(channels * number("ratio", ratio, 0.0, 1.0))
        if used < 1:
            raise ModelError(f"ratio {ratio} of {channels} channels leaves no channel; raise ratio")
        super().__init__(2, on, Tensor.abs, used)
