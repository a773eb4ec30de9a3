"""The front, the hypervolume and the leading candidate of a result table (design, section 7).

Everything here is a function of a :class:`~equipoise.platform.stats.table.ResultTable` and of which items were right;
more accuracy is better on every benchmark. Nothing here is called balanced: that takes a confirmation on fresh seeds,
see :mod:`equipoise.platform.analysis.confirmation`.

Shapes: V variants, M benchmarks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from equipoise.platform.stats.front_probability import front_probability
from equipoise.platform.stats.mixes import UNCHANGED, Correctness, MixComparison
from equipoise.platform.stats.noise import study_noise
from equipoise.platform.stats.pareto import DIGITS, SelectionError, contributions, hypervolume, ranks
from equipoise.platform.stats.shrinkage import Expected
from equipoise.platform.stats.table import Part, ResultTable, item_error, spread
from equipoise.platform.stats.verdict import notes, sentence


@dataclass(frozen=True, kw_only=True)
class RankedVariant:
    """What the selection knows of one complete variant; accuracies, gains and errors in percentage points.

    Attributes:
        variant: its name.
        control: ``baseline``, ``random_init`` or None.
        flags: what is known about its runs that the numbers do not say.
        seeds: seeds with a score on any benchmark.
        means: benchmark to mean accuracy over the seeds there are.
        spread: benchmark to sample standard deviation over seeds, None with fewer than two.
        item_error: benchmark to the standard error from the number of items, None where that is unknown.
        gains: benchmark to gain over the baseline, seed by seed where seeds are shared.
        at_least: benchmark to what the gain is at least, all launched mixes counted (Dunnett's one-sided bound at 5 %,
            over new seeds and items); None for a control, and where no variant was repeated.
        smallest_gain: the smallest gain in noise floors, None where the spread over seeds has fewer than three degrees
            of freedom.
        smallest_points: the smallest gain in points.
        rank: 0 on the front, 1 on the front of what is left without it, and so on.
        front_probability: that it is truly on the front; None where no variant was repeated.
        hypervolume_contribution: hypervolume lost without it, 0 for a control.
        admissible: every benchmark at worst the tolerance below the baseline.
        eligible: may be a candidate: no control, no untrained and no collapsed encoder.
    """

    variant: str
    control: str | None
    flags: tuple[str, ...]
    seeds: tuple[int, ...]
    means: dict[str, float]
    spread: dict[str, float | None]
    item_error: dict[str, float | None]
    gains: dict[str, float]
    at_least: dict[str, float | None]
    smallest_gain: float | None
    smallest_points: float
    rank: int
    front_probability: float | None
    hypervolume_contribution: float
    admissible: bool
    eligible: bool


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The variant that leads a study, and what to think of it before it is confirmed.

    Attributes:
        variant: its name.
        gains: by benchmark, in points.
        smallest_gain: in noise floors; None below three degrees of freedom.
        smallest_points: in points.
        tied: other variants with the same gains, as far as the rule looks.
        luck: how often a study of as many mixes that do nothing has a leader this good; None where no variant was
            repeated.
        expected: benchmark to the gain to expect after shrinkage with an interval of 95 %; None for fewer than eight
            mixes.
        better: every bound of its gains is above 0: better than the baseline on every benchmark.
        kept: every bound of its gains is above minus the tolerance.
    """

    variant: str
    gains: dict[str, float]
    smallest_gain: float | None
    smallest_points: float
    tied: tuple[str, ...]
    luck: float | None
    expected: dict[str, Expected] | None
    better: bool
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The answer to "which variant leads, against what, and what is that worth".

    Attributes:
        benchmarks: order in which everything is shown.
        part: of the benchmarks that the scores were taken on: ``select`` or ``test``.
        baseline: name of the variant that gains are measured against.
        random_init: name of the untrained control.
        rows: complete variants, largest smallest gain first.
        front: non-dominated variants in the order of ``rows``, controls included.
        launched: mixes that were started, those without a score included.
        candidate: the leading candidate, None where no variant is admissible and gains anything.
        sentence: the result in plain words, also where ``candidate`` is None.
        hypervolume: volume (points to the power of the number of benchmarks) between the baseline's point and the
            eligible variants.
        hypervolume_reference: the baseline's point.
        tolerance: benchmark to the largest loss that is still admissible, in points.
        noise_floor: benchmark to the spread of one accuracy over seeds in points, None below three degrees of freedom.
        freedom: benchmark to the degrees of freedom of that spread.
        scaled_by: what gains are divided by for ``smallest_gain``, None where there is no floor on every benchmark.
        above_random_init: benchmark to baseline minus ``random_init`` in points; None where that was not scored.
        incomplete: variants left out, with the benchmarks that they lack.
        protocols: by which probe each benchmark was scored, where it is known.
        notes: what a reader must know to read the result, one sentence each.
    """

    benchmarks: tuple[str, ...]
    part: Part
    baseline: str
    random_init: str
    rows: tuple[RankedVariant, ...]
    front: tuple[str, ...]
    launched: int
    candidate: Candidate | None
    sentence: str
    hypervolume: float
    hypervolume_reference: dict[str, float]
    tolerance: dict[str, float]
    noise_floor: dict[str, float | None]
    freedom: dict[str, int]
    scaled_by: dict[str, float] | None
    above_random_init: dict[str, float | None]
    incomplete: dict[str, tuple[str, ...]]
    protocols: dict[str, str]
    notes: tuple[str, ...]

    def row(self, variant: str) -> RankedVariant:
        """The row of one variant; raises KeyError for a variant that is not complete."""
        for row in self.rows:
            if row.variant == variant:
                return row
        raise KeyError(variant)

    def with_notes(self, more: Iterable[str]) -> Selection:
        """The same with further notes."""
        return replace(self, notes=(*self.notes, *more))

    def without_candidate(self, sentence: str) -> Selection:
        """The same of a study that picks nothing, with what is said instead."""
        return replace(self, candidate=None, sentence=sentence)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, strings and numbers, ready for JSON (tuples become lists)."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def select(
    table: ResultTable,
    *,
    tolerance: float | Mapping[str, float] | None = None,
    baseline: str = "baseline",
    random_init: str = "random_init",
    launched: int | None = None,
    correctness: Correctness | None = None,
    confirm: str | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Selection:
    """Find the front and the leading candidate.

    The candidate is, among the eligible variants whose every benchmark is at worst ``tolerance`` below the baseline and
    one of them above it, the one with the largest smallest gain. Gains are taken seed by seed where seeds are shared,
    and compared in units of what seeds do (in points where no variant was repeated). Ties go to the larger hypervolume
    contribution against the baseline's point, then against the corner of the tolerance (where no tied variant beats
    the baseline everywhere), then to the first name, and are told.

    Args:
        table: scores; incomplete variants are named in the result and take no part.
        tolerance: largest admissible loss in points, for all benchmarks or by name; where not given, the noise floor,
            and 0 where there is none.
        baseline: variant that gains are measured against; on the front perhaps, a candidate never.
        random_init: untrained control; takes part in table and front, a candidate never.
        launched: mixes that were started, those that were stopped or failed included; None: those in the table.
        correctness: (variant, seed, benchmark) to bool [N], which items were right, where that is known.
        confirm: the command that confirms the candidate, for the sentence.
        draws: draws behind the front probabilities; 0 leaves them out.
        seed: fixes them, and the simulated studies.

    Raises:
        SelectionError: the baseline is missing or incomplete, or a tolerance is out of its range.
    """
    _check_baseline(table, baseline)
    noise = study_noise(table, correctness, leave_out=(random_init, UNCHANGED))
    floor = {b: noise.floor(b) for b in table.benchmarks}
    allowed = _tolerance(table, tolerance, floor)
    scale = {b: value for b, value in floor.items() if value}
    study = MixComparison(table, noise, baseline, random_init, launched, correctness)
    apart = (baseline, *sorted(study.barred - {baseline}))
    probability = front_probability(table, noise, apart, correctness, draws=draws, seed=seed)
    rows = _ranked_rows(study, allowed, scale if len(scale) == len(floor) else None, probability, seed)
    eligible = [list(row.means.values()) for row in rows if row.eligible]
    reference = {b: table.means()[baseline][b] for b in table.benchmarks}
    candidate = _candidate(study, rows, allowed, seed)
    above = _above_random(table, baseline, random_init)
    found = Selection(
        benchmarks=table.benchmarks,
        part=table.part,
        baseline=baseline,
        random_init=random_init,
        rows=rows,
        front=tuple(row.variant for row in rows if row.rank == 0),
        launched=study.launched,
        candidate=candidate,
        sentence="",
        hypervolume=hypervolume(eligible, list(reference.values())),
        hypervolume_reference=reference,
        tolerance=allowed,
        noise_floor=floor,
        freedom=dict(noise.freedom),
        scaled_by=scale if len(scale) == len(floor) else None,
        above_random_init=above,
        incomplete=table.incomplete(),
        protocols=table.protocols,
        notes=(),
    )
    return replace(found, sentence=sentence(found, confirm), notes=notes(found, table))


def _ranked_rows(
    study: MixComparison,
    allowed: Mapping[str, float],
    scaled_by: Mapping[str, float] | None,
    probability: Mapping[str, float] | None,
    seed: int,
) -> tuple[RankedVariant, ...]:
    """Every complete variant, in the order of the rule: smallest gain, hypervolume contribution, name."""
    table, baseline = study.table, study.baseline
    means = table.means()
    points = {variant: [means[variant][b] for b in table.benchmarks] for variant in study.variants}
    reference = points[baseline]
    corner = [value - allowed[b] for value, b in zip(reference, table.benchmarks, strict=True)]
    achieved = {variant: point for variant, point in points.items() if variant not in study.barred}
    contribution = contributions(achieved, reference)
    from_corner = contributions(achieved, corner)
    rows = []
    for variant, rank in zip(points, ranks(list(points.values())), strict=True):
        gains = {b: g.points for b, g in study.gains[variant].items()}
        control = {baseline: "baseline"}.get(variant, None if variant in study.mixes else "random_init")
        rows.append(
            RankedVariant(
                variant=variant,
                control=control,
                flags=tuple(sorted(table.flags(variant))),
                seeds=table.seeds(variant),
                means=means[variant],
                spread=spread(table, variant),
                item_error=item_error(table, variant),
                gains=gains,
                at_least={b: study.at_least(variant, b, seed) for b in table.benchmarks},
                smallest_gain=study.smallest(variant, scaled_by) if scaled_by else None,
                smallest_points=study.smallest(variant, None),
                rank=rank,
                front_probability=probability[variant] if probability else None,
                hypervolume_contribution=contribution.get(variant, 0.0),
                admissible=all(round(gain + allowed[b], DIGITS) >= 0 for b, gain in gains.items()),
                eligible=variant not in study.barred,
            )
        )

    def order(row: RankedVariant) -> tuple[float, float, float, str]:
        first = -study.smallest(row.variant, study.units)
        return (first, -row.hypervolume_contribution, -from_corner.get(row.variant, 0.0), row.variant)

    return tuple(sorted(rows, key=order))


def _candidate(
    study: MixComparison, rows: Sequence[RankedVariant], allowed: Mapping[str, float], seed: int
) -> Candidate | None:
    """The first admissible and eligible row that gains anything."""
    found = [r for r in rows if r.admissible and r.eligible and max(r.gains.values()) > 0]
    if not found:
        return None
    row = found[0]
    smallest = study.smallest(row.variant, study.units)
    tied = tuple(r.variant for r in found[1:] if r.gains == row.gains)
    return Candidate(
        variant=row.variant,
        gains=row.gains,
        smallest_gain=row.smallest_gain,
        smallest_points=row.smallest_points,
        tied=tied,
        luck=study.luck(smallest, seed),
        expected=study.expected(row.variant),
        better=all(bound is not None and bound > 0 for bound in row.at_least.values()),
        kept=all(bound is not None and bound > -allowed[b] for b, bound in row.at_least.items()),
    )


def _plain(value: Any) -> Any:
    """Tuples to lists, all the way down."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _check_baseline(table: ResultTable, baseline: str) -> None:
    if baseline not in table.variants:
        raise SelectionError(
            f"the table has no {baseline!r}; gains are measured against it: add it or name another baseline "
            f"(variants: {', '.join(table.variants)})"
        )
    missing = table.incomplete().get(baseline, ())
    if missing:
        raise SelectionError(f"{baseline!r} has no score on {', '.join(missing)}; evaluate it there or leave them out")


def _tolerance(
    table: ResultTable, given: float | Mapping[str, float] | None, floor: Mapping[str, float | None]
) -> dict[str, float]:
    """The tolerance of every benchmark: what was given, else the noise floor, else none."""
    asked: dict[str, float] = {}
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in table.benchmarks]
        if unknown:
            raise SelectionError(
                f"tolerance names {', '.join(unknown)}; benchmarks of the table: {', '.join(table.benchmarks)}"
            )
        asked.update(given)
    elif given is not None:
        asked = dict.fromkeys(table.benchmarks, given)
    for name, value in asked.items():
        if not (math.isfinite(value) and value >= 0):
            raise SelectionError(f"tolerance on {name} is {value}; expected points, 0 or more")
    return {name: float(asked.get(name, floor[name] or 0.0)) for name in table.benchmarks}


def _above_random(table: ResultTable, baseline: str, random_init: str) -> dict[str, float | None]:
    """Baseline minus the untrained control, in points."""
    means = table.means()
    control = means.get(random_init, {})
    return {b: means[baseline][b] - control[b] if b in control else None for b in table.benchmarks}
