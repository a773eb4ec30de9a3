"""Early stopping on several benchmarks: who goes on from a rung, in whatever order trials come to it."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import TrialScheduler

from equipoise.platform.errors import SettingsError
from equipoise.platform.record.ledger import TrialRow, means
from equipoise.platform.search.early_stopping import goes_on, ordered
from equipoise.platform.search.repeats import next_repeat
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.search import EarlyStopping, SeedFidelity
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.stats.collapse import Health
from equipoise.platform.study.ray_tune import MultiObjectiveHalving


def dominated_counts(points: np.ndarray[Any, Any]) -> list[int]:
    """Front number by definition: take away what nothing dominates, again and again."""
    left, level, found = set(range(len(points))), 0, [0] * len(points)

    def beats(i: int, j: int) -> bool:
        return all(points[i] >= points[j]) and any(points[i] > points[j])

    while left:
        front = {j for j in left if not any(beats(i, j) for i in left)}
        for j in front:
            found[j] = level
        left -= front
        level += 1
    return found


@pytest.mark.parametrize("tie_break", ["epsilon_net", "hypervolume"])
@pytest.mark.parametrize("benchmarks", [1, 2, 3])
def test_fronts_come_one_after_the_other(tie_break: Any, benchmarks: int) -> None:
    points = np.random.default_rng(benchmarks).integers(0, 6, (25, benchmarks)).astype(float)
    order = ordered(points, tie_break)
    assert sorted(order) == list(range(25))
    levels = dominated_counts(points)
    assert [levels[i] for i in order] == sorted(levels)


def test_within_a_front_the_net_takes_the_balanced_one_and_then_the_farthest() -> None:
    points = [(0, 10), (1, 9), (5, 6), (9, 1), (10, 0)]
    order = ordered(points)
    assert order[0] == 2  # its smaller scaled score is the largest: 0.5
    scaled = np.array(points) / 10
    for taken in range(1, 5):
        rest = [i for i in range(5) if i not in order[:taken]]
        gaps = {i: min(math.dist(scaled[i], scaled[j]) for j in order[:taken]) for i in rest}
        assert gaps[order[taken]] == pytest.approx(max(gaps.values()))


def test_the_balanced_one_is_that_whose_smallest_score_is_largest() -> None:
    """Not that with the largest mean: the corner of three has it."""
    points = [(10, 0, 10), (0, 10, 1), (4, 4, 4), (1, 3, 0)]
    assert int(np.argmax(np.mean(points, axis=1))) != ordered(points)[0]
    assert ordered(points)[0] == 2


def test_within_a_front_contributions_decide_where_asked() -> None:
    """Boxes above (-1, -1) in tenths of the span 10: what each alone covers is counted cell by cell."""
    points = np.array([(0, 10), (2, 9), (6, 6), (7, 5), (10, 0)])
    cells = np.array(list(itertools.product(np.arange(-1, 10), repeat=2))) + 0.5
    covers = np.asarray((points[:, None] >= cells[None]).all(-1))
    alone = [int((covers[i] & (covers.sum(0) == 1)).sum()) for i in range(5)]
    order = ordered(points, "hypervolume")
    assert [alone[i] for i in order] == sorted(alone, reverse=True)
    assert len(set(alone)) == 5


def test_scale_and_shift_of_a_benchmark_change_nothing() -> None:
    points = np.random.default_rng(0).random((12, 3))
    for tie in ("epsilon_net", "hypervolume"):
        assert ordered(points, tie) == ordered(points * [1, 100, 0.01] + [5, -3, 70], tie)


def test_one_in_three_goes_on() -> None:
    setting = EarlyStopping(reduction_factor=3, warmup=2)
    scores = {n: (float(n), float(n)) for n in range(9)}
    stays = [n for n in scores if goes_on(scores, n, setting)]
    assert stays == [6, 7, 8]
    # A part of a trial is a whole one.
    scores[9] = (-1.0, -1.0)
    assert [n for n in scores if goes_on(scores, n, setting)] == [5, 6, 7, 8]


def test_nobody_is_stopped_before_enough_have_come() -> None:
    setting = EarlyStopping(warmup=5)
    scores = {n: (-float(n),) for n in range(4)}
    assert all(goes_on(scores, n, setting) for n in scores)
    scores[4] = (-4.0,)
    assert not goes_on(scores, 4, setting)


def test_a_decision_does_not_depend_on_the_order_of_the_book() -> None:
    setting = EarlyStopping(warmup=2)
    scores = {n: tuple(np.random.default_rng(n).random(3)) for n in range(10)}
    turned = dict(reversed(scores.items()))
    assert [goes_on(scores, n, setting) for n in range(10)] == [goes_on(turned, n, setting) for n in range(10)]


@pytest.mark.parametrize("tie_break", ["epsilon_net", "hypervolume"])
def test_a_decision_is_a_place_in_the_whole_order(tie_break: Any) -> None:
    for seed in range(20):
        drawn = np.random.default_rng(seed).integers(0, 5, (11, 3)).astype(float)
        scores = {2 * n: tuple(point) for n, point in enumerate(drawn)}
        for factor in (2.0, 3.0, 4.5):
            setting = EarlyStopping(reduction_factor=factor, tie_break=tie_break)
            best = ordered(drawn, tie_break)[: math.ceil(11 / factor)]
            assert {n // 2 for n in scores if goes_on(scores, n, setting)} == set(best)


def test_every_corner_of_the_front_is_kept_before_the_middle_is_crowded() -> None:
    """Best on one benchmark alone is no reason to stop: three specialists and a crowd close to one of them."""
    scores = {1: (10.0, 0.0, 0.0), 2: (0.0, 10.0, 0.0), 3: (0.0, 0.0, 10.0)}
    scores |= {n: (9.9 - n / 100, 0.01 * n, 0.001 * n) for n in range(4, 13)}
    stays = {n for n in scores if goes_on(scores, n, EarlyStopping(reduction_factor=3))}
    assert {2, 3} < stays
    assert len(stays) == 4


def test_rungs_are_a_factor_apart() -> None:
    assert EarlyStopping().steps(1200) == (400,)
    assert EarlyStopping(rungs=2).steps(1200) == (133, 400)
    assert EarlyStopping(rungs=3, reduction_factor=2).steps(1200) == (150, 300, 600)
    with pytest.raises(SettingsError, match="early_stopping has 3 rungs a factor 3 apart, which a training of 6 steps"):
        EarlyStopping(rungs=3).steps(6)


def test_settings_are_checked() -> None:
    content = {"name": "s", "regime": "miniature", "preset": "nano", "trials": 4, "start": ["hw"]}
    content |= {"objectives": {"hard_region": {"low": 0.1, "high": 2.0}}}
    assert parse(SweepDefinition, content, "s").early_stopping is None
    more = content | {"early_stopping": {"rungs": 3, "items": 50}, "seeds": {"most": 2}}
    found = parse(SweepDefinition, more, "s")
    assert found.early_stopping is not None
    assert (found.early_stopping.rungs, found.early_stopping.items, found.seeds) == (3, 50, SeedFidelity(most=2))
    with pytest.raises(SettingsError, match=r"unknown key 'early_stopping\.factor'"):
        parse(SweepDefinition, content | {"early_stopping": {"factor": 3}}, "s")
    with pytest.raises(SettingsError, match="reduction_factor is 1"):
        parse(SweepDefinition, content | {"early_stopping": {"reduction_factor": 1}}, "s")


class Trial:
    def __init__(self, number: int) -> None:
        self.config = {"number": number}


def test_the_scheduler_passes_rungs_and_health_on_and_nothing_else() -> None:
    heard: list[tuple[int, int, dict[str, float], float]] = []
    seen: list[tuple[int, int, Health, int]] = []

    def judge(config: Any, step: int, scores: Any, seconds: float) -> bool:
        heard.append((config["number"], step, scores, seconds))
        return bool(scores["dive"] > 1)

    def watch(config: Any, step: int, health: Health, steps: int) -> bool:
        seen.append((config["number"], step, health, steps))
        return health.rank > 4

    scheduler = MultiObjectiveHalving(judge, watch)
    rung = {"phase": "rung", "step": 12, "seconds": 0.5, "scores/ssv2": 2.0, "training_iteration": 3}
    assert (
        scheduler.on_trial_result(None, Trial(4), {"phase": "pretrain", "metrics/step": 12}) == TrialScheduler.CONTINUE
    )
    assert not heard
    assert scheduler.on_trial_result(None, Trial(4), {**rung, "scores/dive": 1.5}) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, Trial(5), {**rung, "scores/dive": 0.5}) == TrialScheduler.STOP
    assert heard == [(4, 12, {"ssv2": 2.0, "dive": 1.5}, 0.5), (5, 12, {"ssv2": 2.0, "dive": 0.5}, 0.5)]
    assert not seen
    told = {"phase": "pretrain", "total": 100, "metrics/step": 20.0, "metrics/target_std": 0.5}
    assert scheduler.on_trial_result(None, Trial(6), {**told, "metrics/effective_rank": 5.0}) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, Trial(6), {**told, "metrics/effective_rank": 3.0}) == TrialScheduler.STOP
    assert seen == [(6, 20, Health(5.0, 0.5), 100), (6, 20, Health(3.0, 0.5), 100)]
    assert len(heard) == 2
    assert "2 trials stopped early" in scheduler.debug_string()


def row(number: int, name: str, values: tuple[float, float] | None, role: str = "search", **more: Any) -> TrialRow:
    accuracies = None if values is None else {"accuracies": dict(zip(("a", "b"), values, strict=True))}
    content: dict[str, Any] = {"status": "running" if values is None else "finished", "seed": 0, **more}
    settings = json.dumps({"seed": content["seed"]})
    return TrialRow(number, name, role, content["status"], settings, None, None, None, 1, accuracies, {}, None, None)


BOOK = [
    row(1, "baseline", (5, 5), "control"),
    row(2, "mix-000", (9, 3)),
    row(3, "mix-001", (4, 4)),
    row(4, "mix-002", (3, 9)),
    row(5, "mix-003", (1, 1), status="stopped"),
]


def test_a_variant_on_the_front_earns_a_seed() -> None:
    setting = SeedFidelity(most=3, share=0.5)
    found = next_repeat(BOOK, ("a", "b"), setting)
    assert found is not None
    assert (found[0].name, found[1]) == ("mix-000", 1)
    # It waits for its result, and the other one on the front is next.
    book = [*BOOK, row(6, "mix-000", None, "repeat", seed=1)]
    found = next_repeat(book, ("a", "b"), setting)
    assert found is not None
    assert (found[0].name, found[1]) == ("mix-002", 1)


def test_a_mix_earns_its_seeds_by_the_first_one_and_controls_earn_nothing() -> None:
    """Were they earned by the mean so far, those that go on would be the ones that were lucky once more."""
    setting = SeedFidelity(most=3, share=0.9)
    book = [*BOOK, row(6, "mix-000", (0, 0), "repeat", seed=1), row(7, "mix-002", (3, 9), "repeat", seed=1)]
    assert means(book, ("a", "b"))["mix-000"] == [4.5, 1.5]
    found = next_repeat(book, ("a", "b"), setting)
    assert found is not None
    assert (found[0].name, found[1]) == ("mix-000", 2)  # though its mean is below the baseline's
    book += [row(8, "mix-000", (3, 9), "repeat", seed=2), row(9, "mix-002", (3, 9), "repeat", seed=2)]
    assert next_repeat(book, ("a", "b"), setting) is None


def test_repeats_are_a_share_of_the_trials_at_most() -> None:
    assert next_repeat(BOOK, ("a", "b"), SeedFidelity(share=0.21)) is not None  # one in five
    assert next_repeat(BOOK, ("a", "b"), SeedFidelity(share=0.19)) is None
