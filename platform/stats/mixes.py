"""The mixes of a study against its baseline: gains, bounds that count every launched mix, luck, gains to expect."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from equipoise.platform.stats import luck, shrinkage
from equipoise.platform.stats.gains import Gain, gain
from equipoise.platform.stats.noise import SeedNoise, item_variance, widening
from equipoise.platform.stats.pareto import DIGITS
from equipoise.platform.stats.table import BARRED, ResultTable
from equipoise.platform.stats.uncertainty import Bools

UNCHANGED = "unchanged"
"""The control that is scored as the checkpoint that others start from holds it."""
LEVEL = 0.05
KEPT = 0.9  # share of it that is used: the critical value is estimated, and what is said should hold to the last study
Correctness = Mapping[tuple[str, int, str], Bools]


class MixComparison:
    """A table with what is known of its noise, and how its mixes are compared.

    Args:
        table: scores.
        noise: what seeds do.
        baseline: what gains are over.
        random_init: the untrained control.
        launched: mixes that were started; None: those in the table.
        correctness: which items were right.
    """

    def __init__(
        self,
        table: ResultTable,
        noise: SeedNoise,
        baseline: str,
        random_init: str,
        launched: int | None,
        correctness: Correctness | None,
    ) -> None:
        self.table, self.noise, self.baseline, self.correctness = table, noise, baseline, correctness
        self.variants = table.complete_variants()
        controls = {baseline, random_init, UNCHANGED}
        self.mixes = tuple(v for v in self.variants if v not in controls)
        self.barred = controls | {v for v in self.variants if BARRED & table.flags(v)}
        self._critical: dict[str, float] = {}
        self.launched = max(launched or 0, sum(v not in controls for v in table.variants))
        self.gains: dict[str, dict[str, Gain]] = {
            v: {b: gain(table, v, baseline, b) for b in table.benchmarks} for v in self.variants
        }

    @property
    def units(self) -> dict[str, float] | None:
        """What gains are compared in; None where no variant was repeated on some benchmark."""
        found = {b: self.noise.unit(b) for b in self.table.benchmarks}
        return {b: u for b, u in found.items() if u} if all(found.values()) else None

    def smallest(self, variant: str, units: Mapping[str, float] | None) -> float:
        """Smallest gain of a variant, in units or in points."""
        gains = self.gains[variant]
        return round(min(g.points / units[b] if units else g.points for b, g in gains.items()), DIGITS)

    def layout(self, benchmark: str) -> luck.Layout:
        """What luck depends on, for one benchmark's seeds."""
        order = {s: at for at, s in enumerate(self.table.values(self.baseline, benchmark))}
        found = [self.gains[v][benchmark] for v in self.mixes]
        present = [(len(g.seeds), tuple(order[s] for s in g.against)) for g in found]
        M = len(self.table.benchmarks)
        return luck.layout_of(
            present, self.launched, len(order), self.noise.freedom[benchmark], M, self.noise.correlation
        )

    def at_least(self, variant: str, benchmark: str, seed: int) -> float | None:
        """Lower bound of a mix's gain that holds for all launched mixes together; None where none is known."""
        error = self.noise.error(benchmark)
        if variant not in self.mixes or not error:
            return None
        g = self.gains[variant][benchmark]
        variance = error * (1 / len(g.seeds) + 1 / len(g.against))
        variance += item_variance(self.table, variant, self.baseline, benchmark, self.noise, self.correctness)
        if benchmark not in self._critical:
            self._critical[benchmark] = luck.critical(self.layout(benchmark), KEPT * LEVEL, seed)
        reach = self._critical[benchmark] * math.sqrt(variance)
        return max(-100.0, g.points - reach)

    def luck(self, smallest: float, seed: int) -> float | None:
        """How often as many mixes that do nothing have a leader this good; ``smallest``: its smallest gain in units."""
        if self.units is None:
            return None
        # The benchmark with the fewest degrees of freedom: with more, luck reaches less far.
        weakest = min(self.table.benchmarks, key=lambda b: self.noise.freedom[b])
        layout = self.layout(weakest)
        return luck.probability(layout, smallest * widening(layout.freedom), seed)

    def expected(self, variant: str) -> dict[str, shrinkage.Expected] | None:
        """Gains to expect of a mix; None where they cannot be told."""
        errors = [self.noise.error(b) for b in self.table.benchmarks]
        if not all(errors):
            return None
        first = self.table.benchmarks[0]
        others = [v for v in self.mixes if v not in self.barred]  # how mixes that were trained differ
        found = shrinkage.expected_gains(
            np.array([[g.points for g in self.gains[v].values()] for v in others]),
            [len(self.gains[v][first].seeds) for v in others],
            [len(self.gains[v][first].against) for v in others],
            shrinkage.covariance([math.sqrt(e or 0.0) for e in errors], self.noise.correlation),
            min(self.noise.freedom.values()),
            others.index(variant),
        )
        return None if found is None else dict(zip(self.table.benchmarks, found, strict=True))
