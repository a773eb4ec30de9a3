"""Collapse: an encoder whose features use a fraction of the directions that the baseline's use.

A loss over features falls when the features do, so it cannot tell. Two things fall in a collapse, either of them alone
too: the effective rank (all items on a few directions) and the spread (all items at one place; what is left around it
may still point anywhere). ``bench/collapse.md`` has both for healthy runs and for collapses.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple, TypeVar

from equipoise.platform.stats.table import mean

COLLAPSED_BELOW = 1 / 3
"""Share of the baseline's directions in use below which an encoder has collapsed at the end of its training.

Between the lowest of healthy runs (0.50) and what collapses come to (0.1 to 0.3): ``bench/collapse.md``.
"""

Key = TypeVar("Key", bound=Hashable)


class Health(NamedTuple):
    """Signs of health of an encoder at one step of its training.

    Attributes:
        rank: effective rank of the target's features, 1 or more.
        spread: standard deviation over items of the target's features, mean over channels; None where it is not known.
    """

    rank: float
    spread: float | None = None

    @classmethod
    def among(cls, metrics: Mapping[str, float], prefix: str = "") -> Health | None:
        """The signs among what a training reported; None where there are none."""
        rank = metrics.get(f"{prefix}effective_rank")
        return None if rank is None else cls(float(rank), metrics.get(f"{prefix}target_std"))


def mean_health(found: Iterable[Health]) -> Health:
    """Mean over runs; the spread only where every run has one."""
    listed = list(found)
    spreads = [one.spread for one in listed if one.spread is not None]
    return Health(mean(one.rank for one in listed), mean(spreads) if len(spreads) == len(listed) else None)


def share_of(encoder: Health, baseline: Health) -> float:
    """Directions in use against the baseline's: the ratio of effective ranks times that of spreads, this at most 1.

    Args:
        encoder: one encoder.
        baseline: the mean over the baseline's seeds at the same step.
    """
    narrower = 1.0
    if encoder.spread is not None and baseline.spread:
        narrower = min(1.0, encoder.spread / baseline.spread)
    return encoder.rank / baseline.rank * narrower


def collapsed(ends: Mapping[Key, Health], baselines: Iterable[Health]) -> set[Key]:
    """Which encoders have collapsed at the end of their training; none where the baseline is not known.

    Args:
        ends: encoders at their end.
        baselines: the baseline's seeds at theirs.
    """
    listed = list(baselines)
    reference = mean_health(listed) if listed else None
    if reference is None:
        return set()
    return {key for key, end in ends.items() if share_of(end, reference) < COLLAPSED_BELOW}


def describe(names: Mapping[str, Health], baseline: Health, when: str = "at the end", there: str = "") -> str:
    """``its features use 3 directions at the end, the baseline's 32``, and the spread where that is what fell.

    Args:
        names: variant to health; with several the numbers are named.
        baseline: what they are compared with.
        when: of the encoders.
        there: of the baseline, appended with a space.
    """
    several = len(names) > 1
    used = ", ".join(f"{_short(h.rank)}{f' ({name})' if several else ''}" for name, h in names.items())
    said = f"{'their' if several else 'its'} features use {used} directions {when}, the baseline's {baseline.rank:.0f}"
    fallen = {
        name: h.spread
        for name, h in names.items()
        if h.spread is not None and baseline.spread and h.spread < baseline.spread / 2
    }
    if fallen:
        listed = ", ".join(f"{spread:.2g}{f' ({name})' if several else ''}" for name, spread in fallen.items())
        said += f"{there}, and vary by {listed} there, the baseline's by {baseline.spread:.2g}"
        return said
    return said + there


def _short(rank: float) -> str:
    """One decimal where it matters."""
    return f"{rank:.1f}".removesuffix(".0") if rank < 10 else f"{rank:.0f}"
