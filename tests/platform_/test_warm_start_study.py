"""A real search that begins with what an earlier one found, with everything a space can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from equipoise.platform.record.home import Home
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.report.explanation import explain_search
from equipoise.platform.report.front import conclude_study
from equipoise.platform.search.samplers import WARM_ATTRIBUTE
from equipoise.platform.search.store import SearchStore
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.study import run as study
from equipoise.platform.study.run import RunOptions

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

OBJECTIVES = {
    "hard_region": {"low": 0.1, "high": 1.0, "params": {"tau": {"low": 0.5, "high": 2.0}}},
    "delta": {"low": 0.1, "high": 1.0, "schedule": {"choices": ["constant", "cosine_decay"]}},
}


def space(tiny_data: Path, **change: Any) -> SweepDefinition:
    content = {
        "name": "before",
        "regime": "miniature",
        "preset": str(tiny_data / "tiny.yaml"),
        "trials": 2,
        "start": "published",
        "objectives": OBJECTIVES,
        "max_total_weight": 1.0,
    }
    return parse(SweepDefinition, {**content, **change}, "test")


def test_a_search_begins_with_what_an_earlier_one_found(home: Home, tiny_data: Path) -> None:
    first = study.sweep(space(tiny_data), home, RunOptions(quiet=True))
    assert [r.name for r in first.rows] == ["baseline", "random_init", "hw", "delta"]
    said: list[str] = []
    later = space(
        tiny_data,
        name="later",
        start=[],
        sampler="gp",
        warm_start="before",
        constraints={"max_loss": 5.0},
    )
    second = study.sweep(later, home, RunOptions(quiet=True, progress=lambda what, done, total: said.append(what)))
    assert second.complete
    assert "warm start from before: 2 of its mixes count as done" in said
    # The last one has nothing on: it is the baseline, with its next seed.
    assert [r.name for r in second.rows] == ["baseline", "random_init", "mix-002", "baseline"]
    told = optuna.load_study(study_name="later", storage=SearchStore.of(home, "later").open()).trials
    assert [t.state for t in told] == [TrialState.COMPLETE] * 4
    assert [t.user_attrs.get(WARM_ATTRIBUTE) for t in told] == ["before/hw", "before/delta", None, None]
    results = {r.name: r.result for r in first.rows}
    assert told[0].values == list((results["hw"] or {})["accuracies"].values())
    assert told[0].params["hard_region.tau"] == 1.0
    # Neither the record of the later study nor its front knows the earlier trials.
    table = StudyRecord.open(home, "later").table
    assert {name: set(table.seeds(name)) for name in table.variants} == {
        "baseline": {0, 1},
        "random_init": {0},
        "mix-002": {0},
    }
    front = conclude_study(StudyRecord.open(home, "later"), None, tolerance=100).selection.front
    assert not {"hw", "delta", "before/hw"} & set(front)
    found = explain_search(StudyRecord.open(home, "later"))
    assert (int(found.content.finished.own.sum()), len(found.content.finished.names)) == (2, 4)
    assert found.content.next.name == "mix-004"
