"""Studies of a home: listed, and deleted with all that they wrote."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from equipoise.platform.errors import StudyError, nearest
from equipoise.platform.record.client import TrackingError
from equipoise.platform.record.home import BOOK, Home, nearby
from equipoise.platform.record.registry import forget
from equipoise.platform.search.store import SearchStore
from equipoise.platform.storage import Place
from equipoise.platform.study.resume import PLACES


@dataclass(frozen=True)
class Kept:
    """A study of a home.

    Attributes:
        name: of it.
        trials: how many of each status.
        holder: who runs it now; None for nobody.
        damage: why its book cannot be read; None where it can.
    """

    name: str
    trials: Mapping[str, int]
    holder: str | None
    damage: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {"study": self.name, "trials": dict(self.trials), "run_by": self.holder, "damage": self.damage}


def kept_studies(home: Home) -> list[Kept]:
    """Studies whose book is in a home, by name.

    Raises:
        StudyError: there is no home; nothing is created.
    """
    if not home.root.is_dir():
        raise StudyError(f"there is no home {home.root}{nearby(home.root)}")
    found = []
    for name in home.studies():
        trials, damage = Counter[str](), None
        try:
            with home.book(name) as book:
                trials = Counter(row.status for row in book.rows())
        except StudyError as error:
            damage = str(error)
        found.append(Kept(name, trials, home.holder(name), damage))
    return found


def delete_study(home: Home, study: str) -> None:
    """Delete a study: its runs in MLflow, its search in Optuna's storage, what its trials wrote, and its folder.

    Doing it again goes on with what a first attempt left.

    Raises:
        StudyError: there is no such study, it is being run, or it wrote in places that are not named.
        TrackingError: its runs cannot be deleted.
        StorageError: its search, or what its trials wrote, cannot be deleted.
    """
    folder = home.folder(study)
    if not folder.is_dir():
        known = home.studies()
        words = f"; {nearest(study, known)}" if known else nearby(home.root)
        raise StudyError(f"there is no study {study!r} in {home.root}{words}")
    with home.hold(study):
        facts = _facts(home, study)
        _refuse_other_places(home, study, facts)
        _delete_runs(home, study, facts.get("parent"))
        if home.optuna_storage is not None:
            SearchStore.of(home, study).delete(study, facts.get("parent"))
        if home.place != Place.at(home.root / "studies"):
            (home.place / study).remove(first=BOOK)
        # Its folder at once: a name whose book is gone must not find the checkpoints of its trials.
        gone = folder.with_name(f".{study}.deleted")
        shutil.rmtree(gone, ignore_errors=True)
        try:
            os.replace(folder, gone)
            shutil.rmtree(gone)
        except OSError as error:
            raise StudyError(f"study {study!r} cannot be deleted: {error.strerror}: {error.filename}") from None


def _facts(home: Home, study: str) -> dict[str, Any]:
    """Facts of its book; of a damaged one none, which is no reason to keep it."""
    try:
        with home.book(study) as book:
            return book.facts()
    except StudyError:
        return {}


def _refuse_other_places(home: Home, study: str, facts: Mapping[str, Any]) -> None:
    now = {"storage": home.storage, "optuna_storage": home.optuna_storage}
    for key, place in (facts.get(PLACES) or {}).items():
        if place is not None and now[key] is None:
            raise StudyError(f"study {study!r} also wrote to {place}: name it with --{key.replace('_', '-')}")


def _delete_runs(home: Home, study: str, parent: str | None) -> None:
    """Mark its runs as deleted; of a study whose book cannot be read all of its name, in a record of the home's own."""
    try:
        tracker = home.tracker(create=False)
    except (StudyError, TrackingError):
        if home.tracking_uri is not None:
            raise
        return  # there is no record, or it is damaged
    for run in tracker.studies(study):
        if run.info.run_id == parent or (parent is None and home.tracking_uri is None):
            forget(tracker, study, [child.info.run_id for child in tracker.children(run.info.run_id)])
            tracker.delete(run.info.run_id)
