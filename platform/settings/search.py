"""How a search spends its compute: sampler, early stopping, repeats, budget, prices, constraints."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from equipoise.platform.errors import SettingsError
from equipoise.platform.settings.base import Settings
from equipoise.platform.settings.trial import Resources

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

    short_forms = ({"type": "string", "pattern": FORM.pattern},)

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


class Constraints(Settings):
    """What a search should not give up.

    Attributes:
        max_loss: points of accuracy that a mix may lie below the baseline, on every benchmark or for each by name.
    """

    max_loss: float | dict[str, float]

    @field_validator("max_loss", mode="before")
    @classmethod
    def _points(cls, value: Any) -> Any:
        points = list(value.values()) if isinstance(value, dict) else [value]
        wrong = [p for p in points if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p < math.inf]
        if wrong or not points:
            raise ValueError(
                f"{value!r} given; expected points of accuracy, not negative: one number, or one by benchmark"
            )
        return value

    def lowest(self, baseline: Mapping[str, float]) -> dict[str, float]:
        """Lowest accuracy in percent that is allowed, by benchmark, from the baseline's."""
        allowed = self.max_loss if isinstance(self.max_loss, dict) else dict.fromkeys(baseline, self.max_loss)
        return {benchmark: baseline[benchmark] - points for benchmark, points in allowed.items()}


TieBreak = Literal["epsilon_net", "hypervolume"]


class EarlyStopping(Settings):
    """When trials of a search stop early; controls and starting points never do.

    Attributes:
        rungs: how often a trial is looked at before its end.
        reduction_factor: one in this many trials goes on from a rung; rungs are as far apart.
        warmup: trials that must have been at a rung before one is stopped there.
        tie_break: order within a front: ``epsilon_net`` spreads over it, ``hypervolume`` goes by contributions.
        items: select items of each benchmark that a trial is scored on there, at most; the same ones for every trial.
    """

    rungs: int = Field(1, ge=1, le=10)
    reduction_factor: float = Field(3.0, gt=1, le=10)
    warmup: int = Field(5, ge=2)
    tie_break: TieBreak = "epsilon_net"
    items: int = Field(900, ge=6)

    def steps(self, total: int) -> tuple[int, ...]:
        """Steps of the rungs in a training of ``total`` steps, ascending.

        Raises:
            SettingsError: if two rungs fall on one step.
        """
        found = tuple(round(total / self.reduction_factor**k) for k in range(self.rungs, 0, -1))
        if found[0] < 1 or len(set(found)) < len(found):
            raise SettingsError(
                f"early_stopping has {self.rungs} rungs a factor {self.reduction_factor:g} apart, which a training of "
                f"{total} steps has no room for (steps {', '.join(map(str, found))}): use fewer rungs"
            )
        return found


class SeedFidelity(Settings):
    """Promising variants earn more seeds; a repeat takes the place of one trial of the search.

    Attributes:
        most: seeds of a variant, at most.
        share: repeats are at most this share of the search's trials.
    """

    most: int = Field(3, ge=2, le=20)
    share: float = Field(0.25, gt=0, lt=1)


class ConfirmSetting(Settings):
    """The confirmation that ends a search, out of the same budget.

    Attributes:
        top: variants that are confirmed, the candidate first.
        seeds: fresh seeds of each, and of both controls.
    """

    top: int = Field(3, ge=1)
    seeds: int = Field(5, ge=2)

    @property
    def trials(self) -> int:
        """Trials that it takes, those of the controls included."""
        return (self.top + 2) * self.seeds


Sampler = Literal["tpe", "nsga2", "nsga3", "gp", "botorch", "random", "qmc"]

POPULATION = 20
"""Trials in a generation of the genetic samplers: Optuna's 50 are more than most searches of trainings have."""
STARTUP: dict[Sampler, int] = {
    "tpe": 5,
    "gp": 10,
    "botorch": 10,
    "nsga2": POPULATION,
    "nsga3": POPULATION,
    "random": 0,
    "qmc": 0,
}
"""Finished trials before a sampler learns from them; those before are drawn at random."""
