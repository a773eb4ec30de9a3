"""Warm starts: what a search takes from an earlier study, and that it takes each mix once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from equipoise.platform.analysis.importance import search_importance
from equipoise.platform.errors import StudyError
from equipoise.platform.record.client import TrackingError
from equipoise.platform.record.home import Home
from equipoise.platform.record.tracking import Tracker
from equipoise.platform.search.proposer import WARMED_ATTRIBUTE, OptunaProposer
from equipoise.platform.search.samplers import WARM_ATTRIBUTE
from equipoise.platform.search.store import SearchStore
from equipoise.platform.search.warm_start import MOST_STARTS, Earlier, EarlierMix, earlier_mixes
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.parts import Part, metric_of
from equipoise.platform.settings.search import POPULATION
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.settings.variant import ObjectiveSetting, Variant, load_variant
from equipoise.platform.study.run import sweep

BENCHMARKS = ("mini_dive", "mini_ssv2", "mini_in")
R = {"low": 0.1, "high": 2.0}
SPACE: dict[str, Any] = {"hard_region": {**R, "params": {"tau": {"low": 0.5, "high": 2.0}}}, "delta": R}


def definition(**change: Any) -> SweepDefinition:
    data = {"name": "later", "regime": "miniature", "preset": "nano", "trials": 20, "objectives": SPACE}
    return parse(SweepDefinition, {**data, "warm_start": "before", **change}, "test")


def mix(tau: float | None = None, **weights: float) -> Variant:
    params = {"hard_region": {} if tau is None else {"tau": tau}}
    return Variant(
        objectives={name: ObjectiveSetting(weight=w, params=params.get(name, {})) for name, w in weights.items()}
    )


BEFORE: dict[str, tuple[Variant, dict[int, tuple[float, float, float]]]] = {
    "baseline": (load_variant("baseline"), {0: (30, 60, 10)}),
    "hw": (load_variant("hw"), {0: (31, 61, 11), 1: (33, 63, 13)}),
    "mix-003": (mix(tau=0.7, hard_region=0.4, delta=0.5), {0: (35, 58, 10)}),
    "mix-004": (mix(delta=0.2), {0: (20, 50, 5)}),
    "mix-005": (mix(delta=9.0), {0: (50, 70, 20)}),
    "mix-006": (mix(spectral=0.5), {0: (50, 70, 20)}),
}


def record(
    tracker: Tracker,
    trial: Callable[..., TrialSettings],
    name: str = "before",
    mixes: Mapping[str, tuple[Variant, Mapping[int, tuple[float, ...]]]] = BEFORE,
    part: Part = "select",
    **change: Any,
) -> None:
    """A study in MLflow as the engine leaves it, with one trial that failed."""
    parent = tracker.start_study(name, "sweep", {"name": name, "sampler": "tpe"})
    tracker.tag(parent, benchmarks=json.dumps(list(BENCHMARKS)), part=part)
    for place, (variant_name, (variant, seeds)) in enumerate(mixes.items()):
        for seed, values in seeds.items():
            settings = trial(variant_name, variant, seed, **change)
            run = tracker.start_trial(parent, name, f"t{place:04d}", "search", settings, "data0")
            tracker.metrics(run, {metric_of(b, part): v for b, v in zip(BENCHMARKS, values, strict=True)}, 0)
            tracker.end(run, "finished")
    run = tracker.start_trial(parent, name, "t0099", "search", trial("mix-099", mix(delta=1.0), 0, **change), "data0")
    tracker.end(run, "failed", "it broke")
    tracker.end(parent, "finished")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def tracker(home: Home) -> Tracker:
    return home.tracker()


@pytest.fixture(scope="module")
def trial() -> Callable[..., TrialSettings]:
    def make(name: str, variant: Variant, seed: int, **change: Any) -> TrialSettings:
        d = definition(**change)
        return d.trial(name, variant, seed, *d.load())

    return make


@pytest.fixture(scope="module")
def recorded(home: Home, tracker: Tracker, trial: Callable[..., TrialSettings]) -> Home:
    record(tracker, trial)
    return home


def proposer(folder: Path, earlier: Earlier, asked: list[int] | None = None, **change: Any) -> OptunaProposer:
    def ask() -> Earlier:
        (asked if asked is not None else []).append(1)
        return earlier

    store = SearchStore(str(folder / "optuna.journal"))
    return OptunaProposer(definition(**change), BENCHMARKS, store, "parent", earlier=ask)


def example(trial: Callable[..., TrialSettings], **change: Any) -> TrialSettings:
    return trial("baseline", load_variant("baseline"), 0, **change)


# ---- what is taken


def test_what_trained_alike_counts_as_done(recorded: Home, trial: Callable[..., TrialSettings]) -> None:
    found = earlier_mixes(definition(), recorded, example(trial), "data0")
    assert found.differs is None
    assert found.starts == ()
    assert [(m.key, m.name, dict(m.accuracies)) for m in found.done] == [
        ("before/hw", "hw", dict(zip(BENCHMARKS, (32.0, 62.0, 12.0), strict=True))),  # the mean of two seeds
        ("before/mix-003", "before.mix-003", dict(zip(BENCHMARKS, (35.0, 58.0, 10.0), strict=True))),
        ("before/mix-004", "before.mix-004", dict(zip(BENCHMARKS, (20.0, 50.0, 5.0), strict=True))),
    ]
    assert found.done[1].variant == BEFORE["mix-003"][0]
    assert set(found.left_out) == {"mix-005", "mix-006"}
    assert found.left_out["mix-006"] == "uses spectral, which the search space does not name"
    assert found.sentence == ("warm start from before: 3 of its mixes count as done; 2 do not lie in this space")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"set": ["optimisation.steps=77"]}, "its preset is nano with other values"),
        ({"preset": "small"}, "its preset is nano"),
        ({"reading": "as_published"}, "its reading is as_described"),
        ({"manifest": "data1"}, "its data was another"),
    ],
)
def test_what_trained_otherwise_only_says_what_to_try_first(
    recorded: Home, trial: Callable[..., TrialSettings], change: dict[str, Any], why: str
) -> None:
    manifest = change.pop("manifest", "data0") if "manifest" in change else "data0"
    d = definition(**change)
    found = earlier_mixes(d, recorded, example(trial, **change), manifest)
    assert found.differs == why
    assert found.done == ()
    # mix-004 is dominated; hw is best on average.
    assert [m.name for m in found.starts] == ["hw", "before.mix-003"]
    assert found.sentence.startswith(f"warm start from before ({why}): tried first are hw, before.mix-003")
    few = earlier_mixes(definition(**change, trials=4), recorded, example(trial, **change), manifest)
    assert [m.name for m in few.starts] == ["hw"]


def test_no_more_than_a_few_are_tried_first(home: Home, tracker: Tracker, trial: Callable[..., TrialSettings]) -> None:
    """All of twelve mixes are on the front: the best on average come first."""
    mixes = {f"mix-{i:03d}": (mix(delta=0.1 + i / 10), {0: (20.0 + i, 60.0 - 2 * i, 10.0)}) for i in range(12)}
    record(tracker, trial, "many", mixes)
    change: dict[str, Any] = {"set": ["optimisation.steps=77"], "trials": 100, "warm_start": "many"}
    found = earlier_mixes(definition(**change), home, example(trial, **change), "data0")
    assert len(found.starts) == MOST_STARTS
    by_place = [int(m.name[-3:]) for m in found.starts]
    assert by_place == sorted(by_place), "both benchmarks weigh the same once scaled: all tie, and the order is kept"


def test_a_study_that_was_scored_on_the_test_part_teaches_no_search(
    home: Home, tracker: Tracker, trial: Callable[..., TrialSettings]
) -> None:
    record(tracker, trial, name="tested", part="test")
    with pytest.raises(StudyError, match=r"'tested' was scored on the test part, which a search must not learn from"):
        earlier_mixes(definition(warm_start="tested"), home, example(trial))


def test_nothing_to_take_is_said_before_anything_starts(
    recorded: Home, home: Home, trial: Callable[..., TrialSettings]
) -> None:
    with pytest.raises(TrackingError, match="no study 'bfeore'"):
        sweep(definition(warm_start="bfeore"), home)
    other = definition(objectives={"kinematic_huber": {"low": 0.01, "high": 0.3}})
    with pytest.raises(
        StudyError, match="warm_start: study 'before' has no finished mix that lies in the search space of"
    ):
        sweep(other, home)
    assert not home.folder("later").exists()


# ---- how it enters the search


def made_up(count: int) -> Earlier:
    done = [
        EarlierMix(f"before/m{i}", f"before.m{i}", mix(tau=1.0, hard_region=0.2 + i / 100, delta=0.3),
                   dict.fromkeys(BENCHMARKS, 10.0 + i))
        for i in range(count)
    ]  # fmt: skip
    return Earlier("before", done=tuple(done))


def test_earlier_trials_are_marked_and_are_not_this_study_s(tmp_path: Path) -> None:
    p = proposer(tmp_path, made_up(3), start=["hw"])
    warm = [t for t in p.study.trials if WARM_ATTRIBUTE in t.user_attrs]
    assert [t.user_attrs[WARM_ATTRIBUTE] for t in warm] == ["before/m0", "before/m1", "before/m2"]
    assert [t.state for t in warm] == [TrialState.COMPLETE] * 3
    assert warm[2].values == [12.0] * 3
    assert warm[0].params == {"hard_region": 0.2, "delta": 0.3, "hard_region.tau": 1.0}
    assert p.definition.variant(warm[1].params).objectives == made_up(3).done[1].variant.objectives
    asked = [p.ask(i) for i in range(2)]
    assert [a.name for a in asked] == ["hw", "mix-004"], "the search's own trials, starting points first"
    assert list(p.running()) == [3, 4]


def test_a_driver_killed_in_between_adds_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies after every single write in turn; the driver after it ends with each mix once and draws the same."""
    expected = proposer(tmp_path / "whole", made_up(4))
    keys = [t.user_attrs[WARM_ATTRIBUTE] for t in expected.study.trials]
    assert len(keys) == 4
    add = optuna.Study.add_trial
    for survived in range(5):
        count = 0

        def dies(self: optuna.Study, one: optuna.trial.FrozenTrial, after: int = survived) -> None:
            nonlocal count
            if count == after:
                raise KeyboardInterrupt
            count += 1
            add(self, one)

        folder = tmp_path / str(survived)
        with monkeypatch.context() as patched:
            patched.setattr(optuna.Study, "add_trial", dies)
            if survived < 4:
                with pytest.raises(KeyboardInterrupt):
                    proposer(folder, made_up(4))
            else:
                proposer(folder, made_up(4))
        again = proposer(folder, made_up(4))
        assert [t.user_attrs[WARM_ATTRIBUTE] for t in again.study.trials] == keys
        assert again.ask(0) == proposer(tmp_path / f"{survived}b", made_up(4)).ask(0)


def test_the_record_is_read_once(tmp_path: Path) -> None:
    """What the earlier study finds after that does not change a search that has begun."""
    asked: list[int] = []
    proposer(tmp_path, made_up(2), asked)
    again = proposer(tmp_path, made_up(5), asked)
    assert len(asked) == 1
    assert len(again.study.trials) == 2
    assert again.study.user_attrs[WARMED_ATTRIBUTE] is True
    store = SearchStore(str(tmp_path / "optuna.journal"))
    assert len(OptunaProposer(definition(), BENCHMARKS, store, "parent").study.trials) == 2
    with pytest.raises(StudyError, match="the warm start of 'later' needs the record of the earlier study"):
        OptunaProposer(definition(), BENCHMARKS, SearchStore(str(tmp_path / "other.journal")), "parent")


def test_what_is_tried_first_runs_as_a_trial_of_this_study(tmp_path: Path) -> None:
    starts = tuple(
        EarlierMix(f"before/{n}", n if n == "hw" else f"before.{n}", v, {}) for n, v in
        (("hw", load_variant("hw")), ("mix-003", mix(tau=0.7, hard_region=0.4, delta=0.5)))
    )  # fmt: skip
    p = proposer(tmp_path, Earlier("before", starts=starts, differs="its preset is small"), start=["delta", "hw"])
    proposer(tmp_path, Earlier("before", starts=starts, differs="its preset is small"), start=["delta", "hw"])
    asked = [p.ask(i) for i in range(4)]
    assert [a.name for a in asked] == ["hw", "before.mix-003", "delta", "baseline"]  # drawn: nothing on
    assert not asked[3].variant.objectives
    assert asked[0].variant.objectives["hard_region"].params == {"tau": 1.0}
    assert asked[1].variant.objectives == starts[1].variant.objectives
    assert not any(WARM_ATTRIBUTE in t.user_attrs for t in p.study.trials)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_samplers_learn_from_the_earlier_trials(tmp_path: Path, sampler: str) -> None:
    """The earlier study says that a heavy delta is good: the first draws of the later one lean there."""
    count = 60 if sampler == "tpe" else POPULATION
    earlier = Earlier("before", done=tuple(
        EarlierMix(f"before/{i}", f"b{i}", mix(delta=0.1 * 20 ** ((i + 1) / count)),
                   dict.fromkeys(BENCHMARKS, float(i)))
        for i in range(count)
    ))  # fmt: skip
    objectives = {name: {**R, "off_probability": 0.0 if name == "delta" else 0.5} for name in ("delta", "spectral")}
    p = proposer(tmp_path, earlier, sampler=sampler, objectives=objectives, trials=60)
    drawn = [p.ask(i).variant.objectives["delta"].weight for i in range(10)]
    assert sum(w > 0.45 for w in drawn) > 5, "of random draws, one half"


def test_importance_counts_this_study_s_own_trials(tmp_path: Path) -> None:
    p = proposer(tmp_path, made_up(30), sampler="random")
    for i in range(12):
        asked = p.ask(i)
        delta = asked.variant.objectives["delta"].weight if "delta" in asked.variant.objectives else 0.0
        assert asked.optuna_number is not None
        p.tell(asked.optuna_number, dict.fromkeys(BENCHMARKS, 10 * delta))
    assert {one.trials for one in search_importance(p.study, BENCHMARKS, shuffles=0)} == {12}
