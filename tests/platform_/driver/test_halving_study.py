"""A search with early stopping in the books, without Ray: drivers that die anywhere, trials that stop, repeats."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from equipoise.platform.errors import StudyError
from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import Ledger, TrialRow
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.search import SeedFidelity
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.study.resume import parent_run
from equipoise.platform.trial.messages import TrialTask

Begin = Callable[..., Any]


def story(rows: list[TrialRow]) -> list[Any]:
    """What a study came to, without who ran it when."""
    return [(r.number, r.name, r.role, r.status, r.settings, r.optuna_number, r.rungs, r.result) for r in rows]


def test_stopped_trials_are_pruned_and_kept_apart(sweep: Begin) -> None:
    s = sweep("a")
    rows = s.finish()
    searched = [r for r in rows if r.role == "search"]
    assert len(searched) == 12
    assert {r.status for r in searched} == {"finished", "stopped"}
    assert (rows[0].status, rows[0].rungs) == ("finished", {})  # the control was not looked at
    hw = next(r for r in rows if r.name == "hw")
    assert (hw.status, list(hw.rungs)) == ("finished", [2, 3])
    told = {t.number: t for t in s.optuna()}
    for row in searched:
        assert row.optuna_number is not None
        trial = told.pop(row.optuna_number)
        assert trial.user_attrs["equipoise.rungs"] == {str(k): v for k, v in row.rungs.items()}
        if row.status == "stopped":
            assert (trial.state, trial.values, row.result, row.error) == (TrialState.PRUNED, None, None, None)
            assert s.runs.status[row.key] == "stopped"
            assert s.runs.tags[row.key]["stopped_at_step"] == str(max(row.rungs))
            names = {name for _, values in s.runs.logged[row.key] for name in values}
            assert {n for n in names if not n.startswith("usage/")} == {f"rung_{b}/select" for b in s.plan.benchmarks}
        else:
            assert trial.state == TrialState.COMPLETE
            assert row.result is not None
            assert trial.values == list(row.result["accuracies"].values())
    assert not told
    assert s.director.remaining() == 0


def test_a_starting_point_is_compared_with_and_never_stopped(sweep: Begin) -> None:
    s = sweep("a", start=["hw", "delta"], trials=2)
    rows = [r for r in s.finish() if r.role == "search"]
    assert [(r.name, r.status, list(r.rungs)) for r in rows] == [
        ("hw", "finished", [2, 3]),
        ("delta", "finished", [2, 3]),
    ]


@pytest.mark.parametrize("when", [0, 0.5, 1, 1.5])
def test_a_driver_that_dies_at_a_rung_changes_nothing(sweep: Begin, when: float) -> None:
    whole = story(sweep("whole").finish())
    cut = sweep("cut")
    died = 0
    for _ in range(40):
        try:
            if cut.trial(die_after=when) is None:
                break
        except cut.Killed:
            died += 1
            cut.begin()
            cut.trial()  # the one that was interrupted, if it was not stopped
    assert died > 2
    assert story(cut.ledger.rows()) == whole
    states = [t.state for t in cut.optuna()]
    assert [TrialState.PRUNED if r[3] == "stopped" else TrialState.COMPLETE for r in whole[1:]] == states
    assert all(cut.runs.status[r.key] == r.status for r in cut.ledger.rows())


POINTS = ("before asking", "asked", "marked", "first weight", "all weights", "booked")
# Before and after TPE has enough trials for its model; the other samplers where it matters for them.
DEATHS = [("tpe", point, after) for point in POINTS for after in (1, 11)]
DEATHS += [(sampler, point, 2) for sampler in ("random", "nsga2") for point in ("asked", "first weight")]


@pytest.fixture(scope="module")
def whole_stories(tmp_path_factory: pytest.TempPathFactory, begin: Begin) -> Callable[[str], list[Any]]:
    """What searches come to whose drivers nobody kills."""

    @functools.cache
    def found(sampler: str) -> list[Any]:
        return story(begin(tmp_path_factory.mktemp(sampler), sampler=sampler, trials=13).finish())

    return found


@pytest.mark.parametrize(("sampler", "point", "after"), DEATHS)
def test_no_suggestion_is_lost_between_asking_and_writing_down(
    sweep: Begin,
    whole_stories: Callable[[str], list[Any]],
    sampler: str,
    point: str,
    after: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut = sweep("cut", sampler=sampler, trials=13, early_stopping=None)
    for _ in range(1 + after):
        cut.trial()
    proposer: Any = cut.bookkeeper.proposer
    storage, weights = proposer._storage, 0

    def die(*words: Any, **named: Any) -> Any:
        raise cut.Killed

    def then_die(call: Callable[..., Any], count: int = 1) -> Callable[..., Any]:
        def called(*words: Any, **named: Any) -> Any:
            nonlocal weights
            found = call(*words, **named)
            weights += 1
            if weights == count:
                raise cut.Killed
            return found

        return called

    if point == "before asking":
        monkeypatch.setattr(proposer, "ask", die)
    elif point == "asked":
        monkeypatch.setattr(storage, "create_new_trial", then_die(storage.create_new_trial))
    elif point == "marked":
        monkeypatch.setattr(storage, "set_trial_user_attr", then_die(storage.set_trial_user_attr))
    elif point in ("first weight", "all weights"):
        monkeypatch.setattr(storage, "set_trial_param", then_die(storage.set_trial_param, 1 + (point == "all weights")))
    else:
        monkeypatch.setattr(cut.bookkeeper, "proposed", die)
    with pytest.raises(cut.Killed):
        cut.trial()
    monkeypatch.undo()
    cut.begin()
    assert not [r for r in cut.ledger.rows() if r.settings is None]
    assert story(cut.finish()) == whole_stories(sampler)
    assert all(t.state == TrialState.COMPLETE for t in cut.optuna())


def test_repeats_take_the_place_of_trials_and_are_no_news_to_optuna(sweep: Begin) -> None:
    s = sweep("a", seeds=SeedFidelity(most=3, share=0.4).model_dump())
    rows = [r for r in s.finish() if r.role != "control"]
    assert len(rows) == 12
    repeats = [r for r in rows if r.role == "repeat"]
    assert 2 <= len(repeats) <= 4
    variants = {r.name: TrialSettings.model_validate_json(r.settings or "").variant for r in rows if r.role == "search"}
    for r in repeats:
        settings = TrialSettings.model_validate_json(r.settings or "")
        assert (settings.variant, settings.variant_name) == (variants[r.name], r.name)
        assert settings.seed in (1, 2)
        assert (r.optuna_number, r.rungs, r.status) == (None, {}, "finished")
    assert len({(r.name, TrialSettings.model_validate_json(r.settings or "").seed) for r in rows}) == 12
    assert len(s.optuna()) == 12 - len(repeats)
    again = sweep("b", seeds=SeedFidelity(most=3, share=0.4).model_dump())
    for _ in range(5):
        again.trial()
    again.begin()
    assert story(again.finish()) == story(s.ledger.rows())


def test_no_trial_repeats_another_to_the_last_digit(sweep: Begin) -> None:
    s = sweep("a", sampler="random", trials=16, early_stopping=None, seeds=SeedFidelity(most=3, share=0.4).model_dump())
    rows = s.finish()
    trained = [TrialSettings.model_validate_json(r.settings or "") for r in rows]
    nothing_on = [t for t in trained if not t.variant.objectives]
    assert [t.seed for t in nothing_on] == list(range(len(nothing_on))), "each has the next seed"
    assert (
        {t.variant_name for t in nothing_on}
        == {"baseline"}
        == {r.name for r in rows} - {t.variant_name for t in trained if t.variant.objectives}
    )
    roles = [r.role for r in rows if r.name == "baseline"]
    assert len(roles) >= 3, "the space has such mixes"
    assert roles == ["control"] + ["search"] * (len(roles) - 1), "whose seeds are not earned"
    assert len({(t.variant.model_dump_json(), t.seed) for t in trained}) == len(trained)


def test_a_rung_that_comes_again_gets_the_answer_it_got(sweep: Begin) -> None:
    s = sweep("a")
    for _ in range(6):
        s.trial()
    row = next(r for r in s.ledger.rows() if r.status == "finished" and r.role == "search")
    better = {n: dict.fromkeys(s.plan.benchmarks, -math.inf) for n in row.rungs}
    assert all(s.director.decide(row.number, n, scores) for n, scores in better.items())
    assert s.ledger[row.number].rungs == row.rungs
    stopped = next(r for r in s.finish() if r.status == "stopped")
    assert not s.director.decide(stopped.number, max(stopped.rungs), dict.fromkeys(s.plan.benchmarks, 100.0))


def test_a_stopped_trial_whose_process_dies_before_its_end_stays_stopped(sweep: Begin) -> None:
    """On Ray Train its workers end themselves, and until they have Tune may start it again."""
    s = sweep("a", resources={"workers": 2})
    task: TrialTask | None = None
    while (task := s.director.suggest("ray")) is not None:
        number = task.number
        s.bookkeeper.started(number)
        settings = task.settings
        steps = task.rungs.steps if task.rungs else ()
        if not all(s.director.decide(number, step, s.scores(settings, step / 6)) for step in steps):
            break
        s.complete(number)
    assert task is not None
    first, number = s.ledger[task.number], task.number
    s.bookkeeper.died(number)
    s.bookkeeper.started(number)
    assert (s.ledger[number].status, s.ledger[number].attempts) == ("stopped", 2)
    assert not any(s.director.decide(number, step, dict.fromkeys(s.plan.benchmarks, 100.0)) for step in first.rungs)
    s.bookkeeper.ended(number, None)
    assert (s.ledger[number].status, s.ledger[number].rungs) == ("stopped", first.rungs)
    assert s.optuna()[first.optuna_number or 0].state == TrialState.PRUNED


def test_a_book_from_before_early_stopping_is_read(tmp_path: Path) -> None:
    import sqlite3

    from equipoise.platform.record import ledger

    old = sqlite3.connect(tmp_path / "ledger.db")
    old.executescript(ledger.SCHEMA.replace("    rungs TEXT,\n    cost TEXT,\n    health TEXT,\n", ""))
    old.execute("INSERT INTO trials (name, role, status, created, updated) VALUES ('hw', 'search', 'finished', 0, 0)")
    old.commit()
    old.close()
    (row,) = Ledger(tmp_path / "ledger.db").rows()
    assert (row.name, row.rungs, row.cost, row.health) == ("hw", {}, None, {})
    found = Ledger(tmp_path / "ledger.db").update(row.number, rungs={7: {"a": 1.0}})
    assert found.rungs == {7: {"a": 1.0}}


def test_early_stopping_may_be_given_up_and_not_changed(tmp_path: Path) -> None:
    content = {"name": "s", "regime": "miniature", "preset": "nano", "trials": 12, "control_seeds": [0]}
    content |= {"objectives": {"delta": {"low": 0.1, "high": 2.0}}}
    ledger, tracker = Ledger(tmp_path / "ledger.db"), Home(tmp_path).tracker()

    def parent(**change: Any) -> str:
        return parent_run(parse(SweepDefinition, content | change, "s"), "sweep", ledger, tracker, (), "select")

    first = parent(early_stopping={"rungs": 2})
    with pytest.raises(StudyError, match=r"was started with early_stopping \{'rungs': 2"):
        parent(early_stopping={})
    assert parent() == first
    assert parent() == first
    with pytest.raises(StudyError, match="was started with early_stopping None"):
        parent(early_stopping={})
    ledger.close()


def test_a_search_goes_on_without_early_stopping(sweep: Begin) -> None:
    s = sweep("a")
    for _ in range(6):
        s.trial()
    s.definition = s.definition.model_copy(update={"early_stopping": None})
    s.begin()
    before = len(s.ledger.rows())
    rows = s.finish()
    assert {(r.status, len(r.rungs)) for r in rows[before:]} == {("finished", 0)}
    assert sum(r.role == "search" for r in rows) == 12
