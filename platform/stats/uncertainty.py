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
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import chdtri, ndtr, stdtrit

from equipoise.platform.errors import EquipoiseError
from equipoise.platform.stats.resampling import (
    UNKNOWN,
    Array,
    Residual,
    Source,
    Spread,
    remainder,
    spread_of,
    with_noise,
)
from equipoise.platform.stats.table import ResultTable

Bools = NDArray[np.bool_]
POWER_NODES = 4000
FEWEST_FREEDOM = 2  # with one degree of freedom, that of two seeds, no corrected p-value can be small
ONE_SEED = "one seed"
FEW_SEEDS = "not testable with these seeds"
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
        low: lower end of the interval at 1 - ``level``, -100 or more; nan where nothing is known of the error.
        high: upper end, 100 or less.
        level: error level of the interval and of ``distinguishable``.
        p_value: two-sided; below ``level`` exactly where the interval leaves out 0. nan where ``low`` is.
        seeds: number of seeds of both that were used: of those that both have, where there are any.
        paired_seeds: seeds that both have and that were compared seed by seed, 0 where none was.
        items: test items, None where unknown or not the same number.
        source: what the interval covers. ``items``: one seed only, so another seed may give another sign. ``seeds``: no
            correctness of items is known, so it holds for this test set only.
        p_adjusted: Holm's, where :func:`holm` set it.
        family: differences that :func:`holm` was asked about together and that are not of one seed.
        spread: the variance behind the interval.
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
    family: int = 1
    spread: Spread = field(default=UNKNOWN, repr=False, compare=False)

    @property
    def untestable(self) -> str | None:
        """Why the seeds allow no verdict: :data:`ONE_SEED` or :data:`FEW_SEEDS`; None where they do."""
        if self.source == "items":
            return ONE_SEED
        return FEW_SEEDS if self.family > 1 and self.spread.fewest < FEWEST_FREEDOM else None

    @property
    def distinguishable(self) -> bool:
        """Whether the difference is more than chance: by ``p_adjusted`` where it is set, else by ``p_value``.

        Never where it is ``untestable``.
        """
        return self.untestable is None and (self.p_value if self.p_adjusted is None else self.p_adjusted) < self.level


def compare(
    sample: Sample,
    against: Sample,
    *,
    noise: Residual | None = None,
    level: float = 0.05,
    draws: int = 4000,
    seed: int = 0,
) -> Difference:
    """Difference of two variants on one benchmark, with its interval.

    Items are paired wherever both samples hold correctness. Seeds are paired wherever both have any of them, be it one:
    the difference is then that of the shared seeds and of no other. Otherwise all seeds of both are used, unpaired.

    With one seed on either side items are all that the samples show: the variance of the per-item difference where both
    hold correctness, else the binomial variances of two independent test sets, else nothing. ``noise`` adds what seeds
    contribute, ``s**2 (1 / m + 1 / n)`` for m and n seeds, paired or not (that of paired seeds is smaller where a seed
    does the same to both, which one pair cannot show). It holds the chance of one seed on one item, which the items'
    part has too: that is counted once where a sample has correctness of two seeds, and else twice, which is cautious.

    Args:
        sample: the variant.
        against: what is subtracted, on the same test items.
        noise: variance of one accuracy over seeds, pooled over runs of whatever variants, see
            :func:`equipoise.platform.stats.resampling.seed_noise`; used where a side has one seed only.
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
    shared = sorted(set(sample.accuracy) & set(against.accuracy))
    one, other = (only_seeds(each, shared) if shared else each for each in (sample, against))
    numbers = len(one.accuracy), len(other.accuracy)
    if min(numbers) == 1 and not both:
        spread = _binomial(one, other)
    else:
        groups = _groups(_values(one, both), _values(other, both), bool(shared))
        spread = spread_of(groups, min(numbers) == 1, draws, np.random.default_rng(seed))
    if min(numbers) == 1 and noise is not None:
        weight = 1 / numbers[0] + 1 / numbers[1]
        spread = with_noise(spread, weight, noise, weight * own_item_noise([sample, against]) if both else 0.0)
    estimate = _mean(one) - _mean(other)
    low, high = within(spread.interval(estimate, level), -100, 100)
    return Difference(
        variant=sample.variant,
        against=against.variant,
        benchmark=sample.benchmark,
        estimate=estimate,
        low=low,
        high=high,
        level=level,
        p_value=spread.p_value(estimate),
        seeds=numbers,
        paired_seeds=len(shared),
        items=sample.items if sample.items == against.items else None,
        source=spread.source,
        spread=spread,
    )


def interval(sample: Sample, *, level: float = 0.05, draws: int = 4000, seed: int = 0) -> tuple[float, float]:
    """Interval of one mean accuracy, expected over new seeds and items as far as ``sample`` shows both; else nan.

    It ends where an accuracy does, at 0 and 100: what lies beyond cannot be true, and to cut it off costs no coverage.
    Two seeds whose interval would leave that range get none: one difference of two numbers is then all that it rests
    on, and its other end would look like knowledge.

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
    low, high = spread.interval(_mean(sample), level)
    if spread.fewest < FEWEST_FREEDOM and (low < 0 or high > 100):
        return math.nan, math.nan
    return within((low, high), 0, 100)


def holm(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """The same differences with Holm's ``p_adjusted``: all that are given are one family, such as a study's variants.

    The chance that any of them is called distinguishable without being so stays below ``level``. One without a p-value
    gets none and counts for none; nor does one of a single seed, whose p-value knows nothing of seeds. Two seeds, one
    degree of freedom, cannot tell anything in a family of several: they get none and count for none, and
    ``untestable`` says so. Neither depends on the scores. The intervals stay as they are, each at its own level.

    Raises:
        StatisticsError: differences of several levels.
    """
    if len({difference.level for difference in differences}) > 1:
        raise StatisticsError("the differences have several levels; compare all of a family at one level")
    known = [not math.isnan(d.p_value) and d.source != "items" for d in differences]
    asked = [dataclasses.replace(d, family=sum(known)) if k else d for d, k in zip(differences, known, strict=True)]
    tested = [k and d.untestable is None for d, k in zip(asked, known, strict=True)]
    values = np.array([d.p_value for d, t in zip(asked, tested, strict=True) if t])
    order = np.argsort(values, kind="stable")
    # The library's version collects garbage at every call: half a second each in a process that holds PyTorch.
    factors = len(values) - np.arange(len(values))
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(values[order] * factors).clip(max=1.0)
    found = iter(adjusted.tolist())
    return tuple(dataclasses.replace(d, p_adjusted=next(found)) if t else d for d, t in zip(asked, tested, strict=True))


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


def _groups(one: Mapping[int, Array], other: Mapping[int, Array], paired: bool) -> list[Array]:
    """Contributions [m, N] of seeds to the difference, in groups of seeds that vary alike; all of them sum to it."""
    if paired:
        return [np.stack([one[s] - other[s] for s in one]) / len(one)]
    return [np.stack(list(one.values())) / len(one), -np.stack(list(other.values())) / len(other)]


def only_seeds(sample: Sample, seeds: Sequence[int]) -> Sample:
    """The sample with these seeds alone, in their order."""
    if len(seeds) == len(sample.accuracy):
        return sample
    correct = None if sample.correct is None else {s: sample.correct[s] for s in seeds}
    return dataclasses.replace(sample, accuracy={s: sample.accuracy[s] for s in seeds}, correct=correct)


def own_item_noise(found: Sequence[Sample]) -> float:
    """Variance of one accuracy by the chance of one seed on one item, mean of the samples that show it, else 0."""
    shown = []
    for sample in found:
        if sample.correct is not None and len(sample.correct) > 1:
            points = np.stack(list(_values(sample, True).values()))
            shown.append(len(points) * remainder(points / len(points)))
    return math.fsum(shown) / len(shown) if shown else 0.0


def within(ends: tuple[float, float], least: float, most: float) -> tuple[float, float]:
    """Both ends cut to what is possible; nan stays."""
    return float(np.clip(ends[0], least, most)), float(np.clip(ends[1], least, most))


def _binomial(*each: Sample) -> Spread:
    """Item variance from the mean accuracies and numbers of items alone, test sets taken as independent."""
    variance = 0.0
    for sample in each:
        if sample.items is None:
            return UNKNOWN
        variance += _mean(sample) * (100 - _mean(sample)) / sample.items
    return Spread(variance, "items") if variance else UNKNOWN
