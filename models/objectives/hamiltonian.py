"""Hamiltonian dynamics of the features."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.models.checks import integer, number
from equipoise.models.errors import ModelError
from equipoise.models.objectives.base import HeadObjective, mlp
from equipoise.models.objectives.latents import Latents


class Hamiltonian(HeadObjective):
    """One symplectic Euler step of a learned energy should lead to the next target.

    q and p are the first and the second half of the channels of ``z[t]``; the energy is the head's output summed over
    tokens. ``q' = q + dt dH/dp(q, p)``, ``p' = p - dt dH/dq(q', p)``; the value is the mean over P (and the channels of
    a half) of ``|q' - h_q[t + 1]| + |p' - h_p[t + 1]|``, h_q and h_p being the halves of the target.
    """

    def __init__(self, channels: int, *, hidden: int = 256, dt: float = 0.1) -> None:
        if channels % 2:
            raise ModelError(
                f"hamiltonian splits the channels in halves; {channels} channels given, expected an even number"
            )
        super().__init__(mlp([channels, integer("hidden", hidden, 1), hidden, 1]))
        self.dt = number("dt", dt, 0.0, low_open=True)

    def forward(self, latents: Latents) -> Tensor | None:
        """None without a pair. The energy is differentiated inside, also under ``no_grad``; never in half precision."""
        if not len(latents.pairs):
            return None
        with torch.autocast(latents.z_now.device.type, enabled=False):
            z = latents.z_now if torch.is_grad_enabled() else latents.z_now.detach()
            q, p = z.chunk(2, dim=-1)
            q_next = q + self.dt * self.slope(q, p, wrt_p=True)
            p_next = p - self.dt * self.slope(q_next, p, wrt_p=False)
            h_q, h_p = latents.h_next.chunk(2, dim=-1)
            return ((q_next - h_q).abs() + (p_next - h_p).abs()).mean()

    def slope(self, q: Tensor, p: Tensor, wrt_p: bool) -> Tensor:
        """``dH/dp`` (or ``dH/dq``) ``[n, D / 2]`` at ``(q, p)``, with its own graph if gradients are on."""
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            at = p if wrt_p else q
            if not at.requires_grad:
                at = at.detach().requires_grad_()
            q, p = (q, at) if wrt_p else (at, p)
            energy = self.head(torch.cat([q, p], dim=-1)).sum()
            (slope,) = torch.autograd.grad(energy, at, create_graph=keep)
        return slope
