"""Tasks and reports between driver and trials, as Ray Tune carries them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths, Place
from equipoise.platform.trial.messages import (
    PHASE,
    Done,
    Failed,
    Progress,
    Report,
    RungPlan,
    RungScores,
    Trained,
    TrialTask,
    parse_report,
)


@pytest.mark.parametrize("rungs", [None, RungPlan((2, 4), 24)])
def test_a_task_comes_back_from_its_configuration(
    rungs: RungPlan | None, make_trial: Callable[..., TrialSettings], tmp_path: Path
) -> None:
    paths = Paths(tmp_path / "data", tmp_path / "cache")
    task = TrialTask(7, make_trial("hw", seed=3), Place.at(tmp_path / "t0007"), paths, probe=True, rungs=rungs)
    config = json.loads(json.dumps(task.to_config()))  # plain data: what Tune writes into its snapshots
    assert TrialTask.from_config(config) == task
    assert config["number"] == 7


@pytest.mark.parametrize(
    "report",
    [
        Progress("mini_dive train", 3, 9),
        Trained(9, {"step": 3.0, "loss": 1.5}),
        RungScores(4, {"mini_dive": 12.5}, 0.25),
        Failed("the disk is full", halt=True),
        Failed("a bad setting"),
        Done({"checkpoint": None, "flags": []}),
    ],
)
def test_a_report_comes_back_as_what_it_was(report: Report) -> None:
    result = {**report.to_dict(), "trial_id": "abc", "pid": 1, "training_iteration": 2, "done": False}
    assert parse_report(result) == report


def test_results_of_tunes_own_are_no_reports() -> None:
    assert parse_report({"trial_id": "abc", "done": True}) is None
    assert PHASE not in {"trial_id", "done", "pid", "config", "time_total_s"}
