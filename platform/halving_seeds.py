"""Seeds of a search's trials: which variant earns another one, and which one tells something new."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from equipoise.platform.halving import SeedFidelity
from equipoise.platform.ledger import ENDED, SEARCHED, Row
from equipoise.platform.pareto import front
from equipoise.platform.settings import Variant


def means(rows: Sequence[Row], benchmarks: Sequence[str]) -> dict[str, list[float]]:
    """Accuracies of every variant with a finished trial, the mean over its seeds, in the order of the book."""
    found: dict[str, list[list[float]]] = {}
    for row in rows:
        if row.status == "finished" and row.result is not None:
            found.setdefault(row.name, []).append([row.result["accuracies"][b] for b in benchmarks])
    return {name: [float(v) for v in np.mean(values, axis=0)] for name, values in found.items()}


def due(rows: Sequence[Row], benchmarks: Sequence[str], setting: SeedFidelity) -> tuple[Row, int] | None:
    """The trial to repeat next, and the seed; None where no variant has earned one.

    Controls are on or off the front like everything else, but have the seeds they were given. A variant whose newest
    seed is still being trained waits for it: its mean may leave the front. The answer depends on the book alone, so a
    resumed study repeats what it would have repeated.

    Args:
        rows: the book.
        benchmarks: what the front is made of.
        setting: how many seeds, and what share of the trials they may take.
    """
    searched = [r for r in rows if r.role in SEARCHED]
    repeats = sum(r.role == "repeat" for r in searched)
    if repeats + 1 > setting.share * (len(searched) + 1):
        return None
    promising = set(front(means(rows, benchmarks))) - {r.name for r in rows if r.role == "control"}
    by_name: dict[str, list[Row]] = {}
    for row in searched:
        if row.name in promising:
            by_name.setdefault(row.name, []).append(row)
    waiting = [
        members
        for members in by_name.values()
        if len(members) < setting.most and all(m.status in ENDED for m in members)
    ]
    if not waiting:
        return None
    members = min(waiting, key=lambda found: (len(found), found[0].number))
    return members[0], 1 + max(json.loads(m.settings or "{}")["seed"] for m in members)


def unused_seed(rows: Sequence[Row], variant: Variant, seed: int) -> int:
    """The first seed, from this one on, with which no other trial of the book trains the same.

    A mix with nothing on is the baseline: with a seed of the controls it would repeat one of them to the last digit.

    Args:
        rows: the book.
        variant: what is to be trained.
        seed: the seed it would have.
    """
    trained = _trained(variant.model_dump(mode="json"))
    stored = [json.loads(row.settings) for row in rows if row.settings is not None]
    used = {one["seed"] for one in stored if _trained(one["variant"]) == trained}
    return next(one for one in itertools.count(seed) if one not in used)


def _trained(variant: dict[str, Any]) -> dict[str, Any]:
    """A variant without what only describes it."""
    return {key: value for key, value in variant.items() if key not in ("description", "regimes")}
