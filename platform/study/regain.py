"""What a study's book has lost, from what MLflow and the trials' folders still hold: a finished trial is not run again.

A book loses its end where its file is copied without the log beside it, cut off, or replaced by an older copy.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equipoise.platform.errors import StorageError
from equipoise.platform.record.ledger import OPEN, Ledger, TrialRow
from equipoise.platform.record.reading import SETTINGS, accuracies_of
from equipoise.platform.record.tracking import Tracker
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.parts import Part
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.study.plan import StudyPlan


def regain(ledger: Ledger, tracker: Tracker, plan: StudyPlan, runs: Sequence[Any], proposed: Mapping[int, int]) -> None:
    """Write down again every trial that has a run and no row, and every result that its run has and its row has not.

    Args:
        ledger: the book.
        tracker: MLflow's record.
        plan: of the study.
        runs: MLflow's, of its trials.
        proposed: number in the book to Optuna's number, as Optuna has it.

    Raises:
        TrackingError: the settings of a lost trial cannot be read.
    """
    rows = {row.key: row for row in ledger.rows()}
    for run in runs:
        tags = run.data.tags
        row = rows.get(tags["trial"]) or _row(ledger, tracker, run, proposed)
        if row.status not in OPEN or tags.get("status") != "finished":
            continue  # the book is written first: what it says is newer
        result = _result(plan, row, run)
        if result is not None:
            ledger.update(row.number, status="finished", result=result, run_id=run.info.run_id)


def _row(ledger: Ledger, tracker: Tracker, run: Any, proposed: Mapping[int, int]) -> TrialRow:
    """The row of a trial that the book does not know any more, as one that was interrupted."""
    tags, number = run.data.tags, int(run.data.tags["trial"][1:])
    with tempfile.TemporaryDirectory() as temporary:
        content = json.loads(tracker.fetch(run.info.run_id, SETTINGS, Path(temporary)).read_text())
    row = TrialRow(
        number=number,
        name=tags["variant"],
        role=tags["role"],
        status="interrupted",
        settings=parse(TrialSettings, content, f"settings of trial {tags['trial']}").model_dump_json(),
        optuna_number=proposed.get(number),
        run_id=run.info.run_id,
        ray_id=None,
        attempts=1,
        result=None,
        rungs={},
        cost=None,
        error=None,
    )
    ledger.restore([row])
    return row


def _result(plan: StudyPlan, row: TrialRow, run: Any) -> dict[str, Any] | None:
    """The result of a trial as its process reported it; None where something of it is gone."""
    kept = {"checkpoint": run.data.tags.get("checkpoint"), "flags": []}
    if not plan.benchmarks:
        return kept
    part: Part = "select" if run.data.tags.get("part") == "select" else "test"
    accuracies = accuracies_of(run, plan.benchmarks, part)
    try:
        scores = json.loads((plan.trials / row.key / "scores.json").read())
        told = {"summaries": scores["benchmarks"], "flags": scores["flags"], "health": scores.get("health", {})}
    except (FileNotFoundError, StorageError, ValueError, KeyError, TypeError):
        return None
    if set(accuracies) != set(plan.benchmarks):
        return None
    seconds = {"pretrain": 0.0, "score": run.data.metrics.get("score_seconds", 0.0)}
    return {**kept, "accuracies": accuracies, "part": part, **told, "seconds": seconds}
