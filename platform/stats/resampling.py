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
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import stdtrit

Array = NDArray[np.float64]
Source = Literal["seeds_and_items", "items", "seeds", "none"]
ROUNDING = 1e-18  # variance that floating point makes of equal accuracies
SMALLEST = 1e-50  # p-values below are 0; quantiles of t are not reliable much further out
MOST_EXCESS = 600.0  # logarithm; beyond it the seeds' own degrees of freedom are reached in any case
GROUPS_FACTOR, GROUPS_DECAY = 1.4, 0.2  # see freedom_of


class Residual(NamedTuple):
    """Variance of one accuracy over seeds in squared points, and its degrees of freedom."""

    variance: float
    freedom: float


@dataclass(frozen=True)
class Spread:
    """Variance of an estimate, and what Student's t needs to judge it.

    Attributes:
        variance: of the estimate.
        source: what it covers.
        share: share of the variance that was estimated from seeds.
        seed_freedom: degrees of freedom of that share, at 5 %.
        item_freedom: degrees of freedom of the rest.
        least_freedom: the fewest of any group of seeds behind it, which ``seed_freedom`` comes down to at small levels;
            None where that is ``seed_freedom``, as for one group of seeds or a pooled variance.
    """

    variance: float
    source: Source
    share: float = 0.0
    seed_freedom: float = math.inf
    item_freedom: float = math.inf
    least_freedom: float | None = None

    @property
    def fewest(self) -> float:
        """Degrees of freedom of the group with the fewest seeds; inf where no part of the variance comes from seeds."""
        return self.seed_freedom if self.least_freedom is None else self.least_freedom

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

        The degrees of freedom would be ``f / share**2`` by Satterthwaite, f being the seeds' own. With three or five
        seeds that errs: where the few happen to agree, the variance comes out small and its degrees of freedom large,
        and the smaller the level, the more it errs. So they are divided by ``(1 + 10 / f**3) (0.05 / level)**((f + 3) /
        f**2)``, where that is above 1, and are never below f. That seeds agree so closely has a probability that falls
        with the power f / 2 of how closely, which is why the exponent grows where seeds are few; its constants are the
        smallest simple ones that hold. By quadrature over the chi-squared distribution of the seeds' variance, for the
        worst of all true shares, a test at 5 % then errs in 4.3 to 5.3 % (3 seeds, f = 2) and 4.8 to 5.5 % (5 seeds),
        with two seeds in 3.5 to 6.3 %; and one at any level between 1 % and 5 %/300 in no more than 1.1 times the
        level, whatever f. For some shares it errs in far less.

        Several groups of seeds (:func:`freedom_of`) have the fewer degrees of freedom the smaller the level.
        """
        f = self.seed_freedom
        if self.least_freedom is not None:
            f = max(self.least_freedom, f * min(1.0, (level / 0.05) ** GROUPS_DECAY))
        excess = 1.0
        if self.share and math.isfinite(f):
            logarithm = math.log1p(10 / f**3) + (f + 3) / f**2 * math.log(0.05 / level)
            excess = math.exp(min(max(0.0, logarithm), MOST_EXCESS))
        by_seeds = min(1.0, self.share**2 * excess) / f
        freedom = 1 / (by_seeds + (1 - self.share) ** 2 / self.item_freedom + 1e-12)
        return -float(stdtrit(freedom, level / 2))


UNKNOWN = Spread(math.nan, "none")


def spread_of(groups: Sequence[Array], single: bool, draws: int, stream: np.random.Generator) -> Spread:
    """Variance of the sum of all contributions, from ``groups`` [m, N]; N is 1 where only accuracies are known."""
    # Seeds that agree to the last item show no spread; they do not show that there is none: then it is not known.
    items = groups[0].shape[1]
    seeds, freedom, least = 0.0, math.inf, None
    if not single:
        parts = np.array([_seed_variance(group.mean(1), draws, stream) for group in groups])
        own = np.array([len(group) - 1.0 for group in groups])
        seeds, freedom = float(parts.sum()), freedom_of(parts, own)
        least = float(own.min()) if len(groups) > 1 else None
    if items == 1:
        return Spread(seeds, "seeds", 1.0, freedom, least_freedom=least) if seeds > ROUNDING else UNKNOWN
    total = np.add.reduce([group.sum(0) for group in groups])
    by_item = _item_variance(total, draws, stream)
    if single:  # equal outcomes show no spread of items either
        return Spread(by_item, "items", item_freedom=items - 1) if by_item > ROUNDING else UNKNOWN
    variance = seeds + max(by_item - math.fsum(map(remainder, groups)), 0.0)
    if variance <= ROUNDING:
        return UNKNOWN
    return Spread(variance, "seeds_and_items", seeds / variance, freedom, items - 1, least)


def with_noise(by_item: Spread, weight: float, noise: Residual, own: float = 0.0) -> Spread:
    """The spread of a combination of single seeds, with what seeds contribute by an estimate from other runs.

    Args:
        by_item: what items contribute; :data:`UNKNOWN` where nothing is known of them.
        weight: sum over accuracies of their squared coefficients, such as ``1 + 1 / n`` for one seed against the mean
            of n others.
        noise: variance of one accuracy over seeds, on the same test items.
        own: part of ``by_item`` that is of single seeds on single items. ``noise`` has it too, as a seed that is drawn
            anew gets other items right; without it (0) that part counts twice and the variance is too large.
    """
    seeds = weight * noise.variance
    items = 0.0 if math.isnan(by_item.variance) else max(by_item.variance - own, 0.0)
    if seeds <= ROUNDING:
        return by_item
    source: Source = "seeds" if math.isnan(by_item.variance) else "seeds_and_items"
    return Spread(seeds + items, source, seeds / (seeds + items), noise.freedom, by_item.item_freedom)


def seed_noise(groups: Sequence[Sequence[float] | Array]) -> Residual | None:
    """Variance of one accuracy over seeds, pooled over variants.

    Args:
        groups: accuracies over seeds in percent, one group a variant; those with one seed say nothing.

    Returns:
        The pooled variance with its degrees of freedom, None where no group has two seeds or none differ.
    """
    repeated = [np.asarray(group, dtype=np.float64) for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in repeated)
    squares = math.fsum(float(np.sum((group - group.mean()) ** 2)) for group in repeated)
    return Residual(squares / freedom, freedom) if freedom and squares > ROUNDING else None


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


def remainder(group: Array) -> float:
    """What is left of the contributions [m, N] without effects of seeds and items, as variance of their mean sum."""
    m, N = len(group), len(group[0])
    rest: Array = group - group.mean(1, keepdims=True) - group.mean(0) + group.mean()
    return float(np.sum(rest**2)) * m / (m - 1) / (N * (N - 1))


def freedom_of(variances: Array, freedoms: Array) -> float:
    """Degrees of freedom of the sum of the groups' variances [groups], each with its own.

    Satterthwaite's are ``sum(v)**2 / sum(v**2 / f)``. For two groups of three seeds a test at 5 % then errs in 3.5 %
    where they vary alike and in up to 5.9 % where they do not. Their square over the mean of ``f`` weighted by ``v``,
    divided by 1.4 and by the root of the largest over the smallest ``f``, and never less than the smallest, errs by
    quadrature over the chi-squared distributions of both variances, for every ratio of them, in 4.2 to 6.0 % (three
    seeds each), 4.9 to 5.4 % (five each), and to the cautious side where numbers differ. At smaller levels
    :class:`Spread` multiplies it by ``(level / 0.05)**0.2``: then a test at 5 %/24 to 5 %/300 errs in no more than 1.1
    times its level. One group keeps its own.
    """
    total = float(variances.sum())
    if total == 0:
        return math.inf
    least = float(freedoms.min())
    if len(freedoms) == 1:
        return least
    satterthwaite = total**2 / float((variances**2 / freedoms).sum())
    mean = float((variances * freedoms).sum()) / total
    factor = GROUPS_FACTOR * math.sqrt(float(freedoms.max()) / least)
    return max(least, satterthwaite * satterthwaite / (factor * mean))
