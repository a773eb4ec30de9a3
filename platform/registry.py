"""The encoders a study ends with, as versions of a registered MLflow model: found by alias, loaded in one line."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from equipoise.models.encoder import VideoEncoder
from equipoise.platform import checkpoint as checkpoints
from equipoise.platform.errors import CheckpointError
from equipoise.platform.evaluation import frozen_encoder
from equipoise.platform.tracking import Tracker, TrackingError

MODEL_FOLDER = "checkpoint"  # of a run's artifacts
BALANCED, BASELINE = "balanced", "baseline"
NAME = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/([0-9]+))")


def register(tracker: Tracker, study: str, alias: str, run: Any) -> str:
    """Make a run's checkpoint a version of the study's model and give it an alias.

    Doing it again for the same run makes no second version.

    Args:
        tracker: of the study.
        study: its name, and the model's.
        alias: ``balanced`` or ``baseline``.
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


def load_encoder(model: str, tracking_uri: str | None = None) -> VideoEncoder:
    """The frozen encoder of a registered model, ready to compute features.

    Args:
        model: ``models:/STUDY@balanced``, ``models:/STUDY@baseline`` or ``models:/STUDY/VERSION``.
        tracking_uri: MLflow store; None: MLflow's own setting (``MLFLOW_TRACKING_URI``).

    Returns:
        In evaluation mode, without gradient, on the CPU.

    Raises:
        TrackingError: no such model, or no such alias.
        CheckpointError: its files are damaged, or the encoder still equals its initialisation.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    found = NAME.fullmatch(model)
    if found is None:
        raise TrackingError(f"{model!r} names no model; write models:/STUDY@balanced or models:/STUDY/1")
    client = mlflow.MlflowClient(tracking_uri, registry_uri=tracking_uri)
    study, alias, version = found.groups()
    with tempfile.TemporaryDirectory() as temporary:
        try:
            kept = (
                client.get_model_version_by_alias(study, alias) if alias else client.get_model_version(study, version)
            )
            folder = mlflow.artifacts.download_artifacts(kept.source, dst_path=temporary, tracking_uri=tracking_uri)
        except MlflowException as error:
            raise TrackingError(f"no model {model}: {str(error).splitlines()[0]}") from None
        except OSError as error:
            raise CheckpointError(f"the files of model {model} cannot be read: {error}") from error
        return frozen_encoder(checkpoints.load(Path(folder)))
