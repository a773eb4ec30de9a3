"""How probable it is that a variant truly lies on the front, given what seeds and items do to an accuracy.

Every variant's expected accuracies are drawn again and again from what is known of them, and the front of each draw is
counted. What a seed does comes from the pooled variance with its degrees of freedom, so that variants with one seed are
as uncertain as they are; the choice of items comes on top. The mixes of a study also tell how much mixes differ at
all: where they scatter little more than noise does, the best of them is less far ahead than it looks. So a mix is
drawn around what it is expected to be after shrinkage, and how much that is, is drawn too (a Bayesian model with
conjugate priors: inverse gamma for what seeds do, inverse Wishart for how mixes scatter, and the first no larger than
the second). Controls, and the variants of a study too small to tell, are drawn around their means.

Shapes: V variants, K of them mixes, M benchmarks, D draws.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from scipy.stats import invwishart

from equipoise.platform.stats.noise import SeedNoise, item_variance
from equipoise.platform.stats.pareto import Array, SelectionError, nondominated
from equipoise.platform.stats.shrinkage import MOST_ALIKE
from equipoise.platform.stats.table import ResultTable
from equipoise.platform.stats.uncertainty import Bools

TRIES = 8  # draws of the two covariances for each that is kept
SMALLEST = 0.02  # share of the scatter that is kept as effects where every draw has more noise than scatter


def front_probability(
    table: ResultTable,
    noise: SeedNoise,
    controls: Collection[str],
    correctness: Mapping[tuple[str, int, str], Bools] | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, float] | None:
    """Probability of every complete variant to be on the front of expected accuracies over new seeds and items.

    Args:
        table: accuracies; a seed that a variant was picked by is not in it.
        noise: what seeds do.
        controls: variants that are no mixes; the first is the one that items are compared with.
        correctness: (variant, seed, benchmark) to which items were right, where that is known.
        draws: D.
        seed: fixes them.

    Returns:
        Variant to probability; None without draws, and where no variant was repeated on some benchmark.

    Raises:
        SelectionError: ``draws`` below 0.
    """
    if draws < 0:
        raise SelectionError(f"draws is {draws}; expected 0 or more")
    if not draws or not all(noise.unit(b) for b in table.benchmarks):
        return None
    stream = np.random.default_rng([seed, 3])
    mixes = [v for v in table.complete_variants() if v not in controls]
    fixed = [v for v in table.complete_variants() if v in controls]
    items = np.array([_items(table, b, mixes, fixed, noise, correctness) for b in table.benchmarks])
    points = [_around(table, v, noise, items, stream, draws) for v in fixed]
    shrunk = _shrunk(table, mixes, noise, items, stream, draws)
    points += [_around(table, v, noise, items, stream, draws) for v in mixes] if shrunk is None else list(shrunk)
    stacked = np.stack(points, axis=1)  # [D, V, M]
    hits = np.zeros(len(points))
    for point in stacked:
        hits += nondominated(point)
    return {variant: float(hit) / draws for variant, hit in zip((*fixed, *mixes), hits, strict=True)}


def _items(
    table: ResultTable,
    benchmark: str,
    mixes: Sequence[str],
    fixed: Sequence[str],
    noise: SeedNoise,
    correctness: Mapping[tuple[str, int, str], Bools] | None,
) -> float:
    """Variance of one variant's accuracy that comes from items that are hard for it alone, the mean over mixes."""
    if not mixes or not fixed:
        return 0.0
    found = [item_variance(table, v, fixed[0], benchmark, noise, correctness) for v in mixes]
    return float(np.mean(found)) / 2


def _seed_spread(table: ResultTable, noise: SeedNoise, stream: np.random.Generator, draws: int) -> Array:
    """Covariances of one run's accuracies over seeds, drawn from what the pooled variances tell of them [D, M, M]."""
    deviations = np.stack(
        [
            np.sqrt((noise.error(b) or 0.0) * noise.freedom[b] / stream.chisquare(noise.freedom[b], draws))
            for b in table.benchmarks
        ],
        axis=1,
    )
    M = len(table.benchmarks)
    joint = noise.correlation + (1 - noise.correlation) * np.eye(M)
    found: Array = deviations[:, :, None] * deviations[:, None, :] * joint
    return found


def _means(table: ResultTable, variant: str) -> tuple[Array, int]:
    """Mean accuracies [M], and the fewest seeds behind one."""
    means = table.mean_of(variant)
    fewest = min(len(table.values(variant, b)) for b in table.benchmarks)
    return np.array([means[b] for b in table.benchmarks]), fewest


def _around(
    table: ResultTable, variant: str, noise: SeedNoise, items: Array, stream: np.random.Generator, draws: int
) -> Array:
    """Expected accuracies of one variant around its means: Student's t, as the seeds' variance is drawn too [D, M]."""
    means, seeds = _means(table, variant)
    spread = _seed_spread(table, noise, stream, draws) / seeds + np.diag(items)
    found: Array = means + _normal(spread, stream)
    return found


def _normal(covariances: Array, stream: np.random.Generator) -> Array:
    """One draw of each normal distribution around 0 [D, M]."""
    lower = np.linalg.cholesky(
        covariances
        + 1e-9 * (1 + np.trace(covariances, axis1=1, axis2=2)[:, None, None]) * np.eye(covariances.shape[-1])
    )
    return np.asarray(np.einsum("dij,dj->di", lower, stream.standard_normal(covariances.shape[:2])))


def _shrunk(
    table: ResultTable,
    mixes: Sequence[str],
    noise: SeedNoise,
    items: Array,
    stream: np.random.Generator,
    draws: int,
) -> Array | None:
    """Expected accuracies of all mixes [K, D, M]; None where they are too few to tell how much mixes differ."""
    K, M = len(mixes), len(table.benchmarks)
    if K <= M:
        return None
    rows = [_means(table, v) for v in mixes]
    means = np.stack([mean for mean, _ in rows])  # [K, M]
    seeds = np.array([n for _, n in rows])
    squares = (means - means.mean(0)).T @ (means - means.mean(0))
    if np.linalg.cond(squares) > MOST_ALIKE:  # benchmarks on which mixes differ alike, or not at all
        return None
    spread = _seed_spread(table, noise, stream, TRIES * draws)
    usual = spread * float(np.mean(1 / seeds)) + np.diag(items)
    scatter = np.atleast_3d(invwishart.rvs(K - 1, squares, size=TRIES * draws, random_state=stream)).reshape(-1, M, M)
    # A draw may be singular to the last digits.
    lower = np.linalg.cholesky(scatter + 1e-9 * np.trace(scatter, axis1=1, axis2=2)[:, None, None] * np.eye(M))
    back = np.linalg.inv(lower)
    share, vectors = np.linalg.eigh(back @ usual @ np.swapaxes(back, 1, 2))
    # The draws in which noise is less than scatter in every direction; where those are too few, the nearest to it.
    kept = np.argsort(share.max(1) >= 1 - SMALLEST, kind="stable")[:draws]
    if (share[kept].max(1) >= 1).any():
        kept = np.argsort(share.max(1), kind="stable")[:draws]
    directions = lower[kept] @ vectors[kept]
    effects = directions * np.maximum(1 - share[kept], SMALLEST)[:, None] @ np.swapaxes(directions, 1, 2)
    middle = means.mean(0) + _normal(scatter[kept] / K, stream)  # [D, M]
    found = np.empty((K, draws, M))
    for n in np.unique(seeds):
        own = spread[kept] / n + np.diag(items)
        toward = effects @ np.linalg.inv(effects + own)
        left = toward @ own
        for k in np.flatnonzero(seeds == n):
            found[k] = middle + np.einsum("dij,dj->di", toward, means[k] - middle)
            found[k] += _normal((left + np.swapaxes(left, 1, 2)) / 2, stream)
    return found
