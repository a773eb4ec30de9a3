from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from equipoise.platform.search.proposer import OptunaProposer, Proposal
from equipoise.platform.search.realign import TRIAL_ATTRIBUTE
from equipoise.platform.search.samplers import make_sampler
from equipoise.platform.search.store import SearchStore
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.settings.variant import ObjectiveSetting, Variant, describe, load_variant

BENCHMARKS = ("dive", "ssv2", "in")


def definition(**change: Any) -> SweepDefinition:
    data = {
        "name": "mine",
        "regime": "miniature",
        "preset": "nano",
        "trials": 40,
        "seed": 3,
        "trial_seed": 17,
        "objectives": {
            "hard_region": {"low": 0.1, "high": 2.0, "off_probability": 0.6},
            "delta": {"low": 0.05, "high": 1.0, "off_probability": 0.3},
        },
    }
    return parse(SweepDefinition, {**data, **change}, "test")


def proposer(folder: Path, **change: Any) -> OptunaProposer:
    return OptunaProposer(definition(**change), BENCHMARKS, SearchStore(str(folder / "optuna.journal")), "parent")


def weights(p: Proposal) -> dict[str, float]:
    return {name: s.weight for name, s in p.variant.objectives.items()}


def accuracies(p: Proposal) -> dict[str, float]:
    w = weights(p)
    h, d = w.get("hard_region", 0.0), w.get("delta", 0.0)
    return {"dive": 10 + h - d, "ssv2": 20 + d - h * h, "in": 30 - h * d}


def play(p: OptunaProposer, count: int) -> list[Proposal]:
    found = []
    for trial in range(count):
        asked = p.ask(trial)
        assert asked.optuna_number is not None
        p.tell(asked.optuna_number, accuracies(asked))
        found.append(asked)
    return found


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
@pytest.mark.parametrize("told", [1, 13])
def test_a_restarted_search_draws_what_it_would_have_drawn(tmp_path: Path, sampler: str, told: int) -> None:
    first = proposer(tmp_path / "a", sampler=sampler)
    play(first, told)
    open_one = first.ask(told)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    again = proposer(tmp_path / "b", sampler=sampler)
    assert list(again.running()) == [open_one.optuna_number]
    for trial in range(told + 1, told + 4):
        expected, drawn = first.ask(trial), again.ask(trial)
        assert drawn == expected
        assert drawn.optuna_number is not None
        for p in (first, again):
            p.tell(drawn.optuna_number, accuracies(drawn))


def test_the_seed_of_the_study_decides_the_draws(tmp_path: Path) -> None:
    runs = [[p.variant for p in play(proposer(tmp_path / str(i), seed=s), 4)] for i, s in enumerate((3, 3, 4))]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    drawn = [tuple(sorted(t.params.items())) for t in proposer(tmp_path / "0").study.trials]
    assert len(set(drawn)) == 4, "a sampler made afresh for every suggestion must not repeat itself"


def test_prior_leaves_an_objective_out_as_often_as_asked(tmp_path: Path) -> None:
    p = proposer(tmp_path, sampler="random")
    n = 200
    drawn = [weights(p.ask(trial)) for trial in range(n)]
    for name, r in p.definition.objectives.items():
        off = sum(name not in w for w in drawn) / n
        spread = math.sqrt(r.off_probability * (1 - r.off_probability) / n)
        assert abs(off - r.off_probability) < 4 * spread, name
        on = [w[name] for w in drawn if name in w]
        assert all(r.low <= w <= r.high for w in on)
        # Log-uniform where it is on: half of the weights lie below the geometric mean of the range.
        low = sum(w < math.sqrt(r.low * r.high) for w in on) / len(on)
        assert abs(low - 0.5) < 4 * 0.5 / math.sqrt(len(on)), name


def test_starting_points_come_first_with_their_exact_weights(tmp_path: Path) -> None:
    p = proposer(tmp_path, start=["hw", "delta"])
    asked = [p.ask(trial) for trial in range(9)]
    drawn = [f"mix-{n:03d}" if asked[n].variant.objectives else "baseline" for n in range(2, 9)]
    assert [a.name for a in asked] == ["hw", "delta", *drawn]
    assert 1 <= drawn.count("baseline") <= 5, "some of these mixes have nothing on"
    assert [a.optuna_number for a in asked] == list(range(9))
    for a in asked[:2]:
        assert a.variant.objectives == load_variant(a.name).objectives
    assert all(a.seed == 17 for a in asked)


def test_no_more_starting_points_than_trials(tmp_path: Path) -> None:
    p = proposer(tmp_path, start=["hw", "delta"], trials=1)
    assert [t.user_attrs["start"] for t in p.study.trials] == ["hw"]


def test_starting_points_are_queued_once_and_all_of_them(tmp_path: Path) -> None:
    """A driver that died between two of them, or that comes back later, ends with each exactly once."""
    first = proposer(tmp_path, start=["hw"])
    assert first.ask(0).name == "hw"
    again = proposer(tmp_path, start=["hw", "delta"])
    assert [t.user_attrs.get("start") for t in again.study.trials] == ["hw", "delta"]
    assert len(proposer(tmp_path, start=["hw", "delta"]).study.trials) == 2
    assert again.ask(1).name == "delta"


def test_each_finds_the_other(tmp_path: Path) -> None:
    p = proposer(tmp_path)
    asked = p.ask(41)
    assert asked.optuna_number is not None
    assert p.study.trials[asked.optuna_number].user_attrs[TRIAL_ATTRIBUTE] == 41


def test_telling_twice_changes_nothing(tmp_path: Path) -> None:
    p = proposer(tmp_path)
    a, b = p.ask(0), p.ask(1)
    assert a.optuna_number is not None
    assert b.optuna_number is not None
    p.tell(a.optuna_number, {"in": 3.0, "dive": 1.0, "ssv2": 2.0, "extra": 9.0})
    p.tell(b.optuna_number, None)
    p.tell(a.optuna_number, {"in": 0.0, "dive": 0.0, "ssv2": 0.0})
    p.tell(a.optuna_number, None)
    p.tell(b.optuna_number, accuracies(b))
    again = proposer(tmp_path).study.trials
    assert (again[0].state, again[0].values) == (TrialState.COMPLETE, [1.0, 2.0, 3.0])
    assert (again[1].state, again[1].values) == (TrialState.FAIL, None)
    assert list(p.running()) == []


def test_every_benchmark_is_maximised_under_its_name(tmp_path: Path) -> None:
    study = proposer(tmp_path).study
    assert [d.name for d in study.directions] == ["MAXIMIZE"] * 3
    assert study.metric_names == list(BENCHMARKS)


def test_tpe_moves_towards_what_it_was_told(tmp_path: Path) -> None:
    """One benchmark that rewards a heavy delta: after the random start the draws must lean there."""
    p = OptunaProposer(definition(trials=60), ("only",), SearchStore(str(tmp_path / "optuna.journal")), "parent")
    share = []
    for trial in range(45):
        asked = p.ask(trial)
        delta = weights(asked).get("delta", 0.0)
        share.append(delta > 0.5)
        assert asked.optuna_number is not None
        p.tell(asked.optuna_number, {"only": delta})
    assert sum(share[25:]) / 20 > 0.6 > sum(share[:10]) / 10


def test_samplers_by_name() -> None:
    assert isinstance(make_sampler("tpe", 1), optuna.samplers.TPESampler)
    assert isinstance(make_sampler("nsga2", 1), optuna.samplers.NSGAIISampler)
    assert isinstance(make_sampler("random", 2**63 - 1), optuna.samplers.RandomSampler)


def test_a_variant_on_one_line() -> None:
    mixed = Variant(objectives={k: ObjectiveSetting(weight=w) for k, w in (("delta", 0.12345), ("spectral", 0.0))})
    assert describe(mixed) == "delta 0.123"
    assert describe(Variant()) == "no auxiliary objective"
    assert describe(Variant(untrained=True)) == "untrained"
