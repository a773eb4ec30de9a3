"""Ablation designs: factors that are switched on and off in mixes, the cells that are run, the contrasts they allow.

A factor is a shipped variant, one defined in the study, or a single objective with a weight. Its weights are the same
in every cell that has it, so that an effect is the factor's own; the published combinations do not always keep them
(``hard_region`` is 0.3 alone and 1.0 beside ``latent_dynamics``), and ``cells: published`` asks for them all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from equipoise.platform.errors import nearest
from equipoise.platform.settings.base import Settings
from equipoise.platform.settings.names import Name
from equipoise.platform.settings.variant import Variant

Kind = Literal["add_one_in", "leave_one_out", "factorial", "dose_response"]
ContrastKind = Literal["added", "left_out", "main", "interaction", "dose", "trend"]
FRACTIONS = {"full": 0, "half": 1, "quarter": 2, "eighth": 3, "sixteenth": 4}
MOST_CELLS = 128
TIMES = "×"  # between the factors of an interaction
# Which options mean something for which kind of design.
OPTIONS: Mapping[Kind, frozenset[str]] = {
    "add_one_in": frozenset({"factors"}),
    "leave_one_out": frozenset({"factors", "cells"}),
    "factorial": frozenset({"factors", "cells", "fraction", "generators"}),
    "dose_response": frozenset({"objective", "weights", "low", "high", "points", "params"}),
}


class Factor(Variant):
    """What is on or off together: a variant by name, or objectives given here.

    Written ``fwm`` (a shipped variant, or one of the study's ``custom``), ``{delta: 0.5}`` or ``delta=0.5`` (one
    objective with its weight), or ``{name: mine, objectives: {...}}``.
    """

    short_forms = ({"type": "string"}, {"type": "object", "minProperties": 1, "maxProperties": 1})

    name: Name

    @model_validator(mode="before")
    @classmethod
    def _forms(cls, given: Any) -> Any:
        if isinstance(given, str) and "=" in given:
            objective, _, typed = given.partition("=")
            try:
                given = {objective.strip(): float(typed)}
            except ValueError:
                raise ValueError(f"factor {given!r}: {typed!r} is no weight; write delta=0.5") from None
        if isinstance(given, str):
            return {"name": given}
        if isinstance(given, Mapping) and "name" not in given:
            if len(given) != 1:
                raise ValueError(
                    f"factor {dict(given)!r} holds {len(given)} objectives; write one as {{delta: 0.5}}, several as "
                    "{name: mine, objectives: {...}}"
                )
            name, setting = next(iter(given.items()))
            weight = setting.get("weight") if isinstance(setting, Mapping) else setting
            shown = f"-{weight:g}" if isinstance(weight, int | float) else ""
            return {"name": f"{name}{shown}", "objectives": {name: setting}}
        return given


class Design(Settings):
    """Which cells an ablation runs.

    Attributes:
        kind: ``add_one_in``: each factor alone against the baseline. ``leave_one_out``: all factors together, and all
            but one. ``factorial``: combinations of factors. ``dose_response``: one objective at several weights.
        factors: what is switched on and off.
        cells: ``constant``: a factor has the same weights in every cell. ``published``: a combination that was
            published runs with its published weights, though then a difference is not the factor's alone.
        fraction: share of the combinations of a factorial that is run.
        generators: which factors a fraction derives from which others; empty: the ones that confuse least.
        objective: of a dose response.
        weights: doses; the baseline is dose 0.
        low: smallest dose above 0, instead of ``weights``.
        high: largest dose.
        points: doses from ``low`` to ``high``, spaced evenly on a logarithmic scale.
        params: parameters of the objective.
    """

    kind: Kind
    factors: tuple[Factor, ...] = ()
    cells: Literal["constant", "published"] = "constant"
    fraction: Literal["full", "half", "quarter", "eighth", "sixteenth"] = "full"
    generators: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    objective: str | None = None
    weights: tuple[float, ...] = ()
    low: float | None = Field(None, gt=0, allow_inf_nan=False)
    high: float | None = Field(None, gt=0, allow_inf_nan=False)
    points: int | None = Field(None, ge=2, le=MOST_CELLS)
    params: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _takes_effect(self) -> Design:
        for key, field in type(self).model_fields.items():
            given = getattr(self, key)
            unset = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg]
            if key != "kind" and given != unset and key not in OPTIONS[self.kind]:
                known = ", ".join(sorted(OPTIONS[self.kind]))
                raise ValueError(f"{key} cannot take effect in a design of kind {self.kind}; its options: {known}")
        if self.kind == "dose_response":
            self._check_doses()
        else:
            self._check_factors()
        return self

    def _check_factors(self) -> None:
        names = [factor.name for factor in self.factors]
        least = 1 if self.kind == "add_one_in" else 2
        if len(names) < least:
            raise ValueError(
                f"factors: {len(names)} given; a design of kind {self.kind} needs at least {least}, e.g. [fwm, hw, ld]"
            )
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"factor {twice[0]!r} is named twice")
        generated = FRACTIONS[self.fraction]
        if self.generators and len(self.generators) != generated:
            raise ValueError(f"a {self.fraction} fraction has {generated} generators; {len(self.generators)} given")
        for name, sources in self.generators.items():
            for one in (name, *sources):
                if one not in names:
                    raise ValueError(f"generators name {one!r}, which is no factor; {nearest(one, names)}")
                if one in self.generators and one in sources:
                    raise ValueError(f"generators: {name!r} is made of {one!r}, which is generated itself")
            if len(set(sources)) < 2:
                raise ValueError(f"generators: {name!r} needs at least two different factors that it is made of")

    def _check_doses(self) -> None:
        if self.objective is None:
            raise ValueError("objective is missing: a dose response is over the weight of one objective")
        spaced = (self.low, self.high, self.points)
        if bool(self.weights) == any(v is not None for v in spaced) or (not self.weights and None in spaced):
            raise ValueError("give the doses either as weights, or as low, high and points")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        doses = self.doses
        if any(not 0 < dose < math.inf for dose in doses) or len(set(doses)) < len(doses):
            raise ValueError(f"{list(doses)} given as doses; expected different weights above 0 (0 is the baseline)")

    @property
    def doses(self) -> tuple[float, ...]:
        """Weights above 0 of a dose response, ascending; those that are spaced have three digits."""
        if self.weights or self.low is None or self.high is None or self.points is None:
            return tuple(sorted(weight for weight in self.weights if weight != 0))
        step = (self.high / self.low) ** (1 / (self.points - 1))
        return tuple(float(f"{self.low * step**i:.3g}") for i in range(self.points))
