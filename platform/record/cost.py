"""What trials cost: hours of CPUs and GPUs, work done twice, money; and a budget that ends a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from equipoise.platform.settings.search import Prices
from equipoise.platform.settings.trial import Resources

HOUR = 3600.0
USAGE = "usage/"  # before the names of what a trial cost, in the record


@dataclass(frozen=True)
class Cost:
    """What one trial has cost so far, over all its starts.

    Attributes:
        seconds: that it held its resources; those between a process's death and its next start are not among them.
        cpu_seconds: those times its CPU cores.
        gpu_seconds: those times its GPUs.
        trained: seconds of training behind its newest report.
        lost: seconds of training that were done and had to be done again.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    trained: float = 0.0
    lost: float = 0.0

    @classmethod
    def of(cls, stored: Mapping[str, float] | None) -> Cost:
        """From what the book holds."""
        return cls(**stored) if stored else cls()

    def heard(self, trained: float) -> Cost:
        """After a report: a trial that has less behind it than before went on from an older checkpoint."""
        return replace(self, trained=trained, lost=self.lost + max(0.0, self.trained - trained))

    def plus(self, seconds: float, resources: Resources) -> Cost:
        """After so many more seconds with these resources."""
        cpus, gpus = (resources.workers * n for n in (resources.cpus_per_worker, resources.gpus_per_worker))
        return replace(
            self,
            seconds=self.seconds + seconds,
            cpu_seconds=self.cpu_seconds + cpus * seconds,
            gpu_seconds=self.gpu_seconds + gpus * seconds,
        )

    def hours(self, unit: Literal["cpu", "gpu"]) -> float:
        """Hours of CPU cores or of GPUs."""
        return (self.cpu_seconds if unit == "cpu" else self.gpu_seconds) / HOUR

    def price(self, prices: Prices) -> float:
        """In the money of the prices."""
        return self.hours("cpu") * prices.cpu_hour + self.hours("gpu") * prices.gpu_hour

    def metrics(self, prices: Prices | None) -> dict[str, float]:
        """For the record: hours held, seconds lost, and the price where there are prices."""
        found = {"cpu_hours": self.hours("cpu"), "gpu_hours": self.hours("gpu"), "lost_seconds": self.lost}
        found |= {} if prices is None else {"price": self.price(prices)}
        return {f"{USAGE}{name}": value for name, value in found.items()}

    @classmethod
    def recorded(cls, metrics: Mapping[str, float]) -> Cost | None:
        """From what :meth:`metrics` wrote into a record, hours and lost work; None where that holds nothing of it."""
        if f"{USAGE}cpu_hours" not in metrics:
            return None
        cpus, gpus = (HOUR * metrics[f"{USAGE}{unit}_hours"] for unit in ("cpu", "gpu"))
        return cls(cpu_seconds=cpus, gpu_seconds=gpus, lost=metrics[f"{USAGE}lost_seconds"])

    def to_dict(self) -> dict[str, float]:
        """JSON-able record."""
        return asdict(self)
