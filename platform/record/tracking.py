"""The MLflow record of a study: one parent run, one child per trial, written by the driver alone."""

from __future__ import annotations

import functools
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from equipoise.platform.provenance import git_commit
from equipoise.platform.record.client import (
    PATIENCE_S,
    RESULT_TAG,
    TRAIN,
    PatientClient,
    TrackingError,
    cannot_be_used,
    check_store,
    quoted,
    sqlite_file,
)
from equipoise.platform.record.runs import KeptRun
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.settings.variant import RECORDS

# One writer at a time fits SQLite; MLflow's own progress lines and warnings would break the display.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # standard output is for results

# A server that does not answer is waited for here, with a word on the display, not silently inside MLflow.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")

IDENTITY = "equipoise.identity"
PARENT = "mlflow.parentRunId"
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 1000  # what MLflow takes in one call

VERSIONS = ("equipoise", "torch", "timm", "ray", "optuna", "mlflow", "numpy")  # what a result may depend on
MLFLOW_STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class Tracker:
    """Writes one study's runs.

    Args:
        uri: MLflow tracking URI.
        home: home folder; artifacts of a SQLite store go to ``artifacts/`` below it.
        experiment: MLflow experiment, one for all studies of a home.
        patience_s: how long a server may be away before a call fails.
        create: make the store and the experiment where they are not there.

    Raises:
        TrackingError: if the store cannot be reached or is damaged, or is not there and ``create`` is not set.
    """

    def __init__(
        self,
        uri: str,
        home: Path,
        experiment: str = "equipoise",
        patience_s: float = PATIENCE_S,
        *,
        create: bool = True,
    ) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        # MLflow sets its loggers up when it is imported, so they are quietened after that.
        for name in ("mlflow", "mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self.uri = uri
        check_store(uri, create)
        try:
            client = MlflowClient(tracking_uri=uri)
            # Not patient yet: an address that is wrong from the start is a mistake to be told at once.
            found = client.get_experiment_by_name(experiment)
            local = urlparse(uri).scheme == "sqlite"
            location = (home / "artifacts").resolve().as_uri() if local else None
            if (
                found is not None
                and location is not None
                and _lies_in(uri, home)
                and found.artifact_location != location
            ):
                move_artifacts(uri, found.artifact_location, location)
            if found is None and not create:
                raise TrackingError(f"{uri} holds no studies yet: run equipoise sweep or ablate")
            if found is None:
                self.experiment_id = client.create_experiment(experiment, artifact_location=location)
            else:
                self.experiment_id = found.experiment_id
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise TrackingError(cannot_be_used(uri, error)) from None
        self.client = PatientClient(client, uri, patience_s)

    def on_wait(self, tell: Callable[[str | None], None]) -> None:
        """Say to whom to tell that the server is away, and, with None, that it is back."""
        self.client.on_wait = tell

    def start_study(self, name: str, kind: str, definition: Mapping[str, Any]) -> str:
        """Create the parent run and return its id."""
        versions = json.dumps({package: version(package) for package in VERSIONS})
        tags = {RESULT_TAG: name, "kind": kind, "role": "study", "git_commit": git_commit(), "versions": versions}
        run_id = self._create(name, tags)
        for key in ("regime", "preset", "reading", "seed", "trials", "sampler"):
            if definition.get(key) is not None:
                self.client.log_param(run_id, key, definition[key])
        self.define(run_id, definition)
        return run_id

    def define(self, run_id: str, definition: Mapping[str, Any]) -> None:
        """Store the definition of a study, in the place of an earlier one."""
        self.client.log_text(run_id, json.dumps(definition, indent=1), "study.json")

    def start_trial(
        self, parent: str, study: str, key: str, role: str, settings: TrialSettings, manifest_hash: str
    ) -> str:
        """Create a trial's child run, with every objective weight as a parameter, and return its id."""
        from mlflow.entities import Param

        run_id = self._create(
            f"{settings.variant_name} s{settings.seed}",
            {
                PARENT: parent,
                RESULT_TAG: study,
                "trial": key,
                "role": role,
                "variant": settings.variant_name,
                "reading": settings.reading,
                "regime": settings.regime.name,
                "preset": settings.preset.name,
                "seed": str(settings.seed),
                "settings_key": settings.key,
                "manifest_hash": manifest_hash,
                "git_commit": git_commit(),
                "status": "ready",
                **({"plugins": ", ".join(map(str, settings.plugins))} if settings.plugins else {}),
            },
        )
        on = settings.variant.objectives
        params: dict[str, object] = {name: on[name].weight if name in on else 0.0 for name in RECORDS}
        params |= {"variant": settings.variant_name, "seed": settings.seed, "reading": settings.reading}
        params |= {"steps": 0 if settings.variant.untrained else settings.preset.optimisation.steps}
        self.client.log_batch(run_id, params=[Param(k, str(v)) for k, v in params.items()])
        self.client.log_text(run_id, settings.model_dump_json(indent=1), "settings.json")
        return run_id

    def restore(self, run: KeptRun, parent: str | None = None, **tags: str) -> str:
        """Make a run as it was in another record, under a new id, which is returned; artifacts are not among it.

        Args:
            run: as it was.
            parent: run that it is a child of here.
            tags: further ones.
        """
        from mlflow.entities import Metric, Param

        gone = {IDENTITY, PARENT, "checkpoint"}
        kept = {key: value for key, value in run.data.tags.items() if key not in gone} | tags
        kept |= {} if parent is None else {PARENT: parent}
        run_id = self._create(run.info.run_name, kept, run.info.start_time)
        params = [Param(key, value) for key, value in run.data.params.items()]
        # All at one moment: MLflow takes the value of the last step for the newest then.
        points = [Metric(n, v, run.info.start_time, s) for n, history in run.history.items() for s, v in history]
        for at in range(0, len(params), PARAMS_AT_ONCE):
            self.client.log_batch(run_id, params=params[at : at + PARAMS_AT_ONCE])
        for at in range(0, len(points), METRICS_AT_ONCE):
            self.client.log_batch(run_id, metrics=points[at : at + METRICS_AT_ONCE])
        ended = {"RUNNING": "KILLED"}.get(run.info.status, run.info.status)
        self.client.set_terminated(run_id, ended, run.info.end_time)
        return run_id

    def texts(self, run_id: str, contents: Mapping[str, bytes]) -> None:
        """Log texts as artifacts under their paths."""
        for path, content in contents.items():
            self.client.log_text(run_id, content.decode(), path)

    def delete(self, parent: str) -> None:
        """Delete a study's run and those of its trials."""
        for run in (*self.children(parent), self.run(parent)):
            self.client.delete_run(run.info.run_id)

    def _create(self, name: str, tags: dict[str, str], start_time: int | None = None) -> str:
        """Create a run and return its id; once, also where the answer to an earlier attempt was lost."""
        identity = uuid.uuid4().hex
        attempts = 0

        def create() -> str:
            nonlocal attempts
            attempts += 1
            if attempts > 1 and (found := self._search_page(f"tags.`{IDENTITY}` = '{identity}'", None)):
                return str(found[0].info.run_id)
            made = self.client.plain.create_run(
                self.experiment_id, start_time, {**tags, IDENTITY: identity}, run_name=name
            )
            return str(made.info.run_id)

        return str(self.client.attempt(create))

    def running(self, run_id: str) -> None:
        """Mark a run as running, again after a resume."""
        self.client.update_run(run_id, status="RUNNING")
        self.client.set_tag(run_id, "status", "running")

    def trained(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        """Log what a step of training reports: losses, gradients, health."""
        self.metrics(run_id, {TRAIN + name: value for name, value in values.items()}, step)

    def metrics(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        """Log metrics."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(run_id, metrics=[Metric(k, float(v), now, step) for k, v in values.items()])

    def tag(self, run_id: str, **tags: str) -> None:
        """Set tags."""
        for key, value in tags.items():
            self.client.set_tag(run_id, key, value)

    def artifacts(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Log a file, or all files of a folder."""
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), folder)
        else:
            self.client.log_artifact(run_id, str(path), folder)

    def end(self, run_id: str, status: str, error: str | None = None) -> None:
        """End a run: ``finished``, ``stopped`` early, ``failed`` or ``interrupted``."""
        self.client.set_tag(run_id, "status", status)
        if error:
            self.client.set_tag(run_id, "error", error[:4000])
        self.client.set_terminated(run_id, MLFLOW_STATUS[status])

    def studies(self, name: str | None = None) -> list[Any]:
        """Parent runs of the studies of a name, or of all; newest first."""
        named = f"tags.`{RESULT_TAG}` = '{quoted(name)}' AND " if name is not None else ""
        return self._search(f"{named}tags.role = 'study'")

    def run(self, run_id: str) -> Any:
        """One run.

        Raises:
            TrackingError: there is none.
        """
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            raise TrackingError(f"there is no run {run_id!r} in {self.uri}: {error}") from None

    def children(self, parent: str) -> list[Any]:
        """Runs of a study's trials, oldest first."""
        return self._search(f"tags.`mlflow.parentRunId` = '{parent}'")[::-1]

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """Every value of a metric with its step, in the order of steps."""
        return sorted((m.step, m.value) for m in self.client.get_metric_history(run_id, metric))

    def files(self, run_id: str, folder: str | None = None) -> list[str]:
        """Paths of the artifacts in a run, or in a folder of it, those in folders below left out."""
        return [kept.path for kept in self.client.list_artifacts(run_id, folder) if not kept.is_dir]

    def fetch(self, run_id: str, name: str, to: Path) -> Path:
        """Copy an artifact, or a folder of them, into a folder; returns where it is.

        Raises:
            TrackingError: the run does not hold it, or it cannot be fetched.
        """
        from mlflow.exceptions import MlflowException

        try:
            return Path(self.client.download_artifacts(run_id, name, str(to)))
        except (MlflowException, OSError) as error:
            raise TrackingError(f"{name} cannot be read from {self.uri}: {error}") from None

    def _search(self, query: str) -> list[Any]:
        """Runs that match an MLflow filter, newest first."""
        runs: list[Any] = []
        token = None
        while True:
            page = self.client.attempt(functools.partial(self._search_page, query, token))
            runs += page
            token = page.token
            if not token:
                return runs

    def _search_page(self, query: str, token: str | None) -> Any:
        return self.client.plain.search_runs(
            [self.experiment_id], query, max_results=1000, order_by=["attributes.start_time DESC"], page_token=token
        )


# Columns of MLflow's tables that hold the address of files: it keeps them absolute.
ADDRESSES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "model_versions": ("source", "storage_location"),
    "logged_models": ("artifact_location",),
}


def _lies_in(uri: str, home: Path) -> bool:
    """Whether a SQLite store is the home's own file, and moves with it."""
    file = sqlite_file(uri)
    return file is not None and file.resolve() == (home / "mlflow.db").resolve()


def move_artifacts(uri: str, before: str, now: str) -> None:
    """Make the store of a home that was copied or moved read and write the files beside it, not the original's.

    Args:
        uri: SQLite store.
        before: folder of its artifacts, as a ``file:`` URI, where the home was.
        now: the same where the home is.
    """
    engine = create_engine(uri)
    with engine.begin() as connection:
        there = inspect(connection)
        for table, columns in ADDRESSES.items():
            if not there.has_table(table):
                continue
            known = {column["name"] for column in there.get_columns(table)}
            for column in known.intersection(columns):
                connection.execute(
                    text(
                        f"UPDATE {table} SET {column} = :now || substr({column}, :length) "
                        f"WHERE {column} = :before OR {column} LIKE :below ESCAPE '!'"
                    ),
                    {"now": now, "before": before, "length": len(before) + 1, "below": _like(before) + "/%"},
                )
    engine.dispose()


def _like(text_: str) -> str:
    """A text that a LIKE pattern takes for itself."""
    return "".join(f"!{c}" if c in "!%_" else c for c in text_)
