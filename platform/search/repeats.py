"""Seeds of a search's trials: which variant earns another one, and which one tells something new."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from equipoise.platform.record.ledger import ENDED, SEARCHED, TrialRow, means
from equipoise.platform.settings.search import SeedFidelity
from equipoise.platform.settings.variant import BASELINE, Variant
from equipoise.platform.stats.collapse import collapsed
from equipoise.platform.stats.pareto import front


def next_repeat(
    rows: Sequence[TrialRow], benchmarks: Sequence[str], setting: SeedFidelity
) -> tuple[TrialRow, int] | None:
    """The trial to repeat next, and the seed; None where no variant has earned one.

    A mix earns its seeds by the first one alone, which is then left out of what is said of it: were a further seed
    asked for because the last one was good, the mean of all would be too good. A mix with a seed that collapsed earns
    none: it is never a candidate. Controls are on or off the front by their means, and have the seeds they were given.
    The answer depends on the book alone, so a resumed study repeats what it would have repeated.

    Args:
        rows: the book.
        benchmarks: what the front is made of.
        setting: how many seeds, and what share of the trials they may take.
    """
    searched = [r for r in rows if r.role in SEARCHED]
    repeats = sum(r.role == "repeat" for r in searched)
    if repeats + 1 > setting.share * (len(searched) + 1):
        return None
    first = [r for r in rows if r.role != "repeat"]
    controls = {r.name for r in rows if r.role == "control"}
    promising = set(front(means(first, benchmarks))) - controls - _collapsed(rows)
    by_name: dict[str, list[TrialRow]] = {}
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


def _collapsed(rows: Sequence[TrialRow]) -> set[str]:
    """Variants of finished trials that ended collapsed."""
    ends = {r.number: (r.name, r.health[max(r.health)]) for r in rows if r.status == "finished" and r.health}
    baselines = [end for name, end in ends.values() if name == BASELINE]
    return {ends[number][0] for number in collapsed({n: end for n, (_, end) in ends.items()}, baselines)}


def unused_seed(rows: Sequence[TrialRow], variant: Variant, seed: int) -> int:
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
