"""The numbers of a paper's table: what each variant reaches, what it gains, and what of it is more than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from equipoise.platform.analysis.differences import Samples, against
from equipoise.platform.settings.variant import CONTROLS
from equipoise.platform.stats.noise import SeedNoise
from equipoise.platform.stats.table import ResultTable
from equipoise.platform.stats.uncertainty import StatisticsError, compare, holm, interval

LEVEL = 0.05


@dataclass(frozen=True)
class Cell:
    """One variant on one benchmark.

    Attributes:
        mean: top-1 accuracy in percent, over its seeds.
        low: lower end of the mean's interval of 95 %, None where nothing is known of its error.
        high: upper end.
        gain: over the baseline in points, None for the baseline itself.
        gain_low: lower end of the gain's interval.
        gain_high: upper end.
        p_adjusted: of the gain, Holm's over the table; None where seeds are too few.
        more_than_chance: whether that is below 0.05.
        best: highest mean of its benchmark, and more than chance above the next.
    """

    mean: float
    low: float | None
    high: float | None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    p_adjusted: float | None = None
    more_than_chance: bool = False
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One variant.

    Attributes:
        variant: its name.
        seeds: how many it has.
        cells: by benchmark; one that it lacks is left out.
        flags: what is known about its runs that numbers do not say.
    """

    variant: str
    seeds: int
    cells: Mapping[str, Cell]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class PaperTable:
    """A table as a paper has it.

    Attributes:
        title: what it is of.
        benchmarks: columns, in order.
        part: of the benchmarks that accuracies were taken on.
        baseline: whom gains are over.
        rows: the controls, then by smallest gain.
        notes: what stands below it, one sentence each.
    """

    title: str
    benchmarks: tuple[str, ...]
    part: str
    baseline: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record; every cell of every format is a number of it."""
        return asdict(self)


def paper_table(
    table: ResultTable, found: Samples, noise: SeedNoise, title: str, *, baseline: str, only: Sequence[str] = ()
) -> PaperTable:
    """The numbers of a table.

    Args:
        table: accuracies.
        found: their samples, by variant and benchmark.
        noise: what seeds do, for variants with one seed.
        title: what it is of.
        baseline: whom gains are over.
        only: variants to show; none: all. What is left out counts in Holm's correction all the same.

    Raises:
        StatisticsError: there is no such baseline or variant.
    """
    for name in (baseline, *only):
        if name not in table.variants:
            raise StatisticsError(f"there is no variant {name!r} in the table; it has {', '.join(table.variants)}")
    others = [variant for variant in table.variants if variant != baseline]
    mixes, controls = ([v for v in others if (v in CONTROLS) is control] for control in (False, True))
    gains = against(baseline, mixes, table.benchmarks, found, noise, LEVEL)
    tests = len(gains)
    gains |= against(baseline, controls, table.benchmarks, found, noise, LEVEL)
    best = _best(table, found, noise)
    rows = []
    for variant in table.variants:
        cells = {}
        for b in table.benchmarks:
            if (variant, b) not in found:
                continue
            low, high = map(_known, interval(found[variant, b], level=LEVEL))
            cell = Cell(table.mean_of(variant)[b], low, high, best=best.get(b) == variant)
            gain = gains.get((variant, b))
            if gain is not None:
                cell = Cell(
                    *(cell.mean, low, high, gain.estimate, _known(gain.low), _known(gain.high)),
                    p_adjusted=_known(gain.p_adjusted),
                    more_than_chance=gain.distinguishable,
                    best=cell.best,
                )
            cells[b] = cell
        rows.append(Row(variant, len(table.seeds(variant)), cells, tuple(sorted(table.flags(variant)))))
    shown = sorted((row for row in rows if not only or row.variant in only), key=lambda row: _order(row, baseline))
    return PaperTable(
        title, table.benchmarks, table.part, baseline, tuple(shown), _notes(table, shown, baseline, tests)
    )


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _best(table: ResultTable, found: Samples, noise: SeedNoise) -> dict[str, str]:
    """Benchmark to the variant that is more than chance above the next, Holm's correction over the benchmarks."""
    pairs = []
    for b in table.benchmarks:
        there = sorted((v for v in table.variants if (v, b) in found), key=lambda v: -table.mean_of(v)[b])
        if len(there) > 1:
            pairs.append(compare(found[there[0], b], found[there[1], b], noise=noise.residual(b), level=LEVEL))
    return {one.benchmark: one.variant for one in holm(pairs) if one.distinguishable and one.estimate > 0}


def _order(row: Row, baseline: str) -> tuple[bool, bool, float]:
    gains = [cell.gain for cell in row.cells.values() if cell.gain is not None]
    return row.variant != baseline, row.variant not in CONTROLS, -min(gains, default=-math.inf)


def _notes(table: ResultTable, rows: Sequence[Row], baseline: str, tests: int) -> tuple[str, ...]:
    notes = [
        f"Mean top-1 accuracy in percent on {table.part} items over seeds, and gain over {baseline} in points, seed by "
        "seed where both have it; in brackets intervals of 95 % over new seeds and items.",
        "* More than chance at 5 %: t-test over seeds whose error takes in items by a bootstrap, Holm's correction "
        f"over all {tests} gains of mixes; controls are a family of their own.",
        "Bold: highest of its column, and more than chance above the next by the same test, Holm's correction over the "
        "columns.",
    ]
    counts = sorted({row.seeds for row in rows})
    if counts[0] == 1:
        single = [row.variant for row in rows if row.seeds == 1]
        notes.append(f"One seed tells nothing of the spread over seeds, and gets no test: {', '.join(single)}.")
    meanings = dict(table.flag_meanings)
    for flag in sorted({flag for row in rows for flag in row.flags}):
        named = ", ".join(row.variant for row in rows if flag in row.flags)
        notes.append(f"{meanings.get(flag, flag.replace('_', ' ')).rstrip('.')}: {named}.")
    if table.protocols:
        notes.append("Probes: " + ", ".join(f"{name} by {probe}" for name, probe in table.protocols.items()) + ".")
    return (*notes, *table.notes)
