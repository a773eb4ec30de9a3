"""How many seeds it takes to find a gain of some size."""

from __future__ import annotations

import functools

from equipoise.platform.stats.uncertainty import minimal_detectable_difference

MOST_SEEDS = 100


@functools.lru_cache(maxsize=256)
def detectable(deviation: float, seeds: int, tests: int, *, level: float = 0.05, power: float = 0.8) -> float:
    """Smallest true gain in points that a confirmation finds with a probability of ``power``.

    Test items add to what seeds do, so this is the least that can be hoped for.

    Args:
        deviation: standard deviation of one accuracy over seeds in points.
        seeds: of every variant and of the baseline.
        tests: in the family that is corrected together, taken as if all were corrected in full.
        level: error level of the family.
        power: probability of finding it.
    """
    return minimal_detectable_difference(deviation, seeds, level=level / tests, power=power)


def seeds_needed(effect: float, deviation: float, tests: int, *, level: float = 0.05, power: float = 0.8) -> int | None:
    """Fewest seeds with which :func:`detectable` is at most ``effect`` points; None for more than 100."""
    for seeds in range(2, MOST_SEEDS + 1):
        if detectable(deviation, seeds, tests, level=level, power=power) <= effect:
            return seeds
    return None
