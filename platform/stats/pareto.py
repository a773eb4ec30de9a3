"""Non-dominated sorting and hypervolume through moocore; every benchmark counts upward.

Shapes: V points, M benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from equipoise.platform.errors import EquipoiseError

DIGITS = 9  # accuracies that agree to this many decimals are equal: means of the same scores differ by rounding only
Array = NDArray[np.float64]


class SelectionError(EquipoiseError, ValueError):
    """A selection that cannot be made from what was given; the message says what to do."""


def nondominated(points: ArrayLike) -> NDArray[np.bool_]:
    """Which of ``points`` [V, M] no other point dominates; equal points stay or go together."""
    keep: NDArray[np.bool_] = moocore.is_nondominated(as_points(points), maximise=True, keep_weakly=True)
    return keep


def front(points: Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    """Names of the points that no other point dominates (at least as high everywhere and higher somewhere).

    Points that are equal stay or go together. The order is that of ``points``.
    """
    if not points:
        return ()
    keep = nondominated(list(points.values()))
    return tuple(name for name, kept in zip(points, keep, strict=True) if kept)


def ranks(points: ArrayLike) -> list[int]:
    """Rank of each of ``points`` [V, M]: 0 on the front, 1 on the front of what is left without it, and so on."""
    return [int(rank) for rank in moocore.pareto_rank(as_points(points), maximise=True)]


def hypervolume(points: Sequence[Sequence[float]] | Array, reference: Sequence[float] | Array) -> float:
    """Volume between ``reference`` [M] and the union of ``points`` [V, M]; larger is better.

    A point that is not above the reference on every benchmark adds nothing.

    Raises:
        SelectionError: points and reference differ in their number of benchmarks, or a number is not finite.
    """
    if len(points) == 0:
        return 0.0
    if len(points[0]) != len(reference):
        raise SelectionError(
            f"points have {len(points[0])} benchmarks and the reference {len(reference)}; expected as many"
        )
    above = as_points(np.asarray(points, dtype=np.float64) - np.asarray(reference, dtype=np.float64), pad=1.0)
    return float(moocore.hypervolume(above, np.zeros(above.shape[1]), maximise=True))


def contributions(points: Mapping[str, Sequence[float]], reference: Sequence[float]) -> dict[str, float]:
    """Hypervolume lost without each point."""
    if not points:
        return {}
    above = as_points(np.asarray(list(points.values())) - np.asarray(reference), pad=1.0)
    lost = moocore.hv_contributions(above, np.zeros(above.shape[1]), maximise=True)
    return {name: round(float(value), DIGITS) for name, value in zip(points, lost, strict=True)}


def as_points(points: ArrayLike, pad: float = 0.0) -> Array:
    """Points [V, M] for moocore, which wants at least two columns: one benchmark gets a constant second one."""
    matrix = np.asarray(points, dtype=np.float64).round(DIGITS)
    if matrix.ndim != 2 or matrix.shape[1] < 1 or not np.isfinite(matrix).all():
        raise SelectionError(f"points have shape {matrix.shape}; expected finite numbers [variants, benchmarks]")
    if matrix.shape[1] == 1:
        return np.column_stack([matrix, np.full(len(matrix), pad)])
    return matrix
