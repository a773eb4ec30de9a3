"""A search space: which mixes of objectives a search may draw, and how a point of it becomes a variant.

Every objective has one axis, log-uniform in its weight; the lowest part of the axis means off. All trials have these
axes, so that every sampler can model them. A parameter given as a range or as choices is an axis of its own, which
exists only in trials whose objective is on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field, field_validator, model_validator

from equipoise.models.objectives import create
from equipoise.platform.errors import nearest
from equipoise.platform.settings.axes import DOT, SCHEDULE, Axis, Choice, Range, Span
from equipoise.platform.settings.base import Settings
from equipoise.platform.settings.names import Name
from equipoise.platform.settings.variant import RECORDS, ObjectiveSetting, Variant, unknown_objective

# What these come to where they are not given depends on the reading and on the other objectives of the mix.
DEPENDENT = frozenset({"split", "levels", "weighting", "subspace", "on", "per_token"})
OFF = 0.8  # of every objective, where all are searched: a mix then has a handful of them on
ROUNDING = 1e-9  # relative
CHANNELS = 64  # of the objectives that are built once to check their parameters: any preset has at least as many


@dataclass(frozen=True)
class Dimension:
    """One axis of a space.

    Attributes:
        name: of the parameter in Optuna: ``hard_region``, or ``hard_region.tau``.
        distribution: Optuna's.
        condition: the objective that has to be on, None for a weight.
    """

    name: Name
    distribution: BaseDistribution
    condition: str | None = None


def distribution(axis: Axis | Range) -> BaseDistribution:
    """Optuna's distribution of an axis: a parameter's, or a weight's."""
    if isinstance(axis, Range):
        return FloatDistribution(axis.floor, axis.high, log=True)
    if isinstance(axis, Choice):
        return CategoricalDistribution(axis.choices)
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


class SearchSpace(Settings):
    """The mixes that a search may draw.

    Attributes:
        objectives: search range of every objective; those not named stay off. ``all`` stands for every objective that
            is known, those of plug-ins too, each in the range that its record gives.
        max_total_weight: largest sum of the weights of all loss objectives (shares of mask policies do not count).
            Nothing is drawn again: weights that sum to more are scaled down by one factor, those that it
            would take below their ``low`` stay there. Samplers see the weights before that.
    """

    objectives: dict[str, Range] = Field(min_length=1)
    max_total_weight: float | None = Field(None, gt=0, allow_inf_nan=False)

    @field_validator("objectives", mode="before", json_schema_input_type=Literal["all"] | dict[str, Range])
    @classmethod
    def _all(cls, value: Any) -> Any:
        if value != "all":
            return value
        spans = {name: record.span for name, record in RECORDS.items()}
        return {name: Range(low=low, high=high, off_probability=OFF) for name, (low, high) in spans.items()}

    @model_validator(mode="after")
    def _known_objectives(self) -> SearchSpace:
        for name, r in self.objectives.items():
            if name not in RECORDS:
                raise ValueError(unknown_objective(name))
            for key in r.params:
                if key not in RECORDS[name].params:
                    raise ValueError(f"unknown parameter {key!r} of {name}; {nearest(key, RECORDS[name].params)}")
            if RECORDS[name].kind == "mask" and r.high > 1:
                raise ValueError(
                    f"{name} is a mask policy: its weight is a share of clips; high is {r.high}, expected at most 1"
                )
            if RECORDS[name].kind == "mask" and r.schedule != "constant":
                raise ValueError(f"{name} is a mask policy: schedule {r.schedule!s} cannot take effect")
            _check_axes(name, r)
        lowest = math.fsum(r.low for name, r in self.objectives.items() if RECORDS[name].kind == "loss")
        if self.max_total_weight is not None and self.max_total_weight < lowest:
            raise ValueError(
                f"max_total_weight is {self.max_total_weight:g}, and all objectives on at their lowest weights sum to "
                f"{lowest:g}: raise it, lower the low ends, or search fewer objectives"
            )
        return self

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Every axis: the weights, then what is conditional on them."""
        weights = [Dimension(name, distribution(r)) for name, r in self.objectives.items()]
        conditional = [
            Dimension(f"{name}{DOT}{key}", distribution(axis), name)
            for name, r in self.objectives.items()
            for key, axis in r.conditional.items()
        ]
        return (*weights, *conditional)

    @property
    def conditional(self) -> bool:
        """Whether any axis exists in some trials only."""
        return any(r.conditional for r in self.objectives.values())

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Let Optuna draw a point: all weights, then the parameters of the objectives that are on."""
        point: dict[str, Any] = {
            name: trial.suggest_float(name, r.floor, r.high, log=True) for name, r in self.objectives.items()
        }
        for name in self.on(point):
            for key, axis in self.objectives[name].conditional.items():
                label = f"{name}{DOT}{key}"
                if isinstance(axis, Choice):
                    point[label] = trial.suggest_categorical(label, axis.choices)
                elif axis.whole:
                    point[label] = trial.suggest_int(label, int(axis.low), int(axis.high), log=axis.log)
                else:
                    point[label] = trial.suggest_float(label, axis.low, axis.high, log=axis.log)
        return point

    def on(self, point: Mapping[str, Any]) -> tuple[str, ...]:
        """Objectives that a point has on."""
        return tuple(name for name, r in self.objectives.items() if name in point and point[name] >= r.low)

    def variant(self, point: Mapping[str, Any]) -> Variant:
        """The variant of a point of the space: what lies below an objective's ``low`` is off."""
        weights = self._bounded({name: float(point[name]) for name in self.on(point)})
        chosen = {
            name: self.objectives[name].setting(
                weight, {k: point[f"{name}{DOT}{k}"] for k in self.objectives[name].conditional}
            )
            for name, weight in weights.items()
        }
        return Variant(description="found by search", objectives=chosen)

    def merged(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """A point with every weight that means off at one place: where in the off part it was drawn means nothing."""
        off = {name: r.off for name, r in self.objectives.items() if name in point and point[name] < r.low}
        return {**point, **off}

    def middle(self) -> Variant:
        """Everything on at once: weights at the geometric mean of their ranges, parameters in the middle of theirs."""
        chosen = {
            name: r.setting(math.sqrt(r.low * r.high), {k: axis.middle for k, axis in r.conditional.items()})
            for name, r in self.objectives.items()
        }
        return Variant(description="all of a search space at once", objectives=chosen)

    def point(self, variant: Variant) -> dict[str, Any]:
        """The point of the space that stands for a variant, its weights moved into their ranges."""
        point: dict[str, Any] = {}
        for name, r in self.objectives.items():
            setting = variant.objectives.get(name)
            if setting is None and r.off_probability > 0:
                point[name] = math.sqrt(r.floor * r.low)  # the middle of the off part, on the log axis
                continue
            # An objective that is never off is nearest to off at its lowest weight.
            point[name] = r.low if setting is None else min(max(setting.weight, r.low), r.high)
            given = {} if setting is None else _complete(name, setting) | {SCHEDULE: setting.schedule}
            for key, axis in r.conditional.items():
                value = given.get(key, axis.middle)
                point[f"{name}{DOT}{key}"] = value if axis.holds(value) else axis.middle
        return point

    def lacks(self, variant: Variant) -> str | None:
        """Why a mix of objectives does not lie in the space, or None: what comes after the variant's name."""
        for objective in variant.objectives:
            if objective not in self.objectives:
                return f"uses {objective}, which the search space does not name"
        total = self._total({name: setting.weight for name, setting in variant.objectives.items()})
        if self.max_total_weight is not None and total > self.max_total_weight * (1 + ROUNDING):
            return f"has weights that sum to {total:g}, above the search space's max_total_weight"
        back = self.variant(self.point(variant)).objectives
        for objective in sorted({*back, *variant.objectives}):
            found, given = back.get(objective), variant.objectives.get(objective)
            if found is None or given is None or not _same(objective, found, given):
                return (
                    f"differs from the search space in {objective}: give that range its weight, schedule and params, "
                    "or leave the variant out"
                )
        return None

    def _total(self, weights: Mapping[str, float]) -> float:
        return math.fsum(weight for name, weight in weights.items() if RECORDS[name].kind == "loss")

    def _bounded(self, weights: dict[str, float]) -> dict[str, float]:
        most = self.max_total_weight
        if most is None or self._total(weights) <= most * (1 + ROUNDING):
            return weights
        free = {name for name in weights if RECORDS[name].kind == "loss"}
        held: dict[str, float] = {}
        while True:
            factor = (most - math.fsum(held.values())) / math.fsum(weights[name] for name in free)
            low = {name: self.objectives[name].low for name in free}
            below = {name: low[name] for name in free if weights[name] * factor < low[name]}
            if not below or len(below) == len(free):
                # All below by rounding alone: the bound is not under the sum of the low ends.
                return {
                    name: max(weight * factor, low[name]) if name in free else held.get(name, weight)
                    for name, weight in weights.items()
                }
            held |= below
            free -= set(below)


def _complete(name: str, setting: ObjectiveSetting) -> dict[str, Any]:
    """Parameters with those that are left out and have one meaning everywhere."""
    defaults = {k: v for k, v in RECORDS[name].params.items() if k not in DEPENDENT}
    return {**defaults, **setting.params}


def _same(name: str, one: ObjectiveSetting, other: ObjectiveSetting) -> bool:
    """Whether two settings train the same."""
    same = (one.weight, one.schedule) == (other.weight, other.schedule)
    return same and _complete(name, one) == _complete(name, other)


def _check_axes(name: str, r: Range) -> None:
    """Build the objective with every end of every axis and with what is fixed: what it refuses is found now."""
    fixed = {k: v for k, v in r.params.items() if not isinstance(v, Span | Choice)}
    middle = {k: axis.middle for k, axis in r.conditional.items() if k != SCHEDULE}
    for key, axis in r.conditional.items():
        for value in axis.ends if key != SCHEDULE else ():
            try:
                create(name, channels=CHANNELS, **{**fixed, **middle, key: value})
            except (ValueError, TypeError) as error:
                raise ValueError(f"{name}: {key} {value!r} of {axis} is refused: {error}") from None
    try:
        create(name, channels=CHANNELS, **{**fixed, **middle})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: params {fixed} are refused: {error}") from None
