"""The engine of every study: its director's trials through Ray Tune."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from equipoise.platform.stats.collapse import Health
from equipoise.platform.study.cluster import MEBIBYTE, capacity, idle_gpus
from equipoise.platform.study.director import Director
from equipoise.platform.trial.messages import PHASE, parse_report
from equipoise.platform.trial.run import run_trial

# Tune's own tables and loggers repeat what the display and MLflow show.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what stops a trial is booked, and said in one sentence


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
        task = None
        with self.pass_on.director.halting():
            task = self.pass_on.director.suggest(trial_id)
        return Searcher.FINISHED if task is None else task.to_config()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the callback books the end, with its reason."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""


class _Decide:
    """Tune's scheduler's view of the director: whether a trial goes on."""

    def __init__(self, director: Director) -> None:
        self.pass_on = _PassOn(director)

    def __call__(self, config: Mapping[str, Any], step: int, scores: Mapping[str, float], seconds: float) -> bool:
        with self.pass_on.director.halting():
            director = self.pass_on.director
            # The workers of a trial on Ray Train end themselves: Tune would end its process and leave them behind.
            return director.decide(config["number"], step, dict(scores)) or director.plan.resources.uses_train
        return True  # the study stops: nothing is decided any more


class _Watch(_PassOn):
    """Tune's scheduler's view of the director: whether a trial goes on after a report of its health."""

    def __call__(self, config: Mapping[str, Any], step: int, health: Health, steps: int) -> bool:
        with self.director.halting():
            goes_on = self.director.watch(config["number"], step, health, steps)
            return goes_on or self.director.plan.resources.uses_train  # as above
        return True


class _Callback(Callback):
    """Tune's events, passed on to the director."""

    def __init__(self, director: Director) -> None:
        self.pass_on = _PassOn(director)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.pass_on.director.explain()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with self.pass_on.director.halting():
            self.pass_on.director.bookkeeper.started(trial.config["number"])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with self.pass_on.director.halting():
            self.pass_on.director.bookkeeper.died(trial.config["number"])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **i: Any) -> None:
        report = parse_report(result)
        if report is not None:
            with self.pass_on.director.halting():
                self.pass_on.director.bookkeeper.reported(trial.config["number"], report)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with self.pass_on.director.halting():
            self.pass_on.director.bookkeeper.ended(trial.config["number"], None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = trial.get_error()
        # An error that Tune has stored comes back as the text of its trace, which ends with what happened.
        what = type(error).__name__ if isinstance(error, BaseException) else str(error).strip().splitlines()[-1]
        with self.pass_on.director.halting():
            self.pass_on.director.bookkeeper.ended(trial.config["number"], f"the trial's process died: {what}")


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
    r = director.plan.resources
    slots = capacity(r, director.plan.concurrent)
    director.display.say(idle_gpus(r))
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
            scheduler=MultiObjectiveHalving(_Decide(director), _Watch(director)),
            reuse_actors=True,  # a process that has loaded PyTorch takes the next trial: seconds saved for each
            num_samples=remaining,
            trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}_{trial.trial_id}",
        ),
        run_config=RunConfig(
            name="tune",
            storage_path=str(director.plan.folder),
            callbacks=[_Callback(director)],
            failure_config=FailureConfig(max_failures=retries),
            verbose=0,
        ),
    )
    try:
        with _termination_as_interrupt():
            tuner.fit()
    finally:
        director.bookkeeper.interrupt()
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


SCORES, METRICS = "scores/", "metrics/"  # Tune hands over a nested result with its keys joined


class MultiObjectiveHalving(FIFOScheduler):
    """Starts trials in their order, and stops those that ``decide`` does not let go on from a rung.

    Tune's schedulers read one metric and keep their own state; this one keeps none: ``decide`` books what it
    decided before Tune hears of it.

    Args:
        decide: whether a trial goes on, from its configuration, the step, the scores by benchmark, and the seconds that
            taking them took.
        watch: whether a trial goes on, from its configuration, the step, its health, and the steps of its training.
    """

    def __init__(
        self,
        decide: Callable[[Mapping[str, Any], int, Mapping[str, float], float], bool],
        watch: Callable[[Mapping[str, Any], int, Health, int], bool],
    ) -> None:
        super().__init__()
        self.decide, self.watch = decide, watch
        self.stopped = 0

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """STOP for a trial that is not among the best at its rung, or that collapses, CONTINUE for any other report."""
        if self._goes_on(trial.config, result):
            return str(self.CONTINUE)
        self.stopped += 1
        return str(self.STOP)

    def _goes_on(self, config: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
        if result.get(PHASE) == "rung":
            scores = {k.removeprefix(SCORES): float(v) for k, v in result.items() if k.startswith(SCORES)}
            return self.decide(config, int(result["step"]), scores, float(result["seconds"]))
        health = Health.among(result, METRICS) if result.get(PHASE) == "pretrain" else None
        return health is None or self.watch(config, int(result[f"{METRICS}step"]), health, int(result["total"]))

    def debug_string(self) -> str:
        """For Tune's own display."""
        return f"multi-objective halving: {self.stopped} trials stopped early or collapsing"

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's book is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study's book is the state."""
