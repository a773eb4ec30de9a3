"""How the weight of a loss changes over training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from equipoise.models.errors import ModelError


@dataclass(frozen=True)
class Constant:
    """The weight, all the time."""

    def factor(self, share: float) -> float:
        """Factor on the weight when ``share`` of training is done."""
        return 1.0


@dataclass(frozen=True)
class LinearWarmup:
    """0 until ``start``, then linear up to the full weight, which is held.

    Attributes:
        fraction: share of training the rise takes; above 0.
        start: share of training before it begins.

    Raises:
        ValueError: if the rise does not lie inside training.
    """

    fraction: float = 0.1
    start: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ModelError(f"linear warm-up fraction is {self.fraction}; expected 0 < fraction <= 1")
        if not 0 <= self.start < 1 or self.start + self.fraction > 1 + 1e-9:
            raise ModelError(
                f"linear warm-up starts at {self.start} and takes {self.fraction}; expected it to end within training"
            )

    def factor(self, share: float) -> float:
        """Factor on the weight when ``share`` of training is done."""
        return min(1.0, max(0.0, (share - self.start) / self.fraction))


@dataclass(frozen=True)
class CosineDecay:
    """Half a cosine from the full weight to 0 (the published "annealed" kinematic variant)."""

    def factor(self, share: float) -> float:
        """Factor on the weight when ``share`` of training is done."""
        return 0.5 * (1.0 + math.cos(math.pi * share))


Schedule = Constant | LinearWarmup | CosineDecay

SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {"constant": Constant(), "linear_warmup": LinearWarmup(), "cosine_decay": CosineDecay()}
)
"""The schedules by the name settings use."""


def weight_at(schedule: Schedule | str, weight: float, step: int, total_steps: int) -> float:
    """Weight of a loss at a step.

    Args:
        schedule: a record, or its name in ``SCHEDULES``.
        weight: the full weight.
        step: 0-based; steps past the end count as the end.
        total_steps: steps of the whole training.

    Returns:
        The weight at ``step / total_steps``.

    Raises:
        ValueError: for an unknown name, a negative step or no steps at all.
    """
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            near = get_close_matches(schedule, SCHEDULES, n=1, cutoff=0.0)
            raise ModelError(f"unknown schedule {schedule!r}; nearest is {near[0]!r}, known are {', '.join(SCHEDULES)}")
        schedule = SCHEDULES[schedule]
    if step < 0 or total_steps < 1:
        raise ModelError(f"step {step} of {total_steps}; expected step >= 0 and at least one step")
    return weight * schedule.factor(min(1.0, step / total_steps))
