"""What luck alone does in a study of as many mixes: simulated studies in which no mix does anything.

The mixes of a study share the baseline they are compared with, and the floor that their gains are measured in comes
from the same few seeds. So nothing is approximated: whole studies are drawn, with as many launched mixes (those that
were stopped or failed were chances too), the same seeds, the same sharing of seeds with the baseline, and a floor from
their own seeds, and the rule that chose the candidate chooses in each of them.

Seeds that favour every variant alike are not drawn: where they exist and seeds are shared they cancel, and luck is less
than what is said here.

Shapes: D drawn studies, K mixes, M benchmarks, n seeds of the baseline.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]
STUDIES = 20_000
BOUND_STUDIES = 200_000  # for critical values: there a mix is one number, and as many again cost nothing
MOST_NUMBERS = 4_000_000  # normal numbers in memory at a time


@dataclass(frozen=True, order=True)
class Group:
    """Mixes of a study that luck treats alike.

    Attributes:
        mixes: how many.
        seeds: seeds that the gain of each rests on.
        against: which of the baseline's seeds it rests on, by position.
    """

    mixes: int
    seeds: int
    against: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Everything about a study that luck depends on.

    Attributes:
        groups: its launched mixes.
        baseline: seeds of the baseline.
        freedom: degrees of freedom of the pooled variance, those of the baseline included.
        benchmarks: how many.
        correlation: between benchmarks, of what a seed does to them.
    """

    groups: tuple[Group, ...]
    baseline: int
    freedom: int
    benchmarks: int
    correlation: float

    @property
    def mixes(self) -> int:
        """Launched mixes."""
        return sum(group.mixes for group in self.groups)


def probability(layout: Layout, smallest: float, seed: int = 0) -> float:
    """How often a study whose mixes do nothing has a leader at least this good.

    Args:
        layout: of the study.
        smallest: smallest gain of its leader, in standard deviations over seeds as the study estimates them.
        seed: of the simulation.

    Returns:
        Share of simulated studies, the study itself counted as one of them; above 0.
    """
    found = leaders(layout, seed)
    return float(1 + np.count_nonzero(found >= smallest)) / (len(found) + 1)


@functools.lru_cache(maxsize=64)
def leaders(layout: Layout, seed: int = 0, studies: int = STUDIES) -> Array:
    """Smallest gain of the leader of each simulated study, in its own standard deviations; -inf without a leader.

    A leader is the mix with the largest smallest gain among those that gain anything anywhere.

    Args:
        layout: of the studies.
        seed: of the simulation.
        studies: D.

    Returns:
        float64 ``[D]``.
    """
    stream = np.random.default_rng([seed, 1])
    M = layout.benchmarks
    joint = np.full((M, M), layout.correlation) + (1 - layout.correlation) * np.eye(M)
    shape = np.linalg.cholesky(joint + 1e-12 * np.eye(M)).T
    found = np.full(studies, -np.inf)
    chunk = max(1, MOST_NUMBERS // (M * max(group.mixes for group in layout.groups)))
    for start in range(0, studies, chunk):
        size = min(chunk, studies - start)
        base = stream.standard_normal((size, layout.baseline, M)) @ shape
        spread = np.sqrt(_pooled(base, layout, stream, shape))  # [D, M]
        for group in layout.groups:
            own = stream.standard_normal((size, group.mixes, M)) @ shape / math.sqrt(group.seeds)
            gains = (own - base[:, list(group.against)].mean(1)[:, None]) / spread[:, None]
            smallest = np.where(gains.max(2) > 0, gains.min(2), -np.inf).max(1)
            found[start : start + size] = np.maximum(found[start : start + size], smallest)
    found.setflags(write=False)
    return found


@functools.lru_cache(maxsize=256)
def critical(layout: Layout, level: float = 0.05, seed: int = 0) -> float:
    """What the largest of all studentised gains on one benchmark stays below with probability ``1 - level``.

    Dunnett's one-sided value for many mixes against one baseline, also where mixes have different numbers of seeds and
    share some with the baseline. A gain is divided by the standard error that the pooled variance gives it.

    Args:
        layout: of the study; benchmarks and their correlation do not matter.
        level: error level for all mixes together.
        seed: of the simulation.
    """
    stream = np.random.default_rng([seed, 2])
    base = stream.standard_normal((BOUND_STUDIES, layout.baseline, 1))
    spread = np.sqrt(_pooled(base, layout, stream, np.eye(1)))[:, 0]
    largest = np.full(BOUND_STUDIES, -np.inf)
    for group in layout.groups:
        # The largest of k normals from one uniform number.
        best = ndtri(stream.random(BOUND_STUDIES) ** (1 / group.mixes)) / math.sqrt(group.seeds)
        error = math.sqrt(1 / group.seeds + 1 / len(group.against))
        largest = np.maximum(largest, (best - base[:, list(group.against), 0].mean(1)) / (spread * error))
    return float(np.quantile(largest, 1 - level))


def _pooled(base: Array, layout: Layout, stream: np.random.Generator, shape: NDArray[np.floating]) -> Array:
    """Pooled variance ``[D, M]`` of each study: that of its baseline's seeds ``[D, n, M]`` and of what else repeats."""
    own = ((base - base.mean(1, keepdims=True)) ** 2).sum(1)
    others = layout.freedom - (layout.baseline - 1)
    for _ in range(others):
        own = own + (stream.standard_normal((len(base), base.shape[2])) @ shape) ** 2
    pooled: Array = own / layout.freedom
    return pooled


def layout_of(
    present: Sequence[tuple[int, tuple[int, ...]]],
    launched: int,
    baseline: int,
    freedom: int,
    benchmarks: int,
    correlation: float,
) -> Layout:
    """The layout of a study.

    Args:
        present: of every mix with a score: its seeds, and positions of the baseline's seeds that it is compared with.
        launched: mixes that were started. Those without a score are taken to be like most of the others.
        baseline: seeds of the baseline.
        freedom: degrees of freedom of the pooled variance.
        benchmarks: how many.
        correlation: between benchmarks.
    """
    counts: dict[tuple[int, tuple[int, ...]], int] = {}
    for kind in present:
        counts[kind] = counts.get(kind, 0) + 1
    if launched > len(present) and counts:
        usual = max(counts, key=lambda kind: (counts[kind], -kind[0]))
        counts[usual] += launched - len(present)
    groups = tuple(sorted(Group(count, seeds, against) for (seeds, against), count in counts.items()))
    return Layout(groups, baseline, max(freedom, baseline - 1), benchmarks, correlation)
