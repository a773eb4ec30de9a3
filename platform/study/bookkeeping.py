"""The bookkeeper of a study: what happened, in the book before anyone else is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.platform.record.cost import Cost
from equipoise.platform.record.ledger import ENDED, Ledger, Status, TrialRow
from equipoise.platform.record.tracking import Tracker
from equipoise.platform.search.proposer import OptunaProposer, Proposal
from equipoise.platform.search.realign import Booked
from equipoise.platform.search.repeats import unused_seed
from equipoise.platform.settings.parts import EARLIER, SELECT, metric_of
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Place
from equipoise.platform.study.meter import Meter
from equipoise.platform.study.plan import StudyPlan
from equipoise.platform.study.progress import StudyDisplay
from equipoise.platform.study.regain import regain
from equipoise.platform.trial.messages import Done, Failed, Report, RungScores, Trained


class Bookkeeper:
    """Writes down everything that happens, then tells Optuna, MLflow and the person.

    Args:
        plan: of the study.
        ledger: its book.
        tracker: its MLflow record.
        display: what the person sees.

    Attributes:
        meter: of what trials cost.
        halted: why no more trials are started, though there are some; None while all is well.
    """

    def __init__(self, plan: StudyPlan, ledger: Ledger, tracker: Tracker, display: StudyDisplay) -> None:
        self.plan, self.ledger, self.tracker, self.display = plan, ledger, tracker, display
        self.meter = Meter(ledger, plan.resources)
        self.halted: str | None = None
        self._results: dict[int, dict[str, Any]] = {}
        self._errors: dict[int, str] = {}
        self._stopped: set[int] = set()  # trials that what halts the study has stopped

    @property
    def proposer(self) -> OptunaProposer | None:
        """Source of searched trials, None for a study that is a list."""
        return None if self.plan.search is None else self.plan.search.proposer

    def proposed(self, row: TrialRow, proposal: Proposal) -> TrialRow:
        """The search proposed a mix for a trial that has its identity."""
        assert self.plan.search is not None
        seed = unused_seed(self.ledger.rows(), proposal.variant, proposal.seed)
        settings = self.plan.search.make(proposal.name, proposal.variant, seed)
        return self.ledger.update(
            row.number,
            name=proposal.name,
            settings=settings.model_dump_json(),
            optuna_number=proposal.optuna_number,
        )

    def repeated(self, first: TrialRow, seed: int) -> TrialRow:
        """A found variant comes once more, with another seed; Optuna has heard of it and is not told again."""
        assert self.plan.search is not None
        variant = first.asked.variant
        settings = self.plan.search.make(first.name, variant, unused_seed(self.ledger.rows(), variant, seed))
        return self.ledger.open_trial(first.name, "repeat", settings.model_dump_json())

    def handed_out(self, row: TrialRow, settings: TrialSettings, ray_id: str) -> None:
        """A trial goes to Ray, and has an MLflow run from now on."""
        if row.run_id is None:
            run_id = self.tracker.start_trial(
                self.plan.parent, self.plan.study, row.key, row.role, settings, self.plan.manifest_hash
            )
            row = self.ledger.update(row.number, run_id=run_id)
        self.ledger.update(row.number, status="ready", ray_id=ray_id, error=None)

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
        settings = row.asked
        self.display.start(row.key, f"{row.name} s{settings.seed}")

    def reported(self, number: int, report: Report) -> None:
        """A trial reported."""
        row = self.ledger[number]
        if isinstance(report, Trained):
            self._trained(row, report)
            return
        self.meter.pay(number)
        if isinstance(report, Failed):
            self._errors[number] = report.error
            if report.halt:
                self.halted = report.error
                self._stopped.add(number)
        elif isinstance(report, Done):
            self._results[number] = report.result
        elif isinstance(report, RungScores):
            self._log_rung(row, report.step, report.scores)
        else:
            self.display.update(row.key, report.phase, report.count, report.total)

    def _trained(self, row: TrialRow, report: Trained) -> None:
        metrics = dict(report.metrics)
        step = int(metrics.pop("step"))
        self.meter.pay(row.number, metrics.get("seconds"), share=step / report.total)
        assert row.run_id is not None
        self.tracker.trained(row.run_id, metrics, step)
        note = f"loss {metrics['loss']:.3f}"
        if "effective_rank" in metrics:
            note += f"  rank {metrics['effective_rank']:.0f}"
        self.display.update(row.key, "pretrain", step, float(report.total), note)

    def _log_rung(self, row: TrialRow, step: int, scores: Mapping[str, float]) -> None:
        """Scores of a rung under names of their own: nothing may take them for final ones."""
        assert row.run_id is not None
        named = {f"rung_{metric_of(name, SELECT)}": value for name, value in scores.items()}
        self.tracker.metrics(row.run_id, named, step)

    def ended(self, number: int, error: str | None) -> None:
        """A trial ended for good; Optuna and MLflow are told after the book."""
        self.meter.pay(number, leaves=True)
        row = self.ledger[number]
        if row.status == "stopped":
            self.settle(row)
            self.display.end(row.key, "stopped", row.error or f"early, at step {row.stopped_at}")
            return
        outcome = self._results.pop(number, None)
        message = self._errors.pop(number, error)
        if outcome is None and number in self._stopped:
            # What stopped it would stop every other one: it goes on where it is when the cause is gone.
            self._interrupted(row)
            return
        if outcome is None:
            message = message or "the trial ended without a result"
            row = self.ledger.update(number, status="failed", error=message)
        else:
            row = self.ledger.update(number, status="finished", result=outcome)
        self.settle(row)
        found = (outcome or {}).get("accuracies", {})
        shown = [f"{self.plan.part} %", *(f"{k} {v:.1f}" for k, v in found.items())] if found else []
        note = message or "  ".join(shown)
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
            self.tracker.metrics(row.run_id, Cost.of(row.cost).metrics(self.plan.prices), 0)
        folder = self.plan.trials / row.key
        if row.status == "finished" and row.result is not None:
            if row.result["checkpoint"]:
                self.tracker.tag(row.run_id, checkpoint=row.result["checkpoint"])
            if accuracies:
                part = row.result.get("part", EARLIER)
                named = {metric_of(name, part): value for name, value in accuracies.items()}
                self.tracker.metrics(row.run_id, {**named, "score_seconds": row.result["seconds"]["score"]}, 0)
                items = {f"items.{s['benchmark']}": str(s["items"]) for s in row.result["summaries"]}
                items |= {f"protocol.{name}": row.asked.protocol(name) for name in accuracies}
                self.tracker.tag(row.run_id, flags=",".join(row.result["flags"]), part=part, **items)
                self._log(row.run_id, folder / "correctness", "correctness")
                self._log(row.run_id, folder / "scores.json")
        elif row.status == "stopped":
            why = {} if row.error is None else {"stopped_because": row.error}
            self.tracker.tag(row.run_id, stopped_at_step=str(row.stopped_at), **why)
        elif (folder / "error.txt").exists():
            self._log(row.run_id, folder / "error.txt")
        self.tracker.end(row.run_id, row.status, None if row.status == "stopped" else row.error)

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

    def reconcile(self) -> None:
        """Before anything starts: make the book, Optuna and MLflow agree about what an earlier driver left behind."""
        runs = {r.data.tags.get("trial"): r for r in self.tracker.children(self.plan.parent)}
        self._regain(list(runs.values()))
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

    def _regain(self, runs: Sequence[Any]) -> None:
        """What the book or Optuna has lost, from what the other and MLflow hold."""
        proposed = {} if self.proposer is None else self.proposer.proposed()
        regain(self.ledger, self.tracker, self.plan, runs, proposed)
        if self.proposer is not None:
            rows = self.ledger.rows()
            booked = [Booked(r.optuna_number, r.number, r.asked.variant) for r in rows if r.optuna_number is not None]
            self.proposer.restore(booked)

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
                self.proposed(asking.pop(number), proposer.recover(optuna_number, number))
            else:
                proposer.tell(optuna_number, None)
