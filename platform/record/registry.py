"""The encoders a study ends with, as versions of a registered MLflow model: found by alias, loaded in one line."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from equipoise.platform.record.tracking import Tracker

MODEL_FOLDER = "checkpoint"  # of a run's artifacts
CANDIDATE = "candidate"  # alias of the leading variant's encoder before it is confirmed
BALANCED = "balanced"  # alias of the confirmed one's; the baseline's is the variant's name
NAME = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/([0-9]+))")


def withdraw(tracker: Tracker, study: str, alias: str) -> None:
    """Take an alias of a study's model back, where it has it."""
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException):  # no such model: nothing was registered
        tracker.client.delete_registered_model_alias(study, alias)


def register(tracker: Tracker, study: str, alias: str, run: Any) -> str:
    """Make a run's checkpoint a version of the study's model and give it an alias.

    Doing it again for the same run makes no second version.

    Args:
        tracker: of the study.
        study: its name, and the model's.
        alias: ``candidate``, ``balanced`` or ``baseline``.
        run: MLflow run whose artifacts hold the checkpoint.

    Returns:
        The model's URI, ``models:/STUDY@alias``.
    """
    from mlflow.exceptions import MlflowException

    client, run_id = tracker.client, run.info.run_id
    try:
        client.get_registered_model(study)
    except MlflowException:
        client.create_registered_model(study, description=f"Encoders of the Equipoise study {study}.")
    there = [v for v in client.search_model_versions(f"name = '{study}'") if v.run_id == run_id]
    if there:
        version = there[0].version
    else:
        words = f"variant {run.data.tags['variant']}, seed {run.data.tags['seed']}"
        source = f"{run.info.artifact_uri}/{MODEL_FOLDER}"
        version = client.create_model_version(study, source=source, run_id=run_id, description=words).version
    client.set_registered_model_alias(study, alias, version)
    return f"models:/{study}@{alias}"
