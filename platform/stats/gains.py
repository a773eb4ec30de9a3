"""Gains over the baseline, seed by seed wherever both were trained with the same one."""

from __future__ import annotations

from dataclasses import dataclass

from equipoise.platform.stats.pareto import DIGITS
from equipoise.platform.stats.table import ResultTable, mean


@dataclass(frozen=True)
class Gain:
    """What a variant has over the baseline on one benchmark.

    Attributes:
        points: difference of mean accuracies in percentage points.
        seeds: seeds of the variant that it rests on.
        against: seeds of the baseline that it rests on; the same ones where any are shared.
    """

    points: float
    seeds: tuple[int, ...]
    against: tuple[int, ...]


def gain(table: ResultTable, variant: str, baseline: str, benchmark: str) -> Gain:
    """Gain of one variant on one benchmark.

    Where variant and baseline share seeds, these are compared, each with itself, and no other: a mix that does what the
    baseline does has a gain of 0, also where that seed is a lucky one. Where they share none, all are.

    Both need a score on the benchmark.
    """
    mine, other = table.values(variant, benchmark), table.values(baseline, benchmark)
    shared = tuple(seed for seed in mine if seed in other)
    seeds, against = (shared, shared) if shared else (tuple(mine), tuple(other))
    points = mean(mine[s] for s in seeds) - mean(other[s] for s in against)
    return Gain(round(points, DIGITS), seeds, against)
