from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.platform.stats.front_probability import front_probability
from equipoise.platform.stats.pareto import SelectionError, front, hypervolume
from equipoise.platform.stats.published import published_path, read_csv
from equipoise.platform.stats.selection import noise_floor, select
from equipoise.platform.stats.table import UNTRAINED, ResultTable, Score

BENCHMARKS = ("a", "b", "c")


def table(
    accuracies: Mapping[str, Sequence[Sequence[float | None]]],
    benchmarks: Sequence[str] = BENCHMARKS,
    items: int | None = None,
    flags: Mapping[str, str] | None = None,
) -> ResultTable:
    """Variant to one row of accuracies per seed; None leaves a score out."""
    return ResultTable.from_scores(
        [
            Score(
                variant=variant,
                seed=seed,
                benchmark=benchmark,
                accuracy_percent=value,
                items=items,
                flags=frozenset({flags[variant]}) if flags and variant in flags else frozenset(),
            )
            for variant, rows in accuracies.items()
            for seed, row in enumerate(rows)
            for benchmark, value in zip(benchmarks, row, strict=True)
            if value is not None
        ],
        benchmarks,
    )


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(x >= y for x, y in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def inclusion_exclusion(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume of a union of boxes, term by term over all subsets."""
    total = 0.0
    for count in range(1, len(points) + 1):
        for subset in itertools.combinations(points, count):
            corner = [min(values) for values in zip(*subset, strict=True)]
            total += (-1) ** (count + 1) * math.prod(max(c - r, 0) for c, r in zip(corner, reference, strict=True))
    return total


# a coarse grid makes ties and duplicates common
clouds = st.integers(1, 4).flatmap(
    lambda m: st.lists(
        st.lists(st.integers(0, 12).map(lambda v: v / 4), min_size=m, max_size=m), min_size=1, max_size=9
    )
)


@given(clouds)
@settings(max_examples=150, deadline=None)
def test_front_is_the_brute_force_front(cloud: list[list[float]]) -> None:
    points = {str(i): point for i, point in enumerate(cloud)}
    found = front(points)
    assert found == tuple(n for n, p in points.items() if not any(dominates(q, p) for q in points.values()))
    for name, point in points.items():
        if name in found:
            assert not any(dominates(other, point) for other in points.values())
        else:
            assert any(dominates(points[member], point) for member in found)


@given(clouds, st.integers(0, 4))
@settings(max_examples=100, deadline=None)
def test_hypervolume_is_the_inclusion_exclusion_volume(cloud: list[list[float]], level: int) -> None:
    reference = [level / 2] * len(cloud[0])
    assert hypervolume(cloud, reference) == pytest.approx(inclusion_exclusion(cloud, reference), abs=1e-9)


def test_hypervolume_agrees_with_random_points() -> None:
    stream = np.random.default_rng(0)
    cloud = stream.uniform(0.2, 1, (6, 3))
    below = np.all(stream.random((200_000, 1, 3)) < cloud, axis=2)  # [darts, points]
    assert hypervolume(cloud, [0, 0, 0]) == pytest.approx(float(np.any(below, axis=1).mean()), abs=0.005)


def test_hypervolume_of_nothing_or_of_other_lengths() -> None:
    assert hypervolume([], [1, 2]) == 0
    with pytest.raises(SelectionError, match="2 benchmarks and the reference 3"):
        hypervolume([[1, 2]], [0, 0, 0])
    with pytest.raises(SelectionError, match="finite"):
        hypervolume([[1, math.nan]], [0, 0])
    assert front({}) == ()


def test_rounding_of_means_does_not_split_equal_variants() -> None:
    assert front({"x": [0.1 + 0.2, 1.0], "y": [0.3, 1.0]}) == ("x", "y")


def test_noise_floor_is_the_sample_deviation_of_the_baseline() -> None:
    made = table({"baseline": [[10, 20, None], [12, 21, 30], [17, None, None]], "x": [[1, 2, 3]]})
    assert noise_floor(made) == {
        "a": pytest.approx(statistics.stdev([10, 12, 17])),
        "b": pytest.approx(statistics.stdev([20, 21])),
        "c": None,
    }


@pytest.mark.parametrize("seeds", [{42}, {42, 239}])
def test_balanced_on_the_published_mixed_table(seeds: set[int]) -> None:
    result = select(read_csv(published_path(), "mixed").only_seeds("baseline", seeds), tolerance=1.0)
    assert result.balanced is not None
    assert result.balanced.variant == "fwm_hw_ld"
    assert result.balanced.gains["diving48"] == pytest.approx(-0.30)
    assert result.balanced.scaled_by is None
    assert "within tolerance, not better on every benchmark" in result.sentence
    assert set(result.front) == {"baseline", "fwm_hw_ld", "ld", "hw", "ac_hw"}
    assert result.hypervolume == 0  # nothing beats the baseline on all three
    assert [row.variant for row in result.rows if row.admissible] == ["baseline", "fwm_hw_ld"]
    assert result.incomplete == {"motion_guided": ("diving48",)}
    text = " ".join(result.notes)
    assert "dead_loss" in text
    assert "diving48 -0.30 (standard error 0.89)" in text  # binomial: 8.38 % and 8.68 % of 1970 items each


def test_published_mixed_table_wants_a_tolerance() -> None:
    with pytest.raises(SelectionError, match=r"diving48.*--tolerance POINTS.*more seeds"):
        select(read_csv(published_path(), "mixed"))
    select(read_csv(published_path(), "mixed"), tolerance={"diving48": 1.0})  # the others have a noise floor


def test_untrained_rows_are_on_the_published_ucf101_front_and_never_balanced() -> None:
    result = select(read_csv(published_path(), "ucf101"), tolerance=5.0)
    assert {"kinematic_0_1", "kinematic_accel"} < set(result.front)
    assert [row.variant for row in result.rows if row.eligible] == ["motion_guided"]
    assert result.balanced is not None
    assert result.balanced.variant == "motion_guided"
    # the box between the baseline and motion_guided, by hand
    assert result.hypervolume == pytest.approx((8.68 - 8.38) * (3.45 - 2.07) * (12.16 - 12.02))


def test_gains_are_scaled_by_the_noise_floor() -> None:
    # floors: a sqrt(8), b sqrt(2), c sqrt(2). In points y has the larger smallest gain, in floors x has.
    made = table({"baseline": [[10, 10, 10], [14, 12, 12]], "x": [[16, 13, 13]], "y": [[15, 14, 14]]})
    result = select(made)
    scaled = {r.variant: r.smallest_gain for r in result.rows}
    assert scaled["x"] == pytest.approx(min(4 / 8**0.5, 2 / 2**0.5))
    assert scaled["y"] == pytest.approx(3 / 8**0.5)
    assert result.balanced is not None
    assert result.balanced.variant == "x"
    assert result.balanced.scaled_by == pytest.approx({"a": 8**0.5, "b": 2**0.5, "c": 2**0.5})
    assert result.tolerance == result.noise_floor
    assert "better than baseline on every benchmark" in result.sentence
    unscaled = select(made.only_seeds("baseline", {0}), tolerance=0)
    assert unscaled.balanced is not None
    assert unscaled.balanced.scaled_by is None
    assert any("not scaled" in note for note in unscaled.notes)


def test_scaling_changes_the_winner() -> None:
    made = table({"baseline": [[10, 10, 10], [20, 11, 11]], "x": [[20, 12, 12]], "y": [[19, 14, 14]]})
    # gains x (5, 1.5, 1.5), y (4, 3.5, 3.5); floors (7.07, 0.71, 0.71): x 0.707 > y 0.566, in points y 3.5 > x 1.5
    scaled = select(made).balanced
    assert scaled is not None
    assert scaled.variant == "x"
    flat = select(
        table({"baseline": [[15, 10.5, 10.5]], "x": [[20, 12, 12]], "y": [[19, 14, 14]]}), tolerance=1
    ).balanced
    assert flat is not None
    assert flat.variant == "y"


def test_a_constant_baseline_gives_a_zero_tolerance_and_no_scale() -> None:
    result = select(table({"baseline": [[10, 10, 10]] * 2, "x": [[10, 10, 11]], "y": [[9.99, 20, 20]]}))
    assert result.tolerance == {"a": 0, "b": 0, "c": 0}
    assert result.scaled_by is None
    assert result.balanced is not None
    assert result.balanced.variant == "x"


def test_tie_goes_to_the_larger_hypervolume_contribution() -> None:
    made = table({"baseline": [[10, 10, 10]], "x": [[11, 11, 14]], "y": [[11, 13, 13]], "z": [[12, 10.5, 10.5]]})
    result = select(made, tolerance=0)
    points = {"x": (1, 1, 4), "y": (1, 3, 3), "z": (2, 0.5, 0.5)}
    whole = inclusion_exclusion(list(points.values()), (0, 0, 0))
    for name in points:
        without = inclusion_exclusion([p for n, p in points.items() if n != name], (0, 0, 0))
        assert result.row(name).hypervolume_contribution == pytest.approx(whole - without)
    assert result.row("x").smallest_gain == result.row("y").smallest_gain == 1
    assert result.balanced is not None
    assert result.balanced.variant == "y"
    assert result.hypervolume == pytest.approx(whole)


def test_a_tie_above_the_baseline_is_settled_at_the_baseline_whatever_the_tolerance() -> None:
    # against (0, 0, 0): x adds 9 - 4 = 5, y adds 10 - 4 = 6; against the corner (-10, -10, -10) x would add more
    made = table({"baseline": [[20, 20, 20]], "x": [[21, 21, 29]], "y": [[21, 22.5, 24]]})
    chosen = select(made, tolerance=10).balanced
    assert chosen is not None
    assert chosen.variant == "y"


def test_tie_below_the_baseline_goes_to_the_corner_of_the_tolerance_and_then_to_the_name() -> None:
    made = table({"baseline": [[10, 10, 10]], "x": [[9.5, 11, 11]], "y": [[9.5, 12, 12]], "w": [[9.5, 12, 12]]})
    result = select(made, tolerance=1)
    # y and w are equal, so neither contributes; x is dominated: the name decides
    assert result.balanced is not None
    assert result.balanced.variant == "w"
    apart = table({"baseline": [[10, 10, 10]], "x": [[9.5, 11, 12]], "y": [[9.5, 14, 11]]})
    chosen = select(apart, tolerance=1).balanced
    assert chosen is not None
    assert chosen.variant == "y"  # adds 0.5 * 3 * 2 at the corner, x adds 0.5 * 2 * 1


def test_admissible_to_the_last_digit() -> None:
    made = table({"baseline": [[8.68, 10, 10]], "edge": [[7.68, 11, 11]], "over": [[7.67, 20, 20]]})
    assert 0.7 - 0.4 < 0.3  # a tolerance that came out of a subtraction
    assert select(table({"baseline": [[0.8, 1, 1]], "x": [[0.5, 1, 1]]}), tolerance=0.7 - 0.4).row("x").admissible
    result = select(made, tolerance=1)
    assert result.row("edge").admissible
    assert not result.row("over").admissible
    assert result.balanced is not None
    assert result.balanced.variant == "edge"


def test_nothing_admissible_is_said_and_the_baseline_stays_on_the_front() -> None:
    made = table({"baseline": [[10, 10, 10]], "random_init": [[2, 2, 2]], "x": [[20, 20, 5]]})
    result = select(made, tolerance=1)
    assert result.balanced is None
    assert "Nothing is balanced" in result.sentence
    assert "baseline" in result.sentence
    assert set(result.front) == {"baseline", "x"}
    assert result.to_dict()["balanced"] is None


def test_controls_and_untrained_encoders_are_never_balanced() -> None:
    scores: dict[str, list[list[float]]] = {
        "baseline": [[10, 10, 10]],
        "random_init": [[30, 30, 30]],
        "u": [[20, 20, 20]],
        "x": [[10.5, 10, 10]],
    }
    result = select(table(scores, flags={"u": UNTRAINED}), tolerance=1)
    assert result.front == ("random_init",)
    assert result.balanced is not None
    assert result.balanced.variant == "x"
    assert result.hypervolume == 0
    assert result.above_random_init == {"a": -20, "b": -20, "c": -20}
    assert any("not above the untrained encoder on a, b, c" in note for note in result.notes)
    alone = select(table({"baseline": [[10, 10, 10]], "random_init": [[1, 1, 1]]}), tolerance=1)
    assert alone.balanced is None
    assert "no complete trained variant" in alone.sentence


def test_a_winner_that_is_no_better_anywhere_is_called_so() -> None:
    result = select(table({"baseline": [[10, 10, 10]], "x": [[9.5, 10, 9.8]]}), tolerance=1)
    assert result.balanced is not None
    assert "better on none" in result.sentence


def test_tolerance_errors() -> None:
    made = table({"baseline": [[10, 10, 10]], "x": [[9.5, 10, 9.8]]})
    for bad in (-1.0, math.nan, math.inf, {"a": -1.0}):
        with pytest.raises(SelectionError, match="expected points, 0 or more"):
            select(made, tolerance=bad)
    with pytest.raises(SelectionError, match="tolerance names d; benchmarks of the table: a, b, c"):
        select(made, tolerance={"d": 1.0})
    with pytest.raises(SelectionError, match="fewer than two seeds on b"):
        select(made, tolerance={"a": 1.0})


def test_baseline_errors() -> None:
    with pytest.raises(SelectionError, match="no 'baseline'"):
        select(table({"x": [[1, 2, 3]]}), tolerance=1)
    with pytest.raises(SelectionError, match="no score on c"):
        select(table({"baseline": [[1, 2, None]], "x": [[1, 2, 3]]}), tolerance=1)
    assert select(table({"x": [[1, 2, 3]]}), tolerance=1, baseline="x").balanced is None


def test_front_probability_of_one_seed_is_unknown() -> None:
    made = table({"baseline": [[1, 2, 3]], "x": [[2, 3, 4]]})
    assert front_probability(made) is None
    result = select(made, tolerance=1)
    assert all(row.front_probability is None for row in result.rows)
    assert any("one seed only" in note for note in result.notes)


def test_front_probability_matches_the_enumerated_one() -> None:
    # one benchmark decides: x is on the front unless its two draws are both the bad seed (1/4) and y's are not worse
    made = table({"baseline": [[1, 1, 1]], "x": [[10, 5, 5], [4, 5, 5]], "y": [[6, 5, 5]]})
    found = front_probability(made, draws=4000, seed=1)
    assert found is not None
    assert found["x"] == pytest.approx(0.75, abs=0.03)
    assert found["y"] == pytest.approx(0.25, abs=0.03)
    assert found["baseline"] == 0


def test_variants_with_equal_scores_are_drawn_apart() -> None:
    made = table({"baseline": [[1, 1, 1]], "x": [[10, 5, 5], [4, 5, 5]], "y": [[10, 5, 5], [4, 5, 5]]})
    found = front_probability(made, draws=4000)
    assert found is not None
    # means are 10, 7, 4 with 1/4, 1/2, 1/4: one is at least the other in 11 of 16 pairs
    assert found["x"] == pytest.approx(11 / 16, abs=0.03)


def test_front_probability_keeps_the_scores_of_a_seed_together_and_redraws_gaps() -> None:
    # x: seed 0 is (10, 0), seed 1 is (0, 10): drawn together their means are (10, 0), (5, 5), (0, 10), never (10, 10)
    made = table({"baseline": [[9, 9]], "x": [[10, 0], [0, 10]]}, ("a", "b"))
    found = front_probability(made, draws=500)
    assert found is not None
    assert found["baseline"] == 1
    assert found["x"] == pytest.approx(0.5, abs=0.08)
    # seed 1 has no b, so a draw of seed 1 alone is drawn again: of the draws (0,0), (0,1), (1,0) one has a = 10
    gaps = table({"baseline": [[9, 20]], "x": [[10, 5], [0, None]]}, ("a", "b"))
    redrawn = front_probability(gaps, draws=4000)
    assert redrawn is not None
    assert redrawn["x"] == pytest.approx(1 / 3, abs=0.03)


def test_same_seed_same_answer_and_another_variant_changes_no_draw() -> None:
    stream = np.random.default_rng(3)
    rows = {name: stream.uniform(40, 60, (3, 3)).tolist() for name in ("baseline", "x", "y", "z")}
    one, two = select(table(rows), draws=300, seed=5), select(table(rows), draws=300, seed=5)
    assert one == two
    assert one != select(table(rows), draws=300, seed=6)
    more = front_probability(table({**rows, "low": [[0, 0, 0], [1, 1, 1]]}), draws=300, seed=5)
    assert more is not None
    assert {k: v for k, v in more.items() if k != "low"} == front_probability(table(rows), draws=300, seed=5)
    with pytest.raises(SelectionError, match="draws"):
        front_probability(table(rows), draws=0)


def test_notes_name_seeds_that_differ_and_what_is_left_out() -> None:
    made = table({"baseline": [[1, 2, 3], [1, 3, None]], "x": [[2, 3, None]], "y": [[2, 3, 4], [2, 3, 4]]})
    notes = " ".join(select(made, tolerance=1).notes)
    assert "a: 0, 1; b: 0, 1; c: 0" in notes
    assert "x is left out: no score on c." in notes
    assert "no untrained control" in notes


def test_to_dict_is_plain_json() -> None:
    result = select(read_csv(published_path(), "mixed"), tolerance=1.0)
    content = result.to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["balanced"]["variant"] == "fwm_hw_ld"
    assert {"variant", "gains", "smallest_gain", "scaled_by", "sentence"} == set(content["balanced"])
    described = {"balanced", "front", "hypervolume", "hypervolume_reference", "tolerance", "noise_floor"}
    assert described | {"rows", "incomplete", "notes"} <= set(content)
    assert content["front"] == list(result.front)
    assert content["noise_floor"]["diving48"] is None


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_benchmarks(count: int) -> None:
    names = [f"b{i}" for i in range(count)]
    made = table({"baseline": [[10.0] * count], "x": [[12.0] * count], "y": [[11.0] * count]}, names)
    result = select(made, tolerance=0)
    assert result.front == ("x",)
    assert [row.rank for row in result.rows] == [0, 1, 2]
    assert result.hypervolume == pytest.approx(2.0**count)
    assert result.row("x").hypervolume_contribution == pytest.approx(2.0**count)


@given(st.lists(st.tuples(*[st.integers(0, 40)] * 3), min_size=1, max_size=8), st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_balanced_is_the_best_of_the_admissible_by_hand(rows: list[tuple[int, int, int]], allowed: int) -> None:
    scores: dict[str, list[list[float]]] = {f"v{i}": [list(map(float, row))] for i, row in enumerate(rows)}
    made = table({"baseline": [[20, 20, 20]], **scores})
    result = select(made, tolerance=allowed, draws=1)
    smallest = {f"v{i}": min(row) - 20 for i, row in enumerate(rows)}
    admissible = {name: gain for name, gain in smallest.items() if gain >= -allowed}
    if not admissible:
        assert result.balanced is None
    else:
        assert result.balanced is not None
        assert admissible[result.balanced.variant] == max(admissible.values())
