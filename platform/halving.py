"""Asynchronous successive halving for several benchmarks at once: which trials of a search stop early.

A trial is scored at rungs, steps of its training that grow by a factor. At each it goes on only if it is among the best
``1 / reduction_factor`` of the trials that have been there. Trials are ordered by the front they are on (the front, the
front of what is left without it, and so on), and on one front by how much they add to it: MO-ASHA, Schmucker et al.,
"Multi-objective Asynchronous Successive Halving" (arXiv 2106.12639), in the form that stops trials and pauses none.

A decision is a function of the scores at one rung alone. They are in the study's book, so a resumed study decides as
the one that was killed would have.

Shapes: V trials at a rung, M benchmarks; every benchmark counts upward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import moocore
import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from equipoise.platform.errors import SettingsError
from equipoise.platform.pareto import DIGITS, Array, as_points, ranks
from equipoise.platform.settings import Settings

TieBreak = Literal["epsilon_net", "hypervolume"]


class EarlyStopping(Settings):
    """When trials of a search stop early; controls and starting points never do.

    Attributes:
        rungs: how often a trial is looked at before its end.
        reduction_factor: one in this many trials goes on from a rung; rungs are as far apart.
        warmup: trials that must have been at a rung before one is stopped there.
        tie_break: order within a front: ``epsilon_net`` spreads over it, ``hypervolume`` goes by contributions.
        items: training items of each benchmark that a trial is scored on there, the same ones for every trial.
    """

    rungs: int = Field(1, ge=1, le=10)
    reduction_factor: float = Field(3.0, gt=1, le=10)
    warmup: int = Field(5, ge=2)
    tie_break: TieBreak = "epsilon_net"
    items: int = Field(900, ge=6)

    def steps(self, total: int) -> tuple[int, ...]:
        """Steps of the rungs in a training of ``total`` steps, ascending.

        Raises:
            SettingsError: if two rungs fall on one step.
        """
        found = tuple(round(total / self.reduction_factor**k) for k in range(self.rungs, 0, -1))
        if found[0] < 1 or len(set(found)) < len(found):
            raise SettingsError(
                f"early_stopping has {self.rungs} rungs a factor {self.reduction_factor:g} apart, which a training of "
                f"{total} steps has no room for (steps {', '.join(map(str, found))}): use fewer rungs"
            )
        return found


class SeedFidelity(Settings):
    """Promising variants earn more seeds; a repeat takes the place of one trial of the search.

    Attributes:
        most: seeds of a variant, at most.
        share: repeats are at most this share of the search's trials.
    """

    most: int = Field(3, ge=2, le=20)
    share: float = Field(0.25, gt=0, lt=1)


def goes_on(scores: Mapping[int, Sequence[float]], trial: int, setting: EarlyStopping) -> bool:
    """Whether a trial goes on from a rung.

    Args:
        scores: by trial, those of every trial that has been at the rung, this one included: ``[M]`` each.
        trial: the trial.
        setting: how strictly.
    """
    if len(scores) < setting.warmup:
        return True
    numbers = sorted(scores)
    points = [scores[n] for n in numbers]
    kept = math.ceil(round(len(numbers) / setting.reduction_factor, DIGITS))
    mine = numbers.index(trial)
    rank = np.array(ranks(points))
    better, level = int((rank < rank[mine]).sum()), np.flatnonzero(rank == rank[mine])
    if better >= kept or better + len(level) <= kept:
        return better < kept
    return mine in level[_within(_scaled(points)[level], setting.tie_break)][: kept - better]


def ordered(points: ArrayLike, tie_break: TieBreak = "epsilon_net") -> list[int]:
    """Indices of ``points`` [V, M] from the best to the worst: front by front, and within a front by ``tie_break``."""
    scaled = _scaled(points)
    rank = np.array(ranks(points))
    found: list[int] = []
    for level in range(int(rank.max()) + 1):
        members = np.flatnonzero(rank == level)
        found += [int(members[i]) for i in _within(scaled[members], tie_break)]
    return found


def _within(points: Array, tie_break: TieBreak) -> list[int]:
    """Indices of the scaled points of one front, from the first to be kept to the last."""
    return _spread(points) if tie_break == "epsilon_net" else _largest(points)


def _scaled(points: ArrayLike) -> Array:
    """Points with every benchmark stretched to [0, 1]; one on which all agree becomes 0."""
    matrix = np.asarray(points, dtype=np.float64)
    span = np.ptp(matrix, axis=0)
    return np.asarray(((matrix - matrix.min(axis=0)) / np.where(span > 0, span, 1.0)).round(DIGITS))


def _spread(points: Array) -> list[int]:
    """The most balanced point first, then again and again the one farthest from those taken."""
    found = [int(points.min(axis=1).argmax())]
    nearest = np.full(len(points), np.inf)
    while len(found) < len(points):
        nearest = np.minimum(nearest, np.linalg.norm(points - points[found[-1]], axis=1).round(DIGITS))
        nearest[found] = -1.0
        found.append(int(nearest.argmax()))
    return found


def _largest(points: Array) -> list[int]:
    """By hypervolume that would be lost without a point, seen from a tenth below the worst of all."""
    lost = moocore.hv_contributions(as_points(points, pad=1.0), np.full(max(2, points.shape[1]), -0.1), maximise=True)
    return [int(i) for i in np.argsort(-np.asarray(lost).round(DIGITS), kind="stable")]
