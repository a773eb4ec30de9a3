"""How probable it is that a variant lies on the front, given its spread over seeds."""

from __future__ import annotations

import zlib

import numpy as np

from equipoise.platform.stats.pareto import Array, SelectionError, nondominated
from equipoise.platform.stats.table import ResultTable


def front_probability(table: ResultTable, draws: int = 2000, seed: int = 0) -> dict[str, float] | None:
    """Share of draws in which a complete variant is on the front, seeds drawn with replacement within each variant.

    A seed keeps its scores together; a draw that leaves a benchmark without a score is drawn again. A variant with one
    seed stays where it is, which understates the uncertainty. Each variant has its own stream of random numbers, so
    another variant in the table changes no draw.

    Returns:
        Variant to probability; None where no complete variant has two seeds.

    Raises:
        SelectionError: ``draws`` below 1.
    """
    if draws < 1:
        raise SelectionError(f"draws is {draws}; expected at least 1")
    variants = table.complete_variants()
    if all(len(table.seeds(variant)) < 2 for variant in variants):
        return None
    points = np.stack([_drawn_means(table, variant, draws, seed) for variant in variants], axis=1)  # [N, V, M]
    hits = np.zeros(len(variants))
    for point in points:
        hits += nondominated(point)
    return {variant: float(hit) / draws for variant, hit in zip(variants, hits, strict=True)}


def _drawn_means(table: ResultTable, variant: str, draws: int, seed: int) -> Array:
    """Means [N, M] of seeds drawn with replacement."""
    seeds = table.seeds(variant)
    by_benchmark = [table.values(variant, benchmark) for benchmark in table.benchmarks]
    scores = np.array([[values.get(s, 0.0) for values in by_benchmark] for s in seeds])  # [S, M]
    there = np.array([[s in values for values in by_benchmark] for s in seeds], dtype=np.float64)
    stream = np.random.default_rng([seed, zlib.crc32(variant.encode())])
    times = np.zeros((draws, len(seeds)))  # how often each seed was drawn
    todo = np.arange(draws)
    while todo.size:
        times[todo] = stream.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=todo.size)
        todo = todo[((times[todo] @ there) == 0).any(axis=1)]
    means: Array = (times @ scores) / (times @ there)
    return means
