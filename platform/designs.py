"""Ablation designs: factors that are switched on and off in mixes, the cells that are run, the contrasts they allow.

A factor is a shipped variant, one defined in the study, or a single objective with a weight. Its weights are the same
in every cell that has it, so that an effect is the factor's own; the published combinations do not always keep them
(``hard_region`` is 0.3 alone and 1.0 beside ``latent_dynamics``), and ``cells: published`` asks for them all the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from equipoise.platform.errors import SettingsError, nearest
from equipoise.platform.factorial import Fraction, best_fraction, order
from equipoise.platform.mix import load_variant, variants
from equipoise.platform.settings import ObjectiveSetting, Reading, Settings, Variant, parse

Kind = Literal["add_one_in", "leave_one_out", "factorial", "dose_response"]
ContrastKind = Literal["added", "left_out", "main", "interaction", "dose", "trend"]
FRACTIONS = {"full": 0, "half": 1, "quarter": 2, "eighth": 3, "sixteenth": 4}
MOST_CELLS = 128
BASELINE = "baseline"
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

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")

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


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One mix of a design.

    Attributes:
        label: what the design calls it: ``fwm+hw``, ``full-hw``, ``delta-0.3``.
        variant_name: the variant it runs as: the shipped one's name where the two are the same mix, so that it is the
            same trial as in other studies; else the label.
        variant: the mix.
        on: factors that are on.
        dose: weight in a dose response.
        published: the shipped variant whose weights ``cells: published`` took instead of the factors' own.
    """

    label: str
    variant_name: str
    variant: Variant
    on: tuple[str, ...]
    dose: float | None = None
    published: str | None = None


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A linear combination of the cells' means that means something.

    Attributes:
        name: ``hw``, ``fwm × hw``, ``without hw``, ``delta-0.3``, ``trend``.
        kind: what it is.
        coefficients: cell label to what its mean counts; cells that count nothing are left out.
        aliases: other effects that it holds too, each with its factor; a fraction cannot tell them apart.
    """

    name: str
    kind: ContrastKind
    coefficients: Mapping[str, float]
    aliases: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A design worked out.

    Attributes:
        design: what was asked for.
        cells: mixes, the baseline among them except in ``leave_one_out``.
        contrasts: what can be estimated.
        resolution: of a fraction; None for any other design.
        words: defining words of a fraction.
        notes: what a reader must know.
    """

    design: Design
    cells: tuple[Cell, ...]
    contrasts: tuple[Contrast, ...]
    resolution: int | None = None
    words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def plan(design: Design, custom: Mapping[str, Variant], reading: Reading) -> Plan:
    """Work a design out.

    Args:
        design: what was asked for.
        custom: variants that the study defines, by name.
        reading: how the study reads its variants.

    Raises:
        SettingsError: an unknown factor, factors that cannot be combined, or more cells than ``MOST_CELLS``.
    """
    if design.kind == "dose_response":
        return _dose_response(design)
    mixes = {factor.name: _mix(factor, custom) for factor in design.factors}
    if design.kind == "add_one_in":
        off = _cell(mixes, (), custom)
        cells = [off, *(_cell(mixes, (name,), custom) for name in mixes)]
        contrasts = [_difference(name, "added", name, off.label) for name in mixes]
        return Plan(design=design, cells=tuple(cells), contrasts=tuple(contrasts))
    _check_combined(mixes, reading)
    if design.kind == "leave_one_out":
        every = tuple(mixes)
        full = _cell(mixes, every, custom, design.cells, "full")
        less = {
            name: _cell(mixes, tuple(n for n in every if n != name), custom, design.cells, f"full-{name}")
            for name in every
        }
        contrasts = [_difference(f"without {name}", "left_out", cell.label, full.label) for name, cell in less.items()]
        cells = [full, *less.values()]
        return Plan(design=design, cells=tuple(cells), contrasts=tuple(contrasts), notes=_unlike(cells))
    return _factorial(design, mixes, custom)


def _factorial(design: Design, mixes: Mapping[str, Variant], custom: Mapping[str, Variant]) -> Plan:
    # Generated factors come last in the mathematics, whatever their place in the file.
    names = sorted(mixes, key=lambda name: name in design.generators)
    if len(names) - FRACTIONS[design.fraction] > math.log2(MOST_CELLS):
        raise SettingsError(
            f"design: {len(names)} factors make {2 ** len(names) >> FRACTIONS[design.fraction]} cells at fraction "
            f"{design.fraction}, expected at most {MOST_CELLS}: take fewer factors or a smaller fraction"
        )
    fraction = _fraction(design, names)
    cells = {on: _cell(mixes, tuple(names[i] for i in order(on)), custom, design.cells) for on in fraction.cells}
    contrasts, told = [], set[int]()
    singles = [1 << i for i in range(len(names))]
    pairs = [a | b for a, b in itertools.combinations(singles, 2)]
    for effect in [*singles, *pairs]:
        if effect in told:
            continue  # named among the aliases of an effect before it
        aliases = fraction.aliases(effect)
        told |= {effect, *aliases}
        contrasts.append(
            Contrast(
                name=_product(names, effect),
                kind="main" if effect in singles else "interaction",
                coefficients={cells[on].label: value for on, value in fraction.coefficients(effect).items()},
                aliases={_product(names, other): value for other, value in aliases.items()},
            )
        )
    return Plan(
        design=design,
        cells=tuple(cells.values()),
        contrasts=tuple(contrasts),
        resolution=fraction.resolution,
        words=tuple(_product(names, word) for word in fraction.words),
        notes=_unlike(list(cells.values())),
    )


def _fraction(design: Design, names: Sequence[str]) -> Fraction:
    generated = FRACTIONS[design.fraction]
    if design.generators:
        masks = [sum(1 << names.index(s) for s in set(design.generators[n])) for n in names[len(names) - generated :]]
        given = Fraction(len(names), tuple(masks))
        if given.resolution is not None and given.resolution < 3:
            raise SettingsError(
                f"design: with these generators {_product(names, given.words[0])} are always switched together, so "
                "their effects are one; give others, or none to have them chosen"
            )
        return given
    try:
        chosen = best_fraction(len(names), generated)
    except ValueError as error:
        raise SettingsError(f"design: {error}; name the generators") from None
    if chosen is None:
        raise SettingsError(
            f"design: {len(names)} factors in a {design.fraction} fraction cannot be told apart at all: take a larger "
            "fraction"
        )
    return chosen


def _dose_response(design: Design) -> Plan:
    name = design.objective or ""
    off = _cell({}, (), {})
    cells = [off]
    for dose in design.doses:
        setting = ObjectiveSetting(weight=dose, params=design.params)
        content = {"description": f"{name} at weight {dose:g}", "objectives": {name: setting}}
        variant = parse(Variant, content, "design")
        label = f"{name}-{dose:g}"
        run_as = _shipped(variant)
        cells.append(
            Cell(
                label=label,
                variant_name=run_as or label,
                variant=load_variant(run_as) if run_as else variant,
                on=(name,),
                dose=dose,
            )
        )
    contrasts = [_difference(cell.label, "dose", cell.label, off.label) for cell in cells[1:]]
    if len(cells) > 3:
        # Least squares over the logarithm of the dose; the baseline has none and stands for itself.
        x = [math.log10(cell.dose) for cell in cells if cell.dose is not None]
        centred = [value - math.fsum(x) / len(x) for value in x]
        slope = {c.label: v / math.fsum(u * u for u in centred) for c, v in zip(cells[1:], centred, strict=True)}
        contrasts.append(Contrast(name="trend", kind="trend", coefficients=slope, aliases={}))
    return Plan(design=design, cells=tuple(cells), contrasts=tuple(contrasts))


def _difference(name: str, kind: ContrastKind, label: str, against: str) -> Contrast:
    return Contrast(name=name, kind=kind, coefficients={label: 1.0, against: -1.0}, aliases={})


def _mix(factor: Factor, custom: Mapping[str, Variant]) -> Variant:
    """What a factor switches on."""
    if not factor.objectives:
        mix = custom[factor.name] if factor.name in custom else load_variant(factor.name)
        if not mix.objectives:
            raise SettingsError(f"design: factor {factor.name!r} has no objective that could be switched on")
        return mix
    mix = Variant.model_validate(factor.model_dump(exclude={"name"}))
    known = custom.get(factor.name) or variants().get(factor.name)
    if known is not None and _content(known) != _content(mix):
        raise SettingsError(f"design: factor {factor.name!r} has the name of a variant with other weights; rename it")
    return mix


def _check_combined(mixes: Mapping[str, Variant], reading: Reading) -> None:
    """Factors must be mixes of objectives alone, of which no two share one."""
    for name, mix in mixes.items():
        teacher = (reading == "as_published" and mix.published_teacher) or mix.teacher
        if mix.untrained or teacher != "ema":
            raise SettingsError(
                f"design: factor {name!r} changes the teacher too, so it cannot be combined with others"
            )
    for (one, first), (other, second) in itertools.combinations(mixes.items(), 2):
        shared = sorted(set(first.objectives) & set(second.objectives))
        if shared:
            raise SettingsError(
                f"design: factors {one!r} and {other!r} both set {shared[0]}, so its weight in a cell with both is "
                "not decided: leave one out"
            )


def _cell(
    mixes: Mapping[str, Variant],
    on: tuple[str, ...],
    custom: Mapping[str, Variant],
    weights: Literal["constant", "published"] = "constant",
    label: str | None = None,
) -> Cell:
    """The cell with these factors on."""
    label = label or "+".join(on) or BASELINE
    if len(on) == 1:
        variant = mixes[on[0]]
    else:
        objectives = {k: setting for name in on for k, setting in mixes[name].objectives.items()}
        variant = Variant(description=" + ".join(on), objectives=objectives)
    published = _published(variant) if weights == "published" and len(on) > 1 else None
    run_as = published or _shipped(variant)
    if run_as:
        changed = published if published and _content(load_variant(published)) != _content(variant) else None
        return Cell(label=label, variant_name=run_as, variant=load_variant(run_as), on=on, published=changed)
    name = on[0] if len(on) == 1 else label
    if name in custom and _content(custom[name]) != _content(variant):
        raise SettingsError(f"design: custom variant {name!r} has the name of a cell with other weights; rename it")
    return Cell(label=label, variant_name=name, variant=custom.get(name, variant), on=on)


def _content(variant: Variant) -> tuple[object, ...]:
    """What a variant trains, without its words."""
    return variant.objectives, variant.teacher, variant.published_teacher, variant.untrained


def _shipped(variant: Variant) -> str | None:
    """Name of the shipped variant that is the same mix."""
    return next((name for name, known in variants().items() if _content(known) == _content(variant)), None)


def _published(variant: Variant) -> str | None:
    """Name of the shipped variant that combines the same objectives, with whatever weights."""
    same = [name for name, known in variants().items() if set(known.objectives) == set(variant.objectives)]
    found = list({id(load_variant(name)): name for name in reversed(same)}.values())  # an alias is the same variant
    if len(found) > 1:
        raise SettingsError(f"design: {' and '.join(found)} combine the same objectives; use cells: constant")
    return found[0] if found else None


def _unlike(cells: Sequence[Cell]) -> tuple[str, ...]:
    """Cells whose weights are not those of their factors."""
    changed = [f"{cell.label} ({cell.published})" for cell in cells if cell.published]
    if not changed:
        return ()
    return (
        "With the published weights a factor is not the same in every cell, so an effect holds the change of weights "
        f"too: {', '.join(changed)}.",
    )


def _product(names: Sequence[str], mask: int) -> str:
    return f" {TIMES} ".join(names[i] for i in order(mask))
