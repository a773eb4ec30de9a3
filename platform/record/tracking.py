"""The MLflow record of a study: one parent run, one child per trial, written by the driver alone."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from equipoise.platform.provenance import git_commit
from equipoise.platform.record.client import PATIENCE_S, RESULT_TAG, TRAIN, PatientClient, TrackingError, quoted
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.settings.variant import RECORDS
from equipoise.platform.stats.table import ResultTable, Score

# One writer at a time fits SQLite; MLflow's own progress lines and warnings would break the display.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # standard output is for results

# A server that does not answer is waited for here, with a word on the display, not silently inside MLflow.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")

IDENTITY = "equipoise.identity"

VERSIONS = ("equipoise", "torch", "timm", "ray", "optuna", "mlflow", "numpy")  # what a result may depend on
MLFLOW_STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class Tracker:
    """Writes one study's runs.

    Args:
        uri: MLflow tracking URI.
        home: home folder; artifacts of a SQLite store go to ``artifacts/`` below it.
        experiment: MLflow experiment, one for all studies of a home.
        patience_s: how long a server may be away before a call fails.

    Raises:
        TrackingError: if the store cannot be reached.
    """

    def __init__(self, uri: str, home: Path, experiment: str = "equipoise", patience_s: float = PATIENCE_S) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        # MLflow sets its loggers up when it is imported, so they are quietened after that.
        for name in ("mlflow", "mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self.uri = uri
        try:
            client = MlflowClient(tracking_uri=uri)
            # Not patient yet: an address that is wrong from the start is a mistake to be told at once.
            found = client.get_experiment_by_name(experiment)
            if found is None:
                local = urlparse(uri).scheme == "sqlite"
                location = (home / "artifacts").resolve().as_uri() if local else None
                self.experiment_id = client.create_experiment(experiment, artifact_location=location)
            else:
                self.experiment_id = found.experiment_id
        except (MlflowException, OSError) as error:
            raise TrackingError(f"the MLflow store {uri} cannot be used: {str(error).splitlines()[0][:200]}") from None
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
                "mlflow.parentRunId": parent,
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
            },
        )
        on = settings.variant.objectives
        params: dict[str, object] = {name: on[name].weight if name in on else 0.0 for name in RECORDS}
        params |= {"variant": settings.variant_name, "seed": settings.seed, "reading": settings.reading}
        params |= {"steps": 0 if settings.variant.untrained else settings.preset.optimisation.steps}
        self.client.log_batch(run_id, params=[Param(k, str(v)) for k, v in params.items()])
        self.client.log_text(run_id, settings.model_dump_json(indent=1), "settings.json")
        return run_id

    def _create(self, name: str, tags: dict[str, str]) -> str:
        """Create a run and return its id; once, also where the answer to an earlier attempt was lost."""
        identity = uuid.uuid4().hex
        attempts = 0

        def create() -> str:
            nonlocal attempts
            attempts += 1
            if attempts > 1 and (found := self._search_page(f"tags.`{IDENTITY}` = '{identity}'", None)):
                return str(found[0].info.run_id)
            made = self.client.plain.create_run(self.experiment_id, run_name=name, tags={**tags, IDENTITY: identity})
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

    # ---- reading back

    def study_run(self, study: str | None) -> Any:
        """Parent run of a study by name or run id, the newest if a name was used twice; None: the newest of all.

        Raises:
            TrackingError: if there is none, naming the studies there are.
        """
        from mlflow.exceptions import MlflowException

        named = f"tags.`{RESULT_TAG}` = '{quoted(study)}' AND " if study is not None else ""
        found = self._search(f"{named}tags.role = 'study'")
        if found:
            return found[0]
        if study is not None:
            with contextlib.suppress(MlflowException):
                return self.client.get_run(study)
        names = sorted({r.data.tags[RESULT_TAG] for r in self._search("tags.role = 'study'")})
        known = f"known: {', '.join(names)}" if names else "there is none yet: run equipoise sweep or ablate"
        raise TrackingError(f"no study{f' {study!r}' if study else ''} in {self.uri}; {known}")

    def trial_runs(self, parent: str) -> list[Any]:
        """Child runs of a study, oldest first."""
        return self._search(f"tags.`mlflow.parentRunId` = '{parent}'")[::-1]

    def result_table(self, study: str) -> ResultTable:
        """Accuracies of a study's finished trials."""
        parent = self.study_run(study)
        benchmarks: list[str] = json.loads(parent.data.tags["benchmarks"])
        scores: list[Score] = []
        for run in self.trial_runs(parent.info.run_id):
            if run.data.tags.get("status") != "finished":
                continue
            flags = frozenset(f for f in run.data.tags.get("flags", "").split(",") if f)
            for name in benchmarks:
                if name in run.data.metrics:
                    items = run.data.tags.get(f"items.{name}")
                    scores.append(
                        Score(
                            variant=run.data.tags["variant"],
                            seed=int(run.data.tags["seed"]),
                            benchmark=name,
                            accuracy_percent=run.data.metrics[name],
                            items=None if items is None else int(items),
                            flags=flags,
                        )
                    )
        if not scores:
            raise TrackingError(f"study {study!r} has no finished trial yet")
        return ResultTable(tuple(scores), tuple(benchmarks))

    def weights(self, parent: str) -> dict[str, dict[str, float]]:
        """Weights of every variant of a study: its objectives that are on."""
        return {
            run.data.tags["variant"]: {k: float(run.data.params[k]) for k in RECORDS if float(run.data.params[k])}
            for run in self.trial_runs(parent)
        }

    def curves(self, runs: Sequence[Any], metric: str) -> dict[str, list[tuple[int, float]]]:
        """What training reported as ``metric``, over steps, by run name."""
        found: dict[str, list[tuple[int, float]]] = {}
        for run in runs:
            if TRAIN + metric in run.data.metrics:
                history = self.client.get_metric_history(run.info.run_id, TRAIN + metric)
                found[run.info.run_name] = sorted((m.step, m.value) for m in history)
        return found

    def has_artifact(self, run_id: str, folder: str) -> bool:
        """Whether a run holds a folder of artifacts."""
        return bool(self.client.list_artifacts(run_id, folder))

    def _search(self, query: str) -> list[Any]:
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
