"""Standard error of a mean over seeds and test items, and what it is read against (design, section 7).

Seeds and items are crossed: every seed of every variant is scored on the same items. A difference of two variants is
taken, seed by seed and item by item, as

    difference[seed, item] = mean + effect A of the seed + effect B of the item + remainder E

and the variance of its mean over S seeds and N items is var A / S + var B / N + var E / (S N). Drawing seeds with
replacement, items held, shows the parts of A and E; drawing items, seeds held, those of B and E; so that of E is
subtracted once. Drawing both at the same time would count it three times (Owen, "The pigeonhole bootstrap", Annals of
Applied Statistics, 2007). Drawing m of m seeds shows (m - 1) / m of their variance, which is put right.

Percentiles of the draws are not used. Three seeds drawn with replacement have ten outcomes, and such an interval covers
far less than it says. The draws give the standard error, which is read against Student's t with degrees of freedom that
suit few seeds. ``bench/statistics.md`` holds the error rates and coverages of all this in simulated studies.

Shapes: m seeds of a group, N items, D draws. Variances are in squared percentage points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import stdtrit

Array = NDArray[np.float64]
Source = Literal["seeds_and_items", "items", "seeds", "none"]
ROUNDING = 1e-18  # variance that floating point makes of equal accuracies
SMALLEST = 1e-50  # p-values below are 0; quantiles of t are not reliable much further out


@dataclass(frozen=True)
class Spread:
    """Variance of an estimate, and what Student's t needs to judge it.

    Attributes:
        variance: of the estimate.
        source: what it covers.
        share: share of the variance that was estimated from seeds.
        seed_freedom: degrees of freedom of that share.
        item_freedom: degrees of freedom of the rest.
    """

    variance: float
    source: Source
    share: float = 0.0
    seed_freedom: float = math.inf
    item_freedom: float = math.inf

    def interval(self, estimate: float, level: float) -> tuple[float, float]:
        """Both ends at 1 - ``level``."""
        reach = self._critical(level) * math.sqrt(self.variance)
        return estimate - reach, estimate + reach

    def p_value(self, estimate: float) -> float:
        """The level at which the interval just reaches 0."""
        if math.isnan(self.variance):
            return math.nan
        if estimate == 0:
            return 1.0
        ratio = abs(estimate) / math.sqrt(self.variance) if self.variance else math.inf
        if ratio >= self._critical(SMALLEST):
            return 0.0
        return math.exp(brentq(lambda x: self._critical(math.exp(x)) - ratio, math.log(SMALLEST), 0.0, xtol=1e-9))

    def _critical(self, level: float) -> float:
        """What the studentised estimate stays below with probability 1 - ``level``.

        The degrees of freedom would be ``seed_freedom / share**2`` by Satterthwaite. With three or five seeds that
        errs: where the few happen to agree, the variance comes out small and its degrees of freedom large, and the
        smaller the level, the more it errs. So they are divided by ``(1 + 10 / f**3) (0.05 / level)**(1.7 / f)``, f
        being the seeds' own, where that is above 1, and are never below f. By quadrature over the chi-squared
        distribution of the seeds' variance, whatever their true share is, a test at 5 % then errs in 4.3 to 5.3 %
        (3 seeds, f = 2), 4.8 to 5.5 % (5 seeds) and 4.9 to 5.2 % (10 seeds), and one at 0.5 % in no more than 0.7 %;
        as Satterthwaite has it, one at 5 % errs in up to 7.8, 5.9 and 5.2 %. With two seeds it is 3.5 to 6.3 %.
        """
        f = self.seed_freedom
        excess = max(1.0, (1 + 10 / f**3) * (0.05 / level) ** (1.7 / f))
        by_seeds = min(1.0, self.share**2 * excess) / f
        freedom = 1 / (by_seeds + (1 - self.share) ** 2 / self.item_freedom + 1e-12)
        return -float(stdtrit(freedom, level / 2))


UNKNOWN = Spread(math.nan, "none")


def spread_of(groups: Sequence[Array], single: bool, draws: int, stream: np.random.Generator) -> Spread:
    """Variance of the sum of all contributions, from ``groups`` [m, N]; N is 1 where only accuracies are known."""
    # Seeds that agree to the last item show no spread; they do not show that there is none: then it is not known.
    items = groups[0].shape[1]
    seeds, freedom = 0.0, math.inf
    if not single:
        parts = np.array([_seed_variance(group.mean(1), draws, stream) for group in groups])
        seeds, freedom = float(parts.sum()), _seed_freedom(parts, np.array([len(group) - 1.0 for group in groups]))
    if items == 1:
        return Spread(seeds, "seeds", 1.0, freedom) if seeds > ROUNDING else UNKNOWN
    total = np.add.reduce([group.sum(0) for group in groups])
    by_item = _item_variance(total, draws, stream)
    if single:
        return Spread(by_item, "items", item_freedom=items - 1)
    variance = seeds + max(by_item - math.fsum(map(_remainder, groups)), 0.0)
    if variance <= ROUNDING:
        return UNKNOWN
    return Spread(variance, "seeds_and_items", seeds / variance, freedom, items - 1)


def _seed_variance(contributions: Array, draws: int, stream: np.random.Generator) -> float:
    """Variance of the sum of m seeds' contributions [m], from m of them drawn with replacement."""
    m = len(contributions)
    times = stream.multinomial(m, np.full(m, 1 / m), size=draws)  # [D, m]
    drawn = times @ (contributions - contributions.mean())
    return float(np.mean(drawn**2)) * m / (m - 1)


def _item_variance(points: Array, draws: int, stream: np.random.Generator) -> float:
    """Variance of the mean over items [N], from N of them drawn with replacement.

    Few values occur, whatever the number of items: how often each is drawn is all that a draw needs.
    """
    N = len(points)
    values, counts = np.unique(points.round(9), return_counts=True)
    times = stream.multinomial(N, counts / N, size=draws)  # [D, values]
    drawn = times @ (values - points.mean()) / N
    return float(np.mean(drawn**2)) * N / (N - 1)


def _remainder(group: Array) -> float:
    """What is left of the contributions [m, N] without effects of seeds and items, as variance of their mean sum."""
    m, N = len(group), len(group[0])
    rest: Array = group - group.mean(1, keepdims=True) - group.mean(0) + group.mean()
    return float(np.sum(rest**2)) * m / (m - 1) / (N * (N - 1))


def _seed_freedom(variances: Array, freedoms: Array) -> float:
    """Degrees of freedom of the sum of the groups' variances [groups], each with its own.

    Satterthwaite's are ``sum(v)**2 / sum(v**2 / f)``. For two groups of three seeds a test at 5 % then errs in 3.5 %
    where they vary alike and in up to 5.9 % where they do not. Their square over 1.35 times the mean of ``f`` weighted
    by ``v``, and never less than the smallest ``f``, errs in 4.3 % to 6.1 %, with five or ten seeds in 4.8 to 5.5 %: by
    quadrature over the chi-squared distributions of both variances, for every ratio of them. One group keeps its own.
    """
    total = float(variances.sum())
    if total == 0:
        return math.inf
    satterthwaite = total**2 / float((variances**2 / freedoms).sum())
    mean = float((variances * freedoms).sum()) / total
    return max(float(freedoms.min()), satterthwaite * satterthwaite / (1.35 * mean))
