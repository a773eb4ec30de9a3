"""A real search whose trials collapse: stopped in their own processes, and by their workers on Ray Train.

The driver decides, so the test moves its threshold: with it every trained encoder has collapsed. That real collapses
lie below the real one is shown on recorded curves, in ``test_collapse.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from equipoise.platform.record.home import Home
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.search import collapse
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.study import run as study
from equipoise.platform.study.run import Outcome, RunOptions
from equipoise.platform.trial.messages import was_called_off

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

CheckBooks = Callable[[Home, str, int], dict[str, str]]
WHY = r"its features use \d+(\.\d)? directions at step {}, the baseline's \d+ there"


def sweep(home: Home, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, **change: Any) -> Outcome:
    content = {
        "name": "falling",
        "regime": "miniature",
        "preset": str(tiny_data / "tiny.yaml"),
        "trials": 2,
        "control_seeds": [0],
        "concurrent": 1,
        "start": ["hw"],
        "objectives": {"hard_region": {"low": 0.1, "high": 1.0}},
    }
    with monkeypatch.context() as moved:
        moved.setattr(collapse, "STOPPED_BELOW", 100.0)
        return study.sweep(SweepDefinition.model_validate({**content, **change}), home, RunOptions(quiet=True))


def test_trials_that_collapse_are_stopped_and_controls_are_not(
    home: Home, tiny_data: Path, check_books: CheckBooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = sweep(home, tiny_data, monkeypatch)
    assert outcome.complete
    assert list(check_books(home, "falling", 4).values()) == ["finished", "finished", "stopped", "stopped"]
    baseline, _, *stopped = outcome.rows
    assert list(baseline.health) == [1, 2, 3, 4, 5, 6]
    assert baseline.result is not None
    assert baseline.result["health"] == {
        "effective_rank": baseline.health[6].rank,
        "target_std": baseline.health[6].spread,
    }
    runs = {r.data.tags["trial"]: r for r in home.tracker().children(outcome.parent)}
    for row in stopped:
        tags = runs[row.key].data.tags
        assert (row.stopped_at, tags["stopped_at_step"], tags["status"]) == (4, "4", "stopped")
        assert row.error == tags["stopped_because"]
        assert "error" not in tags
        assert re.fullmatch(WHY.format(4), row.error or "")
        assert not (outcome.trials / row.key / "scores.json").exists()
    table = StudyRecord.open(home, "falling").table
    assert (table.variants, table.flag_meanings) == (("baseline", "random_init"), ())


@pytest.mark.long
def test_workers_of_ray_train_end_a_trial_that_collapses(
    home: Home, tiny_data: Path, check_books: CheckBooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were they not freed, the next trial would wait for them for ever."""
    resources = {"workers": 2, "cpus_per_worker": 0.5}
    outcome = sweep(home, tiny_data, monkeypatch, resources=resources, set=["optimisation.steps=24"])
    assert outcome.complete
    assert list(check_books(home, "falling", 4).values()) == ["finished", "finished", "stopped", "stopped"]
    for row in outcome.rows[2:]:
        assert (row.attempts, row.stopped_at, list(row.health)) == (1, 8, list(range(1, 9)))
        assert was_called_off(outcome.trials / row.key)
        assert not (outcome.trials / row.key / "scores.json").exists()
