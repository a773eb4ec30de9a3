"""Differences with their intervals: against slow resampling, known variances, and studies whose truth is known."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from equipoise.platform.record.correctness import read_correctness
from equipoise.platform.record.ledger import Ledger
from equipoise.platform.stats.contrasts import contrast
from equipoise.platform.stats.resampling import Residual, Spread, freedom_of, seed_noise, spread_of
from equipoise.platform.stats.table import ResultTable, Score
from equipoise.platform.stats.uncertainty import (
    FEW_SEEDS,
    ONE_SEED,
    Difference,
    Sample,
    StatisticsError,
    compare,
    holm,
    interval,
    minimal_detectable_difference,
    samples,
)
from equipoise.platform.storage import Place
from equipoise.platform.trial.evaluation import BenchmarkResult

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
MakeSettings = Callable[..., Any]


def sample(right: Bools | None, name: str = "v", first: int = 0, **changes: Any) -> Sample:
    """A sample from bool [seeds, items]; its seeds count from ``first``."""
    given: dict[str, Any] = {"variant": name, "benchmark": "b"}
    if right is not None:
        correct = {first + s: row for s, row in enumerate(right)}
        accuracy = {s: 100 * float(row.mean()) for s, row in correct.items()}
        given |= {"accuracy": accuracy, "items": right.shape[1], "correct": correct}
    return Sample(**(given | changes))


def numbers(
    accuracy: Mapping[int, float] | Sequence[float] | Array, items: int | None = None, name: str = "v"
) -> Sample:
    """A sample of accuracies alone."""
    by_seed = accuracy if isinstance(accuracy, Mapping) else {s: float(a) for s, a in enumerate(accuracy)}
    return Sample(variant=name, benchmark="b", accuracy=by_seed, items=items)


def study(
    stream: np.random.Generator,
    seeds: int,
    items: int,
    *,
    seed_sd: float = 0.0,
    shared_sd: float = 0.0,
    own_item: float = 0.3,
    gain: float = 0.0,
) -> tuple[Bools, Bools]:
    """Correctness [seeds, items] of two variants on the same items, the second ``gain`` latent units better."""
    common = stream.normal(0, 1.0, items) + shared_sd * stream.normal(size=(seeds, 1))

    def one(mean: float) -> Bools:
        effect = seed_sd * stream.normal(size=(seeds, 1)) + own_item * stream.normal(size=items)
        latent: Array = mean + common + effect + 0.5 * stream.normal(size=(seeds, items))
        return latent > 0

    return one(0.2), one(0.2 + gain)


def width(difference: Difference) -> float:
    return difference.high - difference.low


def mean_squares(points: NDArray[Any]) -> tuple[float, float, float]:
    """Textbook two-way analysis of variance of [S, N] without replicates: seeds, items, remainder."""
    S, N = points.shape
    grand = points.mean()
    rows, columns = points.mean(1), points.mean(0)
    by_seed = N * sum((r - grand) ** 2 for r in rows) / (S - 1)
    by_item = S * sum((c - grand) ** 2 for c in columns) / (N - 1)
    rest = sum((points[s, i] - rows[s] - columns[i] + grand) ** 2 for s in range(S) for i in range(N))
    return float(by_seed), float(by_item), float(rest / ((S - 1) * (N - 1)))


# ---- the standard error


@pytest.mark.parametrize(("S", "N"), [(3, 60), (5, 40), (4, 12)])
def test_the_variance_is_that_of_a_two_way_analysis(S: int, N: int) -> None:
    stream = np.random.default_rng(S)
    base, variant = study(stream, S, N, seed_sd=0.5)
    points = 100.0 * variant - 100.0 * base
    by_seed, by_item, rest = mean_squares(points)
    expected = by_seed / (S * N) + max(by_item - rest, 0) / (S * N)
    found = spread_of([points / S], False, 100_000, np.random.default_rng(0))
    assert found.variance == pytest.approx(expected, rel=0.02)
    assert found.share == pytest.approx(by_seed / (S * N) / expected, rel=0.02)
    assert (found.seed_freedom, found.item_freedom) == (S - 1, N - 1)


def test_drawing_seeds_and_items_at_once_counts_the_remainder_three_times() -> None:
    """The reason for drawing them one at a time, checked with a literal bootstrap of both."""
    S, N, draws = 4, 50, 20_000
    stream = np.random.default_rng(1)
    points = 100.0 * (stream.random((S, N)) < 0.5 + 0.2 * stream.normal(size=N))
    drawn = [points[np.ix_(stream.integers(0, S, S), stream.integers(0, N, N))].mean() for _ in range(draws)]
    by_seed, by_item, rest = (square / (S * N) for square in mean_squares(points))
    three_times = by_seed * (S - 1) / S + by_item * (N - 1) / N + rest * (S - 1) / S
    assert np.var(drawn) == pytest.approx(three_times, rel=0.04)


def test_the_variance_is_right_on_average_for_known_components() -> None:
    A, B, E, S, N = 2.0, 30.0, 20.0, 4, 100  # standard deviations of seed, item and remainder
    stream = np.random.default_rng(2)
    found = []
    for _ in range(1500):
        points = A * stream.normal(size=(S, 1)) + B * stream.normal(size=N) + E * stream.normal(size=(S, N))
        found.append(spread_of([points / S], False, 100, stream).variance)
    expected = A**2 / S + B**2 / N + E**2 / (S * N)
    assert np.mean(found) == pytest.approx(expected, rel=0.04)


def test_the_variance_of_unpaired_and_of_partly_paired_seeds() -> None:
    stream = np.random.default_rng(3)
    base, variant = 60 + stream.normal(size=5), 62 + 2 * stream.normal(size=3)
    apart = compare(numbers({10 + s: v for s, v in enumerate(variant)}), numbers(base), draws=100_000)
    reach = width(apart) / 2
    variance = variant.var(ddof=1) / 3 + base.var(ddof=1) / 5
    assert apart.paired_seeds == 0
    assert stats.t.isf(0.025, 7) < reach / math.sqrt(variance) < stats.t.isf(0.025, 2)
    # seeds that both have are compared one by one, and no other takes part
    together = compare(numbers(variant), numbers(base), draws=100_000)
    assert together == compare(numbers(variant), numbers(base[:3]), draws=100_000)
    assert (together.paired_seeds, together.seeds) == (3, (3, 3))
    assert together.estimate == pytest.approx((variant - base[:3]).mean())
    assert compare(numbers(variant), numbers(base[:4])).paired_seeds == 3


def test_a_variant_equal_to_the_baseline_of_its_own_seed_gains_nothing() -> None:
    """Whatever the baseline's other seeds say; and one seed with no spread knows nothing of its error."""
    stream = np.random.default_rng(20)
    base = stream.random((4, 80)) < np.array([0.3, 0.5, 0.6, 0.7])[:, None]
    found = compare(sample(base[:1]), sample(base, "w"))
    assert (found.estimate, found.paired_seeds, found.seeds) == (0.0, 1, (1, 1))
    assert math.isnan(found.low)
    assert math.isnan(found.p_value)
    assert math.isnan(contrast("x", [(1.0, sample(base[:1])), (-1.0, sample(base))]).low)
    known = compare(sample(base[:1]), sample(base, "w"), noise=Residual(4.0, 3))
    reach = stats.t.isf(0.025, 3) * math.sqrt(2 * 4.0)
    assert (known.low, known.high) == pytest.approx((-reach, reach))
    assert known.p_value == 1


def test_paired_seeds_alone_are_a_paired_t_test() -> None:
    stream = np.random.default_rng(4)
    base = 60 + 3 * stream.normal(size=6)
    variant = base + 1 + stream.normal(size=6)
    found = compare(numbers(variant), numbers(base), draws=200_000)
    expected = stats.ttest_rel(variant, base)
    low, high = expected.confidence_interval(0.95)
    assert (found.source, found.paired_seeds, found.seeds) == ("seeds", 6, (6, 6))
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.02)
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.02)


def test_pairing_narrows_the_interval_where_something_is_shared() -> None:
    stream = np.random.default_rng(5)
    base, variant = study(stream, 5, 800, shared_sd=0.5, own_item=0.1)
    paired = compare(sample(variant), sample(base))
    other_seeds = compare(sample(variant, first=5), sample(base))
    assert (paired.paired_seeds, other_seeds.paired_seeds) == (5, 0)
    assert width(paired) < 0.6 * width(other_seeds)
    by_item = compare(sample(variant[:1]), sample(base[:1]))
    other_items = compare(numbers([100 * variant[0].mean()], 800), numbers([100 * base[0].mean()], 800))
    assert width(by_item) < 0.8 * width(other_items)
    assert by_item.estimate == pytest.approx(other_items.estimate)


def test_a_constant_gain_is_found_exactly_and_only_items_are_uncertain() -> None:
    stream = np.random.default_rng(6)
    base = stream.random((4, 400)) < 0.4
    base[:, :40] = False
    variant = base.copy()
    variant[:, :40] = True  # the same 40 items of 400 in every seed
    found = compare(sample(variant), sample(base), draws=100_000)
    assert found.estimate == pytest.approx(10.0, abs=1e-12)
    error = 100 * math.sqrt(0.1 * 0.9 / 399)
    assert width(found) / 2 == pytest.approx(stats.t.isf(0.025, 399) * error, rel=0.01)
    assert found.source == "seeds_and_items"
    assert found.distinguishable


def test_equal_variants_are_not_distinguishable() -> None:
    right = np.random.default_rng(7).random((3, 100)) < 0.5
    found = compare(sample(right), sample(right, "w"))
    assert (found.estimate, found.source, found.distinguishable) == (0, "none", False)
    assert math.isnan(found.low)


def test_seeds_that_agree_to_the_last_item_give_no_certainty() -> None:
    right = np.zeros((2, 24), dtype=bool)
    right[:, :10] = True
    lost = right.copy()
    lost[0, 3] = lost[1, 5] = False  # each seed loses one item, another one
    found = compare(sample(lost), sample(right, "w"))
    assert found.estimate == pytest.approx(-100 / 24)
    assert not found.distinguishable
    assert math.isnan(found.p_value)


# ---- few seeds


def test_one_seed_is_the_paired_test_of_items() -> None:
    stream = np.random.default_rng(8)
    base, variant = study(stream, 1, 500, gain=0.3)
    found = compare(sample(variant), sample(base), draws=100_000)
    gained, lost = int((variant & ~base).sum()), int((base & ~variant).sum())
    variance = ((gained + lost) - (gained - lost) ** 2 / 500) / (500 * 499)
    assert found.source == "items"
    assert found.estimate == pytest.approx(100 * (gained - lost) / 500)
    assert width(found) / 2 == pytest.approx(stats.t.isf(0.025, 499) * 100 * math.sqrt(variance), rel=0.01)
    # McNemar's statistic has no mean in its variance: the two agree where the difference is small
    mcnemar = (gained - lost) / math.sqrt(gained + lost)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(mcnemar)), rel=0.25)


def test_one_seed_on_one_side_holds_the_seeds_of_the_other() -> None:
    stream = np.random.default_rng(9)
    base, variant = study(stream, 5, 500, seed_sd=1.0)
    found = compare(sample(variant[:1], first=9), sample(base), draws=100_000)
    variance = (100.0 * variant[0] - 100.0 * base.mean(0)).var(ddof=1) / 500
    assert (found.source, found.seeds) == ("items", (1, 5))
    assert width(found) / 2 == pytest.approx(stats.t.isf(0.025, 499) * math.sqrt(variance), rel=0.01)


def test_one_seed_without_correctness_takes_the_binomial_error() -> None:
    found = compare(numbers([70.0], 400), numbers({1: 60.0, 2: 62.0}, 900))
    error = math.sqrt(70 * 30 / 400 + 61 * 39 / 900)
    assert (found.source, found.items) == ("items", None)
    assert found.high == pytest.approx(9 + stats.norm.isf(0.025) * error)
    assert interval(numbers([70.0], 400))[0] == pytest.approx(70 - stats.norm.isf(0.025) * math.sqrt(70 * 30 / 400))


@pytest.mark.parametrize(("first", "others", "weight"), [(0, 3, 2.0), (9, 3, 4 / 3), (9, 1, 2.0)])
def test_noise_from_other_runs_is_what_seeds_contribute(first: int, others: int, weight: float) -> None:
    """s**2 (1 + 1/n) against n seeds, 2 s**2 for a pair of one seed; with the binomial error, and without items."""
    noise = Residual(2.25, 6)
    base = numbers([60.0, 61.5, 62.0][:others], 900)
    one, used = (
        numbers({first: 70.0}, 400),
        base.accuracy[0] if first == 0 else float(np.mean([*base.accuracy.values()])),
    )
    found = compare(one, base, noise=noise)
    items = 70 * 30 / 400 + used * (100 - used) / 900
    assert found.source == "seeds_and_items"
    assert found.spread.variance == pytest.approx(weight * 2.25 + items)
    assert found.spread.seed_freedom == 6
    assert found.spread.share == pytest.approx(weight * 2.25 / found.spread.variance)
    assert contrast("x", [(1.0, one), (-1.0, base)], noise=noise).spread == found.spread
    bare = compare(dataclasses.replace(one, items=None), base, noise=noise)
    assert bare.source == "seeds"
    assert bare.spread.variance == pytest.approx(weight * 2.25)
    several = compare(numbers([70.0, 71.0, 73.0]), base, noise=noise) if others == 3 and first == 0 else None
    assert several is None or several == compare(numbers([70.0, 71.0, 73.0]), base), "they show their own"


def test_the_chance_of_one_seed_on_one_item_is_counted_once() -> None:
    """Seeds that differ only by the chance of each item, and noise that says so: the true variance, not more."""
    stream = np.random.default_rng(21)
    N, found = 200, []
    chance = stream.random(N)  # an item is right with this probability in every seed of both variants
    noise = Residual(1e4 * float(np.mean(chance * (1 - chance))) / N, 50)
    for _ in range(400):
        base, variant = stream.random((3, N)) < chance, stream.random((1, N)) < chance
        found.append(compare(sample(variant, first=9), sample(base), noise=noise, draws=100).spread.variance)
    assert np.mean(found) == pytest.approx(4 / 3 * noise.variance, rel=0.08)


def test_the_spread_of_a_contrast_by_hand() -> None:
    """Fractional coefficients by their squares; a pooled spread over seeds in place of the own one; no spread."""
    one, other = numbers([70.0], 400, "a"), numbers([60.0], 900, "b")
    found = contrast("x", [(0.5, one), (-0.25, other)])
    assert found.spread.variance == pytest.approx(0.25 * 70 * 30 / 400 + 0.0625 * 60 * 40 / 900)
    for certain in (numbers([0.0], 400), numbers([100.0], 400)):
        assert math.isnan(contrast("x", [(1.0, certain), (-1.0, certain)]).low)
        assert math.isnan(compare(certain, certain).low)
    base, variant = study(np.random.default_rng(22), 3, 200, seed_sd=0.3)
    parts = [(1.0, sample(variant)), (-1.0, sample(base))]
    own = contrast("x", parts).spread
    pooled = contrast("x", parts, residual=Residual(9.0, 10)).spread
    assert 0.2 < own.share < 0.98
    assert pooled.variance == pytest.approx(9.0 * 2 / 3 + own.variance * (1 - own.share))
    assert pooled.seed_freedom == 10
    assert pooled.share == pytest.approx(6 / pooled.variance)
    # Of single seeds, what a seed does is known from other runs alone: half a variant counts a quarter of it.
    three = [(0.5, numbers([70.0], None, "a")), (0.5, numbers([72.0], None, "b")), (-1.0, numbers([60.0], None, "c"))]
    assert contrast("x", three, noise=Residual(4.0, 8)).spread.variance == pytest.approx(4.0 * (0.25 + 0.25 + 1))
    # Items that all move with the seed, and a pooled spread that shows none: nothing is known, and nothing fails.
    every = np.repeat([[True], [False]], 50, axis=1)
    flat = [(1.0, sample(every, name="a")), (-1.0, sample(~every & every, name="b"))]
    assert contrast("x", flat, residual=Residual(0.0, 4)).spread.source == "none"


def test_noise_is_pooled_over_what_ran_twice() -> None:
    pooled = seed_noise([[40.0], [41.0, 43.0], [50.0, 53.0, 56.0]])
    assert pooled is not None
    assert pooled.freedom == 3
    assert pooled.variance == pytest.approx((2.0 + 18.0) / 3)
    assert seed_noise([[40.0], [41.0]]) is None
    assert seed_noise([[40.0, 40.0]]) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (numbers([70.0]), numbers([60.0], 400)),
        (numbers([71.0, 72.5, 70.25]), numbers([61.0, 62.5, 60.25])),  # the same gain in every seed: no spread to see
    ],
)
def test_nothing_is_claimed_where_nothing_is_known_of_the_error(one: Sample, other: Sample) -> None:
    found = compare(one, other)
    assert found.estimate == pytest.approx(10.0)
    assert found.untestable is None
    assert (found.source, found.distinguishable) == ("none", False)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(found.p_value)
    assert holm([found]) == (found,)


# ---- intervals and p-values


def test_a_p_value_is_below_the_level_where_the_interval_leaves_out_zero() -> None:
    stream = np.random.default_rng(10)
    seen = set()
    for trial in range(150):
        base, variant = study(stream, int(stream.integers(1, 6)), 200, seed_sd=0.2, gain=0.2 * stream.random())
        level = float(stream.choice([0.2, 0.05, 0.01]))
        found = compare(sample(variant), sample(base, first=trial % 2 * len(base)), level=level, draws=500)
        assert (found.p_value < level) == (found.low > 0 or found.high < 0)
        assert found.distinguishable == (found.p_value < level and found.source != "items")
        seen.add((found.distinguishable, found.p_value < level))
    assert seen == {(True, True), (False, True), (False, False)}


def test_a_comparison_turned_round_is_its_negative_and_repeats_exactly() -> None:
    base, variant = study(np.random.default_rng(11), 3, 300, seed_sd=0.3, gain=0.2)
    one, other = compare(sample(variant), sample(base, "w")), compare(sample(base, "w"), sample(variant))
    assert (one.variant, one.against) == (other.against, other.variant) == ("v", "w")
    assert one.estimate == -other.estimate
    assert one.p_value == pytest.approx(other.p_value, rel=0.2)
    assert compare(sample(variant), sample(base, "w")) == one
    shuffled = dataclasses.replace(sample(variant), accuracy=dict(sorted(sample(variant).accuracy.items())[::-1]))
    assert compare(shuffled, sample(base, "w")) == one
    more = compare(sample(variant), sample(base, "w"), seed=1)
    assert width(more) == pytest.approx(width(one), rel=0.1)
    assert width(more) != width(one)


def test_the_interval_of_a_mean_covers_seeds_and_items() -> None:
    right, _ = study(np.random.default_rng(12), 4, 300, seed_sd=0.4)
    points = 100.0 * right
    by_seed, by_item, rest = mean_squares(points)
    error = math.sqrt((by_seed + by_item - rest) / (4 * 300))
    low, high = interval(sample(right), draws=100_000)
    assert (low + high) / 2 == pytest.approx(points.mean())
    assert stats.norm.isf(0.025) < (high - low) / 2 / error < stats.t.isf(0.025, 3)
    seeds_only = interval(numbers(points.mean(1)))
    assert seeds_only[1] - seeds_only[0] != pytest.approx(high - low, rel=0.01)


SHARES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.999, 1.0)


def nodes(freedom: float, number: int) -> tuple[Array, Array]:
    """Chi-squared by its degrees of freedom, and weights; fine where it is small."""
    x, w = np.polynomial.legendre.leggauss(number)
    u = (x + 1) / 2
    return np.maximum(stats.chi2.ppf(u**4, freedom) / freedom, 1e-12), 2 * w * u**3


def rate(spreads: Sequence[Spread], weights: Array, level: float) -> float:
    """Probability that an estimate of variance 1 around 0 has an interval without 0."""
    return float(sum(w * 2 * stats.norm.sf(s.interval(0.0, level)[1]) for s, w in zip(spreads, weights, strict=True)))


@pytest.mark.parametrize(("seeds", "least", "most"), [(2, 3.5, 6.3), (3, 4.3, 5.3), (5, 4.7, 5.5), (10, 4.9, 5.2)])
def test_the_error_rate_by_quadrature_whatever_the_share_of_the_seeds(seeds: int, least: float, most: float) -> None:
    """The seeds' part of the variance is chi-squared, the items' part known: the numbers the docstring states."""
    f = seeds - 1
    chi, weights = nodes(f, 100)
    for share in SHARES:
        parts = [(share * c, share * c + 1 - share) for c in chi]
        spreads = [Spread(total, "seeds_and_items", part / total, f, 1e9) for part, total in parts]
        assert least <= 100 * rate(spreads, weights, 0.05) <= most
        for level in (0.01, 0.05 / 24, 0.05 / 60, 0.05 / 300):
            assert rate(spreads, weights, level) <= 1.1 * level


@pytest.mark.parametrize(
    ("seeds", "least", "most"), [((3, 3), 4.0, 6.0), ((5, 5), 4.7, 5.5), ((3, 5), 1.0, 5.5), ((2, 5), 0.1, 6.0)]
)
def test_the_error_rate_of_two_groups_of_seeds(seeds: tuple[int, int], least: float, most: float) -> None:
    """As the docstring of `freedom_of` has it, for every ratio of the two spreads."""
    (one, w1), (two, w2) = (nodes(m - 1, 20) for m in seeds)
    own = np.array(seeds) - 1.0
    for first in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
        parts = [np.array([first * a, (1 - first) * b]) for a in one for b in two]
        spreads = [
            Spread(float(p.sum()), "seeds", 1.0, freedom_of(p, own), least_freedom=float(own.min())) for p in parts
        ]
        weights = np.outer(w1, w2).ravel()
        assert least <= 100 * rate(spreads, weights, 0.05) <= most
        for level in (0.05 / 24, 0.05 / 300):
            assert rate(spreads, weights, level) <= 1.1 * level


def test_the_level_and_the_p_value_go_together() -> None:
    for spread in (
        Spread(4.0, "seeds", 0.6, 2),
        Spread(4.0, "seeds", 1.0, 5.5, least_freedom=2.0),
        Spread(4.0, "seeds", 1.0, 1),
    ):
        levels = np.geomspace(1e-9, 0.9, 200)
        ends = [spread.interval(0.0, level)[1] for level in levels]
        assert (np.diff(ends) < 0).all()
        for level, end in zip(levels[::20], ends[::20], strict=True):
            assert spread.p_value(end) == pytest.approx(level, rel=1e-4)


def test_an_interval_stays_where_an_accuracy_can_be() -> None:
    low, high = interval(numbers([1.0, 3.0, 8.0]))
    assert (low, high > 8) == (0.0, True)
    assert interval(numbers([99.5], 20))[1] == 100
    assert all(map(math.isnan, interval(numbers([1.0, 8.0])))), "two seeds: no interval"
    assert interval(numbers([50.0, 50.1]))[0] > 49
    wild = compare(numbers([10.0, 60.0]), numbers([60.0, 10.0]))
    assert (wild.low, wild.high) == (-100, 100)
    half = contrast("x", [(0.5, numbers([10.0, 60.0])), (-0.25, numbers([60.0, 10.0]))])
    assert (half.low, half.high) == (-25, 50)


def test_simulated_studies_without_a_difference_are_called_different_in_a_twentieth() -> None:
    """Three seeds, where percentiles of the same draws would be wrong in more than a tenth."""
    stream = np.random.default_rng(13)
    studies, wrong, naive = 500, 0, 0
    for _ in range(studies):
        base, variant = study(stream, 3, 300, seed_sd=0.15)
        wrong += compare(sample(variant), sample(base), draws=300).distinguishable
        gains = 100 * (variant.mean(1) - base.mean(1))
        drawn = gains[stream.integers(0, 3, (500, 3))].mean(1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        naive += not low <= 0 <= high
    assert 0.025 < wrong / studies < 0.08  # 2.5 standard errors to either side
    assert naive / studies > 0.12


# ---- families and designs


def with_p(value: float) -> Difference:
    """A difference of several seeds."""
    found = compare(numbers([70.0, 71.0, 73.0]), numbers([60.0, 62.0, 61.0]))
    return dataclasses.replace(found, p_value=value)


def test_holm_against_a_calculation_by_hand() -> None:
    found = holm([with_p(p) for p in (0.01, 0.04, math.nan, 0.03, 0.005)])
    # ascending: 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, raised to the one before
    assert found[2].p_adjusted is None
    assert [d.p_adjusted for d in found if d.p_adjusted] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [d.distinguishable for d in found] == [True, False, False, False, True]
    assert [d.distinguishable for d in map(with_p, (0.01, 0.04))] == [True, True]
    assert holm([]) == ()


def test_holm_leaves_out_what_seeds_cannot_tell() -> None:
    """One seed never, two seeds not among several; neither makes it harder for the others."""
    single = dataclasses.replace(compare(numbers([90.0], 4000), numbers([10.0], 4000)), p_value=1e-9)
    two = dataclasses.replace(compare(numbers([70.0, 70.1]), numbers([60.0, 60.2])), p_value=1e-3)
    assert (single.untestable, single.distinguishable) == (ONE_SEED, False)
    assert (two.untestable, two.distinguishable) == (None, True)
    found = holm([single, two, with_p(0.02), with_p(0.04)])
    assert [d.p_adjusted for d in found] == [None, None, pytest.approx(0.04), pytest.approx(0.04)]
    assert [d.untestable for d in found] == [ONE_SEED, FEW_SEEDS, None, None]
    assert [d.distinguishable for d in found] == [False, False, True, True]
    alone = holm([single, two])
    assert [d.p_adjusted for d in alone] == [None, pytest.approx(1e-3)]
    assert alone[1].distinguishable
    pooled = compare(numbers([70.0], 400), numbers([60.0], 400), noise=Residual(0.1, 9))
    assert [d.untestable for d in holm([pooled, pooled])] == [None, None], "one seed, but seeds are known from others"


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_holm_against_statsmodels(count: int) -> None:
    values = np.random.default_rng(count).uniform(0, 0.2, count).round(2)  # with ties
    wanted = multipletests(values, method="holm")[1]
    assert [d.p_adjusted for d in holm([with_p(p) for p in values])] == pytest.approx(list(wanted))


def power_of(effect: float, seeds: int, paired: bool, level: float) -> float:
    """Share of 200,000 drawn t-tests that find ``effect`` standard deviations."""
    freedom, root = (seeds - 1, math.sqrt(seeds)) if paired else (2 * seeds - 2, math.sqrt(seeds / 2))
    stream = np.random.default_rng(15)
    drawn = stream.normal(effect * root, size=200_000) / np.sqrt(stream.chisquare(freedom, 200_000) / freedom)
    return float(np.mean(np.abs(drawn) > stats.t.isf(level / 2, freedom)))


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("level", "power"), [(0.05, 0.8), (0.01, 0.9), (0.3, 0.35)])
def test_the_detectable_difference_has_the_power_it_is_asked_for(
    seeds: int, paired: bool, level: float, power: float
) -> None:
    points = minimal_detectable_difference(1.7, seeds, level=level, power=power, paired=paired)
    assert power_of(points / 1.7, seeds, paired, level) == pytest.approx(power, abs=0.004)


def test_the_detectable_difference_at_its_ends() -> None:
    assert minimal_detectable_difference(1.0, 1) == math.inf
    assert minimal_detectable_difference(0.0, 3) == 0.0


# ---- mistakes


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: numbers({}), "at least one seed"),
        (lambda: numbers([101.0]), "0 to 100"),
        (lambda: numbers([math.nan]), "0 to 100"),
        (lambda: numbers([50.0], 0), "at least 1"),
        (lambda: sample(np.ones((2, 9), bool), correct={0: np.ones(9, bool)}), "the same seeds"),
        (lambda: sample(np.ones((1, 9), bool), items=8), r"expected bool \[8\]"),
        (lambda: sample(np.ones((1, 9), bool), correct={0: np.ones(9)}), "float64"),
        (lambda: sample(np.ones((1, 9), bool), accuracy={0: 98.0}), "two trials"),
        (lambda: compare(numbers([1.0, 2.0]), numbers([1.0, 2.0]), level=5), "share between 0 and 1"),
        (lambda: compare(numbers([1.0, 2.0]), numbers([1.0, 2.0]), draws=1), "at least 100"),
        (lambda: interval(numbers([1.0, 2.0]), level=0), "share between 0 and 1"),
        (lambda: compare(sample(np.ones((1, 9), bool)), sample(np.ones((1, 8), bool))), "9 and 8 items"),
        (lambda: compare(numbers([1.0]), dataclasses.replace(numbers([1.0]), benchmark="c")), "one benchmark"),
        (lambda: holm([with_p(0.1), dataclasses.replace(with_p(0.1), level=0.1)]), "several levels"),
        (lambda: minimal_detectable_difference(-1, 3), "0 or more"),
        (lambda: minimal_detectable_difference(1, 0), "at least 1"),
        (lambda: minimal_detectable_difference(1, 3, power=0.01), "level < power"),
    ],
)
def test_mistakes_are_named(call: Callable[[], object], words: str) -> None:
    with pytest.raises(StatisticsError, match=words):
        call()


# ---- from tables and files


def test_samples_of_a_table_with_and_without_correctness() -> None:
    right = np.random.default_rng(14).random((2, 50)) < 0.5
    rows = [("hw", s, "a", 100 * float(right[s].mean()), 50) for s in (0, 1)] + [("base", 0, "a", 40.0, 60)]
    rows.append(("base", 0, "b", 30.0, None))  # type: ignore[arg-type]
    scores = [
        Score(variant=v, seed=s, benchmark=b, accuracy_percent=value, items=items) for v, s, b, value, items in rows
    ]
    table = ResultTable.from_scores(scores)
    known = {("hw", s, "a"): right[s] for s in (0, 1)}
    found = samples(table, known)
    assert set(found) == {("hw", "a"), ("base", "a"), ("base", "b")}
    assert found["hw", "a"].correct is not None
    assert (found["hw", "a"].correct[1] == right[1]).all()
    assert (found["hw", "a"].items, found["base", "a"].items, found["base", "b"].items) == (50, 60, None)
    assert found["base", "a"].correct is None
    assert samples(table)["hw", "a"].correct is None
    del known["hw", 1, "a"]
    with pytest.raises(StatisticsError, match="seeds 0, 1 and correctness for seeds 0"):
        samples(table, known)


@pytest.fixture
def study_folder(tmp_path: Path, tiny_settings: MakeSettings) -> Path:
    """Three finished trials with outcomes as trials write them, and one that failed."""
    ledger = Ledger(tmp_path / "ledger.db")
    for number, (variant, seed) in enumerate([("baseline", 0), ("hw", 0), ("hw", 1), ("ltc", 0)], start=1):
        settings = tiny_settings(variant).model_copy(update={"seed": seed})
        row = ledger.open_trial(variant, "ablation", settings.model_dump_json())
        if variant == "ltc":
            ledger.update(row.number, status="failed", error="made to fail")
            continue
        write_outcomes(tmp_path / "trials" / row.key, number, [f"clip{i}.mp4" for i in range(6)])
        ledger.update(row.number, status="finished", result={"accuracies": {"mini_in": 50.0}})
    ledger.close()
    return tmp_path


def write_outcomes(trial: Path, number: int, paths: Sequence[str]) -> None:
    labels = np.arange(len(paths)) % 3
    result = BenchmarkResult(
        benchmark="mini_in",
        part="test",
        accuracy=0.0,
        items=len(paths),
        chosen={},
        grid=(),
        predicted=np.where(np.arange(len(paths)) < number, labels, labels + 1),
        labels=labels,
        paths=tuple(paths),
    )
    result.write(Place.at(trial / "correctness"))


def test_correctness_is_read_from_a_study(study_folder: Path) -> None:
    found = read_correctness(study_folder)
    assert {key: int(right.sum()) for key, right in found.items()} == {
        ("baseline", 0, "mini_in"): 1,
        ("hw", 0, "mini_in"): 2,
        ("hw", 1, "mini_in"): 3,
    }
    assert all(right.dtype == np.bool_ and right.shape == (6,) for right in found.values())
    moved = study_folder.parent / f"{study_folder.name}-elsewhere"
    (study_folder / "trials").rename(moved)
    assert set(read_correctness(study_folder, Place.at(moved))) == set(found)


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ([f"clip{i}.mp4" for i in (0, 1, 3, 2, 4, 5)], "item 2 has path 'clip2.mp4' in t0001 and 'clip3.mp4' in t0003"),
        ([f"clip{i}.mp4" for i in range(5)], "6 and 5 items"),
    ],
)
def test_other_items_or_another_order_are_refused(study_folder: Path, paths: Sequence[str], words: str) -> None:
    write_outcomes(study_folder / "trials" / "t0003", 3, paths)
    with pytest.raises(StatisticsError, match=words):
        read_correctness(study_folder)


def test_missing_and_damaged_outcomes_are_named(study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = study_folder / "trials" / "t0002" / "correctness" / "mini_in.parquet"
    file.write_text(json.dumps({}))
    with pytest.raises(StatisticsError, match="holds no outcomes of a trial"):
        read_correctness(study_folder)
    file.unlink()
    with pytest.raises(StatisticsError, match=r"t0002 \(hw\) has a score on 'mini_in' but its outcomes are not at"):
        read_correctness(study_folder)
    nowhere = tmp_path_factory.mktemp("nowhere")
    with pytest.raises(StatisticsError, match="holds no study"):
        read_correctness(nowhere)
    assert not list(nowhere.iterdir())


def test_two_trials_of_one_variant_and_seed_are_refused(study_folder: Path) -> None:
    ledger = Ledger(study_folder / "ledger.db")
    again = ledger.open_trial("hw", "search", ledger[2].settings)
    ledger.update(again.number, status="finished", result={"accuracies": {"mini_in": 50.0}})
    ledger.close()
    with pytest.raises(StatisticsError, match="two trials of 'hw', seed 0: the second is t0005"):
        read_correctness(study_folder)
