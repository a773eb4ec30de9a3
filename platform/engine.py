"""The engine of every study: trials through Ray Tune, identities in the ledger, the record in MLflow."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.search import Searcher

from equipoise.platform.cluster import MEBIBYTE, capacity, unplaced, waiting
from equipoise.platform.errors import EquipoiseError, StudyError
from equipoise.platform.ledger import Ledger, Row
from equipoise.platform.progress import StudyDisplay
from equipoise.platform.proposals import OptunaProposer
from equipoise.platform.settings import Resources, TrialSettings
from equipoise.platform.storage import Place
from equipoise.platform.tracking import Tracker
from equipoise.platform.training import Paths
from equipoise.platform.trial import PHASE, run_trial

# Tune's own tables and loggers repeat what the display and MLflow show.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what stops a trial is booked, and said in one sentence
LOOK_EVERY_S = 2.0  # how often the cluster is asked what fits into it
PATIENCE_S = 5.0  # a trial that has not started after this long gets an explanation


@dataclass
class Director:
    """Decides what runs next and books everything that happens; Tune's searcher and callback only pass on to it.

    Attributes:
        study: name of the study.
        folder: the study's folder on the driver.
        trials: where trials write, each in a folder of its own.
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
        resources: what a trial occupies.
        concurrent: trials at once; None: as many as fit.
        halted: why no more trials are started, though there are some; None while all is well.
    """

    study: str
    folder: Path
    trials: Place
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
    resources: Resources = field(default_factory=Resources)
    concurrent: int | None = None
    halted: str | None = None
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    stopped: set[int] = field(default_factory=set)
    _slots: int = 0
    _looked: float = -math.inf
    _explained: float = -math.inf
    _idle: dict[str, float] = field(default_factory=dict)

    def planned(self) -> int:
        """Trials of the whole study."""
        listed = sum(r.role != "search" for r in self.ledger.rows())
        return listed + self.searched

    def remaining(self) -> int:
        """Trials still to run or to propose."""
        waiting = len(self.ledger.rows("proposed", "ready", "running", "interrupted"))
        return waiting + max(0, self.searched - sum(r.role == "search" for r in self.ledger.rows()))

    # ---- what runs next

    def full(self) -> bool:
        """Whether as many trials are under way as the cluster holds, now or when it has grown."""
        now = time.monotonic()
        if now - self._looked > LOOK_EVERY_S:
            self._looked = now
            # Nodes that are lost in the middle may come back: trials wait for them.
            with contextlib.suppress(StudyError):
                self._slots = 0
                self._slots = capacity(self.resources, self.concurrent)
        return len(self.ledger.rows("ready", "running")) >= self._slots

    def explain(self) -> None:
        """Say what trials wait for that do not start; called all the time."""
        now = time.monotonic()
        if now - self._explained < LOOK_EVERY_S:
            return
        self._explained = now
        # A trial on Ray Train starts at once and then waits for its workers.
        idle = [r.key for r in self.ledger.rows("ready")] + self.display.starting()
        self._idle = {key: self._idle.get(key, now) for key in idle}
        late = sum(now - since > PATIENCE_S for since in self._idle.values())
        # A process that loads PyTorch is late too, and waits for nothing.
        stuck = min(late, unplaced()) if late else 0
        if not stuck and self._slots == 0 and not self.ledger.rows("ready", "running"):
            stuck = self.remaining()
        self.display.waiting(waiting(stuck, self.resources) if stuck else None)

    def suggest(self, ray_id: str) -> dict[str, Any] | None:
        """Config of the next trial, or None where the study has no more."""
        row = None if self.halted else self._next()
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
            "folder": str(self.trials / row.key),
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
            self.tracker.trained(row.run_id, metrics, step)
            note = f"loss {metrics['loss']:.3f}"
            if "effective_rank" in metrics:
                note += f"  rank {metrics['effective_rank']:.0f}"
            self.display.update(row.key, "pretrain", step, float(result["total"]), note)
        elif phase == "failed":
            self.errors[number] = result["error"]
            if result.get("halt"):
                self.halted = result["error"]
                self.stopped.add(number)
        elif phase == "done":
            self.results[number] = result["result"]
        else:
            self.display.update(row.key, str(phase), result["count"], result["total"])

    def ended(self, number: int, error: str | None) -> None:
        """A trial ended for good; Optuna and MLflow are told after the book."""
        row = self.ledger[number]
        outcome = self.results.pop(number, None)
        message = self.errors.pop(number, error)
        if outcome is None and number in self.stopped:
            # What stopped it would stop every other one: it goes on where it is when the cause is gone.
            self._interrupted(row)
            return
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
        folder = self.trials / row.key
        if row.status == "finished" and row.result is not None:
            if row.result["checkpoint"]:
                self.tracker.tag(row.run_id, checkpoint=row.result["checkpoint"])
            if accuracies:
                self.tracker.metrics(row.run_id, {**accuracies, "score_seconds": row.result["seconds"]["score"]}, 0)
                items = {f"items.{s['benchmark']}": str(s["items"]) for s in row.result["summaries"]}
                self.tracker.tag(row.run_id, flags=",".join(row.result["flags"]), **items)
                self._log(row.run_id, folder / "correctness", "correctness")
                self._log(row.run_id, folder / "scores.json")
        elif (folder / "error.txt").exists():
            self._log(row.run_id, folder / "error.txt")
        self.tracker.end(row.run_id, row.status, row.error)

    def _log(self, run_id: str, place: Place, name: str | None = None) -> None:
        with place.fetched() as files:
            self.tracker.artifacts(run_id, files, name)

    def interrupt(self) -> list[Row]:
        """Book every trial that still runs as interrupted; returns them."""
        rows = self.ledger.rows("ready", "running")
        for row in rows:
            self._interrupted(row)
        return rows

    def _interrupted(self, row: Row) -> None:
        row = self.ledger.update(row.number, status="interrupted")
        if row.run_id is not None:
            self.tracker.end(row.run_id, "interrupted")
        self.display.end(row.key, "interrupted", "goes on with --resume")

    @contextlib.contextmanager
    def books(self) -> Iterator[None]:
        """Stop the study, once, when Optuna, MLflow or the store cannot be used any more.

        Tune would take an error here for one of the trial and run it again, though it may be finished. Interrupted
        trials lose nothing: they go on from their last checkpoint, and resuming settles what was not told.
        """
        try:
            yield
        except (EquipoiseError, OSError) as error:
            if self.halted is None:
                self.halted = str(error)
                os.kill(os.getpid(), signal.SIGINT)

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
        if self.pass_on.director.full():
            return None  # Tune asks again
        config = None
        with self.pass_on.director.books():
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

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.pass_on.director.explain()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with self.pass_on.director.books():
            self.pass_on.director.started(trial.config["number"])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **i: Any) -> None:
        if PHASE in result:
            with self.pass_on.director.books():
                self.pass_on.director.reported(trial.config["number"], result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with self.pass_on.director.books():
            self.pass_on.director.ended(trial.config["number"], None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = trial.get_error()
        # An error that Tune has stored comes back as the text of its trace, which ends with what happened.
        what = type(error).__name__ if isinstance(error, BaseException) else str(error).strip().splitlines()[-1]
        with self.pass_on.director.books():
            self.pass_on.director.ended(trial.config["number"], f"the trial's process died: {what}")


def run(director: Director, retries: int) -> bool:
    """Run all trials that remain; returns False if the person interrupted, or the director halted the study.

    Args:
        director: the study.
        retries: how often a trial whose process died starts again from its last checkpoint; a node that said it would
            go does not count.

    Raises:
        EquipoiseError: if the study cannot start.
    """
    remaining = director.remaining()
    if remaining == 0:
        return True
    r = director.resources
    slots = capacity(r, director.concurrent)
    # Tune keeps one trial waiting for resources unless told otherwise, and a cluster would grow node by node.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
    # Train's workers carry the resources: a driver that held CPUs too would starve them, so it asks for memory alone.
    per_trial = (
        {"cpu": 0, "memory": 64 * MEBIBYTE} if r.uses_train else {"cpu": r.cpus_per_worker, "gpu": r.gpus_per_worker}
    )
    tuner = Tuner(
        tune.with_resources(run_trial, per_trial),
        tune_config=TuneConfig(
            search_alg=_Searcher(director),
            reuse_actors=True,  # a process that has loaded PyTorch takes the next trial: seconds saved for each
            num_samples=remaining,
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
