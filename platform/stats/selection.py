"""The front, the hypervolume and the balanced variant of a result table (design, section 8).

Everything here is a pure function of a :class:`~equipoise.platform.stats.table.ResultTable`; more accuracy is better on
every benchmark.

Shapes: V variants, M benchmarks, N draws, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from equipoise.platform.stats.front_probability import front_probability
from equipoise.platform.stats.pareto import DIGITS, SelectionError, contributions, hypervolume, ranks
from equipoise.platform.stats.table import BARRED, ResultTable, item_error, spread


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
        item_error: benchmark to the standard error from the number of test items, None where that is unknown.
        gains: benchmark to mean minus the baseline's mean.
        smallest_gain: the smallest gain, in noise floors or in points (see ``Selection.scaled_by``).
        rank: 0 on the front, 1 on the front of what is left without it, and so on.
        front_probability: share of seed draws in which it is on the front, None where no variant has two seeds.
        hypervolume_contribution: hypervolume lost without it, 0 for a control.
        admissible: every benchmark at worst the tolerance below the baseline.
        eligible: may be balanced: no control and not a score of an untrained encoder.
    """

    variant: str
    control: str | None
    flags: tuple[str, ...]
    seeds: tuple[int, ...]
    means: dict[str, float]
    spread: dict[str, float | None]
    item_error: dict[str, float | None]
    gains: dict[str, float]
    smallest_gain: float
    rank: int
    front_probability: float | None
    hypervolume_contribution: float
    admissible: bool
    eligible: bool


@dataclass(frozen=True, kw_only=True)
class Balanced:
    """The balanced variant: ``gains`` in points, ``smallest_gain`` divided by ``scaled_by`` (points where None)."""

    variant: str
    gains: dict[str, float]
    smallest_gain: float
    scaled_by: dict[str, float] | None
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The answer to "which variant is balanced, and against what".

    Attributes:
        benchmarks: order in which everything is shown.
        baseline: name of the variant that gains are measured against.
        random_init: name of the untrained control.
        rows: complete variants, largest smallest gain first.
        front: non-dominated variants in the order of ``rows``, controls included.
        balanced: the balanced variant, None where none is admissible.
        sentence: the result in plain words, also where ``balanced`` is None.
        hypervolume: volume (points to the power of the number of benchmarks) between the baseline's point and the
            eligible variants.
        hypervolume_reference: the baseline's point.
        tolerance: benchmark to the largest loss that is still admissible, in points.
        noise_floor: benchmark to the baseline's standard deviation over seeds, None with fewer than two.
        scaled_by: what gains were divided by to compare benchmarks, None where they were compared in points.
        above_random_init: benchmark to baseline minus ``random_init`` in points; None where that was not scored.
        incomplete: variants left out, with the benchmarks that they lack.
        notes: what a reader must know to read the result, one sentence each.
    """

    benchmarks: tuple[str, ...]
    baseline: str
    random_init: str
    rows: tuple[RankedVariant, ...]
    front: tuple[str, ...]
    balanced: Balanced | None
    sentence: str
    hypervolume: float
    hypervolume_reference: dict[str, float]
    tolerance: dict[str, float]
    noise_floor: dict[str, float | None]
    scaled_by: dict[str, float] | None
    above_random_init: dict[str, float | None]
    incomplete: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]

    def row(self, variant: str) -> RankedVariant:
        """The row of one variant; raises KeyError for a variant that is not complete."""
        for row in self.rows:
            if row.variant == variant:
                return row
        raise KeyError(variant)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, strings and numbers, ready for JSON (tuples become lists)."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def noise_floor(table: ResultTable, baseline: str = "baseline") -> dict[str, float | None]:
    """Sample standard deviation (n - 1) of the baseline over seeds, per benchmark; None with fewer than two seeds."""
    return spread(table, baseline)


def select(
    table: ResultTable,
    *,
    tolerance: float | Mapping[str, float] | None = None,
    baseline: str = "baseline",
    random_init: str = "random_init",
    draws: int = 2000,
    seed: int = 0,
) -> Selection:
    """Find the front and the balanced variant.

    Balanced is, among the eligible variants whose every benchmark is at worst ``tolerance`` below the baseline, the one
    with the largest smallest gain. Gains are divided by the noise floor where every benchmark has one above 0, and are
    compared in points otherwise. Ties go to the larger hypervolume contribution against the baseline's point, then
    against the corner of the tolerance (where no tied variant beats the baseline everywhere), then to the first name.

    Args:
        table: scores; incomplete variants are named in the result and take no part.
        tolerance: largest admissible loss in points, for all benchmarks or by name; where not given, the noise floor.
        baseline: variant that gains are measured against; on the front perhaps, balanced never.
        random_init: untrained control; takes part in table and front, balanced never.
        draws: seed draws behind the front probabilities.
        seed: fixes those draws.

    Raises:
        SelectionError: the baseline is missing or incomplete, or there is neither tolerance nor noise floor.
    """
    _check_baseline(table, baseline)
    floor = noise_floor(table, baseline)
    allowed = _tolerance(table, tolerance, floor)
    scale = {name: value for name, value in floor.items() if value}
    scaled_by = scale if len(scale) == len(table.benchmarks) else None
    probability = front_probability(table, draws, seed)
    rows = _ranked_rows(table, allowed, scaled_by, probability, baseline, random_init)
    eligible = [list(row.means.values()) for row in rows if row.eligible]
    reference = {b: table.means()[baseline][b] for b in table.benchmarks}
    volume = hypervolume(eligible, list(reference.values()))
    balanced = _balanced(rows, scaled_by, baseline)
    above = _above_random(table, baseline, random_init)
    return Selection(
        benchmarks=table.benchmarks,
        baseline=baseline,
        random_init=random_init,
        rows=rows,
        front=tuple(row.variant for row in rows if row.rank == 0),
        balanced=balanced,
        sentence=balanced.sentence if balanced else _nothing(rows, allowed, baseline),
        hypervolume=volume,
        hypervolume_reference=reference,
        tolerance=allowed,
        noise_floor=floor,
        scaled_by=scaled_by,
        above_random_init=above,
        incomplete=table.incomplete(),
        notes=_notes(table, rows, balanced, scaled_by, volume, above, baseline),
    )


def _ranked_rows(
    table: ResultTable,
    allowed: Mapping[str, float],
    scaled_by: Mapping[str, float] | None,
    probability: Mapping[str, float] | None,
    baseline: str,
    random_init: str,
) -> tuple[RankedVariant, ...]:
    """Every complete variant, in the order of the rule: smallest gain, hypervolume contribution, name."""
    means = table.means()
    points = {variant: [means[variant][b] for b in table.benchmarks] for variant in table.complete_variants()}
    barred = {baseline, random_init} | {variant for variant in points if BARRED & table.flags(variant)}
    reference = points[baseline]
    corner = [value - allowed[b] for value, b in zip(reference, table.benchmarks, strict=True)]
    achieved = {variant: point for variant, point in points.items() if variant not in barred}
    contribution = contributions(achieved, reference)
    from_corner = contributions(achieved, corner)
    rows = []
    for variant, rank in zip(points, ranks(list(points.values())), strict=True):
        gains = {b: round(means[variant][b] - means[baseline][b], DIGITS) for b in table.benchmarks}
        rows.append(
            RankedVariant(
                variant=variant,
                control={baseline: "baseline", random_init: "random_init"}.get(variant),
                flags=tuple(sorted(table.flags(variant))),
                seeds=table.seeds(variant),
                means=means[variant],
                spread=spread(table, variant),
                item_error=item_error(table, variant),
                gains=gains,
                smallest_gain=round(min(g / scaled_by[b] if scaled_by else g for b, g in gains.items()), DIGITS),
                rank=rank,
                front_probability=probability[variant] if probability else None,
                hypervolume_contribution=contribution.get(variant, 0.0),
                admissible=all(round(gain + allowed[b], DIGITS) >= 0 for b, gain in gains.items()),
                eligible=variant not in barred,
            )
        )
    return tuple(
        sorted(
            rows,
            key=lambda r: (-r.smallest_gain, -r.hypervolume_contribution, -from_corner.get(r.variant, 0.0), r.variant),
        )
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
    """The tolerance of every benchmark: what was given, else the noise floor."""
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
    allowed: dict[str, float] = {}
    for name in table.benchmarks:
        limit = asked.get(name, floor[name])
        if limit is None:
            raise SelectionError(
                f"the baseline has fewer than two seeds on {name}, so there is no noise floor to take as tolerance: "
                "pass --tolerance POINTS or run the baseline with more seeds"
            )
        allowed[name] = float(limit)
    return allowed


def _balanced(rows: Sequence[RankedVariant], scaled_by: dict[str, float] | None, baseline: str) -> Balanced | None:
    """The first admissible and eligible row, in words."""
    row = next((row for row in rows if row.admissible and row.eligible), None)
    if row is None:
        return None
    if row.smallest_gain > 0:
        verdict = f"better than {baseline} on every benchmark"
    elif max(row.gains.values()) > 0:
        verdict = "within tolerance, not better on every benchmark"
    else:
        verdict = "within tolerance, better on none"
    gains = ", ".join(f"{name} {gain:+.2f}" for name, gain in row.gains.items())
    return Balanced(
        variant=row.variant,
        gains=row.gains,
        smallest_gain=row.smallest_gain,
        scaled_by=scaled_by,
        sentence=f"{row.variant} is balanced: {verdict} ({gains} points against {baseline}).",
    )


def _nothing(rows: Sequence[RankedVariant], allowed: Mapping[str, float], baseline: str) -> str:
    """Why nothing is balanced."""
    if not any(row.eligible for row in rows):
        return f"Nothing is balanced: the table has no complete trained variant besides {baseline}."
    limits = ", ".join(f"{name} {value:.2f}" for name, value in allowed.items())
    return (
        f"Nothing is balanced: every variant is more than the tolerance ({limits} points) below {baseline} on at least "
        f"one benchmark; {baseline} itself is the balanced choice."
    )


def _above_random(table: ResultTable, baseline: str, random_init: str) -> dict[str, float | None]:
    """Baseline minus the untrained control, in points."""
    means = table.means()
    control = means.get(random_init, {})
    return {b: means[baseline][b] - control[b] if b in control else None for b in table.benchmarks}


def _notes(
    table: ResultTable,
    rows: Sequence[RankedVariant],
    balanced: Balanced | None,
    scaled_by: Mapping[str, float] | None,
    volume: float,
    above: Mapping[str, float | None],
    baseline: str,
) -> tuple[str, ...]:
    """What a reader must know, one sentence each."""
    notes = []
    seeds = {b: tuple(table.values(baseline, b)) for b in table.benchmarks}
    if len(set(seeds.values())) > 1:
        listed = "; ".join(f"{b}: {', '.join(map(str, seeds[b]))}" for b in table.benchmarks)
        notes.append(
            f"The seeds of {baseline} differ between benchmarks ({listed}); each mean is over the scores there are."
        )
    single = [row.variant for row in rows if len(row.seeds) == 1]
    if len(single) == len(rows):
        notes.append("Every variant has one seed only: the spread over seeds and front probabilities are unknown.")
    elif single:
        names = ", ".join(single)
        notes.append(f"One seed only, spread over seeds unknown, fixed in the front probabilities: {names}.")
    if scaled_by is None:
        why = "every benchmark needs two baseline seeds that differ"
        notes.append(f"Gains are compared in points, not scaled: there is no full noise floor ({why}).")
    if volume == 0:
        notes.append(f"No variant beats {baseline} on every benchmark, so the hypervolume against it is 0.")
    if balanced is not None:
        notes += _doubts(rows, balanced.variant, baseline)
    for name, meaning in table.flag_meanings:
        carriers = [row.variant for row in rows if name in row.flags]
        if carriers:
            barred = "; never balanced" if name in BARRED else ""
            notes.append(f"{name} ({', '.join(carriers)}): {meaning}{barred}.")
    low = [name for name, distance in above.items() if distance is not None and distance <= 0]
    if low:
        notes.append(
            f"{baseline} is not above the untrained encoder on {', '.join(low)}: no gain there shows learning."
        )
    if all(distance is None for distance in above.values()):
        notes.append("There is no untrained control in the table, so nothing shows how much of a score is learned.")
    notes += [f"{v} is left out: no score on {', '.join(names)}." for v, names in table.incomplete().items()]
    return tuple(notes)


def _doubts(rows: Sequence[RankedVariant], variant: str, baseline: str) -> list[str]:
    """Gains of the balanced variant that its number of test items cannot tell from 0."""
    by_name = {row.variant: row for row in rows}
    row, against = by_name[variant], by_name[baseline]
    unclear = []
    for name, gain in row.gains.items():
        one, other = row.item_error[name], against.item_error[name]
        if one is not None and other is not None and abs(gain) <= 2 * math.hypot(one, other):
            unclear.append(f"{name} {gain:+.2f} (standard error {math.hypot(one, other):.2f})")
    if not unclear:
        return []
    return [f"Within two standard errors from test items alone (unpaired), {variant} on: {', '.join(unclear)}."]
