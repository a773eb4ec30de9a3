"""The encoders a study ends with, as versions of a registered MLflow model: found by alias, loaded in one line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from equipoise.platform.errors import CheckpointError
from equipoise.platform.record.client import TrackingError, cannot_be_used, sqlite_file
from equipoise.platform.record.home import Home, nearby
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


def forget(tracker: Tracker, study: str, runs: Collection[str]) -> None:
    """Delete the versions of a study's model that are of these runs, and the model where no other is left."""
    versions = tracker.client.search_model_versions(f"name = '{study}'")
    for version in versions:
        if version.run_id in runs:
            tracker.client.delete_model_version(study, version.version)
    if versions and all(version.run_id in runs for version in versions):
        tracker.client.delete_registered_model(study)


def run_of_model(model: str, tracking_uri: str) -> Any:
    """The run that trained a registered model, which :func:`fetch_model` has found."""
    import mlflow

    found = NAME.fullmatch(model)
    assert found is not None
    study, alias, version = found.groups()
    client = mlflow.MlflowClient(tracking_uri, registry_uri=tracking_uri)
    kept = client.get_model_version_by_alias(study, alias) if alias else client.get_model_version(study, version)
    return client.get_run(kept.run_id)


def fetch_model(model: str, tracking_uri: str | None, to: Path) -> Path:
    """Copy the checkpoint of a registered model into a folder; nothing is created where there is no store.

    Args:
        model: ``models:/STUDY@ALIAS`` or ``models:/STUDY/VERSION``.
        tracking_uri: MLflow store; None: MLflow's own setting.
        to: the folder.

    Raises:
        TrackingError: no such model, no such alias, or no such store.
        CheckpointError: its files cannot be read.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    found = NAME.fullmatch(model)
    if found is None:
        raise TrackingError(f"{model!r} names no model; write models:/STUDY@candidate or models:/STUDY/1")
    uri = tracking_uri or mlflow.get_tracking_uri()
    file = sqlite_file(uri)
    if file is not None:
        if not file.is_file():
            raise TrackingError(
                f"there is no MLflow store {file.absolute()} to load {model} from; give "
                f"tracking_uri='sqlite:///HOME/mlflow.db'{nearby(file.absolute().parent)}"
            )
        Home(file.parent, uri).tracker(create=False)  # one that was moved reads the files beside it
    study, alias, version = found.groups()
    try:
        client = mlflow.MlflowClient(uri, registry_uri=uri)
        kept = client.get_model_version_by_alias(study, alias) if alias else client.get_model_version(study, version)
        return Path(mlflow.artifacts.download_artifacts(kept.source, dst_path=str(to), tracking_uri=uri))
    except SQLAlchemyError as error:
        raise TrackingError(cannot_be_used(uri, error)) from None
    except MlflowException as error:
        raise TrackingError(f"no model {model}: {str(error).splitlines()[0]}") from None
    except OSError as error:
        raise CheckpointError(f"the files of model {model} cannot be read: {error}") from error
