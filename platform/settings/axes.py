"""Axes of a search space: ranges, choices, and what they depend on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from equipoise.platform.errors import SettingsError, nearest
from equipoise.platform.settings.base import Settings, parse
from equipoise.platform.settings.variant import SCHEDULE_NAMES, ObjectiveSetting

DOT = "."
"""Between objective and parameter in the name of a conditional parameter, ``hard_region.tau``."""

SCHEDULE = "schedule"


class Span(Settings):
    """Values of a parameter from ``low`` to ``high``, whole numbers where both are; ``log``: even in the logarithm."""

    low: int | float = Field(allow_inf_nan=False)
    high: int | float = Field(allow_inf_nan=False)
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Span:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}, and log: true needs it above 0")
        return self

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values to check."""
        return (self.low, self.high)

    @property
    def middle(self) -> Any:
        """A value in the middle."""
        found = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return round(found) if self.whole else found

    def holds(self, value: Any) -> bool:
        """Whether a value lies in it."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high and (not self.whole or value == int(value))

    def __str__(self) -> str:
        kind = "whole numbers " if self.whole else ""
        return f"{kind}{self.low:g} to {self.high:g}{', log' if self.log else ''}"


class Choice(Settings):
    """Values of a parameter, one of several."""

    choices: tuple[bool | int | float | str, ...] = Field(min_length=2)

    @field_validator("choices")
    @classmethod
    def _different(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len({(type(v), v) for v in value}) != len(value):
            raise ValueError(f"{list(value)} given; expected different values")
        return value

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values to check."""
        return self.choices

    @property
    def middle(self) -> Any:
        """The first of them."""
        return self.choices[0]

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return value in self.choices

    def __str__(self) -> str:
        return "one of " + ", ".join(map(str, self.choices))


Axis = Span | Choice


def _axis(name: str, value: Any) -> Any:
    """An axis from a mapping; anything else is a fixed value."""
    if not isinstance(value, Mapping):
        return value
    try:
        return parse(Choice if "choices" in value else Span, dict(value), name)
    except SettingsError as error:
        raise ValueError(f"{error} (expected a value, {{low, high, log}} or {{choices}})") from None


class Range(Settings):
    """Search range of one objective.

    The weight is log-uniform in ``[low, high]``; under the prior the objective is off with ``off_probability``.

    Attributes:
        low: lowest weight.
        high: highest weight.
        off_probability: share of the prior that leaves the objective out.
        params: parameters of the objective; each has a value, or is searched where the objective is on:
            ``{low: 0.3, high: 3.0, log: true}`` or ``{choices: [channels, levels]}``.
        schedule: of the weight over training; a name, or ``{choices: [constant, cosine_decay]}``.
    """

    low: float = Field(gt=0, allow_inf_nan=False)
    high: float = Field(gt=0, allow_inf_nan=False)
    off_probability: float = Field(0.7, ge=0, lt=1)
    params: dict[str, Any] = Field(default_factory=dict)
    schedule: str | Choice = "constant"

    @field_validator("params", mode="before")
    @classmethod
    def _axes(cls, value: Any) -> Any:
        return {k: _axis(k, v) for k, v in value.items()} if isinstance(value, Mapping) else value

    @field_validator("schedule", mode="before")
    @classmethod
    def _schedules(cls, value: Any) -> Any:
        found = _axis(SCHEDULE, value)
        for name in found.choices if isinstance(found, Choice) else [found]:
            if name not in SCHEDULE_NAMES:
                raise ValueError(f"unknown schedule {name!r}; {nearest(str(name), SCHEDULE_NAMES)}")
        return found

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.floor <= 0:
            raise ValueError(
                f"off_probability is {self.off_probability}: on a log axis from {self.low:g} to {self.high:g} so much "
                "cannot be off; give less, or leave the objective out"
            )
        return self

    @property
    def floor(self) -> float:
        """Lower end of the sampled axis: below ``low`` is off, a share ``off_probability`` of the log axis."""
        span = math.log(self.high / self.low)
        return self.low * math.exp(-span * self.off_probability / (1 - self.off_probability))

    @property
    def off(self) -> float:
        """The place that stands for all of the axis that means off: half the width of the weights below ``low``.

        So near that an objective that is off is seen as close to one of low weight, which it is; in the middle of the
        off part where that is narrower.
        """
        return self.low * math.exp(-min(math.log(self.high / self.low), math.log(self.low / self.floor)) / 2)

    @property
    def conditional(self) -> dict[str, Axis]:
        """Axes that exist where the objective is on, by parameter; the schedule's last."""
        found = {k: v for k, v in self.params.items() if isinstance(v, Span | Choice)}
        return found | ({SCHEDULE: self.schedule} if isinstance(self.schedule, Choice) else {})

    def setting(self, weight: float, chosen: Mapping[str, Any]) -> ObjectiveSetting:
        """The objective on, with values for its conditional axes."""
        params = {k: chosen[k] if isinstance(v, Span | Choice) else v for k, v in self.params.items()}
        schedule = chosen[SCHEDULE] if isinstance(self.schedule, Choice) else self.schedule
        return ObjectiveSetting(weight=weight, schedule=schedule, params=params)
