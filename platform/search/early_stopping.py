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

import moocore
import numpy as np
from numpy.typing import ArrayLike

from equipoise.platform.settings.search import EarlyStopping, TieBreak
from equipoise.platform.stats.pareto import DIGITS, Array, as_points, ranks


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
