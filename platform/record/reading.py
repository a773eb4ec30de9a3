"""What MLflow and the trials' own files say about a study, read back for a later look at it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from equipoise.platform.record.client import RESULT_TAG, TrackingError
from equipoise.platform.record.correctness import read_correctness
from equipoise.platform.record.home import Home
from equipoise.platform.record.tracking import Tracker
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.stats.table import ResultTable
from equipoise.platform.stats.uncertainty import Sample, samples

DEFINITION = "study.json"
SETTINGS = "settings.json"


def read_json(tracker: Tracker, run_id: str, name: str, what: str) -> Any:
    """Content of a JSON artifact.

    Args:
        tracker: the record.
        run_id: run that holds it.
        name: name of the artifact.
        what: the words for the error sentence.

    Raises:
        TrackingError: if the run does not hold it, or it cannot be fetched.
    """
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as temporary:
        try:
            kept = tracker.client.download_artifacts(run_id, name, temporary)
        except (MlflowException, OSError) as error:
            raise TrackingError(f"{what} cannot be read from {tracker.uri}: {error}") from None
        return json.loads(Path(kept).read_text())


def definition_of(tracker: Tracker, parent: Any) -> dict[str, Any]:
    """What a study asked for, from its parent run.

    Raises:
        TrackingError: if the record does not hold it.
    """
    found: dict[str, Any] = read_json(
        tracker, parent.info.run_id, DEFINITION, f"the definition of study {parent.data.tags[RESULT_TAG]!r}"
    )
    return found


def settings_of(tracker: Tracker, parent: str) -> dict[str, TrialSettings]:
    """Settings of every variant with a finished trial, from one of its trials; they differ in their seed only.

    Raises:
        TrackingError: if the record does not hold them.
    """
    found: dict[str, TrialSettings] = {}
    for run in tracker.trial_runs(parent):
        variant = run.data.tags["variant"]
        if variant not in found and run.data.tags.get("status") == "finished":
            content = read_json(tracker, run.info.run_id, SETTINGS, f"the settings of trial {run.info.run_name!r}")
            found[variant] = parse(TrialSettings, content, f"settings of {variant}")
    return found


def samples_of(study: str, home: Home) -> tuple[ResultTable, dict[tuple[str, str], Sample]]:
    """Accuracies of a study's finished trials, with the test items each got right where they are at hand.

    A study on a tracking server may have its folder on another machine: then only its accuracies are.

    Returns:
        The table, and (variant, benchmark) to sample.

    Raises:
        TrackingError: no such study, or no finished trial.
        StatisticsError: outcomes of test items that are missing or do not fit together.
        StorageError: the place where its trials wrote cannot be reached.
    """
    tracker = home.tracker()
    name = tracker.study_run(study).data.tags[RESULT_TAG]
    table = tracker.result_table(study)
    at_hand = (home.folder(name) / "ledger.db").is_file()
    return table, samples(table, read_correctness(home.folder(name), home.trials(name)) if at_hand else None)
