"""What a study spent and what it gained for that, trial after trial, from its record.

Trials are in the order in which they ended. What the study had spent by then is the sum over trials that had ended:
controls, trials that were stopped early or failed, and work that had to be done twice are part of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from equipoise.platform.record.cost import Cost
from equipoise.platform.record.ledger import ENDED
from equipoise.platform.record.reading import accuracies_of
from equipoise.platform.settings.search import Prices
from equipoise.platform.settings.trial import Resources
from equipoise.platform.stats.pareto import hypervolume
from equipoise.platform.stats.selection import Selection


@dataclass(frozen=True)
class Measure:
    """What costs are counted in: money where the study has prices, else hours of GPUs, else of CPUs.

    Attributes:
        prices: of the study, or None.
        unit: of hours, ``gpu`` where a trial occupies one.
    """

    prices: Prices | None
    unit: Literal["cpu", "gpu"]

    @classmethod
    def of(cls, definition: Mapping[str, Any]) -> Measure:
        """The one that goes with a study's definition."""
        prices = definition.get("prices")
        gpus = definition.get("resources", {}).get("gpus_per_worker", 0)
        return cls(None if prices is None else Prices.model_validate(prices), "gpu" if gpus else "cpu")

    @property
    def name(self) -> str:
        """For the title of an axis and the end of a number."""
        return f"{self.unit.upper()} hours" if self.prices is None else self.prices.currency

    def __call__(self, cost: Cost) -> float:
        """A cost as a number."""
        return cost.hours(self.unit) if self.prices is None else cost.price(self.prices)


@dataclass(frozen=True)
class Ended:
    """A trial's end.

    Attributes:
        trial: its name within the study.
        variant: its variant.
        status: ``finished``, ``stopped`` early or ``failed``.
        cost: what it cost, work done twice included.
        lost: the part of that which was done twice.
        spent: what the study had spent by then.
        hypervolume: between the baseline's point and what was known by then of the eligible variants.
    """

    trial: str
    variant: str
    status: str
    cost: float
    lost: float
    spent: float
    hypervolume: float


@dataclass(frozen=True)
class Spending:
    """A study's trials in the order in which they ended, and what they came to.

    Attributes:
        measure: what costs are counted in: ``CPU hours``, ``GPU hours`` or a currency.
        trials: those that ended.
        where: what the study had spent when a variant of the selection had its last score.
    """

    measure: str
    trials: tuple[Ended, ...]
    where: Mapping[str, float]

    @property
    def total(self) -> float:
        """Spent in all."""
        return self.trials[-1].spent

    @property
    def lost(self) -> float:
        """Spent on work that was done twice."""
        return sum(one.lost for one in self.trials)

    @property
    def sentence(self) -> str:
        """What was spent on what. What a point gained cost is said once the gain is confirmed."""
        said = f"Spent: {self.total:.3g} {self.measure}"
        parts = {"on trials that failed": "failed", "on trials that were stopped early": "stopped"}
        spent = {words: sum(t.cost for t in self.trials if t.status == s) for words, s in parts.items()}
        spent["on work that was lost with a process or a node and done again"] = self.lost
        said += "".join(f", {value:.3g} of them {words}" for words, value in spent.items() if value)
        return said + "."

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {
            "measure": self.measure,
            "total": self.total,
            "lost": self.lost,
            "sentence": self.sentence,
            "trials": [asdict(one) for one in self.trials],
        }


def spending(runs: Sequence[Any], definition: Mapping[str, Any], selection: Selection) -> Spending | None:
    """Read what a study spent.

    Args:
        runs: MLflow runs of its trials. Those that have not ended are left out.
        definition: what it asked for.
        selection: of its table.

    Returns:
        None where the record does not hold the cost of a scored trial: it is older than this book-keeping.
    """
    ended = [run for run in runs if run.data.tags.get("status") in ENDED]
    # The tag is written before the time: a driver that died between them left the run without one.
    ended.sort(key=lambda run: (run.info.end_time or math.inf, run.data.tags["trial"]))
    measure, resources = Measure.of(definition), Resources.model_validate(definition.get("resources", {}))
    rows = {row.variant: row for row in selection.rows}
    reference = list(selection.hypervolume_reference.values())
    seen: dict[str, list[list[float]]] = {}
    trials: list[Ended] = []
    where: dict[str, float] = {}
    spent = volume = 0.0
    for run in ended:
        tags = run.data.tags
        cost = Cost.recorded(run.data.metrics)
        if cost is None:
            if tags["status"] == "finished":
                return None
            continue  # it never began
        spent += measure(cost)
        variant = tags["variant"]
        if variant in rows and tags["status"] == "finished":
            where[variant] = spent
            found = accuracies_of(run, selection.benchmarks, selection.part)
            if rows[variant].eligible and len(found) == len(selection.benchmarks):
                seen.setdefault(variant, []).append(list(found.values()))
                volume = hypervolume([np.mean(scores, axis=0) for scores in seen.values()], reference)
        lost = measure(Cost().plus(cost.lost, resources))
        trials.append(Ended(tags["trial"], variant, tags["status"], measure(cost), lost, spent, volume))
    return Spending(measure.name, tuple(trials), where) if trials else None
