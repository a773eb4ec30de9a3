"""Effects of an ablation design: what each factor adds, and which two add more, or less, together than alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.design import ContrastKind
from equipoise.platform.settings.parts import TEST, Part
from equipoise.platform.settings.plan import Plan
from equipoise.platform.settings.study import AblationDefinition
from equipoise.platform.stats.contrasts import block_residual, contrast, shared_seeds
from equipoise.platform.stats.resampling import Source
from equipoise.platform.stats.table import mean
from equipoise.platform.stats.uncertainty import FEW_SEEDS, Difference, Sample, holm, only_seeds
from equipoise.platform.stats.verdict import listed

MEANINGS: Mapping[ContrastKind, str] = {
    "added": "the mix with the factor alone minus the baseline",
    "left_out": "the mix without the factor minus the full mix",
    "main": "mean of the cells with the factor minus mean of those without it",
    "interaction": "what the one factor adds where the other is on, minus what it adds where the other is off",
    "dose": "the objective at this weight minus the baseline",
    "trend": "slope over the weights above 0, in points for a tenfold weight",
}


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One effect on one benchmark, in points of top-1 accuracy.

    Attributes:
        name: as in the design's contrast.
        kind: what it is, see ``MEANINGS``.
        benchmark: where.
        estimate: of the effect.
        low: lower end of its interval at 1 - ``level``, for itself alone; nan where nothing is known of the error.
        high: upper end.
        level: error level.
        p_value: two-sided.
        p_adjusted: Holm's over all effects of the benchmark; nan where ``p_value`` is.
        seeds: seeds of the cell with the fewest.
        paired_seeds: seeds that were compared cell by cell, 0 where they were not paired.
        items: test items, None where unknown.
        source: what the interval covers, see :class:`equipoise.platform.stats.contrasts.Difference`.
        dose: weight of a dose, else None.
        untestable: why the seeds allow no verdict, None where they do; see :class:`Difference`.
        aliases: other effects that the number holds too, each with its factor.
    """

    name: str
    kind: ContrastKind
    benchmark: str
    estimate: float
    low: float
    high: float
    level: float
    p_value: float
    p_adjusted: float
    seeds: int
    paired_seeds: int
    items: int | None
    source: Source
    dose: float | None
    aliases: Mapping[str, float]
    untestable: str | None = None

    @property
    def distinguishable(self) -> bool:
        """Whether the effect is more than chance, all effects of the benchmark considered."""
        return self.p_adjusted < self.level


@dataclass(frozen=True, kw_only=True)
class Effects:
    """All effects of a design.

    Attributes:
        study: its name.
        plan: the design worked out.
        benchmarks: in the order in which they are shown.
        effects: by benchmark, then in the order of the design's contrasts.
        means: cell label to benchmark to mean accuracy in percent; cells without a score are left out.
        seeds: cell label to the seeds that were scored.
        level: error level.
        pooled: whether all effects of a benchmark share one estimate of the spread over seeds.
        notes: what a reader must know, one sentence each.
        part: of the benchmarks, what was scored.
    """

    study: str
    plan: Plan
    benchmarks: tuple[str, ...]
    effects: tuple[Effect, ...]
    means: Mapping[str, Mapping[str, float]]
    seeds: Mapping[str, tuple[int, ...]]
    level: float
    pooled: bool
    notes: tuple[str, ...]
    part: Part

    def on(self, benchmark: str) -> tuple[Effect, ...]:
        """Effects on one benchmark."""
        return tuple(effect for effect in self.effects if effect.benchmark == benchmark)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record; a number that is not known is null."""
        cells = [
            {
                "cell": cell.label,
                "variant": cell.variant_name,
                "on": list(cell.on),
                "dose": cell.dose,
                "weights": {name: setting.weight for name, setting in cell.variant.objectives.items()},
                "published_weights_of": cell.published,
                "seeds": list(self.seeds.get(cell.label, ())),
                "accuracies": dict(self.means.get(cell.label, {})),
            }
            for cell in self.plan.cells
        ]
        effects = [
            {**{k: _known(v) for k, v in asdict(effect).items()}, "distinguishable": effect.distinguishable}
            for effect in self.effects
        ]
        return {
            "study": self.study,
            "part": self.part,
            "design": self.plan.design.model_dump(mode="json"),
            "resolution": self.plan.resolution,
            "defining_words": list(self.plan.words),
            "level": self.level,
            "pooled": self.pooled,
            "meanings": {kind: MEANINGS[kind] for kind in dict.fromkeys(c.kind for c in self.plan.contrasts)},
            "cells": cells,
            "effects": effects,
            "notes": list(self.notes),
        }


def effects_of(record: StudyRecord, *, level: float = 0.05, pooled: bool = True) -> Effects | None:
    """Effects of a study's design, from its record; None for a study without a design.

    Args:
        record: of the study.
        level: 0.05 for intervals of 95 %.
        pooled: as in :func:`estimate`.

    Raises:
        TrackingError: no finished trial.
        StatisticsError: outcomes of test items that are missing or do not fit together.
    """
    if record.definition.get("design") is None:
        return None
    plan = parse(AblationDefinition, record.definition, f"definition of study {record.name}").plan()
    assert plan is not None
    return estimate(
        record.name, plan, record.table.benchmarks, record.samples, level=level, pooled=pooled, part=record.part
    )


def estimate(
    study: str,
    plan: Plan,
    benchmarks: Sequence[str],
    samples: Mapping[tuple[str, str], Sample],
    *,
    level: float = 0.05,
    draws: int = 4000,
    pooled: bool = True,
    part: Part = TEST,
) -> Effects:
    """Estimate every contrast of a design on every benchmark.

    Args:
        study: its name.
        plan: the design worked out.
        benchmarks: in the order in which they are shown.
        samples: (variant, benchmark) to what was scored.
        level: 0.05 for intervals of 95 %.
        draws: bootstrap draws behind an interval.
        pooled: all effects of a factorial share one estimate of the spread over seeds, from all its cells. With a few
            seeds the intervals are then half as wide or less; they are too narrow for a factor that some seeds favour.
            False: every effect has its own, as those of the other designs do.
        part: of the benchmarks, what was scored.
    """
    found: list[Effect] = []
    for benchmark in benchmarks:
        there = {c.label: samples[key] for c in plan.cells if (key := (c.variant_name, benchmark)) in samples}
        found += [_effect(plan, difference) for difference in _differences(plan, there, level, draws, pooled)]
    means: dict[str, dict[str, float]] = {}
    seeds: dict[str, tuple[int, ...]] = {}
    for cell in plan.cells:
        for benchmark in benchmarks:
            sample = samples.get((cell.variant_name, benchmark))
            if sample is not None:
                means.setdefault(cell.label, {})[benchmark] = mean(sample.accuracy.values())
                seeds[cell.label] = tuple(sorted({*seeds.get(cell.label, ()), *sample.accuracy}))
    return Effects(
        study=study,
        plan=plan,
        benchmarks=tuple(benchmarks),
        effects=tuple(found),
        means=means,
        seeds=seeds,
        level=level,
        pooled=_pools(plan, pooled),
        notes=_notes(plan, benchmarks, found, means, seeds, pooled),
        part=part,
    )


def _differences(
    plan: Plan, there: Mapping[str, Sample], level: float, draws: int, pooled: bool
) -> tuple[Difference, ...]:
    """Contrasts of a design on one benchmark, from the samples of its cells by label; Holm over all of them."""
    # One block of seeds for all effects of a benchmark: they are then about the same runs.
    shared = shared_seeds(list(there.values())) if there else ()
    cells = {label: only_seeds(sample, shared) if shared else sample for label, sample in there.items()}
    residual = block_residual(list(cells.values())) if shared and _pools(plan, pooled) else None
    return holm(
        [
            contrast(
                c.name,
                [(v, cells[label]) for label, v in c.coefficients.items()],
                residual=residual,
                level=level,
                draws=draws,
            )
            for c in plan.contrasts
            if all(label in cells for label in c.coefficients)
        ]
    )


def _pools(plan: Plan, pooled: bool) -> bool:
    return pooled and plan.design.kind == "factorial"


def _effect(plan: Plan, difference: Difference) -> Effect:
    of = next(c for c in plan.contrasts if c.name == difference.variant)
    return Effect(
        name=of.name,
        kind=of.kind,
        benchmark=difference.benchmark,
        estimate=difference.estimate,
        low=difference.low,
        high=difference.high,
        level=difference.level,
        p_value=difference.p_value,
        p_adjusted=math.nan if difference.p_adjusted is None else difference.p_adjusted,
        seeds=difference.seeds[0],
        paired_seeds=difference.paired_seeds,
        items=difference.items,
        source=difference.source,
        dose=next((c.dose for c in plan.cells if c.label == of.name), None),
        aliases=of.aliases,
        untestable=difference.untestable,
    )


def _notes(
    plan: Plan,
    benchmarks: Sequence[str],
    found: Sequence[Effect],
    means: Mapping[str, Mapping[str, float]],
    seeds: Mapping[str, tuple[int, ...]],
    pooled: bool,
) -> tuple[str, ...]:
    """What a reader must know."""
    notes = list(plan.notes)
    missing = [c.label for c in plan.cells if any(b not in means.get(c.label, {}) for b in benchmarks)]
    if missing:
        there = {(e.name, e.benchmark) for e in found}
        lost = [c.name for c in plan.contrasts if any((c.name, b) not in there for b in benchmarks)]
        notes.append(f"No finished trial of {listed(missing)}, so there is no estimate of: {listed(lost)}.")
    every = {s for one in seeds.values() for s in one}
    common = every.intersection(*seeds.values()) if seeds else every
    if common and every > common:
        left = ", ".join(map(str, sorted(every - common)))
        notes.append(f"Seed {left} is not in every cell and takes no part in the effects.")
    elif not common and len(every) > 1:
        notes.append("The cells share no seed, so what a seed does to all of them does not cancel.")
    if _pools(plan, pooled) and any(e.paired_seeds for e in found):
        notes.append(
            "All effects of a benchmark share one estimate of the spread over seeds, from all cells; it is too small "
            "for a factor that some seeds favour (equipoise effects --own-spread gives every effect its own)."
        )
    sources = {e.source for e in found}
    if "items" in sources:
        notes.append(
            "A cell has one seed only: intervals cover test items, another seed may give another sign, and nothing is "
            "called distinguishable."
        )
    if FEW_SEEDS in {e.untestable for e in found}:
        notes.append(
            "Not testable with these seeds: two seeds, one degree of freedom, tell nothing among several effects."
        )
    if "seeds" in sources:
        notes.append("Which items were right is not at hand: intervals cover seeds, for this test set only.")
    if "none" in sources:
        notes.append("Nothing is known of the error of some effects: their scores show no spread over seeds and items.")
    if plan.resolution is not None:
        confused = [e for e in found if e.aliases and e.benchmark == found[0].benchmark]
        sums = "; ".join(f"{e.name} {alias_text(e.aliases)}" for e in confused)
        notes.append(
            f"The fraction has resolution {plan.resolution}: each number is a sum that it cannot part: {sums}."
        )
    return tuple(notes)


def alias_text(aliases: Mapping[str, float], most: int = 3) -> str:
    """Aliases in words, each with its sign, those of fewest factors first."""
    named = [
        f"{'−' if value < 0 else '+'} {'' if abs(value) == 1 else f'{abs(value):g} times '}{name}"
        for name, value in aliases.items()
    ]
    more = [f"and {len(named) - most} of higher order"] if len(named) > most else []
    return " ".join([*named[:most], *more])


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
