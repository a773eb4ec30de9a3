"""The meter of a study: what its trials under way cost, booked as they go, and whether a budget holds another."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from equipoise.platform.record.cost import Cost
from equipoise.platform.record.ledger import ENDED, OPEN, SEARCHED, Ledger
from equipoise.platform.settings.search import Budget
from equipoise.platform.settings.trial import Resources

PAY_EVERY_S = 10.0  # between two bookings of a trial's cost


@dataclass
class Meter:
    """Counts the time of trials under way.

    Attributes:
        ledger: where it is booked.
        resources: what a trial occupies.
    """

    ledger: Ledger
    resources: Resources
    _costs: dict[int, Cost] = field(default_factory=dict)
    _whole: dict[int, Cost] = field(default_factory=dict)  # with the training still to come, by the newest report
    _paid: dict[int, float] = field(default_factory=dict)

    def start(self, number: int) -> None:
        """A trial's process starts. Workers of Ray Train hold resources from their first report on, any other now."""
        self.pay(number, leaves=True)  # what its process before this one had
        self._costs[number] = Cost.of(self.ledger[number].cost)
        if not self.resources.uses_train:
            self._paid[number] = time.monotonic()

    def pay(self, number: int, trained: float | None = None, share: float = 1.0, leaves: bool = False) -> None:
        """Count a trial's time up to now, and book it now and then, so that a driver that dies forgets little.

        Args:
            number: of the trial.
            trained: seconds of training behind what it just reported.
            share: of its training that this is.
            leaves: its resources are free now.
        """
        if number not in self._costs:
            return
        now = time.monotonic()
        new = self._costs[number].plus(now - self._paid.get(number, now), self.resources)
        if trained is not None:
            new = new.heard(trained)
            self._whole[number] = new.plus(trained / share - trained, self.resources)
        self._costs[number], self._paid[number] = new, now
        booked = Cost.of(self.ledger[number].cost)
        if leaves or new.seconds - booked.seconds > PAY_EVERY_S or new.lost > booked.lost:
            self.ledger.update(number, cost=new.to_dict())
        if leaves:
            del self._costs[number], self._paid[number]
            self._whole.pop(number, None)

    def hours(self, unit: Literal["cpu", "gpu"]) -> dict[int, float]:
        """By trial, hours that it has cost so far; controls and lost work included."""
        booked = {r.number: Cost.of(r.cost) for r in self.ledger.rows()}
        return {number: cost.hours(unit) for number, cost in (booked | self._costs).items()}

    def outlook(self, unit: Literal["cpu", "gpu"]) -> tuple[float, float, float | None]:
        """Hours spent, hours that trials under way will still take, and hours of another trial (None: not known yet).

        A trial is expected to take what those of the search took that have ended, stopped ones included; one that has
        taken longer, what its pace says. Before one has ended, another takes what the longest of these takes: controls
        that were trained, and trials under way by their pace and by what scoring an untrained encoder took.
        """
        hours = self.hours(unit)
        whole = {number: cost.hours(unit) for number, cost in self._whole.items()}
        ended = self.ledger.rows(*(status for status in ENDED if status != "failed"))  # these tell of failures only
        searched = [hours[r.number] for r in ended if r.role in SEARCHED]
        trained = [hours[r.number] for r in ended if Cost.of(r.cost).trained]
        scored = max((hours[r.number] for r in ended if not Cost.of(r.cost).trained), default=0.0)
        longest = max([*trained, *(one + scored for one in whole.values())], default=None)
        another = fmean(searched) if searched else longest
        to_come = 0.0
        for row in self.ledger.rows(*OPEN):
            so_far = hours[row.number]
            usual = another or 0.0
            to_come += usual - so_far if so_far < usual else max(whole.get(row.number, 0.0) - so_far, 0.0)
        return sum(hours.values()), to_come, another

    def holds_another(self, budget: Budget | None, surely: bool = False, reserve: int = 0) -> bool:
        """Whether a budget holds another trial besides those under way, by what trials have cost so far.

        Args:
            budget: None: there is no end.
            surely: what is the answer while nothing is known of costs: False with it, True without.
            reserve: trials that have to fit in after it.
        """
        if budget is None:
            return True
        spent, to_come, another = self.outlook(budget.unit)
        if another is None:
            return spent < budget.hours and not surely
        return spent < budget.hours and spent + to_come + (1 + reserve) * another <= budget.hours
