"""What is said of a candidate: luck, bounds, noise, gains to expect, the probability of the front; each by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import chi2, multivariate_t, t

from equipoise.platform.stats import luck, power, shrinkage
from equipoise.platform.stats.front_probability import front_probability
from equipoise.platform.stats.gains import gain
from equipoise.platform.stats.noise import item_variance, study_noise, widening
from equipoise.platform.stats.pareto import nondominated
from equipoise.platform.stats.selection import select
from equipoise.platform.stats.table import COLLAPSED, UNTRAINED, ResultTable, Score
from equipoise.platform.stats.verdict import share

Rows = dict[str, dict[int, tuple[float, ...]]]


def made(rows: Rows, flags: dict[str, str] | None = None, items: int | None = None) -> ResultTable:
    """Variant to seed to accuracies on a, b, ..."""
    return ResultTable.from_scores(
        Score(
            variant=variant,
            seed=seed,
            benchmark="abc"[m],
            accuracy_percent=value,
            items=items,
            flags=frozenset({flags[variant]} if flags and variant in flags else ()),
        )
        for variant, seeds in rows.items()
        for seed, values in seeds.items()
        for m, value in enumerate(values)
    )


def test_gains_are_taken_over_shared_seeds_and_over_all_where_none_is_shared() -> None:
    table = made({"baseline": {0: (10,), 1: (20,), 2: (60,)}, "x": {1: (25,), 2: (61,), 7: (99,)}, "y": {9: (40,)}})
    assert gain(table, "x", "baseline", "a").points == pytest.approx((25 - 20 + 61 - 60) / 2)
    assert gain(table, "x", "baseline", "a").against == (1, 2)
    assert gain(table, "y", "baseline", "a").points == pytest.approx(40 - 30)
    assert gain(table, "y", "baseline", "a").against == (0, 1, 2)


def test_seed_noise_is_pooled_over_every_repeated_trained_variant() -> None:
    rows: Rows = {
        "baseline": {0: (10, 1), 1: (12, 2), 2: (17, 3)},
        "x": {0: (30, 5), 1: (34, 5)},
        "once": {0: (90, 9)},
        "untrained": {0: (50, 1), 1: (90, 50)},
    }
    noise = study_noise(made(rows, {"untrained": UNTRAINED}))
    squares = np.var([10, 12, 17]) * 3 + np.var([30, 34]) * 2
    assert noise.freedom == {"a": 3, "b": 3}
    assert noise.variance["a"] == pytest.approx(squares / 3)
    assert noise.floor("a") == pytest.approx(widening(3) * math.sqrt(squares / 3))
    two = study_noise(made({"baseline": {0: (10,), 1: (12,)}}))
    assert two.floor("a") is None
    assert two.unit("a") == pytest.approx(widening(1) * math.sqrt(2))
    assert study_noise(made({"baseline": {0: (10,)}})).unit("a") is None


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9])
def test_a_floor_is_seldom_below_half_the_truth(freedom: int) -> None:
    below = chi2.cdf(freedom / (4 * widening(freedom) ** 2), freedom)
    assert below <= 0.08
    assert widening(freedom) == 1 or below == pytest.approx(0.075), "and no wider than that takes"


def test_a_floor_is_never_below_what_items_make_by_themselves() -> None:
    stream = np.random.default_rng(0)
    right = {("baseline", s, "a"): stream.random(400) < 0.5 for s in range(4)}
    # Equal accuracies by accident: no spread over seeds, though half of the items differ.
    rows: Rows = {"baseline": dict.fromkeys(range(4), (50.0,))}
    noise = study_noise(made(rows, items=400), right)
    pairs = itertools.combinations(right.values(), 2)
    share_apart = np.mean([np.mean(one != other) for one, other in pairs])
    assert noise.floor("a") == pytest.approx(100 * math.sqrt(share_apart / 2 / 400))


def test_the_choice_of_items_counts_once() -> None:
    stream = np.random.default_rng(1)
    hard = stream.normal(size=1000)
    right = {
        (v, s, "a"): hard + 0.5 * np.sin(np.arange(1000) * (1 + len(v))) + stream.normal(size=1000) > 0
        for v in ("baseline", "x")
        for s in (0, 1)
    }
    rows: Rows = {v: {s: (100 * float(right[v, s, "a"].mean()),) for s in (0, 1)} for v in ("baseline", "x")}
    table = made(rows, items=1000)
    noise = study_noise(table, right)
    points = 100 * (
        np.mean([right["x", s, "a"] for s in (0, 1)], axis=0)
        - np.mean([right["baseline", s, "a"] for s in (0, 1)], axis=0)
    )
    chance = noise.by_items["a"]  # one run's own, twice over two seeds of two variants
    assert item_variance(table, "x", "baseline", "a", noise, right) == pytest.approx(
        np.var(points, ddof=1) / 1000 - chance
    )
    unpaired = sum(a * (100 - a) / 1000 for a in (table.mean_of("x")["a"], table.mean_of("baseline")["a"]))
    assert item_variance(table, "x", "baseline", "a", noise) == pytest.approx(unpaired)


def layout(mixes: int, seeds: int = 1, against: tuple[int, ...] = (0,), baseline: int = 4, **more: int) -> luck.Layout:
    return luck.layout_of([(seeds, against)] * mixes, mixes, baseline, more.get("freedom", 0), more.get("M", 3), 0.5)


def test_the_bound_for_one_mix_is_students_and_for_many_the_multivariate_one() -> None:
    everything = tuple(range(4))
    assert luck.critical(layout(1, 4, everything)) == pytest.approx(t.ppf(0.95, 3), rel=0.02)
    found = luck.critical(layout(5, 4, everything))
    shape = np.full((5, 5), 0.5) + 0.5 * np.eye(5)
    assert multivariate_t(shape=shape, df=3, seed=0).cdf(np.full(5, found)) == pytest.approx(0.95, abs=0.005)
    assert luck.critical(layout(50)) > luck.critical(layout(5)) > luck.critical(layout(1))


def test_the_bound_of_a_single_mix_is_its_gain_less_what_students_t_reaches() -> None:
    """At nine tenths of 5 %, one-sided: what is said of all mixes is to hold to the last study."""
    rows: Rows = {"baseline": {s: (50.0 + d,) for s, d in enumerate((-2, 2, -2, 2))}}
    rows["x"] = {s: (60.0 + d,) for s, d in enumerate((1, 1, -1, -1))}
    error = (4 * 4 + 4 * 1) / 6
    reach = t.ppf(1 - 0.045, 6) * math.sqrt(error * (1 / 4 + 1 / 4))
    bound = select(made(rows)).row("x").at_least["a"]
    assert bound == pytest.approx(10 - reach, abs=0.05)


def test_luck_is_what_a_plain_simulation_of_null_studies_gives() -> None:
    stream = np.random.default_rng(5)
    leaders = []
    for _ in range(4000):  # two mixes with the baseline's seed 0, one benchmark, three baseline seeds
        base = stream.normal(size=3)
        gains = (stream.normal(size=2) - base[0]) / base.std(ddof=1)
        leaders.append(max(gains))
    plain = np.mean(np.array(leaders) >= 1.5)
    assert luck.probability(layout(2, baseline=3, M=1), 1.5) == pytest.approx(plain, abs=0.03)


def test_launched_mixes_count_also_where_they_have_no_score() -> None:
    few = luck.layout_of([(1, (0,))] * 5, 5, 4, 3, 3, 0.5)
    more = luck.layout_of([(1, (0,))] * 5, 40, 4, 3, 3, 0.5)
    assert more.mixes == 40
    assert luck.probability(more, 1.0) > luck.probability(few, 1.0)
    table = null_study(np.random.default_rng(0), 6)
    alone, launched = (select(table, draws=0, launched=n, tolerance=50.0) for n in (None, 60))
    assert launched.launched == 60
    assert alone.candidate is not None
    assert launched.candidate is not None
    assert (launched.candidate.luck or 0.0) > (alone.candidate.luck or 1.0)
    assert all(
        lower is None or (one.at_least[b] or 0) > lower
        for one, other in zip(alone.rows, launched.rows, strict=True)
        for b, lower in other.at_least.items()
    )


def null_study(stream: np.random.Generator, mixes: int, effect: float = 0.0, seeds: int = 4) -> ResultTable:
    joint = 0.5 + 0.5 * np.eye(3)
    lower = np.linalg.cholesky(joint).T
    rows: Rows = {"baseline": {s: tuple(50 + 2 * stream.normal(size=3) @ lower) for s in range(seeds)}}
    rows |= {f"mix-{k}": {0: tuple(50 + effect + 2 * stream.normal(size=3) @ lower)} for k in range(mixes)}
    return made(rows)


def test_null_studies_are_lucky_as_often_as_they_say() -> None:
    stream = np.random.default_rng(2)
    found = [select(null_study(stream, 6), draws=0, tolerance=50.0).candidate for _ in range(400)]
    said = np.array([1.0 if c is None or c.luck is None else c.luck for c in found])
    assert 0.02 <= np.mean(said <= 0.05) <= 0.085
    assert 0.14 <= np.mean(said <= 0.2) <= 0.26
    assert not any(c.better for c in found if c is not None) or np.mean([bool(c and c.better) for c in found]) <= 0.05


def test_a_gain_beyond_all_luck_is_said_to_be_one() -> None:
    found = select(null_study(np.random.default_rng(3), 6, effect=40.0), confirm="equipoise confirm mine")
    assert found.candidate is not None
    assert found.candidate.better
    assert found.candidate.luck == pytest.approx(1 / (luck.STUDIES + 1)), "of all the studies it alone is as good"
    assert "better than baseline on every benchmark, with all 6 mixes counted" in found.sentence
    assert found.sentence.endswith("Not confirmed: equipoise confirm mine.")
    assert "Expected gains" not in found.sentence  # six mixes are too few to shrink by
    assert " leads 6 candidates (one seed each)" in found.sentence
    rows: Rows = {"baseline": {0: (50.0,), 1: (51.0,)}, "x": {0: (60.0,)}, "y": {0: (55.0,), 1: (56.0,), 2: (55.5,)}}
    assert select(made(rows)).sentence.startswith("x leads 2 candidates (1 to 3 seeds each): a +10.00")


def test_expected_gains_are_the_posterior_mean_of_the_normal_model() -> None:
    stream = np.random.default_rng(4)
    K, spread, noise = 4000, np.array([3.0, 1.0]), shrinkage.covariance([2.0, 2.0], 0.5)
    true = 1 + stream.normal(size=(K, 2)) * spread
    gains = true + stream.multivariate_normal([0, 0], noise, K)
    found = shrinkage.expected_gains(gains, [1] * K, [4] * K, noise, 3, 17)
    assert found is not None
    effects = np.diag(spread**2)
    right = 1 + effects @ np.linalg.inv(effects + noise) @ (gains[17] - 1)
    assert [e.points for e in found] == pytest.approx(right, abs=0.15)
    assert all(e.low < e.points < e.high for e in found)
    # Of a mix with four seeds among others with one, a quarter of the noise.
    four = shrinkage.expected_gains(gains, [4 if k == 17 else 1 for k in range(K)], [4] * K, noise, 3, 17)
    assert four is not None
    right = 1 + effects @ np.linalg.inv(effects + noise / 4) @ (gains[17] - 1)
    assert [e.points for e in four] == pytest.approx(right, abs=0.15)
    whole = shrinkage.expected_gains(gains, [1] * K, [4] * K, noise * 1e-9, 3, 17)
    assert whole is not None
    assert [e.points for e in whole] == pytest.approx(gains[17], abs=1e-3)
    assert shrinkage.expected_gains(gains[:7], [1] * 7, [4] * 7, noise, 3, 0) is None


def test_expected_gains_of_a_picked_mix_are_right_on_average() -> None:
    stream = np.random.default_rng(6)
    errors, raw = [], []
    for _ in range(300):
        table = null_study(stream, 20)
        candidate = select(table, draws=0, tolerance=50.0).candidate
        if candidate is None:  # nothing is said of a gain then
            continue
        assert candidate.expected is not None
        errors.append(np.mean([e.points for e in candidate.expected.values()]) / 2)
        raw.append(np.mean(list(candidate.gains.values())) / 2)
    assert np.mean(raw) > 0.8  # what a table shows of the best of twenty that do nothing
    assert abs(np.mean(errors)) <= 0.25


def test_front_probability_of_one_seed_moves_as_its_noise_does() -> None:
    rows: Rows = {"baseline": {s: (50.0 + d,) for s, d in enumerate((-2, 2, -2, 2))}, "x": {9: (50.0,)}}
    noise = study_noise(made(rows))
    found = front_probability(made(rows), noise, ("baseline",), draws=4000)
    assert found is not None
    assert found["x"] == pytest.approx(0.5, abs=0.03)
    rows["x"] = {9: (55.0,)}
    found = front_probability(made(rows), noise, ("baseline",), draws=20000)
    stream = np.random.default_rng(0)
    spread = np.sqrt(noise.variance["a"] * 3 / stream.chisquare(3, (2, 200000)))
    plain = np.mean(5 + stream.normal(size=200000) * spread[0] > stream.normal(size=200000) * spread[1] / 2)
    assert found is not None
    assert found["x"] == pytest.approx(plain, abs=0.02)
    assert front_probability(made({"baseline": {0: (1.0,)}, "x": {0: (2.0,)}}), noise, (), draws=0) is None
    once = made({"baseline": {0: (1.0,)}, "x": {0: (2.0,)}})
    assert front_probability(once, study_noise(once), ("baseline",)) is None


def test_front_probability_is_right_about_as_often_as_it_says() -> None:
    """Over studies whose mixes differ by one and a half times what a seed does; where they differ less, it overstates.

    In all it says up to 4 % too much here; in every quarter of what it says it is off by no more than 9 %.
    """
    stream = np.random.default_rng(12)
    said, true = [], []
    for _ in range(120):
        effects = stream.normal(0, 3, (12, 2))
        runs = {"baseline": (np.zeros(2), 6), **{f"m{k}": (effect, 1 + k % 2) for k, effect in enumerate(effects)}}
        rows: Rows = {
            name: {seed: tuple(50 + effect + stream.normal(0, 2, 2)) for seed in range(seeds)}
            for name, (effect, seeds) in runs.items()
        }
        found = front_probability(made(rows), study_noise(made(rows)), ("baseline",), draws=150)
        assert found is not None
        said += [found[f"m{k}"] for k in range(12)]
        true += list(nondominated(np.vstack([np.zeros(2), effects]))[1:])
    order = np.argsort(said)
    assert np.mean(said) == pytest.approx(np.mean(true), abs=0.05)
    for quarter in np.array_split(order, 4):
        assert np.mean(np.array(said)[quarter]) == pytest.approx(np.mean(np.array(true)[quarter]), abs=0.09)


def test_front_probability_knows_how_little_mixes_differ() -> None:
    """Of forty mixes that do nothing, the one that looks best is on the true front little more often than another."""
    table = null_study(np.random.default_rng(8), 40)
    found = select(table, draws=2000)
    row = max((r for r in found.rows if r.control is None), key=lambda r: r.smallest_points)
    assert row.front_probability is not None
    assert row.front_probability < 0.6
    apart = select(null_study(np.random.default_rng(8), 40, effect=0.0), draws=2000, seed=1)
    assert apart.row(row.variant).front_probability == pytest.approx(row.front_probability, abs=0.06)
    assert select(table, draws=200) == select(table, draws=200)


def test_a_collapsed_encoder_is_no_candidate() -> None:
    rows: Rows = {"baseline": {0: (50.0,), 1: (51.0,)}, "broken": {0: (90.0,)}, "x": {0: (60.0,)}}
    found = select(made(rows, {"broken": COLLAPSED}), tolerance=1)
    assert found.candidate is not None
    assert found.candidate.variant == "x"
    assert not found.row("broken").eligible


@pytest.mark.parametrize(
    ("probability", "words"),
    [(1.0, "more than 99 %"), (0.456, "46 %"), (0.1, "10 %"), (0.0312, "3.1 %"), (5e-5, "less than 0.1 %")],
)
def test_a_probability_in_words(probability: float, words: str) -> None:
    assert share(probability) == words


def test_the_forecast_is_what_a_t_test_needs() -> None:
    stream = np.random.default_rng(9)
    effect = power.detectable(2.0, 5, 1)
    one, other = stream.normal(0, 2, (20000, 5)), stream.normal(effect, 2, (20000, 5))
    error = np.sqrt((one.var(1, ddof=1) + other.var(1, ddof=1)) / 5)
    assert np.mean(np.abs(other.mean(1) - one.mean(1)) / error > t.ppf(0.975, 8)) == pytest.approx(0.8, abs=0.01)
    needed = power.seeds_needed(3.0, 2.0, 12)
    assert needed is not None
    assert power.detectable(2.0, needed, 12) <= 3.0 < power.detectable(2.0, needed - 1, 12)
    assert power.seeds_needed(0.01, 2.0, 12) is None


def test_what_was_started_from_is_a_control_and_no_mix() -> None:
    """It is never a candidate, adds nothing to the noise and counts as no mix that was launched."""
    rows: Rows = {
        "baseline": {0: (40, 30), 1: (42, 31), 2: (41, 30), 3: (43, 32)},
        "random_init": dict.fromkeys(range(4), (20, 20)),
        "x": {0: (44, 33), 1: (45, 34), 2: (44, 33), 3: (47, 35)},
    }
    without = select(made(rows))
    found = select(made({**rows, "unchanged": {0: (90, 25), 1: (10, 26), 2: (90, 25), 3: (10, 25)}}))
    assert without.candidate is not None
    assert found.candidate is not None
    assert (found.candidate.variant, found.launched) == ("x", without.launched)
    assert found.noise_floor == without.noise_floor
    row = next(row for row in found.rows if row.variant == "unchanged")
    assert row.control is not None
    assert not row.eligible
    said = (
        "baseline is not above the checkpoint that it starts from (unchanged) on a: training it further added nothing"
    )
    assert any(note.startswith(said) for note in found.notes)
    assert not any("checkpoint" in note for note in without.notes)
