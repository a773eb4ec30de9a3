"""What trials cost: hours of CPUs and GPUs, work done twice, money; and a budget that ends a search."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pydantic import Field, model_validator

from equipoise.platform.settings import Resources, Settings

HOUR = 3600.0
USAGE = "usage/"  # before the names of what a trial cost, in the record
FORM = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(cpu|gpu)-h(?:ours?)?", re.IGNORECASE)


class Prices(Settings):
    """What an hour costs, in whatever money.

    Attributes:
        cpu_hour: of one CPU core.
        gpu_hour: of one GPU, with nothing else.
        currency: for tables.
    """

    cpu_hour: float = Field(0.0, ge=0, allow_inf_nan=False)
    gpu_hour: float = Field(0.0, ge=0, allow_inf_nan=False)
    currency: str = "USD"


class Budget(Settings):
    """Hours at which a search stops; written ``40gpu-h`` or ``200cpu-h``.

    A trial is asked for only where, by what trials have cost so far, it still fits. Those under way are finished.

    Attributes:
        hours: how many.
        unit: of what.
    """

    hours: float = Field(gt=0, allow_inf_nan=False)
    unit: Literal["cpu", "gpu"]

    @model_validator(mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        if isinstance(value, Mapping | Budget):
            return value
        found = FORM.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            raise ValueError(f"{value!r} given; expected hours of GPUs or CPUs, as in 40gpu-h or 200cpu-h")
        return {"hours": float(found[1]), "unit": found[2].lower()}

    def __str__(self) -> str:
        return f"{self.hours:g}{self.unit}-h"

    def check(self, resources: Resources) -> None:
        """Refuse a budget that no trial could ever use up.

        Raises:
            ValueError: a budget of GPU hours for trials without a GPU.
        """
        if self.unit == "gpu" and not resources.gpus_per_worker:
            raise ValueError(f"budget {self} is never spent: trials have no GPU; give cpu-h, or --gpus-per-worker")


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
