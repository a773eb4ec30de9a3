"""What seeds alone do to an accuracy, pooled over every variant of a study that was trained more than once.

One baseline of four seeds tells its spread with three degrees of freedom: half the truth or less in one study of
seven. So every repeated variant counts, and items set a floor: two seeds of one variant that disagree on a share d of N
test items differ by chance alone by a variance of ``d / N``, whatever their means happen to be (McNemar's).

An untrained control does not count: nothing was trained, and its seeds may differ far less (by 0.1 points on the
published table, where those of the baseline differ by 3.6).

Shapes: S seeds of a variant, N items. Variances are of one accuracy, in squared percentage points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri

from equipoise.platform.stats.resampling import Residual
from equipoise.platform.stats.table import UNTRAINED, ResultTable, item_error
from equipoise.platform.stats.uncertainty import Bools

LEAST_FREEDOM = 3  # degrees of freedom below which a spread is too rough to measure gains in
HALF = 0.075  # probability with which a noise floor may be below half the truth: 8 % with a margin
REFERENCE_CORRELATION = 0.5  # between benchmarks, of what a seed does to them, where a study does not tell
WORTH = 30.0  # degrees of freedom that the reference counts for beside the study's own


@dataclass(frozen=True)
class SeedNoise:
    """Spread of accuracies over seeds.

    Attributes:
        variance: benchmark to the pooled variance of one accuracy over seeds; no entry where no variant was repeated.
        freedom: benchmark to its degrees of freedom, 0 where no variant was repeated.
        by_items: benchmark to the variance of one accuracy that items on which two seeds disagree make by themselves;
            no entry where no outcomes of items are known.
        correlation: mean correlation between benchmarks of what a seed does, shrunk towards 0.5.
    """

    variance: Mapping[str, float]
    freedom: Mapping[str, int]
    by_items: Mapping[str, float]
    correlation: float

    def error(self, benchmark: str) -> float | None:
        """Variance to reckon with, never below what items make by themselves; None where no variant was repeated."""
        if not self.freedom[benchmark]:
            return None
        return max(self.variance[benchmark], self.by_items.get(benchmark, 0.0))

    def residual(self, benchmark: str) -> Residual | None:
        """The same variance with its degrees of freedom, for comparisons of single seeds."""
        found = self.error(benchmark)
        return Residual(found, self.freedom[benchmark]) if found else None

    def unit(self, benchmark: str) -> float | None:
        """Standard deviation of one accuracy over seeds in points, widened where few seeds tell it.

        It is below half the truth in at most 8 % of studies, whatever the number of seeds. None where no variant was
        repeated, or repeated ones agree to the last digit.
        """
        if not self.freedom[benchmark]:
            return None
        widened = self.variance[benchmark] * widening(self.freedom[benchmark]) ** 2
        return math.sqrt(max(widened, self.by_items.get(benchmark, 0.0))) or None

    def floor(self, benchmark: str) -> float | None:
        """Noise floor in points: the unit that gains are measured in. None below 3 degrees of freedom."""
        return self.unit(benchmark) if self.freedom[benchmark] >= LEAST_FREEDOM else None


def widening(freedom: int) -> float:
    """What a standard deviation with these degrees of freedom is multiplied by to be a floor: 1 from 5 on."""
    return max(1.0, math.sqrt(freedom / (4 * float(chdtri(freedom, 1 - HALF)))))


def study_noise(
    table: ResultTable,
    correctness: Mapping[tuple[str, int, str], Bools] | None = None,
    *,
    leave_out: Collection[str] = (),
) -> SeedNoise:
    """Pool the spread over seeds of every repeated variant of a table that was trained.

    Args:
        table: accuracies.
        correctness: (variant, seed, benchmark) to bool [N], which items were right, where that is known.
        leave_out: variants that do not count, such as the untrained control.
    """
    counted = [v for v in table.variants if v not in leave_out and UNTRAINED not in table.flags(v)]
    variance, freedom, by_items = {}, {}, {}
    for benchmark in table.benchmarks:
        groups = [np.array(list(table.values(v, benchmark).values())) for v in counted]
        groups = [group for group in groups if len(group) > 1]
        freedom[benchmark] = sum(len(group) - 1 for group in groups)
        if freedom[benchmark]:
            variance[benchmark] = sum(float(np.sum((g - g.mean()) ** 2)) for g in groups) / freedom[benchmark]
        found = _disagreement(table, benchmark, counted, correctness or {})
        if found is not None:
            by_items[benchmark] = found
    return SeedNoise(variance, freedom, by_items, _correlation(table, counted))


def _disagreement(
    table: ResultTable, benchmark: str, counted: Collection[str], correctness: Mapping[tuple[str, int, str], Bools]
) -> float | None:
    """Half the variance of a difference of two seeds that comes from items alone, the mean over all pairs of seeds."""
    pairs = [
        float(np.mean(correctness[v, one, benchmark] != correctness[v, other, benchmark]))
        / len(correctness[v, one, benchmark])
        for v in counted
        for one, other in itertools.combinations(table.values(v, benchmark), 2)
        if (v, one, benchmark) in correctness and (v, other, benchmark) in correctness
    ]
    return 1e4 * float(np.mean(pairs)) / 2 if pairs else None


def item_variance(
    table: ResultTable,
    variant: str,
    baseline: str,
    benchmark: str,
    noise: SeedNoise,
    correctness: Mapping[tuple[str, int, str], Bools] | None = None,
) -> float:
    """Variance of the difference of two variants that comes from the choice of items, in squared points.

    From how often each item was right, over all seeds of each, less what single runs make of items by chance, which is
    part of the spread over seeds already. Where no outcomes of items are known, that of two
    independent test sets, which is too much, for items are shared; 0 where their number is not known either.
    """
    known = correctness or {}
    mine = [s for s in table.values(variant, benchmark) if (variant, s, benchmark) in known]
    other = [s for s in table.values(baseline, benchmark) if (baseline, s, benchmark) in known]
    if mine and other:
        one = np.mean([known[variant, s, benchmark] for s in mine], axis=0)
        two = np.mean([known[baseline, s, benchmark] for s in other], axis=0)
        chance = noise.by_items.get(benchmark, 0.0) * (1 / len(mine) + 1 / len(other))
        return max(0.0, 1e4 * float(np.var(one - two, ddof=1)) / len(one) - chance)
    found = [item_error(table, name)[benchmark] for name in (variant, baseline)]
    return sum(error**2 for error in found if error is not None)


def _correlation(table: ResultTable, counted: Collection[str]) -> float:
    """Mean correlation over pairs of benchmarks, from deviations of seeds from the mean of their variant."""
    deviations = []
    for variant in counted:
        rows = [table.values(variant, benchmark) for benchmark in table.benchmarks]
        seeds = sorted(set.intersection(*(set(row) for row in rows)))
        if len(seeds) > 1:
            scores = np.array([[row[s] for row in rows] for s in seeds])  # [S, M]
            deviations.append(scores - scores.mean(0))
    freedom = sum(len(found) - 1 for found in deviations)
    M = len(table.benchmarks)
    if M == 1 or freedom < 2:
        return REFERENCE_CORRELATION
    stacked = np.concatenate(deviations)
    scale = np.sqrt((stacked**2).sum(0))
    if not scale.all():
        return REFERENCE_CORRELATION
    matrix = (stacked / scale).T @ (stacked / scale)
    own = float((matrix.sum() - M) / (M * (M - 1)))
    found = (freedom * own + WORTH * REFERENCE_CORRELATION) / (freedom + WORTH)
    # Rounded, so that studies that differ in nothing else share their simulations; below 0 it would bound no maximum.
    return min(0.95, max(0.0, round(20 * found) / 20))
