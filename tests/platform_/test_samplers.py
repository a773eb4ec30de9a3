from __future__ import annotations

import importlib.util
import json
import math
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from equipoise.platform.errors import SettingsError, StudyError
from equipoise.platform.search.proposer import OptunaProposer, Proposal
from equipoise.platform.search.samplers import FEWEST_PASSED, RUNGS_ATTRIBUTE, estimates, make_sampler
from equipoise.platform.search.store import SearchStore
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.search import STARTUP, Sampler
from equipoise.platform.settings.study import SweepDefinition

BENCHMARKS = ("dive", "ssv2")
CONDITIONAL: dict[str, Any] = {
    "hard_region": {
        "low": 0.1,
        "high": 2.0,
        "off_probability": 0.4,
        "params": {"tau": {"low": 0.3, "high": 3.0, "log": True}},
    },
    "latent_dynamics": {
        "low": 0.1,
        "high": 2.0,
        "off_probability": 0.4,
        "params": {"hidden": {"low": 32, "high": 128}},
        "schedule": {"choices": ["constant", "cosine_decay"]},
    },
    "delta": {"low": 0.05, "high": 1.0, "off_probability": 0.4},
}
INSTALLED = {name: importlib.util.find_spec(name) is not None for name in ("optuna_integration", "botorch")}
needs_botorch = pytest.mark.skipif(not all(INSTALLED.values()), reason="pip install 'equipoise[botorch]'")
# Trials that are told before each one's model draws, not the random start; one of seven fails.
TOLD: dict[str, int] = {"tpe": 14, "gp": 12, "random": 3, "qmc": 3, "nsga2": 25, "nsga3": 25, "botorch": 12}
SAMPLERS = [pytest.param(name, marks=needs_botorch if name == "botorch" else ()) for name in TOLD]


def definition(**change: Any) -> SweepDefinition:
    data = {"name": "mine", "regime": "miniature", "preset": "nano", "trials": 60, "seed": 5, "objectives": CONDITIONAL}
    return parse(SweepDefinition, {**data, **change}, "test")


def proposer(
    folder: Path, benchmarks: tuple[str, ...] = BENCHMARKS, baseline: dict[str, float] | None = None, **change: Any
) -> OptunaProposer:
    store = SearchStore(str(folder / "optuna.journal"))
    return OptunaProposer(definition(**change), benchmarks, store, "parent", lambda: baseline)


def weights(p: Proposal) -> dict[str, float]:
    return {name: s.weight for name, s in p.variant.objectives.items()}


def accuracies(p: Proposal) -> dict[str, float]:
    w = weights(p)
    tau = p.variant.objectives["hard_region"].params["tau"] if "hard_region" in w else 1.0
    return {"dive": 10 + w.get("hard_region", 0) - tau, "ssv2": 20 + w.get("delta", 0) - w.get("latent_dynamics", 0)}


def number(p: Proposal) -> int:
    assert p.optuna_number is not None
    return p.optuna_number


def play(p: OptunaProposer, count: int) -> list[Proposal]:
    """Every fifth trial is pruned and every seventh fails, as in a real study."""
    found = []
    for trial in range(count):
        asked = p.ask(trial)
        final = accuracies(asked)
        rungs = {10: {b: v / 2 for b, v in final.items()}}
        if trial % 5 == 4:
            p.prune(number(asked), rungs)
        else:
            p.tell(number(asked), None if trial % 7 == 6 else final, rungs)
        found.append(asked)
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_resumed_search_draws_what_it_would_have_drawn(tmp_path: Path, sampler: Sampler) -> None:
    """With parameters that come and go, pruned and failed trials, a constraint and a trial under way."""
    told = TOLD[sampler]
    options: dict[str, Any] = {
        "sampler": sampler,
        "constraints": {"max_loss": 1.0} if STARTUP[sampler] else None,
        "baseline": {"dive": 9.5, "ssv2": 20.0},
    }
    first = proposer(tmp_path / "a", **options)
    played = play(first, told)
    under_way = first.ask(told)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    again = proposer(tmp_path / "b", **options)
    assert list(again.running()) == [under_way.optuna_number]
    for trial in range(told + 1, told + (2 if sampler in ("gp", "botorch") else 4)):
        expected, drawn = first.ask(trial), again.ask(trial)
        assert drawn == expected
        for p in (first, again):
            p.tell(number(drawn), accuracies(drawn))
    same = play(proposer(tmp_path / "c", **options), 3)
    assert same == played[:3]
    assert play(proposer(tmp_path / "d", **options, seed=6), 3) != same
    drawn_points = {tuple(sorted(t.params.items())) for t in first.study.trials}
    assert len(drawn_points) == len(first.study.trials), "a sampler made afresh each time must not repeat itself"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_conditional_parameters_exist_where_their_objective_is_on(tmp_path: Path, sampler: str) -> None:
    p = proposer(tmp_path, sampler=sampler)
    space = p.definition
    for asked in play(p, TOLD[sampler] + 1):
        params = p.study.trials[number(asked)].params
        on = set(space.on(params))
        assert on == set(asked.variant.objectives)
        owners = {name.split(".")[0] for name in params if "." in name}
        assert owners == on & {"hard_region", "latent_dynamics"}
        if "latent_dynamics" in on:
            setting = asked.variant.objectives["latent_dynamics"]
            assert (setting.schedule, setting.params) == (
                params["latent_dynamics.schedule"],
                {"hidden": params["latent_dynamics.hidden"]},
            )
    seen = p.study.trials
    assert any("hard_region.tau" in t.params for t in seen)
    assert any("hard_region.tau" not in t.params for t in seen)


def test_tpe_does_not_see_where_in_the_off_part_a_weight_was_drawn(tmp_path: Path) -> None:
    """Two searches with the same mixes, off at different places, one of them under way: the same next suggestion."""
    fixed = {name: {"low": 0.1, "high": 2.0, "off_probability": 0.6} for name in ("hard_region", "delta", "spectral")}
    drawn = []
    for place in (0.1, 0.95):
        p = proposer(tmp_path / str(place), objectives=fixed, sampler="tpe")
        distributions = {a.name: a.distribution for a in p.definition.dimensions}
        off = {n: r.floor * (r.low / r.floor) ** place for n, r in p.definition.objectives.items()}
        for k in range(20):
            point = {n: 0.15 + 0.09 * k if (k + j) % 3 else off[n] for j, n in enumerate(fixed)}
            values = [point["delta"], point["hard_region"] - point["spectral"]]
            told: dict[str, Any] = {"values": values}
            if k == 19:  # TPE's own note of what it drew for a trial that runs
                note = {"tpe:relative_params:0": json.dumps(point)}
                told = {"state": TrialState.RUNNING, "system_attrs": note}
            p.study.add_trial(create_trial(params=point, distributions=distributions, **told))
        drawn.append([p.ask(k).variant for k in range(3)])
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(("sampler", "trials"), [("tpe", 26), ("gp", 14), ("nsga2", 85), ("nsga3", 85)])
def test_models_move_towards_what_they_were_told(tmp_path: Path, sampler: str, trials: int) -> None:
    """One benchmark that rewards a heavy delta: the last draws lean there, of random ones fewer than a fifth do."""
    p = proposer(tmp_path, ("only",), sampler=sampler)
    heavy = []
    for trial in range(trials):
        asked = p.ask(trial)
        delta = weights(asked).get("delta", 0.0)
        heavy.append(delta > 0.4)
        p.tell(number(asked), {"only": delta})
    r = p.definition.objectives["delta"]
    by_chance = (1 - r.off_probability) * math.log(r.high / 0.4) / math.log(r.high / r.low)
    assert np.mean(heavy[-trials // 4 :]) > 1.8 * by_chance


def test_quasi_random_points_fill_the_space_more_evenly_than_random_ones(tmp_path: Path) -> None:
    """Points 32 to 63 of the sequence fall one by one into 32 equal strips; random draws leave a third empty."""
    r = {"low": 0.1, "high": 1.0, "off_probability": 0.0}
    filled = {}
    for sampler in ("qmc", "random"):
        p = proposer(tmp_path / sampler, sampler=sampler, objectives={"delta": r, "spectral": r}, trials=80)
        for trial in range(64):
            p.tell(number(p.ask(trial)), {"dive": 1.0, "ssv2": 1.0})
        filled[sampler] = len({int(32 * (np.log10(t.params["delta"]) + 1)) for t in p.study.trials[32:]})
        attributes = p._storage.get_study_system_attrs(p._storage.get_study_id_from_name("mine"))
        assert not any(name.startswith("qmc:") for name in attributes), "the sequence is counted by trials alone"
    assert filled["qmc"] == 32
    assert filled["random"] < 26


class Database(SearchStore):
    """A search in a database, which Optuna reads through a cache of its own."""

    def open(self) -> BaseStorage:
        return RDBStorage(f"sqlite:///{self.name}.db")


def test_a_search_in_a_database_draws_what_one_in_a_journal_draws(tmp_path: Path) -> None:
    """Pruned trials, a constraint and conditional parameters included, with a second driver half way."""
    options: dict[str, Any] = {"constraints": {"max_loss": 1.0}, "trials": 60}
    baseline = {"dive": 9.5, "ssv2": 20.0}
    expected = play(proposer(tmp_path, baseline=baseline, **options), 16)

    def open_one() -> OptunaProposer:
        store = Database(str(tmp_path / "search"))
        return OptunaProposer(definition(**options), BENCHMARKS, store, "parent", lambda: baseline)

    assert play(open_one(), 16) == expected
    again = open_one()
    assert [t.state for t in again.study.trials] == [t.state for t in proposer(tmp_path, **options).study.trials]
    assert again.ask(16) == proposer(tmp_path, baseline=baseline, **options).ask(16)


# ---- trials that were stopped early


def trial_with(
    weight: float, rungs: Mapping[int, Mapping[str, float]], final: list[float] | None, place: int
) -> FrozenTrial:
    made = create_trial(
        state=TrialState.PRUNED if final is None else TrialState.COMPLETE,
        values=final,
        params={"delta": weight},
        distributions={"delta": FloatDistribution(0.01, 1.0, log=True)},
        user_attrs={RUNGS_ATTRIBUTE: {str(k): dict(v) for k, v in rungs.items()}},
    )
    made.number = place
    return made


def test_a_pruned_trial_counts_as_what_it_was_heading_for() -> None:
    """On the line of least squares through those that went on, against numpy's."""
    first = [{"dive": 5, "ssv2": 50}, {"dive": 6, "ssv2": 50}, {"dive": 7, "ssv2": 54}, {"dive": 9, "ssv2": 50}]
    ends = [[9.0, 52.0], [8.0, 60.0], [20.0, 49.0], [18.0, 61.0]]
    more = [{20: {"dive": 8, "ssv2": 51}}, {20: {"dive": 9, "ssv2": 50}}, {}, {}]
    finished = [trial_with(0.1 + 0.1 * k, {10: first[k], **more[k]}, ends[k], k) for k in range(4)]
    assert len(finished) == FEWEST_PASSED
    early = trial_with(0.4, {10: {"dive": 4, "ssv2": 40}}, None, 4)
    late = trial_with(0.4, {10: {"dive": 4, "ssv2": 40}, 20: {"dive": 30, "ssv2": 30}}, None, 5)
    # Step 20 was passed by two only. On ssv2 the line falls, and counts as level: the mean.
    slope, constant = np.polyfit([r["dive"] for r in first], [e[0] for e in ends], 1)
    expected = pytest.approx([constant + 4 * slope, np.mean([e[1] for e in ends])])
    assert estimates([*finished, early, late], BENCHMARKS) == {4: expected, 5: expected}
    assert estimates([*finished[:3], early], BENCHMARKS) == {}
    unknown = trial_with(0.4, {5: {"dive": 4, "ssv2": 40}}, None, 6)
    assert estimates([*finished, unknown], BENCHMARKS) == {}
    flat = [trial_with(0.1, {10: {"dive": 5, "ssv2": 50}}, end, k) for k, end in enumerate(ends)]
    assert estimates([*flat, early], BENCHMARKS) == {4: pytest.approx(np.mean(ends, axis=0).tolist())}


def test_pruned_is_pruned_and_its_rungs_are_no_final_values(tmp_path: Path) -> None:
    p = proposer(tmp_path)
    a, b = p.ask(0), p.ask(1)
    p.prune(number(a), {10: {"dive": 1.0, "ssv2": 2.0, "extra": 3.0}, 20: {"dive": 4.0, "ssv2": 5.0}})
    p.tell(number(b), {"dive": 7.0, "ssv2": 8.0}, {10: {"dive": 6.0, "ssv2": 6.5}})
    # A driver that comes back tells again: nothing changes.
    p.prune(number(a), {10: {"dive": 0.0, "ssv2": 0.0}})
    p.tell(number(a), {"dive": 99.0, "ssv2": 99.0})
    p.prune(number(b), {10: {"dive": 0.0, "ssv2": 0.0}})
    again = proposer(tmp_path).study.trials
    assert (again[0].state, again[0].values) == (TrialState.PRUNED, None)
    assert again[0].user_attrs[RUNGS_ATTRIBUTE] == {"10": {"dive": 1, "ssv2": 2}, "20": {"dive": 4, "ssv2": 5}}
    assert (again[1].state, again[1].values) == (TrialState.COMPLETE, [7.0, 8.0])
    assert again[1].user_attrs[RUNGS_ATTRIBUTE] == {"10": {"dive": 6, "ssv2": 6.5}}
    assert [t.number for t in p.study.best_trials] == [1], "what was stopped early is on no front"
    assert list(p.running()) == []


def test_a_rung_without_a_benchmark_is_refused(tmp_path: Path) -> None:
    p = proposer(tmp_path)
    asked = p.ask(0)
    with pytest.raises(StudyError, match="rung 10 of Optuna trial 0 has no accuracy on ssv2: expected one on each of"):
        p.prune(number(asked), {10: {"dive": 1.0}})
    assert list(p.running()) == [0]


@pytest.mark.parametrize(("sampler", "light", "heavy"), [("tpe", 30, 6), ("gp", 10, 4)])
def test_samplers_learn_from_trials_stopped_early(tmp_path: Path, sampler: str, light: int, heavy: int) -> None:
    """Only pruned trials show that a heavy delta is good; the finished ones all have a light one."""
    drawn = {}
    for told in ("pruned", "failed"):
        p = proposer(
            tmp_path / told,
            sampler=sampler,
            objectives={"delta": {"low": 0.01, "high": 1.0, "off_probability": 0.0}},
            trials=100,
        )
        for trial in range(light + heavy):
            is_light = trial < light
            p.study.enqueue_trial({"delta": 0.01 * 10 ** (trial / light) if is_light else 0.8 + 0.03 * (trial - light)})
            asked = p.ask(trial)
            partial = dict.fromkeys(BENCHMARKS, 10 * weights(asked)["delta"])
            if is_light:
                p.tell(number(asked), {b: v + 5 for b, v in partial.items()}, {10: partial})
            elif told == "pruned":
                p.prune(number(asked), {10: partial})
            else:
                p.tell(number(asked), None)
        drawn[told] = np.median([weights(p.ask(100 + i))["delta"] for i in range(6 if sampler == "tpe" else 3)])
    assert drawn["pruned"] > 0.3
    assert drawn["pruned"] > 1.5 * drawn["failed"]


# ---- constraints


@pytest.mark.parametrize(
    ("sampler", "trials", "axes"), [("tpe", 50, 1), ("nsga2", 90, 4), ("nsga3", 90, 4), ("gp", 14, 2)]
)
def test_a_constraint_keeps_the_search_near_the_baseline(tmp_path: Path, sampler: str, trials: int, axes: int) -> None:
    """A heavy delta lifts one benchmark by little and ruins the other: allowed only below a weight of 0.2."""
    names = ("delta", "spectral", "temporal_contrast", "latent_dynamics")[:axes]
    p = proposer(
        tmp_path,
        ("mini_dive", "mini_ssv2"),
        {"mini_dive": 50.0, "mini_ssv2": 50.0},
        sampler=sampler,
        trials=trials,
        objectives={name: {"low": 0.05, "high": 1.0, "off_probability": 0.0} for name in names},
        constraints={"max_loss": {"mini_dive": 50.0, "mini_ssv2": 1.0}},
    )
    allowed = []
    for trial in range(trials):
        asked = p.ask(trial)
        delta = weights(asked)["delta"]
        allowed.append(5 * delta <= 1.0)
        p.tell(number(asked), {"mini_dive": 50 + delta, "mini_ssv2": 50 - 5 * delta})
    by_chance = math.log(0.2 / 0.05) / math.log(1.0 / 0.05)
    assert np.mean(allowed[-trials // 3 :]) > 0.65 > 1.3 * by_chance


def test_constraints_wait_for_the_baseline_and_follow_it(tmp_path: Path) -> None:
    """Trials that were told before the baseline was known are judged when it is; the record holds no judgement."""
    baseline: dict[str, float] = {}
    store = SearchStore(str(tmp_path / "optuna.journal"))
    limits = {"max_loss": {"mini_ssv2": 2.0}}
    p = OptunaProposer(
        definition(constraints=limits), ("mini_dive", "mini_ssv2"), store, "parent", lambda: baseline or None
    )
    p.tell(number(p.ask(0)), {"mini_dive": 10.0, "mini_ssv2": 20.0})
    p.ask(1)
    assert p._shown.trials[0].constraints == {}
    baseline |= {"mini_dive": 40.0, "mini_ssv2": 23.0}
    p.ask(2)
    assert p._shown.trials[0].constraints == {"mini_ssv2": pytest.approx(1.0)}
    baseline["mini_ssv2"] = 21.0  # a second seed of the control has come in
    p.ask(3)
    assert p._shown.trials[0].constraints == {"mini_ssv2": pytest.approx(-1.0)}
    assert p.study.trials[0].constraints == {}


# ---- by name


def test_samplers_by_name() -> None:
    kinds: dict[Sampler, type[optuna.samplers.BaseSampler]] = {
        "tpe": optuna.samplers.TPESampler,
        "nsga2": optuna.samplers.NSGAIISampler,
        "nsga3": optuna.samplers.NSGAIIISampler,
        "gp": optuna.samplers.GPSampler,
        "random": optuna.samplers.RandomSampler,
        "qmc": optuna.samplers.QMCSampler,
    }
    for name, kind in kinds.items():
        assert isinstance(make_sampler(name, 2**63 - 1), kind)


@pytest.mark.parametrize("absent", ["optuna_integration", "botorch"])
def test_botorch_that_is_not_installed_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    if absent == "botorch" and not INSTALLED["optuna_integration"]:
        pytest.skip("optuna-integration is not installed either: the other case covers this machine")
    for name in [m for m in sys.modules if m.split(".")[0] in ("optuna_integration", "botorch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(SettingsError, match=r"sampler 'botorch' needs BoTorch.*pip install 'equipoise\[botorch\]'.*gp"):
        make_sampler("botorch", 0)
