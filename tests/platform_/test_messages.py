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
    call_off,
    parse_report,
    was_called_off,
)


@pytest.mark.parametrize(("rungs", "watched"), [(None, False), (RungPlan((2, 4), 24), True)])
def test_a_task_comes_back_from_its_configuration(
    rungs: RungPlan | None, watched: bool, make_trial: Callable[..., TrialSettings], tmp_path: Path
) -> None:
    paths = Paths(tmp_path / "data", tmp_path / "cache")
    folder = Place.at(tmp_path / "t0007")
    task = TrialTask(7, make_trial("hw", seed=3), folder, paths, probe=True, rungs=rungs, watched=watched)
    config = json.loads(json.dumps(task.to_config()))  # plain data: what Tune writes into its snapshots
    assert TrialTask.from_config(config) == task
    assert config["number"] == 7


@pytest.mark.parametrize(
    "report",
    [
        Progress("mini_dive train features", 3, 9),
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


def test_a_trial_that_is_called_off_hears_of_it(tmp_path: Path) -> None:
    folder = Place.at(tmp_path / "t0007")
    assert not was_called_off(folder)
    call_off(folder)
    assert was_called_off(folder)


def test_results_of_tunes_own_are_no_reports() -> None:
    assert parse_report({"trial_id": "abc", "done": True}) is None
    assert PHASE not in {"trial_id", "done", "pid", "config", "time_total_s"}
