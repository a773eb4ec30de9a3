"""The director of a study: what runs next, and whether a trial goes on."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping

from equipoise.platform.errors import EquipoiseError, StudyError
from equipoise.platform.record.ledger import SEARCHED, Ledger, TrialRow, healthy_of
from equipoise.platform.record.tracking import Tracker
from equipoise.platform.search.collapse import collapse_under_way
from equipoise.platform.search.early_stopping import goes_on
from equipoise.platform.search.repeats import next_repeat
from equipoise.platform.settings.search import Budget
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.stats.collapse import Health
from equipoise.platform.study.bookkeeping import Bookkeeper
from equipoise.platform.study.cluster import capacity, unplaced, waiting
from equipoise.platform.study.plan import StudyPlan
from equipoise.platform.study.progress import StudyDisplay
from equipoise.platform.trial.messages import RungPlan, TrialTask, call_off, write_decision

LOOK_EVERY_S = 2.0  # how often the cluster is asked what fits into it
PATIENCE_S = 5.0  # a trial that has not started after this long gets an explanation


class Director:
    """Decides what runs next; Tune's searcher, scheduler and callback only pass on to it and to its bookkeeper.

    Args:
        plan: of the study.
        ledger: its book.
        tracker: its MLflow record.
        display: what the person sees.

    Attributes:
        bookkeeper: of everything that happens.
    """

    def __init__(self, plan: StudyPlan, ledger: Ledger, tracker: Tracker, display: StudyDisplay) -> None:
        self.plan, self.ledger, self.display = plan, ledger, display
        self.bookkeeper = Bookkeeper(plan, ledger, tracker, display)
        self._slots = 0
        self._looked = self._explained = -math.inf
        self._idle: dict[str, float] = {}

    @property
    def _searched(self) -> int:
        """Trials that the search asks for."""
        return 0 if self.plan.search is None else self.plan.search.trials

    @property
    def _budget(self) -> Budget | None:
        return None if self.plan.search is None else self.plan.search.budget

    def _holds_another(self, surely: bool = False) -> bool:
        """Whether the budget holds another trial of the search, and what comes after it."""
        reserve = 0 if self.plan.search is None else self.plan.search.reserve
        return self.bookkeeper.meter.holds_another(self._budget, surely, reserve)

    def planned(self) -> int:
        """Trials of the whole study."""
        listed = sum(r.role not in SEARCHED for r in self.ledger.rows())
        return listed + self._searched

    def remaining(self) -> int:
        """Trials still to run or to propose."""
        waiting = len(self.ledger.rows("proposed", "ready", "running", "interrupted"))
        return waiting + self._unasked()

    def _unasked(self) -> int:
        """Trials of the search that have no identity yet; none where the budget does not hold one more."""
        return self._left() if self._holds_another() else 0

    def _left(self) -> int:
        return max(0, self._searched - sum(r.role in SEARCHED for r in self.ledger.rows()))

    def budget_note(self) -> str | None:
        """What the budget left undone, in a sentence; None where it left nothing."""
        budget, meter = self._budget, self.bookkeeper.meter
        if budget is None or self._holds_another() or not self._left():
            return None
        spent, _, another = meter.outlook(budget.unit)
        about = "" if another is None else f", another takes about {another:.3g}"
        return (
            f"The budget of {budget} holds no further trial: {spent:.3g} are spent{about}. "
            f"{self._searched - self._left()} of the search's {self._searched} trials were run; --resume "
            "with a larger --budget runs more."
        )

    def full(self) -> bool:
        """Whether as many trials are under way as the cluster holds, now or when it has grown, or the budget."""
        now = time.monotonic()
        if now - self._looked > LOOK_EVERY_S:
            self._looked = now
            # Nodes that are lost in the middle may come back: trials wait for them.
            with contextlib.suppress(StudyError):
                self._slots = 0
                self._slots = capacity(self.plan.resources, self.plan.concurrent)
        under_way = len(self.ledger.rows("ready", "running"))
        if under_way >= self._slots:
            return True
        # What is under way may cost less than expected, so nothing is given up before it has ended; and it tells what
        # a trial costs, before a wave of them starts that no budget holds.
        waits = under_way and not self.ledger.rows("interrupted", "proposed") and self._left()
        return bool(waits) and not self._holds_another(surely=True)

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
        self.display.waiting(waiting(stuck, self.plan.resources) if stuck else None)

    def suggest(self, ray_id: str) -> TrialTask | None:
        """The next trial, or None where the study has no more."""
        row = None if self.bookkeeper.halted else self._next()
        if row is None:
            return None
        assert row.settings is not None
        settings = row.asked
        self.bookkeeper.handed_out(row, settings, ray_id)
        return TrialTask(
            number=row.number,
            settings=settings,
            folder=self.plan.trials / row.key,
            paths=self.plan.paths,
            probe=bool(self.plan.benchmarks),
            rungs=self._rungs(row, settings),
            part=self.plan.part,
            watched=row.role == "search",
        )

    def _rungs(self, row: TrialRow, settings: TrialSettings) -> RungPlan | None:
        """Where early stopping looks at a trial; None for one that it has no part in: a control, a repeat."""
        stopping = None if self.plan.search is None else self.plan.search.early_stopping
        if stopping is None or row.role != "search":
            return None
        return RungPlan(tuple(stopping.steps(settings.preset.optimisation.steps)), stopping.items)

    def _next(self) -> TrialRow | None:
        waiting = self.ledger.rows("interrupted", "proposed")
        if waiting:
            return waiting[0]
        search = self.plan.search
        if search is None or not self._unasked():
            return None
        earned = None if search.seeds is None else next_repeat(self.ledger.rows(), self.plan.benchmarks, search.seeds)
        if earned is not None:
            return self.bookkeeper.repeated(*earned)
        # The identity first: from it, resuming finds what a driver that dies in the next lines had asked for.
        row = self.ledger.open_trial("?", "search")
        return self.bookkeeper.proposed(row, search.proposer.ask(row.number))

    def decide(self, number: int, step: int, scores: Mapping[str, float]) -> bool:
        """Whether a trial goes on from a rung; booked, with its scores, before anything else hears of it.

        Starting points are looked at, because the others are compared with them, and never stopped. A trial that comes
        to a rung again, from a checkpoint before it, gets the answer it got.
        """
        stays = self._decided(self.ledger[number], step, scores)
        if self.plan.resources.uses_train:
            write_decision(self.plan.trials / self.ledger[number].key, step, stays)
        return stays

    def _decided(self, row: TrialRow, step: int, scores: Mapping[str, float]) -> bool:
        search = self.plan.search
        if search is None or search.early_stopping is None or row.status == "stopped" or step in row.rungs:
            return row.status != "stopped"
        there = {r.number: r.rungs[step] for r in self.ledger.rows() if step in r.rungs} | {row.number: scores}
        points = {n: [found[b] for b in self.plan.benchmarks] for n, found in there.items()}
        assert row.optuna_number is not None
        stays = search.proposer.is_start(row.optuna_number) or goes_on(points, row.number, search.early_stopping)
        self.ledger.update(row.number, rungs={**row.rungs, step: scores}, **({} if stays else {"status": "stopped"}))
        return stays

    def watch(self, number: int, step: int, health: Health, steps: int) -> bool:
        """Whether a trial goes on after a report of its health; booked before anything else hears of it.

        A trial of the search is stopped if its features collapse, a starting point too: nothing is compared with it. A
        control is what others are compared with, and a repeat that collapses has to say so in the table of results:
        both train to their end. A report that comes again, from a checkpoint before it, gets the answer it got.

        Args:
            number: of the trial.
            step: of the report.
            health: of its features there.
            steps: of the whole training.
        """
        row = self.ledger[number]
        if self.plan.search is None or row.status == "stopped" or step in row.health:
            return row.status != "stopped"
        reports, why = {**row.health, step: health}, None
        if row.role == "search":
            why = collapse_under_way(reports, healthy_of(self.ledger.rows()), steps)
        self.ledger.update(number, health=reports, **({} if why is None else {"status": "stopped", "error": why}))
        if why is not None and self.plan.resources.uses_train:
            call_off(self.plan.trials / row.key)
        return why is None

    @contextlib.contextmanager
    def halting(self) -> Iterator[None]:
        """Stop the study, once, when Optuna, MLflow or the store cannot be used any more.

        Tune would take an error here for one of the trial and run it again, though it may be finished. Interrupted
        trials lose nothing: they go on from their last checkpoint, and resuming settles what was not told.
        """
        try:
            yield
        except (EquipoiseError, OSError) as error:
            if self.bookkeeper.halted is None:
                self.bookkeeper.halted = str(error)
                os.kill(os.getpid(), signal.SIGINT)
