from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.platform.stats.noise import widening
from equipoise.platform.stats.pareto import SelectionError, front, hypervolume
from equipoise.platform.stats.published import published_path, read_csv
from equipoise.platform.stats.selection import select
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


def test_untrained_rows_are_on_the_published_ucf101_front_and_never_candidates() -> None:
    result = select(read_csv(published_path(), "ucf101"), tolerance=5.0)
    assert {"kinematic_0_1", "kinematic_accel"} < set(result.front)
    assert [row.variant for row in result.rows if row.eligible] == ["motion_guided"]
    assert result.candidate is not None
    assert result.candidate.variant == "motion_guided"
    # the box between the baseline and motion_guided, by hand
    assert result.hypervolume == pytest.approx((8.68 - 8.38) * (3.45 - 2.07) * (12.16 - 12.02))


def test_tie_goes_to_the_larger_hypervolume_contribution() -> None:
    made = table({"baseline": [[10, 10, 10]], "x": [[11, 11, 14]], "y": [[11, 13, 13]], "z": [[12, 10.5, 10.5]]})
    result = select(made, tolerance=0)
    points = {"x": (1, 1, 4), "y": (1, 3, 3), "z": (2, 0.5, 0.5)}
    whole = inclusion_exclusion(list(points.values()), (0, 0, 0))
    for name in points:
        without = inclusion_exclusion([p for n, p in points.items() if n != name], (0, 0, 0))
        assert result.row(name).hypervolume_contribution == pytest.approx(whole - without)
    assert result.row("x").smallest_points == result.row("y").smallest_points == 1
    assert result.candidate is not None
    assert result.candidate.variant == "y"
    assert result.hypervolume == pytest.approx(whole)


def test_a_tie_above_the_baseline_is_settled_at_the_baseline_whatever_the_tolerance() -> None:
    # against (0, 0, 0): x adds 9 - 4 = 5, y adds 10 - 4 = 6; against the corner (-10, -10, -10) x would add more
    made = table({"baseline": [[20, 20, 20]], "x": [[21, 21, 29]], "y": [[21, 22.5, 24]]})
    chosen = select(made, tolerance=10).candidate
    assert chosen is not None
    assert chosen.variant == "y"


def test_tie_below_the_baseline_goes_to_the_corner_of_the_tolerance_and_then_to_the_name() -> None:
    made = table({"baseline": [[10, 10, 10]], "x": [[9.5, 11, 11]], "y": [[9.5, 12, 12]], "w": [[9.5, 12, 12]]})
    result = select(made, tolerance=1)
    # y and w are equal, so neither contributes; x is dominated: the name decides, and the tie is told
    assert "w and y, equal to the last item, lead 3 candidates" in result.sentence
    assert result.candidate is not None
    assert result.candidate.variant == "w"
    apart = table({"baseline": [[10, 10, 10]], "x": [[9.5, 11, 12]], "y": [[9.5, 14, 11]]})
    chosen = select(apart, tolerance=1).candidate
    assert chosen is not None
    assert chosen.variant == "y"  # adds 0.5 * 3 * 2 at the corner, x adds 0.5 * 2 * 1


def test_admissible_to_the_last_digit() -> None:
    made = table({"baseline": [[8.68, 10, 10]], "edge": [[7.68, 11, 11]], "over": [[7.67, 20, 20]]})
    assert 0.7 - 0.4 < 0.3  # a tolerance that came out of a subtraction
    assert select(table({"baseline": [[0.8, 1, 1]], "x": [[0.5, 1, 1]]}), tolerance=0.7 - 0.4).row("x").admissible
    result = select(made, tolerance=1)
    assert result.row("edge").admissible
    assert not result.row("over").admissible
    assert result.candidate is not None
    assert result.candidate.variant == "edge"


def test_controls_and_untrained_encoders_are_never_candidates() -> None:
    scores: dict[str, list[list[float]]] = {
        "baseline": [[10, 10, 10]],
        "random_init": [[30, 30, 30]],
        "u": [[20, 20, 20]],
        "x": [[10.5, 10, 10]],
    }
    result = select(table(scores, flags={"u": UNTRAINED}), tolerance=1)
    assert result.front == ("random_init",)
    assert result.candidate is not None
    assert result.candidate.variant == "x"
    assert result.hypervolume == 0
    assert result.above_random_init == {"a": -20, "b": -20, "c": -20}
    assert any("not above the untrained encoder on a, b, c" in note for note in result.notes)
    alone = select(table({"baseline": [[10, 10, 10]], "random_init": [[1, 1, 1]]}), tolerance=1)
    assert alone.candidate is None
    assert "no complete trained variant" in alone.sentence


def test_baseline_errors() -> None:
    with pytest.raises(SelectionError, match="no 'baseline'"):
        select(table({"x": [[1, 2, 3]]}), tolerance=1)
    with pytest.raises(SelectionError, match="no score on c"):
        select(table({"baseline": [[1, 2, None]], "x": [[1, 2, 3]]}), tolerance=1)
    assert select(table({"x": [[1, 2, 3]]}), tolerance=1, baseline="x").candidate is None


def test_notes_name_seeds_that_differ_and_what_is_left_out() -> None:
    made = table({"baseline": [[1, 2, 3], [1, 3, None]], "x": [[2, 3, None]], "y": [[2, 3, 4], [2, 3, 4]]})
    notes = " ".join(select(made, tolerance=1).notes)
    assert "a: 0, 1; b: 0, 1; c: 0" in notes
    assert "x is left out: no score on c." in notes
    assert "no untrained control" in notes


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_benchmarks(count: int) -> None:
    names = [f"b{i}" for i in range(count)]
    made = table({"baseline": [[10.0] * count], "x": [[12.0] * count], "y": [[11.0] * count]}, names)
    result = select(made, tolerance=0)
    assert result.front == ("x",)
    assert [row.rank for row in result.rows] == [0, 1, 2]
    assert result.hypervolume == pytest.approx(2.0**count)
    assert result.row("x").hypervolume_contribution == pytest.approx(2.0**count)


@pytest.mark.parametrize("seeds", [{42}, {42, 239}])
def test_the_candidate_of_the_published_mixed_table(seeds: set[int]) -> None:
    result = select(read_csv(published_path(), "mixed").only_seeds("baseline", seeds), tolerance=1.0)
    assert result.candidate is not None
    assert result.candidate.variant == "fwm_hw_ld"
    assert result.candidate.gains["diving48"] == pytest.approx(-0.30)
    # the variants ran seed 239: where the baseline has it, they are compared with that
    assert result.candidate.gains["ssv2"] == pytest.approx(11.6 - (6.62 if 239 in seeds else 8.39))
    assert result.candidate.luck is None
    assert result.candidate.smallest_gain is None
    assert not result.candidate.better
    assert result.sentence.startswith("fwm_hw_ld leads 15 candidates (one seed each)")
    assert result.sentence.endswith("Not confirmed.")
    assert set(result.front) == {"baseline", "fwm_hw_ld", "ld", "hw", "ac_hw"}
    assert result.hypervolume == 0  # nothing beats the baseline on all three
    assert [row.variant for row in result.rows if row.admissible] == ["baseline", "fwm_hw_ld"]
    assert result.incomplete == {"motion_guided": ("diving48",)}
    assert "dead_loss" in " ".join(result.notes)


def test_without_repeats_nothing_is_measured_in_floors_and_nothing_may_be_lost() -> None:
    result = select(read_csv(published_path(), "mixed"))
    assert result.candidate is None
    assert result.tolerance == {"diving48": 0, "ssv2": 0, "imagenet100": 0}
    assert all(row.smallest_gain is None for row in result.rows)
    assert "diving48 0, ssv2 1, imagenet100 1 degrees of freedom, 3 are needed" in " ".join(result.notes)


SPREADS = {"baseline": [[10, 10, 10], [14, 12, 12], [10, 10, 10], [14, 12, 12]]}


def test_gains_are_scaled_by_the_noise_floor_and_taken_seed_by_seed() -> None:
    # Mixes have seed 0, and are compared with the baseline's seed 0 (10), not with its mean.
    result = select(table({**SPREADS, "x": [[16, 13, 13]], "y": [[15, 14, 14]]}))
    wide = widening(3)
    floors = {"a": wide * (16 / 3) ** 0.5, "b": wide * (4 / 3) ** 0.5, "c": wide * (4 / 3) ** 0.5}
    assert result.noise_floor == pytest.approx(floors)
    assert result.scaled_by == pytest.approx(floors)
    assert result.tolerance == result.noise_floor
    assert result.row("x").gains == {"a": 6, "b": 3, "c": 3}
    assert result.row("x").smallest_gain == pytest.approx(min(6 / floors["a"], 3 / floors["b"]))
    assert result.row("y").smallest_gain == pytest.approx(5 / floors["a"])
    assert result.candidate is not None
    assert result.candidate.variant == "x"  # in points y has the larger smallest gain
    assert result.freedom == {"a": 3, "b": 3, "c": 3}
    assert "3 degrees of freedom" in " ".join(result.notes)


def test_a_mix_that_equals_the_baseline_of_its_own_seed_gains_nothing() -> None:
    result = select(table({"baseline": [[60, 60, 60], [30, 30, 30]], "same": [[60, 60, 60]]}), tolerance=1)
    assert result.row("same").gains == {"a": 0, "b": 0, "c": 0}
    assert result.candidate is None
    assert result.sentence == "No candidate: no variant improves on baseline on any benchmark."


def test_a_constant_baseline_gives_a_zero_tolerance_and_no_scale() -> None:
    result = select(table({"baseline": [[10, 10, 10]] * 4, "x": [[10, 10, 11]], "y": [[9.99, 20, 20]]}))
    assert result.tolerance == {"a": 0, "b": 0, "c": 0}
    assert result.scaled_by is None
    assert result.candidate is not None
    assert result.candidate.variant == "x"
    assert result.candidate.luck is None


@pytest.mark.parametrize("rows", [[[9.5, 10, 9.8]], [[10, 10, 10]]])
def test_what_is_no_better_anywhere_is_no_candidate(rows: list[list[float]]) -> None:
    result = select(table({"baseline": [[10, 10, 10]], "x": rows}), tolerance=1)
    assert result.candidate is None
    assert "no variant improves on baseline" in result.sentence


def test_nothing_admissible_is_said_and_the_baseline_stays_on_the_front() -> None:
    made = table({"baseline": [[10, 10, 10]], "random_init": [[2, 2, 2]], "x": [[20, 20, 5]]})
    result = select(made, tolerance=1)
    assert result.candidate is None
    assert "more than the tolerance (a 1.00, b 1.00, c 1.00 points) below baseline" in result.sentence
    assert set(result.front) == {"baseline", "x"}
    assert result.to_dict()["candidate"] is None


def test_tolerance_errors() -> None:
    made = table({"baseline": [[10, 10, 10]], "x": [[9.5, 10, 9.8]]})
    for bad in (-1.0, math.nan, math.inf, {"a": -1.0}):
        with pytest.raises(SelectionError, match="expected points, 0 or more"):
            select(made, tolerance=bad)
    with pytest.raises(SelectionError, match="tolerance names d; benchmarks of the table: a, b, c"):
        select(made, tolerance={"d": 1.0})
    with pytest.raises(SelectionError, match="draws"):
        select(table({**SPREADS, "x": [[1, 2, 3]]}), draws=-1)


def test_to_dict_is_plain_json() -> None:
    result = select(read_csv(published_path(), "mixed"), tolerance=1.0)
    content = result.to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["candidate"]["variant"] == "fwm_hw_ld"
    described = {"candidate", "front", "hypervolume", "hypervolume_reference", "tolerance", "noise_floor", "launched"}
    assert described | {"rows", "incomplete", "notes"} <= set(content)
    assert content["front"] == list(result.front)
    assert content["noise_floor"]["diving48"] is None


@given(st.lists(st.tuples(*[st.integers(0, 40)] * 3), min_size=1, max_size=8), st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_the_candidate_is_the_best_of_the_admissible_by_hand(rows: list[tuple[int, int, int]], allowed: int) -> None:
    scores: dict[str, list[list[float]]] = {f"v{i}": [list(map(float, row))] for i, row in enumerate(rows)}
    result = select(table({"baseline": [[20, 20, 20]], **scores}), tolerance=allowed)
    smallest = {f"v{i}": min(row) - 20 for i, row in enumerate(rows) if max(row) > 20}
    admissible = {name: gain for name, gain in smallest.items() if gain >= -allowed}
    if not admissible:
        assert result.candidate is None
    else:
        assert result.candidate is not None
        assert admissible[result.candidate.variant] == max(admissible.values())
