"""The engine of every study: trials through Ray Tune, identities in the ledger, the record in MLflow."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.search import Searcher

from equipoise.platform.errors import StudyError
from equipoise.platform.ledger import Ledger, Row
from equipoise.platform.progress import StudyDisplay
from equipoise.platform.proposals import OptunaProposer
from equipoise.platform.settings import TrialSettings
from equipoise.platform.tracking import Tracker
from equipoise.platform.training import Paths
from equipoise.platform.trial import PHASE, run_trial

# Tune's own tables and loggers repeat what the display and MLflow show.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
MEBIBYTE = 1024**2


@dataclass
class Director:
    """Decides what runs next and books everything that happens; Tune's searcher and callback only pass on to it.

    Attributes:
        study: name of the study.
        folder: the study's folder.
        ledger: its book.
        tracker: its MLflow record.
        parent: its parent run.
        paths: where trials read.
        display: what the person sees.
        benchmarks: what trials are scored on; empty for none.
        manifest_hash: of all manifests the study reads.
        proposer: source of searched trials, None for a study that is a list.
        make: settings of a searched trial from its name, variant and seed.
        searched: how many trials the search asks for.
    """

    study: str
    folder: Path
    ledger: Ledger
    tracker: Tracker
    parent: str
    paths: Paths
    display: StudyDisplay
    benchmarks: tuple[str, ...]
    manifest_hash: str
    proposer: OptunaProposer | None = None
    make: Any = None
    searched: int = 0
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)

    def planned(self) -> int:
        """Trials of the whole study."""
        listed = sum(r.role != "search" for r in self.ledger.rows())
        return listed + self.searched

    def remaining(self) -> int:
        """Trials still to run or to propose."""
        waiting = len(self.ledger.rows("proposed", "ready", "running", "interrupted"))
        return waiting + max(0, self.searched - sum(r.role == "search" for r in self.ledger.rows()))

    # ---- what runs next

    def suggest(self, ray_id: str) -> dict[str, Any] | None:
        """Config of the next trial, or None where the study has no more."""
        row = self._next()
        if row is None:
            return None
        assert row.settings is not None
        settings = TrialSettings.model_validate_json(row.settings)
        if row.run_id is None:
            run_id = self.tracker.start_trial(self.parent, self.study, row.key, row.role, settings, self.manifest_hash)
            row = self.ledger.update(row.number, run_id=run_id)
        self.ledger.update(row.number, status="ready", ray_id=ray_id, error=None)
        return {
            "number": row.number,
            "settings": row.settings,
            "folder": str(self.folder / "trials" / row.key),
            "data": str(self.paths.data),
            "cache": str(self.paths.cache),
            "probe": bool(self.benchmarks),
        }

    def _next(self) -> Row | None:
        waiting = self.ledger.rows("interrupted", "proposed")
        if waiting:
            return waiting[0]
        if self.proposer is None or sum(r.role == "search" for r in self.ledger.rows()) >= self.searched:
            return None
        # The identity first: a driver that dies in the next lines leaves a row that resuming strikes out again.
        row = self.ledger.open_trial("?", "search")
        proposal = self.proposer.ask(row.number)
        settings: TrialSettings = self.make(proposal.name, proposal.variant, proposal.seed)
        return self.ledger.update(
            row.number,
            name=proposal.name,
            settings=settings.model_dump_json(),
            optuna_number=proposal.optuna_number,
        )

    # ---- what happened

    def started(self, number: int) -> None:
        """A trial's process starts, for the first time or again after its process died."""
        row = self.ledger[number]
        self.ledger.update(number, status="running", attempts=row.attempts + 1)
        assert row.run_id is not None
        self.tracker.running(row.run_id)
        settings = TrialSettings.model_validate_json(row.settings or "")
        self.display.start(row.key, f"{row.name} s{settings.seed}")

    def reported(self, number: int, result: dict[str, Any]) -> None:
        """A trial reported."""
        row = self.ledger[number]
        phase = result.get(PHASE)
        if phase == "pretrain":
            metrics = dict(result["metrics"])
            step = int(metrics.pop("step"))
            assert row.run_id is not None
            self.tracker.metrics(row.run_id, metrics, step)
            note = f"loss {metrics['loss']:.3f}"
            if "effective_rank" in metrics:
                note += f"  rank {metrics['effective_rank']:.0f}"
            self.display.update(row.key, "pretrain", step, float(result["total"]), note)
        elif phase == "failed":
            self.errors[number] = result["error"]
        elif phase == "done":
            self.results[number] = result["result"]
        else:
            self.display.update(row.key, str(phase), result["count"], result["total"])

    def ended(self, number: int, error: str | None) -> None:
        """A trial ended for good; Optuna and MLflow are told after the book."""
        row = self.ledger[number]
        outcome = self.results.pop(number, None)
        message = self.errors.pop(number, error)
        if outcome is None:
            message = message or "the trial ended without a result"
            row = self.ledger.update(number, status="failed", error=message)
        else:
            row = self.ledger.update(number, status="finished", result=outcome)
        self.settle(row)
        note = message or "  ".join(f"{k} {v:.1f}" for k, v in (outcome or {}).get("accuracies", {}).items())
        self.display.end(row.key, row.status, note)

    def settle(self, row: Row) -> None:
        """Bring Optuna and MLflow into line with the book for a trial that ended; doing it again changes nothing."""
        accuracies = (row.result or {}).get("accuracies")
        if row.optuna_number is not None and self.proposer is not None:
            self.proposer.tell(row.optuna_number, accuracies if row.status == "finished" else None)
        if row.run_id is None:
            return
        folder = self.folder / "trials" / row.key
        if row.status == "finished" and row.result is not None:
            if row.result["checkpoint"]:
                self.tracker.tag(row.run_id, checkpoint=row.result["checkpoint"])
            if accuracies:
                self.tracker.metrics(row.run_id, accuracies, 0)
                items = {f"items.{s['benchmark']}": str(s["items"]) for s in row.result["summaries"]}
                self.tracker.tag(row.run_id, flags=",".join(row.result["flags"]), **items)
                self.tracker.artifacts(row.run_id, folder / "correctness", "correctness")
                self.tracker.artifacts(row.run_id, folder / "scores.json")
        elif (folder / "error.txt").is_file():
            self.tracker.artifacts(row.run_id, folder / "error.txt")
        self.tracker.end(row.run_id, row.status, row.error)

    def interrupt(self) -> list[Row]:
        """Book every trial that still runs as interrupted; returns them."""
        rows = self.ledger.rows("ready", "running")
        for row in rows:
            row = self.ledger.update(row.number, status="interrupted")
            if row.run_id is not None:
                self.tracker.end(row.run_id, "interrupted")
            self.display.end(row.key, "interrupted", "goes on with --resume")
        return rows

    def reconcile(self) -> None:
        """Before anything starts: make the book, Optuna and MLflow agree about what an earlier driver left behind."""
        runs = {r.data.tags.get("trial"): r for r in self.tracker.trial_runs(self.parent)}
        for row in self.ledger.rows():
            if row.run_id is None and row.key in runs:
                # The driver died between creating the run and writing its id down.
                row = self.ledger.update(row.number, run_id=runs[row.key].info.run_id)
            if row.status == "proposed" and row.settings is None:
                self.ledger.remove(row.number)
            elif row.status in ("ready", "running"):
                row = self.ledger.update(row.number, status="interrupted")
                if row.run_id is not None:
                    self.tracker.end(row.run_id, "interrupted")
            elif row.status in ("finished", "failed") and row.run_id is not None:
                run = runs.get(row.key)
                if run is None or run.info.status == "RUNNING":
                    self.settle(row)
        if self.proposer is not None:
            booked = {r.optuna_number: r for r in self.ledger.rows() if r.optuna_number is not None}
            for number in list(self.proposer.running()):
                if number not in booked:
                    self.proposer.tell(number, None)
                elif booked[number].status in ("finished", "failed"):
                    self.settle(booked[number])
        self.display.finished_before = len(self.ledger.rows("finished", "failed"))


class _PassOn:
    """Keeps the director out of Tune's snapshots: the ledger is the state, and nothing is restored from Tune."""

    def __init__(self, director: Director) -> None:
        self.director = director

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> _PassOn:
        return self


class _Searcher(Searcher):
    """Tune's view of the director: what runs next."""

    def __init__(self, director: Director) -> None:
        super().__init__()
        self.pass_on = _PassOn(director)

    def suggest(self, trial_id: str) -> Any:
        """Config of the next trial."""
        config = self.pass_on.director.suggest(trial_id)
        return Searcher.FINISHED if config is None else config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the callback books the end, with its reason."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""


class _Callback(Callback):
    """Tune's events, passed on to the director."""

    def __init__(self, director: Director) -> None:
        self.pass_on = _PassOn(director)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.pass_on.director.started(trial.config["number"])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **i: Any) -> None:
        if PHASE in result:
            self.pass_on.director.reported(trial.config["number"], result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.pass_on.director.ended(trial.config["number"], None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = trial.get_error()
        self.pass_on.director.ended(trial.config["number"], f"the trial's process died: {type(error).__name__}")


@contextlib.contextmanager
def ray_cluster(address: str | None, dashboard: bool) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine and stop it at the end.

    Args:
        address: ``auto`` or a cluster's address; None starts a local one.
        dashboard: start the dashboard with its state API, without which placement groups of stopped trials leak.

    Raises:
        StudyError: if the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    local: dict[str, Any] = {}
    if address is None:
        local = {
            "num_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "object_store_memory": 256 * MEBIBYTE,  # clips travel through the memory-mapped cache, not through Ray
            "include_dashboard": dashboard,
        }
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StudyError(f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}") from None
    try:
        yield
    finally:
        ray.shutdown()


def trial_slots(settings: TrialSettings) -> int:
    """Trials of these resources that fit into the cluster at once.

    Raises:
        StudyError: if not even one fits.
    """
    r = settings.resources
    have = ray.cluster_resources()
    need = {"CPU": r.workers * r.cpus_per_worker, "GPU": r.workers * r.gpus_per_worker}
    slots = min(int(have.get(k, 0) / v) for k, v in need.items() if v > 0)
    if slots < 1:
        wanted = ", ".join(f"{v:g} {k}" for k, v in need.items() if v)
        raise StudyError(
            f"a trial needs {wanted}; the cluster has {have.get('CPU', 0):g} CPU and {have.get('GPU', 0):g} GPU: "
            "lower resources.workers, cpus_per_worker or gpus_per_worker"
        )
    return slots


def run(director: Director, example: TrialSettings, concurrent: int | None, retries: int) -> bool:
    """Run all trials that remain; returns False if the person interrupted.

    Args:
        director: the study.
        example: settings of any of its trials: all occupy the same resources.
        concurrent: trials at once; None: as many as fit.
        retries: how often a trial whose process died starts again from its last checkpoint.

    Raises:
        EquipoiseError: if the study cannot start.
    """
    remaining = director.remaining()
    if remaining == 0:
        return True
    r = example.resources
    # Train's workers carry the resources: a driver that held CPUs too would starve them, so it asks for memory alone.
    per_trial = (
        {"cpu": 0, "memory": 64 * MEBIBYTE} if r.uses_train else {"cpu": r.cpus_per_worker, "gpu": r.gpus_per_worker}
    )
    tuner = Tuner(
        tune.with_resources(run_trial, per_trial),
        tune_config=TuneConfig(
            search_alg=_Searcher(director),
            num_samples=remaining,
            max_concurrent_trials=min(concurrent or remaining, trial_slots(example)),
            trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}_{trial.trial_id}",
        ),
        run_config=RunConfig(
            name="tune",
            storage_path=str(director.folder),
            callbacks=[_Callback(director)],
            failure_config=FailureConfig(max_failures=retries),
            verbose=0,
        ),
    )
    try:
        with _termination_as_interrupt():
            tuner.fit()
    finally:
        director.interrupt()
    return director.remaining() == 0


@contextlib.contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Wind up on a termination as on Ctrl-C; a second interrupt ends the wait for running trials."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
