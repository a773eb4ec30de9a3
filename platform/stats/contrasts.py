"""Linear combinations of variants' accuracies with their intervals: effects of a design, gains against a baseline.

The standard error comes from :mod:`equipoise.platform.stats.resampling`, as for a difference of two variants: seeds are
paired across all variants that take part, and items wherever all of them hold correctness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from equipoise.platform.stats.resampling import ROUNDING, UNKNOWN, Array, Residual, Spread, spread_of, with_noise
from equipoise.platform.stats.uncertainty import Difference, Sample, StatisticsError, own_item_noise, within

NOTHING = "nothing"  # what a contrast is compared with: under the null hypothesis it is 0


def contrast(
    name: str,
    parts: Sequence[tuple[float, Sample]],
    *,
    residual: Residual | None = None,
    noise: Residual | None = None,
    level: float = 0.05,
    draws: int = 4000,
    seed: int = 0,
) -> Difference:
    """Estimate a linear combination of mean accuracies on one benchmark.

    Where all variants share seeds, be it one, those seeds are used and no other, paired: what a seed does to all
    variants cancels. Where they do not, every variant's own seeds are, unpaired. With one seed in any of them only test
    items are left, and what ``noise`` says of seeds, as for a difference of two.

    Args:
        name: what the combination means.
        parts: coefficient and sample of every variant; coefficients that sum to 0 make it a contrast.
        residual: spread over seeds, estimated from more than this contrast, see :func:`block_residual`; None takes the
            contrast's own. Used where at least two seeds are paired.
        noise: variance of one accuracy over seeds, pooled over other runs; used where a variant has one seed only.
        level: 0.05 for an interval of 95 %.
        draws: bootstrap draws.
        seed: fixes the draws.

    Returns:
        The estimate in points; ``seeds`` holds the fewest and the most seeds of a variant that were used.

    Raises:
        StatisticsError: no part, two benchmarks or two test sets.
    """
    found = [sample for _, sample in parts]
    _check(name, found)
    shared = shared_seeds(found)
    used = [shared or tuple(sorted(sample.accuracy)) for sample in found]
    estimate = math.fsum(
        c / len(seeds) * p.accuracy[s] for (c, p), seeds in zip(parts, used, strict=True) for s in seeds
    )
    spread = _spread(parts, used, len(shared), residual, noise, draws, seed)
    possible = 100 * math.fsum(min(c, 0.0) for c, _ in parts), 100 * math.fsum(max(c, 0.0) for c, _ in parts)
    low, high = within(spread.interval(estimate, level), *possible)
    items = {sample.items for sample in found}
    return Difference(
        variant=name,
        against=NOTHING,
        benchmark=found[0].benchmark,
        estimate=estimate,
        low=low,
        high=high,
        level=level,
        p_value=spread.p_value(estimate),
        seeds=(min(map(len, used)), max(map(len, used))),
        paired_seeds=len(shared),
        items=items.pop() if len(items) == 1 else None,
        source=spread.source,
        spread=spread,
    )


def _spread(
    parts: Sequence[tuple[float, Sample]],
    used: Sequence[tuple[int, ...]],
    shared: int,
    residual: Residual | None,
    noise: Residual | None,
    draws: int,
    seed: int,
) -> Spread:
    """Spread of a combination over seeds and items; ``shared`` seeds are paired, none of them where it is 0."""
    by_item = all(sample.correct is not None for _, sample in parts)
    fewest = min(map(len, used))
    if fewest == 1 and not by_item:
        spread = _binomial(parts, used)
    else:
        rows = [
            [coefficient / len(seeds) * _points(sample, s, by_item) for s in seeds]
            for (coefficient, sample), seeds in zip(parts, used, strict=True)
        ]
        groups = [np.sum(rows, axis=0)] if shared else [np.stack(row) for row in rows]
        spread = spread_of(groups, fewest == 1, draws, np.random.default_rng(seed))
        if fewest > 1 and shared and residual is not None:
            seeds_part = residual.variance * math.fsum(c * c for c, _ in parts) / shared
            spread = _with_seeds(spread, seeds_part, residual.freedom)
    if fewest == 1 and noise is not None:
        weight = math.fsum(c * c / len(seeds) for (c, _), seeds in zip(parts, used, strict=True))
        own = weight * own_item_noise([sample for _, sample in parts]) if by_item else 0.0
        spread = with_noise(spread, weight, noise, own)
    # Scores that agree to the last item show no spread; they do not show that there is none.
    return UNKNOWN if spread.variance <= ROUNDING else spread


def block_residual(found: Sequence[Sample]) -> Residual | None:
    """Residual variance of seeds and variants: what is left of the accuracies beside the means of each.

    Every variant of a two-level factorial counts equally in every contrast, so the mean over all of them is right for
    each contrast also where some variants vary more than others. It is not where a seed favours one factor.

    Args:
        found: variants that share their seeds.

    Returns:
        The variance in squared points with (seeds - 1) (variants - 1) degrees of freedom, None without two of both.
    """
    shared = shared_seeds(found)
    if len(shared) < 2 or len(found) < 2:
        return None
    table = np.array([[sample.accuracy[s] for s in shared] for sample in found])  # [V, S]
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    freedom = (len(found) - 1) * (len(shared) - 1)
    return Residual(float(np.sum(rest**2)) / freedom, freedom)


def shared_seeds(found: Sequence[Sample]) -> tuple[int, ...]:
    """Seeds that all samples have, ascending."""
    return tuple(sorted(set(found[0].accuracy).intersection(*(sample.accuracy for sample in found))))


def _with_seeds(spread: Spread, variance: float, freedom: float) -> Spread:
    """The same spread with another estimate of what seeds contribute."""
    if spread.source in ("seeds", "none"):
        return Spread(variance, "seeds", 1.0, freedom)
    total = variance + spread.variance * (1 - spread.share)
    return Spread(total, spread.source, variance / total if total else 0.0, freedom, spread.item_freedom)


def _check(name: str, found: Sequence[Sample]) -> None:
    if not found:
        raise StatisticsError(f"{name}: no variant given; expected at least one")
    if len({sample.benchmark for sample in found}) > 1:
        raise StatisticsError(f"{name}: the variants were scored on several benchmarks; take one at a time")
    if all(sample.correct is not None for sample in found) and len({sample.items for sample in found}) > 1:
        raise StatisticsError(
            f"{name}: the variants were scored on different test sets of {found[0].benchmark!r}: score all on one"
        )


def _points(sample: Sample, seed: int, by_item: bool) -> Array:
    """Points by item [N], or the accuracy as an array [1]."""
    if by_item and sample.correct is not None:
        return 100 * sample.correct[seed].astype(np.float64)
    return np.array([sample.accuracy[seed]])


def _binomial(parts: Sequence[tuple[float, Sample]], used: Sequence[Sequence[int]]) -> Spread:
    """Item variance from accuracies and numbers of items alone, test sets taken as independent."""
    variance = 0.0
    for (coefficient, sample), seeds in zip(parts, used, strict=True):
        if sample.items is None:
            return UNKNOWN
        mean = math.fsum(sample.accuracy[s] for s in seeds) / len(seeds)
        variance += coefficient**2 * mean * (100 - mean) / sample.items
    return Spread(variance, "items")
