"""From a design to its plan: cells, and the contrasts between them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from equipoise.platform.errors import SettingsError
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.design import FRACTIONS, MOST_CELLS, TIMES, ContrastKind, Design, Factor
from equipoise.platform.settings.factorial import Fraction, best_fraction, order
from equipoise.platform.settings.variant import BASELINE, ObjectiveSetting, Reading, Variant, load_variant, variants


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
    contrasts, named = [], set[int]()
    singles = [1 << i for i in range(len(names))]
    pairs = [a | b for a, b in itertools.combinations(singles, 2)]
    for effect in [*singles, *pairs]:
        if effect in named:
            continue  # named among the aliases of an effect before it
        aliases = fraction.aliases(effect)
        named |= {effect, *aliases}
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
