"""The public face of Equipoise."""

from __future__ import annotations

import tempfile
from pathlib import Path

from equipoise.models.encoder import VideoEncoder
from equipoise.platform.errors import CheckpointError
from equipoise.platform.record.client import TrackingError
from equipoise.platform.record.registry import NAME
from equipoise.platform.trial import checkpoint as checkpoints
from equipoise.platform.trial.encoders import frozen_encoder


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
