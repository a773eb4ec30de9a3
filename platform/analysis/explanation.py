"""What a search taught: which objectives matter, which pairs do not add up, and what it would try next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from equipoise.platform.analysis.importance import Importance, ImportanceError, search_importance
from equipoise.platform.analysis.interactions import (
    FEWEST,
    SPARE,
    Finished,
    Interaction,
    Look,
    finished_of,
    interactions,
    looks,
)
from equipoise.platform.analysis.next_trial import Next, next_trial
from equipoise.platform.errors import StudyError
from equipoise.platform.record.client import TrackingError
from equipoise.platform.record.home import Home
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.search.repeats import next_repeat
from equipoise.platform.search.store import SearchStore, Snapshot
from equipoise.platform.settings.axes import Range
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.parts import Part
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.settings.variant import BASELINE


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What is known about a search.

    Attributes:
        study: its name.
        part: of the benchmarks, what it was scored on.
        space: range of every objective.
        baseline: its mean accuracies; None where it has none.
        finished: its finished trials.
        importance: of the objectives, by benchmark and evaluator.
        interactions: of pairs, the least likely to be chance first.
        looks: what early stopping saw, against the end; empty without it, or with few finished trials.
        next: what it would try next.
        notes: what could not be said, and why.
    """

    study: str
    part: Part
    space: Mapping[str, Range]
    baseline: Mapping[str, float] | None
    finished: Finished
    importance: tuple[Importance, ...]
    interactions: tuple[Interaction, ...]
    looks: tuple[Look, ...]
    next: Next
    notes: tuple[str, ...]

    @property
    def telling(self) -> list[str] | None:
        """Objectives by their largest share of importance on any benchmark; None where there are no shares."""
        largest: dict[str, float] = {}
        for one in self.importance:
            for name, share in one.shares.items():
                largest[name] = max(share, largest.get(name, 0.0))
        return sorted(largest, key=lambda name: -largest[name]) or None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {
            "study": self.study,
            "part": self.part,
            "finished": {"own": int(self.finished.own.sum()), "earlier": int((~self.finished.own).sum())},
            "importance": [{**asdict(one), "clear": list(one.clear)} for one in self.importance],
            "interactions": [{**asdict(one), "clear": one.clear} for one in self.interactions],
            "looks": [asdict(one) for one in self.looks],
            "next": self.next.to_dict(),
            "notes": list(self.notes),
        }


def explain(record: StudyRecord) -> Explanation:
    """Explain a search.

    Args:
        record: of the study.

    Raises:
        StudyError: it is no search, or Optuna's record of it is not at hand.
    """
    name, benchmarks = record.name, list(record.benchmarks)
    if "sampler" not in record.definition:
        raise StudyError(
            f"study {name!r} compares named mixes and searched nothing to explain: equipoise front and equipoise "
            "report show what each does"
        )
    store = SearchStore.of(record.home, name)
    if store.missing:
        raise StudyError(
            f"the record of the search {name!r} (Optuna's storage) is not in {record.folder}: name it with "
            "--optuna-storage, or give the home that ran it with --home"
        )
    definition = parse(SweepDefinition, record.definition, f"the definition of study {name}")
    copied = Snapshot(store, name).search(name)
    found = finished_of(copied, definition, benchmarks)
    baseline = _baseline(record)
    notes: list[str] = []
    shares = _importance(copied, benchmarks, notes)
    pairs = interactions(found.only_own())
    if not pairs:
        needs = len(found.objectives) + 2 + SPARE
        notes.append(
            f"No interactions: for {len(found.objectives)} objectives they need {needs} finished trials (there are "
            f"{int(found.own.sum())}), and pairs that several trials have on together."
        )
    if len(found.names) < FEWEST:
        notes.append(f"No expectations: a model needs {FEWEST} finished trials, there are {len(found.names)}.")
    looked = looks(copied, benchmarks)
    if definition.early_stopping is not None and not looked:
        notes.append(f"Nothing on early looks: whether they tell the end shows from {FEWEST} finished trials on.")
    repeat = _repeat(record.home, name, definition, benchmarks)
    if repeat is not None:
        notes.append(repeat)
    coming = next_trial(definition, benchmarks, store, record.run_id, baseline)
    return Explanation(
        study=name,
        part=record.part,
        space=definition.objectives,
        baseline=baseline,
        finished=found,
        importance=tuple(shares),
        interactions=tuple(pairs),
        looks=tuple(looked),
        next=coming,
        notes=tuple(notes),
    )


def _baseline(record: StudyRecord) -> Mapping[str, float] | None:
    try:
        return record.table.mean_of(BASELINE) or None
    except TrackingError:
        return None


def _repeat(home: Home, name: str, definition: SweepDefinition, benchmarks: list[str]) -> str | None:
    """What comes before anything new where promising variants earn seeds; None where nothing does."""
    if definition.seeds is None:
        return None
    if not home.has_book(name):
        where = home.folder(name)
        return f"A variant on the front may be repeated first: the study's book, which tells, is not in {where}."
    with home.book(name) as book:
        earned = next_repeat(book.rows(), benchmarks, definition.seeds)
    if earned is None:
        return None
    return f"Before that {earned[0].name} is repeated with seed {earned[1]}: it is on the front."


def _importance(study: Any, benchmarks: list[str], notes: list[str]) -> list[Importance]:
    try:
        return search_importance(study, benchmarks)
    except ImportanceError as error:
        notes.append(f"No importances: {error}.")
        return []
