"""The director of a study: what runs next, and what happened, in the book before anyone else is told."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from equipoise.platform.errors import EquipoiseError, StudyError
from equipoise.platform.record.cost import Cost
from equipoise.platform.record.ledger import ENDED, SEARCHED, Ledger, Status, TrialRow
from equipoise.platform.record.reading import trial_runs
from equipoise.platform.record.tracking import Tracker
from equipoise.platform.search.early_stopping import goes_on
from equipoise.platform.search.proposer import OptunaProposer, Proposal
from equipoise.platform.search.repeats import next_repeat, unused_seed
from equipoise.platform.settings.search import Budget, EarlyStopping, Prices, SeedFidelity
from equipoise.platform.settings.trial import Resources, TrialSettings
from equipoise.platform.storage import Paths, Place
from equipoise.platform.study.cluster import capacity, unplaced, waiting
from equipoise.platform.study.meter import Meter
from equipoise.platform.study.progress import StudyDisplay
from equipoise.platform.trial.messages import PHASE, write_decision

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
        searched: how many trials the search asks for, repeats included.
        halving: when searched trials stop early; None: never.
        seeds: how promising variants earn more seeds; None: they do not.
        budget: hours that the search does not mean to exceed; None: no end but ``searched``.
        prices: of an hour; None: no price is booked.
        resources: what a trial occupies.
        concurrent: trials at once; None: as many as fit.
        halted: why no more trials are started, though there are some; None while all is well.
        meter: of what trials cost.
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
    halving: EarlyStopping | None = None
    seeds: SeedFidelity | None = None
    budget: Budget | None = None
    prices: Prices | None = None
    resources: Resources = field(default_factory=Resources)
    concurrent: int | None = None
    halted: str | None = None
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    stopped: set[int] = field(default_factory=set)
    meter: Meter = field(init=False)
    _slots: int = 0
    _looked: float = -math.inf
    _explained: float = -math.inf
    _idle: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.meter = Meter(self.ledger, self.resources)

    def planned(self) -> int:
        """Trials of the whole study."""
        listed = sum(r.role not in SEARCHED for r in self.ledger.rows())
        return listed + self.searched

    def remaining(self) -> int:
        """Trials still to run or to propose."""
        waiting = len(self.ledger.rows("proposed", "ready", "running", "interrupted"))
        return waiting + self._unasked()

    def _unasked(self) -> int:
        """Trials of the search that have no identity yet; none where the budget does not hold one more."""
        return self._left() if self.meter.holds_another(self.budget) else 0

    def _left(self) -> int:
        return max(0, self.searched - sum(r.role in SEARCHED for r in self.ledger.rows()))

    def budget_note(self) -> str | None:
        """What the budget left undone, in a sentence; None where it left nothing."""
        if self.budget is None or self.meter.holds_another(self.budget) or not self._left():
            return None
        spent, _, another = self.meter.outlook(self.budget.unit)
        about = "" if another is None else f", another takes about {another:.3g}"
        return (
            f"The budget of {self.budget} holds no further trial: {spent:.3g} are spent{about}. "
            f"{self.searched - self._left()} of the search's {self.searched} trials were run; --resume "
            "with a larger --budget runs more."
        )

    # ---- what runs next

    def full(self) -> bool:
        """Whether as many trials are under way as the cluster holds, now or when it has grown, or the budget."""
        now = time.monotonic()
        if now - self._looked > LOOK_EVERY_S:
            self._looked = now
            # Nodes that are lost in the middle may come back: trials wait for them.
            with contextlib.suppress(StudyError):
                self._slots = 0
                self._slots = capacity(self.resources, self.concurrent)
        under_way = len(self.ledger.rows("ready", "running"))
        if under_way >= self._slots:
            return True
        # What is under way may cost less than expected, so nothing is given up before it has ended; and it tells what
        # a trial costs, before a wave of them starts that no budget holds.
        waits = under_way and not self.ledger.rows("interrupted", "proposed") and self._left()
        return bool(waits) and not self.meter.holds_another(self.budget, surely=True)

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
            "rungs": self._rungs(row, settings),
        }

    def _rungs(self, row: TrialRow, settings: TrialSettings) -> dict[str, Any] | None:
        """Where early stopping looks at a trial; None for one that it has no part in: a control, a repeat."""
        if self.halving is None or row.role != "search":
            return None
        steps = self.halving.steps(settings.preset.optimisation.steps)
        return {"steps": list(steps), "items": self.halving.items}

    def _next(self) -> TrialRow | None:
        waiting = self.ledger.rows("interrupted", "proposed")
        if waiting:
            return waiting[0]
        if self.proposer is None or not self._unasked():
            return None
        earned = None if self.seeds is None else next_repeat(self.ledger.rows(), self.benchmarks, self.seeds)
        if earned is not None:
            return self._repeat(*earned)
        # The identity first: from it, resuming finds what a driver that dies in the next lines had asked for.
        row = self.ledger.open_trial("?", "search")
        return self._book(row, self.proposer.ask(row.number))

    def _book(self, row: TrialRow, proposal: Proposal) -> TrialRow:
        seed = unused_seed(self.ledger.rows(), proposal.variant, proposal.seed)
        settings: TrialSettings = self.make(proposal.name, proposal.variant, seed)
        return self.ledger.update(
            row.number,
            name=proposal.name,
            settings=settings.model_dump_json(),
            optuna_number=proposal.optuna_number,
        )

    def _repeat(self, first: TrialRow, seed: int) -> TrialRow:
        """A found variant once more, with another seed; Optuna has heard of the variant and is not told again."""
        variant = TrialSettings.model_validate_json(first.settings or "").variant
        settings: TrialSettings = self.make(first.name, variant, unused_seed(self.ledger.rows(), variant, seed))
        return self.ledger.open_trial(first.name, "repeat", settings.model_dump_json())

    # ---- what happened

    def died(self, number: int) -> None:
        """A trial's process died, and it will start again: until then it holds nothing."""
        self.meter.pay(number, leaves=True)

    def started(self, number: int) -> None:
        """A trial's process starts, for the first time or again after its process died."""
        row = self.ledger[number]
        self.meter.start(number)
        # One that was stopped early, and whose process died before its end, stays stopped.
        status: Status = "stopped" if row.status == "stopped" else "running"
        row = self.ledger.update(number, status=status, attempts=row.attempts + 1)
        assert row.run_id is not None
        self.tracker.running(row.run_id)
        settings = TrialSettings.model_validate_json(row.settings or "")
        self.display.start(row.key, f"{row.name} s{settings.seed}")

    def reported(self, number: int, result: dict[str, Any]) -> None:
        """A trial reported."""
        row = self.ledger[number]
        phase = result.get(PHASE)
        if phase != "pretrain":
            self.meter.pay(number)
        if phase == "pretrain":
            metrics = dict(result["metrics"])
            step = int(metrics.pop("step"))
            self.meter.pay(number, metrics.get("seconds"), share=step / result["total"])
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
        elif phase == "rung":
            self._log_rung(row, int(result["step"]), result["scores"])
        else:
            self.display.update(row.key, str(phase), result["count"], result["total"])

    def decide(self, number: int, step: int, scores: dict[str, float]) -> bool:
        """Whether a trial goes on from a rung; booked, with its scores, before anything else hears of it.

        Starting points are looked at, because the others are compared with them, and never stopped. A trial that comes
        to a rung again, from a checkpoint before it, gets the answer it got.
        """
        stays = self._decided(self.ledger[number], step, scores)
        if self.resources.uses_train:
            write_decision(self.trials / self.ledger[number].key, step, stays)
        return stays

    def _decided(self, row: TrialRow, step: int, scores: dict[str, float]) -> bool:
        if self.halving is None or row.status == "stopped" or step in row.rungs:
            return row.status != "stopped"
        there = {r.number: r.rungs[step] for r in self.ledger.rows() if step in r.rungs} | {row.number: scores}
        points = {n: [found[b] for b in self.benchmarks] for n, found in there.items()}
        assert self.proposer is not None
        assert row.optuna_number is not None
        stays = self.proposer.is_start(row.optuna_number) or goes_on(points, row.number, self.halving)
        self.ledger.update(row.number, rungs={**row.rungs, step: scores}, **({} if stays else {"status": "stopped"}))
        return stays

    def _log_rung(self, row: TrialRow, step: int, scores: dict[str, float]) -> None:
        """Scores of a rung under names of their own: nothing may take them for final ones."""
        assert row.run_id is not None
        self.tracker.metrics(row.run_id, {f"rung_{name}": value for name, value in scores.items()}, step)

    def ended(self, number: int, error: str | None) -> None:
        """A trial ended for good; Optuna and MLflow are told after the book."""
        self.meter.pay(number, leaves=True)
        row = self.ledger[number]
        if row.status == "stopped":
            self.settle(row)
            self.display.end(row.key, "stopped", f"early, at step {max(row.rungs)}")
            return
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

    def settle(self, row: TrialRow) -> None:
        """Bring Optuna and MLflow into line with the book for a trial that ended; doing it again changes nothing."""
        accuracies = (row.result or {}).get("accuracies")
        if row.optuna_number is not None and self.proposer is not None:
            if row.status == "stopped":
                self.proposer.prune(row.optuna_number, row.rungs)
            else:
                self.proposer.tell(row.optuna_number, accuracies if row.status == "finished" else None, row.rungs)
        if row.run_id is None:
            return
        if row.cost is not None:
            self.tracker.metrics(row.run_id, Cost.of(row.cost).metrics(self.prices), 0)
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
        elif row.status == "stopped":
            self.tracker.tag(row.run_id, stopped_at_step=str(max(row.rungs)))
        elif (folder / "error.txt").exists():
            self._log(row.run_id, folder / "error.txt")
        self.tracker.end(row.run_id, row.status, row.error)

    def _log(self, run_id: str, place: Place, name: str | None = None) -> None:
        with place.fetched() as files:
            self.tracker.artifacts(run_id, files, name)

    def interrupt(self) -> list[TrialRow]:
        """Book every trial that still runs as interrupted; returns them."""
        rows = self.ledger.rows("ready", "running")
        for row in rows:
            self._interrupted(row)
        return rows

    def _interrupted(self, row: TrialRow) -> None:
        self.meter.pay(row.number, leaves=True)
        row = self.ledger.update(row.number, status="interrupted")
        if row.run_id is not None:
            self.tracker.end(row.run_id, "interrupted")
        self.display.end(row.key, "interrupted", "goes on with --resume")

    @contextlib.contextmanager
    def halting(self) -> Iterator[None]:
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
        runs = {r.data.tags.get("trial"): r for r in trial_runs(self.tracker, self.parent)}
        for row in self.ledger.rows():
            if row.run_id is None and row.key in runs:
                # The driver died between creating the run and writing its id down.
                row = self.ledger.update(row.number, run_id=runs[row.key].info.run_id)
            if row.status in ("ready", "running"):
                row = self.ledger.update(row.number, status="interrupted")
                if row.run_id is not None:
                    self.tracker.end(row.run_id, "interrupted")
            elif row.status in ENDED and row.run_id is not None:
                run = runs.get(row.key)
                if run is None or run.info.status == "RUNNING":
                    for step, scores in row.rungs.items():
                        self._log_rung(row, step, scores)  # the last of them may not have been logged
                    self.settle(row)
        if self.proposer is not None:
            self._recover(self.proposer)
        for row in self.ledger.rows("proposed"):
            if row.settings is None:
                self.ledger.remove(row.number)  # its driver died before it asked for anything
        self.display.finished_before = len(self.ledger.rows(*ENDED))

    def _recover(self, proposer: OptunaProposer) -> None:
        """Give every suggestion that Optuna holds for running to its trial in the book."""
        booked = {r.optuna_number: r for r in self.ledger.rows() if r.optuna_number is not None}
        asking = {r.number: r for r in self.ledger.rows("proposed") if r.settings is None}
        for optuna_number in list(proposer.running()):
            row = booked.get(optuna_number)
            if row is not None:
                if row.status in ENDED:
                    self.settle(row)
                continue
            # The driver died between asking and writing down what it got. It asks for one at a time.
            number = proposer.trial_of(optuna_number)
            if number is None and asking:
                number = max(asking)
            if number in asking:
                self._book(asking.pop(number), proposer.recover(optuna_number, number))
            else:
                proposer.tell(optuna_number, None)
