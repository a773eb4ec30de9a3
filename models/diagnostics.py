"""Signs of health that the JEPA loss cannot show: effective rank, feature spread, gradient shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from equipoise.models.errors import ModelError


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


def principal_colours(tokens: Tensor) -> Tensor:
    """Colours that show how an encoder tells places apart: its tokens on their first three principal components.

    The components are those of all tokens together, so equal colours mean alike features in every item of one call,
    and nothing between two calls. Each component runs from its 1st to its 99th percentile over red, green or blue;
    its sign is the one in which its largest loading is positive. A component the tokens do not have is 0.5.

    Args:
        tokens: ``[N, K, D]`` features of N items at K places, any floating dtype; computed in float64.

    Returns:
        float32 ``[N, K, 3]`` in 0..1.

    Raises:
        ValueError: if ``tokens`` is not ``[N, K, D]`` with at least one token.
    """
    if tokens.ndim != 3 or tokens.numel() == 0:
        raise ModelError(f"tokens are {list(tokens.shape)}; expected [items, places, channels], none of them 0")
    N, K, D = tokens.shape
    x = tokens.detach().double().reshape(N * K, D)
    x = x - x.mean(0)
    _, s, axes = torch.linalg.svd(x, full_matrices=False)
    colours = torch.full((N * K, 3), 0.5, dtype=torch.float64, device=x.device)
    # What floating point leaves of a direction that is not there is no colour.
    there = s[:3] > 1e-6 * s[0].clamp_min(torch.finfo(torch.float32).tiny)
    for i in range(int(there.sum())):
        axis = axes[i] * torch.sign(axes[i][axes[i].abs().argmax()])
        along = x @ axis
        low, high = torch.quantile(along, 0.01), torch.quantile(along, 0.99)
        colours[:, i] = ((along - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)).clamp(0, 1)
    return colours.float().reshape(N, K, 3)
