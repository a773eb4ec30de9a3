"""A search explained for the eye, and for the record: sentences and tables on the terminal, a picture, JSON."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from equipoise.platform.analysis.explanation import (
    FEWEST,
    SPARE,
    Finished,
    Interaction,
    Look,
    finished_of,
    interactions,
    looks,
)
from equipoise.platform.analysis.importance import Importance, ImportanceError, search_importance
from equipoise.platform.analysis.next_trial import Next, next_trial
from equipoise.platform.errors import StudyError
from equipoise.platform.record.client import RESULT_TAG, TrackingError
from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import Ledger
from equipoise.platform.record.reading import definition_of
from equipoise.platform.report.plots.slices import MOST_SLICES, plot_slices
from equipoise.platform.search.repeats import next_repeat
from equipoise.platform.search.store import SearchStore, Snapshot
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.study import SweepDefinition

RECORD, PICTURE = "explain.json", "slices.png"


@dataclass(frozen=True)
class Explanation:
    """What is known about a search.

    Attributes:
        study: its name.
        finished: its finished trials.
        importance: of the objectives, by benchmark and evaluator.
        interactions: of pairs, the least likely to be chance first.
        looks: what early stopping saw, against the end; empty without it, or with few finished trials.
        next: what it would try next.
        picture: the slices; None with no finished trial.
        notes: what could not be said, and why.
    """

    study: str
    finished: Finished
    importance: tuple[Importance, ...]
    interactions: tuple[Interaction, ...]
    looks: tuple[Look, ...]
    next: Next
    picture: Path | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {
            "study": self.study,
            "finished": {"own": int(self.finished.own.sum()), "earlier": int((~self.finished.own).sum())},
            "importance": [{**asdict(one), "clear": list(one.clear)} for one in self.importance],
            "interactions": [{**asdict(one), "clear": one.clear} for one in self.interactions],
            "looks": [asdict(one) for one in self.looks],
            "next": self.next.to_dict(),
            "slices": None if self.picture is None else str(self.picture),
            "notes": list(self.notes),
        }


def explain_search(study: str, home: Home, out: Path | None = None) -> Explanation:
    """Explain a search, draw its slices, and log both to its parent run.

    Args:
        study: its name or MLflow run id.
        home: where it was written.
        out: the picture; None for ``slices.png`` in the study's folder, or here where that is on another machine.

    Raises:
        TrackingError: no such study.
        StudyError: it is no search, or Optuna's record of it is not at hand.
    """
    tracker = home.tracker()
    parent = tracker.study_run(study)
    name = parent.data.tags[RESULT_TAG]
    asked = definition_of(tracker, parent)
    if "sampler" not in asked:
        raise StudyError(
            f"study {name!r} compares named mixes and searched nothing to explain: equipoise front and equipoise "
            "report show what each does"
        )
    store = SearchStore.of(home, name)
    if store.missing:
        raise StudyError(
            f"the record of the search {name!r} (Optuna's storage) is not in {home.folder(name)}: name it with "
            "--optuna-storage, or give the home that ran it with --home"
        )
    definition = parse(SweepDefinition, asked, f"the definition of study {name}")
    benchmarks: list[str] = json.loads(parent.data.tags["benchmarks"])
    copied = Snapshot(store, name).search(name)
    found = finished_of(copied, definition, benchmarks)
    baseline = _baseline(tracker, parent.info.run_id)
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
    told = looks(copied, benchmarks)
    if definition.early_stopping is not None and not told:
        notes.append(f"Nothing on early looks: whether they tell the end shows from {FEWEST} finished trials on.")
    repeat = _repeat(home, name, definition, benchmarks)
    if repeat is not None:
        notes.append(repeat)
    coming = next_trial(definition, benchmarks, store, parent.info.run_id, baseline)
    picture = None
    if found.names:
        folder = home.folder(name)
        picture = plot_slices(
            found,
            definition.objectives,
            out or (folder if folder.is_dir() else Path.cwd()) / PICTURE,
            f"Study {name}: weights against accuracies",
            objectives=_telling(shares),
            baseline=baseline,
        )
        if len(found.objectives) > MOST_SLICES:
            notes.append(f"The picture has {MOST_SLICES} of {len(found.objectives)} objectives.")
    made = Explanation(name, found, tuple(shares), tuple(pairs), tuple(told), coming, picture, tuple(notes))
    with tempfile.TemporaryDirectory() as temporary:
        record = Path(temporary) / RECORD
        record.write_text(json.dumps(made.to_dict(), indent=1))
        tracker.artifacts(parent.info.run_id, record)
    if picture is not None:
        tracker.artifacts(parent.info.run_id, picture)
    return made


def _baseline(tracker: Any, parent: str) -> Mapping[str, float] | None:
    try:
        return tracker.result_table(parent).mean_of("baseline") or None
    except TrackingError:
        return None


def _repeat(home: Home, name: str, definition: SweepDefinition, benchmarks: list[str]) -> str | None:
    """What comes before anything new where promising variants earn seeds; None where nothing does."""
    book = home.folder(name) / "ledger.db"
    if definition.seeds is None:
        return None
    if not book.is_file():
        return f"A variant on the front may be repeated first: the study's book, which tells, is not in {book.parent}."
    ledger = Ledger(book)
    try:
        earned = next_repeat(ledger.rows(), benchmarks, definition.seeds)
    finally:
        ledger.close()
    if earned is None:
        return None
    return f"Before that {earned[0].name} is repeated with seed {earned[1]}: it is on the front."


def _importance(study: Any, benchmarks: list[str], notes: list[str]) -> list[Importance]:
    try:
        return search_importance(study, benchmarks)
    except ImportanceError as error:
        notes.append(f"No importances: {error}.")
        return []


def _telling(shares: list[Importance]) -> list[str] | None:
    """Objectives by their largest share on any benchmark; None where there are no shares."""
    largest: dict[str, float] = {}
    for one in shares:
        for name, share in one.shares.items():
            largest[name] = max(share, largest.get(name, 0.0))
    return sorted(largest, key=lambda name: -largest[name]) or None
