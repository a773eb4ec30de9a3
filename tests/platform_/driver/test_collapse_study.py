"""Collapses in the books of a search, without Ray: who is stopped, who is told, drivers that die in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import TrialState

from equipoise.platform.record.ledger import TrialRow
from equipoise.platform.settings.search import SeedFidelity
from equipoise.platform.settings.trial import Resources
from equipoise.platform.stats.collapse import Health
from equipoise.platform.trial.messages import Trained, was_called_off

Begin = Callable[..., Any]
STEPS = 60
WELL = Health(30.0, 0.8)
FALLEN = Health(3.1, 0.8)


def train(s: Any, number: int, ranks: dict[int, Health]) -> int | None:
    """Report a trial's health as Tune hears of it; the step at which it is stopped."""
    for step, health in ranks.items():
        stays = s.director.watch(number, step, health, STEPS)
        metrics = {"step": step, "loss": 0.5, "effective_rank": health.rank, "target_std": health.spread or 0.0}
        s.bookkeeper.reported(number, Trained(STEPS, metrics))
        if not stays:
            return step
    return None


def curve(health: Health) -> dict[int, Health]:
    return dict.fromkeys(range(10, STEPS + 1, 10), health)


def control(s: Any, health: Health = WELL) -> None:
    """The study's baseline from its start to its end."""
    task = s.director.suggest("ray")
    assert not task.watched
    s.bookkeeper.started(task.number)
    assert train(s, task.number, curve(health)) is None
    s.complete(task.number)


def searched(s: Any) -> int:
    """The next trial of the search, started."""
    task = s.director.suggest("ray")
    assert task.watched
    s.bookkeeper.started(task.number)
    number: int = task.number
    return number


@pytest.mark.parametrize("start", [["hw"], []])
def test_a_trial_that_collapses_is_stopped_and_everyone_hears_why(sweep: Begin, start: list[str]) -> None:
    s = sweep("a", early_stopping=None, start=start)
    control(s)
    number = searched(s)
    assert train(s, number, curve(WELL) | dict.fromkeys(range(20, 61, 10), FALLEN)) == 40
    s.bookkeeper.ended(number, None)
    row: TrialRow = s.ledger[number]
    why = "its features use 3.1 directions at step 40, the baseline's 30 there"
    assert (row.status, row.error, row.stopped_at, row.result) == ("stopped", why, 40, None)
    assert s.optuna()[row.optuna_number or 0].state == TrialState.PRUNED
    assert s.runs.status[row.key] == "stopped"
    assert s.runs.tags[row.key] == {"stopped_at_step": "40", "stopped_because": why}
    assert s.director.display.lines[row.key].note == why
    assert (s.trial().status, len(s.optuna())) == ("finished", 2), "the search goes on"


def test_nothing_is_stopped_before_the_baseline_has_finished(sweep: Begin) -> None:
    s = sweep("a", early_stopping=None)
    first = s.director.suggest("ray")
    s.bookkeeper.started(first.number)
    assert train(s, first.number, curve(WELL)) is None
    assert train(s, searched(s), curve(FALLEN)) is None
    s.complete(first.number)
    assert train(s, searched(s), curve(FALLEN)) == 40


def test_controls_and_repeats_train_to_their_end(sweep: Begin) -> None:
    s = sweep("a", early_stopping=None, seeds=SeedFidelity(most=3, share=0.5).model_dump())
    s.ledger.open_trial("baseline", "control", s.make_trial(seed=1).model_dump_json())
    control(s)
    control(s, FALLEN)
    rows = [s.trial() for _ in range(3)]
    while rows[-1].role != "repeat":
        task = s.director.suggest("ray")
        s.bookkeeper.started(task.number)
        rows.append(s.ledger[task.number])
        assert task.watched is (rows[-1].role == "search")
        if rows[-1].role == "search":
            s.complete(task.number)
    number = rows[-1].number
    assert train(s, number, curve(Health(1.5, 0.1))) is None
    s.complete(number)
    assert s.ledger[number].status == "finished"


def test_a_list_of_trials_is_not_watched(sweep: Begin) -> None:
    s = sweep("a", early_stopping=None)
    control(s)
    number = searched(s)
    s.director.plan = s.director.plan.__class__(**{**vars(s.plan), "search": None})
    assert train(s, number, curve(FALLEN)) is None
    assert s.ledger[number].health == {}


@pytest.mark.parametrize("at", [20, 30, 40])
def test_a_driver_that_dies_decides_as_one_that_lives(sweep: Begin, at: int) -> None:
    """The trial goes on from a checkpoint of an earlier step, and reports some steps once more."""
    s = sweep("a", early_stopping=None)
    control(s)
    number = searched(s)
    reports = curve(WELL) | dict.fromkeys(range(30, 61, 10), FALLEN)
    train(s, number, {step: health for step, health in reports.items() if step <= at})
    s.begin()
    assert searched(s) == number
    assert train(s, number, {step: health for step, health in reports.items() if step >= at - 10}) == 50
    s.bookkeeper.ended(number, None)
    row: TrialRow = s.ledger[number]
    assert (row.status, row.stopped_at) == ("stopped", 50)
    assert [t.state for t in s.optuna()] == [TrialState.PRUNED]


def test_the_driver_died_between_the_book_and_the_rest(sweep: Begin) -> None:
    s = sweep("a", early_stopping=None)
    control(s)
    number = searched(s)
    for step in (20, 30, 40):
        stays = s.director.watch(number, step, FALLEN, STEPS)
    assert not stays
    s.begin()
    row: TrialRow = s.ledger[number]
    assert row.status == "stopped"
    assert s.optuna()[row.optuna_number or 0].state == TrialState.PRUNED
    assert searched(s) != number


def test_a_stopped_trial_stays_stopped_at_a_rung(sweep: Begin) -> None:
    s = sweep("a")
    control(s)
    number = searched(s)
    train(s, number, dict.fromkeys((20, 30, 40), FALLEN))
    assert not s.director.decide(number, 3, dict.fromkeys(s.plan.benchmarks, 100.0))
    assert s.ledger[number].rungs == {}


def test_workers_of_ray_train_are_told_to_end(sweep: Begin) -> None:
    s = sweep("a", early_stopping=None, resources=Resources(workers=2, cpus_per_worker=1).model_dump())
    control(s)
    number = searched(s)
    folder = s.plan.trials / s.ledger[number].key
    assert train(s, number, dict.fromkeys((20, 30), FALLEN)) is None
    assert not was_called_off(folder)
    assert train(s, number, {40: FALLEN}) == 40
    assert was_called_off(folder)
    # They hear of it at their next report, which is of a trial that is stopped already.
    assert train(s, number, {50: WELL}) == 50
    s.bookkeeper.ended(number, None)
    row: TrialRow = s.ledger[number]
    assert (row.status, row.stopped_at, list(row.health)) == ("stopped", 40, [20, 30, 40])
