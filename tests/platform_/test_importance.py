from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import create_trial

from equipoise.platform.analysis.importance import ImportanceError, needed, search_importance


def search(trials: int, objectives: int = 4, seed: int = 0) -> optuna.Study:
    """The first accuracy grows with the weight of ``o0`` alone, the second is noise, the third never changes."""
    stream = np.random.default_rng(seed)
    study = optuna.create_study(directions=["maximize"] * 3)
    ranges: dict[str, BaseDistribution] = {f"o{i}": FloatDistribution(0.01, 2.0, log=True) for i in range(objectives)}
    for _ in range(trials):
        weights = {name: math.exp(stream.uniform(math.log(0.01), math.log(2))) for name in ranges}
        values = [40 + 3 * math.log(weights["o0"]) + stream.normal(), 30 + stream.normal(), 20.0]
        study.add_trial(create_trial(params=weights, distributions=ranges, values=values))
    return study


def test_only_what_moves_an_accuracy_stands_out_from_chance() -> None:
    found = search_importance(search(40), ["moved", "noise", "constant"], shuffles=10)
    assert [(one.benchmark, one.evaluator) for one in found] == [
        ("moved", "fANOVA"),
        ("moved", "PED-ANOVA"),
        ("noise", "fANOVA"),
        ("noise", "PED-ANOVA"),
    ]
    for one in found:
        assert sum(one.shares.values()) == pytest.approx(1)
        assert list(one.shares.values()) == sorted(one.shares.values(), reverse=True)
        assert set(one.shares) == {"o0", "o1", "o2", "o3"}
        assert one.trials == 40
    assert found[0].clear == ("o0",)
    assert found[0].shares["o0"] > 0.8
    assert next(iter(found[1].shares)) == "o0"
    assert found[2].clear == ()
    assert found[3].clear == ()


def test_an_importance_is_of_being_good_not_of_being_bad() -> None:
    # PED-ANOVA looks at the best tenth: a weight that only ruins the worst trials matters little to it.
    stream = np.random.default_rng(3)
    study = optuna.create_study(directions=["maximize"])
    ranges: dict[str, BaseDistribution] = {name: FloatDistribution(0.0, 1.0) for name in ("ruins", "lifts")}
    for _ in range(80):
        weights = {name: float(stream.uniform()) for name in ranges}
        value = 50 - 40 * (weights["ruins"] > 0.9) + 5 * weights["lifts"]
        study.add_trial(create_trial(params=weights, distributions=ranges, values=[value]))
    by_name = {one.evaluator: one for one in search_importance(study, ["b"], shuffles=0)}
    assert next(iter(by_name["fANOVA"].shares)) == "ruins"
    assert next(iter(by_name["PED-ANOVA"].shares)) == "lifts"
    assert by_name["fANOVA"].chance is None
    assert by_name["fANOVA"].clear == ()


def test_too_few_trials_are_refused_in_a_sentence() -> None:
    assert needed(4) == 12
    assert needed(18) == 36
    with pytest.raises(ImportanceError, match="11 finished trials over 4 objectives; importance needs at least 12"):
        search_importance(search(11), ["a", "b", "c"])
    study = search(12)
    study.enqueue_trial({"o0": 1.0})
    study.ask({"o0": FloatDistribution(0.01, 2.0, log=True)})
    assert search_importance(study, ["a", "b", "c"], shuffles=0)[0].trials == 12
