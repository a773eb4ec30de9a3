"""Signs of health that the JEPA loss cannot show: effective rank, feature spread, gradient shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def effective_rank(features: Tensor) -> Tensor:
    """RankMe: exponential of the entropy of the normalised singular values.

    Source: Garrido et al. 2023, "RankMe", eq. 1, with features centred first so that a constant offset, which says
    nothing about an item, does not count as a direction.

    Args:
        features: ``[n, d]``, any floating dtype; computed in float32.

    Returns:
        float32 scalar between 1 and min(n, d).
    """
    x = features.detach().float()
    s = torch.linalg.svdvals(x - x.mean(0))
    p = s / s.sum().clamp_min(torch.finfo(torch.float32).tiny)
    return torch.exp(-torch.special.xlogy(p, p).sum())


def target_spread(features: Tensor) -> Tensor:
    """Mean over channels of the standard deviation over items; near 0 is collapse.

    Args:
        features: ``[n, d]``.

    Returns:
        float32 scalar.
    """
    return features.detach().float().std(0).mean()


def gradient_shares(weighted: Mapping[str, Tensor], student: Sequence[Tensor]) -> dict[str, float]:
    """Share of every loss part in the gradient that arrives at the encoder's output.

    The share is the part's gradient norm over the sum of all parts' norms, at the encoder output: the one place that
    every part's gradient passes on its way into the encoder. A part that sends no gradient there has share 0.

    Args:
        weighted: live loss parts after their weights.
        student: encoder outputs of the step.

    Returns:
        Share by name, summing to 1 (all 0 where nothing arrives).
    """
    norms: dict[str, float] = {}
    for name, part in weighted.items():
        if not part.requires_grad:
            norms[name] = 0.0
            continue
        grads = torch.autograd.grad(part, list(student), retain_graph=True, allow_unused=True)
        norms[name] = sum(float(g.float().square().sum()) for g in grads if g is not None) ** 0.5
    total = sum(norms.values())
    return {name: norm / total if total > 0 else 0.0 for name, norm in norms.items()}
