"""How large a difference is, and whether it is more than chance (design, section 7).

A difference is between two variants' mean accuracies on one benchmark, expected over new seeds *and* new test items.
How the standard error comes about, and why no percentiles are used, is told in
:mod:`equipoise.platform.stats.resampling`.

Shapes: m seeds of a group, N items. Accuracies, differences and errors are in percentage points.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import chdtri, ndtr, stdtrit

from equipoise.platform.errors import EquipoiseError
from equipoise.platform.stats.resampling import UNKNOWN, Array, Source, Spread, spread_of
from equipoise.platform.stats.table import ResultTable

Bools = NDArray[np.bool_]
POWER_NODES = 4000
ROUNDING = 0.01  # points between an accuracy as recorded, two decimals, and that of its items


class StatisticsError(EquipoiseError, ValueError):
    """Numbers that cannot be compared; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One variant on one benchmark.

    Attributes:
        variant: its name.
        benchmark: name of the benchmark.
        accuracy: seed to top-1 accuracy in percent.
        items: test items, None where unknown.
        correct: seed to bool [N], which items were right, in one order of items for all samples of the benchmark; None
            where only the accuracies are known.

    Raises:
        StatisticsError: no seed, an accuracy outside 0 to 100, or correctness that does not fit the rest.
    """

    variant: str
    benchmark: str
    accuracy: Mapping[int, float]
    items: int | None
    correct: Mapping[int, Bools] | None = None

    def __post_init__(self) -> None:
        where = f"{self.variant!r} on {self.benchmark!r}"
        if not self.accuracy:
            raise StatisticsError(f"{where} has no accuracy; expected at least one seed")
        for seed, value in self.accuracy.items():
            if not 0 <= value <= 100:  # also refuses nan
                raise StatisticsError(f"{where}, seed {seed}, has accuracy {value}; expected percent, 0 to 100")
        if self.items is not None and self.items < 1:
            raise StatisticsError(f"{where} was taken on {self.items} items; expected at least 1, or None")
        if self.correct is None:
            return
        if set(self.correct) != set(self.accuracy):
            raise StatisticsError(
                f"{where} has accuracies for seeds {_listed(self.accuracy)} and correctness for seeds "
                f"{_listed(self.correct)}; expected the same seeds"
            )
        for seed, right in self.correct.items():
            if right.shape != (self.items,) or right.dtype != np.bool_:
                raise StatisticsError(
                    f"correctness of {where}, seed {seed}, is {right.dtype} {list(right.shape)}; expected bool "
                    f"[{self.items}], one per test item"
                )
            if abs(100 * right.mean() - self.accuracy[seed]) > ROUNDING:
                raise StatisticsError(
                    f"{where}, seed {seed}, has accuracy {self.accuracy[seed]:.2f}, but {100 * right.mean():.2f} % of "
                    "its items are right: these are two trials; read both from one study"
                )


@dataclass(frozen=True, kw_only=True)
class Difference:
    """``variant`` minus ``against`` on one benchmark, in points.

    Attributes:
        variant: the first.
        against: what is subtracted.
        benchmark: name of the benchmark.
        estimate: difference of the mean accuracies over the seeds of each.
        low: lower end of the interval at 1 - ``level``; nan where nothing is known of the error.
        high: upper end.
        level: error level of the interval and of ``distinguishable``.
        p_value: two-sided; below ``level`` exactly where the interval leaves out 0. nan where ``low`` is.
        seeds: number of seeds of both.
        paired_seeds: seeds that both have and that were compared seed by seed, 0 where none was.
        items: test items, None where unknown or not the same number.
        source: what the interval covers. ``items``: one seed only, so another seed may give another sign. ``seeds``: no
            correctness of items is known, so it holds for this test set only.
        p_adjusted: Holm's, where :func:`holm` set it.
    """

    variant: str
    against: str
    benchmark: str
    estimate: float
    low: float
    high: float
    level: float
    p_value: float
    seeds: tuple[int, int]
    paired_seeds: int
    items: int | None
    source: Source
    p_adjusted: float | None = None

    @property
    def distinguishable(self) -> bool:
        """Whether the difference is more than chance: by ``p_adjusted`` where it is set, else by ``p_value``."""
        return (self.p_value if self.p_adjusted is None else self.p_adjusted) < self.level


def compare(sample: Sample, against: Sample, *, level: float = 0.05, draws: int = 4000, seed: int = 0) -> Difference:
    """Difference of two variants on one benchmark, with its interval.

    Items are paired wherever both samples hold correctness. Seeds are paired where at least two are in both and what
    is in one only is none or at least two seeds; a single left-over seed shows no variance of its own, and then all
    are compared unpaired, which is cautious: seeds that raise both variants no longer cancel.

    With one seed on either side only test items are left: the variance of the per-item difference where both hold
    correctness, else the binomial variances of two independent test sets, else nothing.

    Args:
        sample: the variant.
        against: what is subtracted, on the same test items.
        level: 0.05 for an interval of 95 %.
        draws: bootstrap draws; 4,000 fix the interval's width to about 1 %.
        seed: fixes the draws.

    Raises:
        StatisticsError: two benchmarks, two test sets, or a ``level`` or ``draws`` out of range.
    """
    _check(level, draws)
    if sample.benchmark != against.benchmark:
        raise StatisticsError(
            f"{sample.variant!r} was scored on {sample.benchmark!r} and {against.variant!r} on {against.benchmark!r}; "
            "compare one benchmark at a time"
        )
    both = sample.correct is not None and against.correct is not None
    if both and sample.items != against.items:
        raise StatisticsError(
            f"{sample.variant!r} and {against.variant!r} were scored on {sample.items} and {against.items} items of "
            f"{sample.benchmark!r}; expected one test set: score both again on it"
        )
    groups = _groups(_values(sample, both), _values(against, both))
    single = min(len(sample.accuracy), len(against.accuracy)) == 1
    if single and not both:
        spread = _binomial(sample, against)
    else:
        spread = spread_of(groups, single, draws, np.random.default_rng(seed))
    estimate = _mean(sample) - _mean(against)
    low, high = spread.interval(estimate, level)
    return Difference(
        variant=sample.variant,
        against=against.variant,
        benchmark=sample.benchmark,
        estimate=estimate,
        low=low,
        high=high,
        level=level,
        p_value=spread.p_value(estimate),
        seeds=(len(sample.accuracy), len(against.accuracy)),
        paired_seeds=len(_paired(sample.accuracy, against.accuracy)),
        items=sample.items if sample.items == against.items else None,
        source=spread.source,
    )


def interval(sample: Sample, *, level: float = 0.05, draws: int = 4000, seed: int = 0) -> tuple[float, float]:
    """Interval of one mean accuracy, expected over new seeds and items as far as ``sample`` shows both; else nan.

    Raises:
        StatisticsError: ``level`` or ``draws`` out of range.
    """
    _check(level, draws)
    single = len(sample.accuracy) == 1
    if sample.correct is None and single:
        spread = _binomial(sample)
    else:
        group = np.stack(list(_values(sample, sample.correct is not None).values())) / len(sample.accuracy)
        spread = spread_of([group], single, draws, np.random.default_rng(seed))
    return spread.interval(_mean(sample), level)


def holm(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """The same differences with Holm's ``p_adjusted``: all that are given are one family, such as a study's variants.

    The chance that any of them is called distinguishable without being so stays below ``level``. One without a p-value
    gets none and counts for none. The intervals stay as they are, each at its own level.

    Raises:
        StatisticsError: differences of several levels.
    """
    if len({difference.level for difference in differences}) > 1:
        raise StatisticsError("the differences have several levels; compare all of a family at one level")
    known = np.array([d.p_value for d in differences if not math.isnan(d.p_value)])
    order = np.argsort(known, kind="stable")
    # The library's version collects garbage at every call: half a second each in a process that holds PyTorch.
    factors = len(known) - np.arange(len(known))
    adjusted = np.empty_like(known)
    adjusted[order] = np.maximum.accumulate(known[order] * factors).clip(max=1.0)
    found = iter(adjusted.tolist())
    return tuple(d if math.isnan(d.p_value) else dataclasses.replace(d, p_adjusted=next(found)) for d in differences)


def minimal_detectable_difference(
    spread: float, seeds: int, *, level: float = 0.05, power: float = 0.8, paired: bool = False
) -> float:
    """Smallest true difference in points that a t-test over seeds finds with probability ``power``.

    Test items add to it: with few of them even this difference is not found.

    Args:
        spread: standard deviation over seeds in points, such as the noise floor; with ``paired`` that of the
            differences seed by seed.
        seeds: seeds of each variant.
        level: two-sided; for V variants under Holm's correction ``level / V`` is the cautious choice.
        power: probability of finding it.
        paired: both variants ran the same seeds.

    Returns:
        Points; inf with fewer than two seeds, 0 where ``spread`` is 0.

    Raises:
        StatisticsError: an argument out of range.
    """
    if not (math.isfinite(spread) and spread >= 0):
        raise StatisticsError(f"spread is {spread}; expected points, 0 or more")
    if seeds < 1:
        raise StatisticsError(f"seeds is {seeds}; expected at least 1")
    if not 0 < level < power < 1:
        raise StatisticsError(f"level is {level} and power {power}; expected 0 < level < power < 1")
    if seeds == 1:
        return math.inf
    freedom, root = (seeds - 1, math.sqrt(seeds)) if paired else (2 * seeds - 2, math.sqrt(seeds / 2))
    # Power by quadrature over the distribution of the estimated spread: SciPy's noncentral t, which statsmodels' power
    # rests on, is nan for some of the large effects that a few seeds need.
    share = (np.arange(POWER_NODES) + 0.5) / POWER_NODES
    limits = -stdtrit(freedom, level / 2) * np.sqrt(chdtri(freedom, share) / freedom)

    def lacking(effect: float) -> float:
        return float(np.mean(ndtr(effect - limits) + ndtr(-effect - limits))) - power

    return spread / root * float(brentq(lacking, 0.0, float(limits.max()) + 10))


def samples(
    table: ResultTable, correctness: Mapping[tuple[str, int, str], Bools] | None = None
) -> dict[tuple[str, str], Sample]:
    """Every variant on every benchmark where it has a score.

    Args:
        table: accuracies.
        correctness: (variant, seed, benchmark) to bool [N], from
            :func:`equipoise.platform.record.correctness.read_correctness`. A variant without any stays one of
            accuracies only.

    Returns:
        (variant, benchmark) to its sample.

    Raises:
        StatisticsError: correctness of some seeds of a variant only, or that does not fit the table's accuracies.
    """
    known = correctness or {}
    found: dict[tuple[str, str], Sample] = {}
    for variant in table.variants:
        for benchmark in table.benchmarks:
            accuracy = table.values(variant, benchmark)
            if not accuracy:
                continue
            right = {s: known[variant, s, benchmark] for s in accuracy if (variant, s, benchmark) in known}
            items = len(next(iter(right.values()))) if right else table.items(variant, benchmark)
            found[variant, benchmark] = Sample(
                variant=variant, benchmark=benchmark, accuracy=accuracy, items=items, correct=right or None
            )
    return found


def _listed(seeds: Mapping[int, object]) -> str:
    return ", ".join(map(str, sorted(seeds)))


def _check(level: float, draws: int) -> None:
    if not 0 < level < 1:
        raise StatisticsError(f"level is {level}; expected a share between 0 and 1, such as 0.05")
    if draws < 100:
        raise StatisticsError(f"draws is {draws}; expected at least 100")


def _mean(sample: Sample) -> float:
    return math.fsum(sample.accuracy.values()) / len(sample.accuracy)


def _values(sample: Sample, by_item: bool) -> dict[int, Array]:
    """Seed to points by item [N], or to the accuracy as an array [1]."""
    if by_item and sample.correct is not None:
        return {seed: 100 * right.astype(np.float64) for seed, right in sorted(sample.correct.items())}
    return {seed: np.array([value]) for seed, value in sorted(sample.accuracy.items())}


def _paired(one: Mapping[int, object], other: Mapping[int, object]) -> list[int]:
    """Seeds to pair: those of both, unless one seed would be left alone."""
    shared = sorted(set(one) & set(other))
    if set(one) == set(other):
        return shared
    counts = len(shared), len(one) - len(shared), len(other) - len(shared)
    return shared if 1 not in counts else []


def _groups(one: Mapping[int, Array], other: Mapping[int, Array]) -> list[Array]:
    """Contributions [m, N] of seeds to the difference, in groups of seeds that vary alike; all of them sum to it."""
    paired = _paired(one, other)
    rows = (
        [one[s] / len(one) - other[s] / len(other) for s in paired],
        [value / len(one) for s, value in one.items() if s not in paired],
        [-value / len(other) for s, value in other.items() if s not in paired],
    )
    return [np.stack(group) for group in rows if group]


def _binomial(*each: Sample) -> Spread:
    """Item variance from the mean accuracies and numbers of items alone, test sets taken as independent."""
    variance = 0.0
    for sample in each:
        if sample.items is None:
            return UNKNOWN
        variance += _mean(sample) * (100 - _mean(sample)) / sample.items
    return Spread(variance, "items")
