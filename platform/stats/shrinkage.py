"""What gains are to be expected of a variant that was picked for its gains: empirical Bayes.

The largest of many noisy gains is large partly by luck. If the true gains of a study's mixes are spread with a
covariance T around their mean, and a measured gain has a noise covariance N, then the gain to expect of a mix is the
mean plus ``T (T + N)^-1`` times what it lies above the mean, whatever it was picked by. ``T + N`` is how the measured
gains scatter, and N is what seeds do. It takes all benchmarks together: noise that benchmarks share makes a mix look
good on several at once.

The share of the scatter that is noise is not held below 1: a study of mixes that do nothing shows more scatter than its
few repeated seeds in one case and less in the next, and an estimate that may not say "less than nothing" errs upward in
all of them. It is held at three times the scatter.

Shapes: K mixes, M benchmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]
LEAST_MIXES = 8  # below, the scatter of gains is too little known to shrink by
MOST_ALIKE = 1e8  # condition of the scatter beyond which there is nothing to tell benchmarks apart by
MOST_NOISE = 3.0  # share of the scatter that noise may be estimated as


@dataclass(frozen=True)
class Expected:
    """Gain to expect on one benchmark in points, with an interval of 95 %."""

    points: float
    low: float
    high: float


def shares(scatter: Array, noise: Array) -> tuple[Array, Array, Array]:
    """Directions in which scatter and noise are both uncorrelated.

    Args:
        scatter: covariance of what was measured, ``[M, M]``, positive definite.
        noise: covariance of its noise, ``[M, M]``.

    Returns:
        Share of the scatter that is noise in each direction ``[M]``; the directions as columns ``[M, M]``, scaled so
        that their outer products sum to ``scatter``; and the inverse of that matrix.
    """
    lower = np.linalg.cholesky(scatter)
    back = np.linalg.inv(lower)
    values, vectors = np.linalg.eigh(back @ noise @ back.T)
    return values, lower @ vectors, vectors.T @ back


def expected_gains(
    gains: Array, seeds: Sequence[int], against: Sequence[int], noise: Array, freedom: int, chosen: int
) -> tuple[Expected, ...] | None:
    """Gains to expect of one of a study's mixes.

    Args:
        gains: measured over the baseline in points, ``[K, M]``.
        seeds: seeds behind each mix's gains, ``[K]``.
        against: seeds of the baseline behind each mix's gains, ``[K]``.
        noise: covariance of one run's accuracies over seeds, ``[M, M]``.
        freedom: degrees of freedom of it.
        chosen: which mix.

    Returns:
        One for each benchmark; None for fewer than 8 mixes, or gains that do not scatter.
    """
    K, M = gains.shape
    if max(LEAST_MIXES, M + 2) > K:
        return None
    middle = gains.mean(0)
    scatter = np.atleast_2d(np.cov(gains, rowvar=False))
    if np.linalg.cond(scatter) > MOST_ALIKE:  # benchmarks on which mixes differ alike, or not at all
        return None
    # (K - 2) / (K - 1): the chosen one is among those that the scatter is taken from, and widens it.
    share, directions, back = shares(scatter, noise * (K - 2) / (K - 1))
    usual = float(np.mean([1 / n for n in seeds]))
    own = share / seeds[chosen]
    total = np.maximum(1 + share * (1 / seeds[chosen] - usual), own / MOST_NOISE)
    kept = 1 - own / total
    found = middle + directions @ (kept * (back @ (gains[chosen] - middle)))
    left = directions @ np.diag(np.maximum(kept, 0.0) * own) @ directions.T
    # The baseline's own error is in every gain and in their mean.
    variance = np.diag(left) + np.diag(noise) / against[chosen] + np.diag(scatter) / K
    reach = -float(stdtrit(freedom, 0.025)) * np.sqrt(variance)
    return tuple(
        Expected(float(e), max(-100.0, float(e - r)), min(100.0, float(e + r)))
        for e, r in zip(found, reach, strict=True)
    )


def covariance(deviations: Sequence[float], correlation: float) -> Array:
    """Covariance ``[M, M]`` of accuracies with these standard deviations ``[M]`` and one correlation for all."""
    sd = np.asarray(deviations, dtype=np.float64)
    joint: Array = np.outer(sd, sd) * (correlation + (1 - correlation) * np.eye(len(sd)))
    return joint
