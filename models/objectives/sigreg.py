"""SIGReg: visible tokens should be distributed as a standard Gaussian (LeJEPA, arXiv 2511.08544)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from equipoise.models.checks import flag, integer, number
from equipoise.models.objectives.base import Objective
from equipoise.models.objectives.latents import Latents
from equipoise.models.workers import Workers, total

CACHED = 2**16
"""Entries of the projections that are worked on at once on a CPU."""


class SIGReg(Objective):
    """Sliced Epps-Pulley test of all visible tokens of the batch.

    The value is the mean over ``slices`` random unit directions of ``epps_pulley`` of the tokens projected on them,
    times the number of tokens n unless ``per_token`` (the published code has the factor n).

    The directions of a call are drawn from ``(seed, calls so far in training mode)``: seed is torch's initial seed when
    the objective is built, so two trainings from one seed draw the same directions and a worker group built from one
    seed shares them. Both numbers are in the state dict: a resumed training goes on with the directions that come next.
    In evaluation mode calls are not counted.
    """

    def __init__(
        self, channels: int, *, slices: int = 1024, nodes: int = 17, t_max: float = 3.0, per_token: bool = True
    ) -> None:
        super().__init__()
        self.slices = integer("slices", slices, 1)
        self.nodes = integer("nodes", nodes, 2)
        self.t_max = number("t_max", t_max, 0.0, low_open=True)
        self.per_token = flag("per_token", per_token)
        self.seed = torch.initial_seed()
        self.calls = 0

    def get_extra_state(self) -> dict[str, int]:
        """Where the stream of directions stands."""
        return {"seed": self.seed, "calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Go on from ``get_extra_state``."""
        self.seed, self.calls = state["seed"], state["calls"]

    def directions(self, channels: int, device: torch.device) -> Tensor:
        """Unit columns ``[D, slices]`` of the coming call."""
        # Drawn on the CPU: the numbers do not depend on the device, and no state has to be read back from it.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.calls) % 2**63)
        drawn = torch.randn(channels, self.slices, generator=generator)
        unit: Tensor = drawn.mul_(drawn.square().sum(0).rsqrt())  # a norm along the slow axis takes ten times as long
        return unit.to(device, non_blocking=True)

    def elements(self, latents: Latents) -> None:
        """A distance of the distribution of the whole batch is no mean of those of its parts."""

    def forward(self, latents: Latents) -> Tensor | None:
        """None without a visible token."""
        z = latents.tokens
        if latents.lacks(z):
            return None
        directions = self.directions(z.shape[1], z.device).to(z.dtype)
        self.calls += self.training
        with torch.autocast(z.device.type, enabled=False):
            value = epps_pulley(z @ directions, self.nodes, self.t_max, latents.workers).mean()
        return value if self.per_token else value * latents.count(z)


def epps_pulley(x: Tensor, nodes: int = 17, t_max: float = 3.0, workers: Workers | None = None) -> Tensor:
    """Epps-Pulley distance of samples to the standard Gaussian.

    The integral over ``[-t_max, t_max]`` of ``|phi(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2)``, phi the empirical
    characteristic function: twice the trapezoid sum over ``nodes`` equidistant nodes on ``[0, t_max]``. No factor n.

    Args:
        x: ``[n, S]``, n samples of S projections.
        nodes: nodes on ``[0, t_max]``, both ends included; at least 2.
        t_max: end of the window.
        workers: that have samples each; the distance is that of all their samples.

    Returns:
        ``[S]``.
    """
    return _EppsPulley.apply(x, nodes, t_max, workers)  # type: ignore[no-any-return]


class _EppsPulley(torch.autograd.Function):
    """``epps_pulley`` with the memory of a few copies of x: plain autograd keeps two per node."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, nodes: int, t_max: float, workers: Workers | None) -> Tensor:
        step = t_max / (nodes - 1)
        # On a CPU a few columns at a time: what does not leave its cache takes half the time.
        width = max(1, CACHED // max(1, len(x))) if x.device.type == "cpu" else x.shape[1]
        columns = torch.split(x, width, dim=1)
        n = total(x.new_full((), len(x)), workers)
        means: Sequence[Tensor | None] = [None] * len(columns)
        if workers is not None:  # what the others have enters the gradient: sums first, and the nodes a second time
            sums = torch.cat([_sums(part, nodes, step) for part in columns], dim=2)
            means = torch.split(workers.sum(sums) / n, width, dim=2)
        parts = [_value_and_gradient(part, nodes, step, n, mean) for part, mean in zip(columns, means, strict=True)]
        ctx.save_for_backward(torch.cat([gradient for _, gradient in parts], dim=1))
        ctx.world = 1 if workers is None else workers.world  # as of a total: gradients are averaged over the workers
        return torch.cat([value for value, _ in parts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (grad * ctx.world), None, None, None


def _nodes(x: Tensor, nodes: int, step: float) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Number, cosine and sine of x times every node but the one at 0, which adds nothing; overwritten by the next."""
    angle = x * step
    cos_step, sin_step = angle.cos(), angle.sin_()
    # Every later angle is the one before plus x * step: by the sum formulas, which take two thirds of the time of sines
    # and cosines of their own.
    cos, sin, spare = cos_step.clone(), sin_step.clone(), torch.empty_like(x)
    for k in range(1, nodes):
        yield k, cos, sin
        torch.mul(cos, cos_step, out=spare)
        spare.addcmul_(sin, sin_step, value=-1)
        sin.mul_(cos_step).addcmul_(cos, sin_step)
        cos, spare = spare, cos


def _sums(x: Tensor, nodes: int, step: float) -> Tensor:
    """``[nodes - 1, 2, S]``: sums of the cosines and of the sines of a worker's samples."""
    return torch.stack([torch.stack([cos.sum(0), sin.sum(0)]) for _, cos, sin in _nodes(x, nodes, step)])


def _value_and_gradient(x: Tensor, nodes: int, step: float, n: Tensor, means: Tensor | None) -> tuple[Tensor, Tensor]:
    """Value ``[S]`` and gradient ``[n, S]``; ``means`` ``[nodes - 1, 2, S]`` of all workers' samples, None: of x."""
    value = x.new_zeros(x.shape[1])
    gradient = torch.zeros_like(x)
    for k, cos, sin in _nodes(x, nodes, step):
        t = k * step
        window = math.exp(-t * t / 2)
        weight = (step if k == nodes - 1 else 2 * step) * window
        real, imaginary = (cos.mean(0), sin.mean(0)) if means is None else means[k - 1]
        real = real - window
        value += weight * (real.square() + imaginary.square())
        scale = 2 * weight * t / n
        gradient.addcmul_(cos, scale * imaginary).addcmul_(sin, -scale * real)
    return value, gradient
