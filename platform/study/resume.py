"""What a resumed study must have in common with the one that was started."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equipoise.platform.errors import StudyError
from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import Ledger
from equipoise.platform.record.mlflow_pages import keep_view
from equipoise.platform.record.tracking import Tracker
from equipoise.platform.search.store import SearchStore
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.parts import EARLIER, Part, metric_of
from equipoise.platform.settings.plugins import Plugin
from equipoise.platform.settings.study import StudyBase, SweepDefinition
from equipoise.platform.storage import Place

CHANGED = "given"  # fact of a study's book: what the command line changed of its definition
PLACES = "places"  # fact of it: where it writes besides the home folder
DATA = "data"  # fact of it: what its trials read, as sixteen hex digits
# What may change between a study's start and its resumption without changing what its trials are.
MAY_CHANGE = ("trials", "budget", "prices", "concurrent", "retries", "resources", "description")
MAY_END = "early_stopping"  # may be left out from a resumption on: its looks may turn out to tell nothing


def remembered(home: Home, study: str | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What a command line changes of a study that it resumes: also what it changed before and does not now.

    Args:
        home: where the study is.
        study: its name; None where nothing says it.
        changes: what is changed now.
    """
    if study is None or not home.has_book(study):
        return dict(changes)  # there is nothing to resume, which is said where it is looked for
    with home.book(study) as book:
        before: dict[str, Any] = book.fact(CHANGED) or {}
    resources = {**before.get("resources", {}), **changes.get("resources", {})}
    return before | dict(changes) | ({"resources": resources} if resources else {})


def places_of(study: str, home: Home, searched: bool) -> dict[str, str | None]:
    """Where a study writes besides the home folder, for its book; None where nowhere else."""
    found: dict[str, str | None] = {"storage": None, "optuna_storage": None}
    if home.place != Place.at(home.root / "studies"):
        found["storage"] = str(home.place)
    if home.optuna_storage is not None and searched:
        found["optuna_storage"] = SearchStore.of(home, study).name
    return found


def check_search(definition: StudyBase, home: Home, started: bool) -> str | None:
    """See that the store of a search can be used, before a new study is booked.

    Args:
        definition: of the study; one that searches nothing needs no store.
        home: where it is.
        started: it has a book.

    Returns:
        What of a damaged end is cut off, in a sentence; None for nothing.

    Raises:
        StorageError: the store cannot be used, or its journal is damaged.
        StudyError: a study that is new finds another's search of its name.
    """
    if not isinstance(definition, SweepDefinition):
        return None
    store = SearchStore.of(home, definition.name)
    if home.optuna_storage is not None:
        store.check()
    if not started and store.has(definition.name):
        raise StudyError(
            f"Optuna's storage {store.name} holds a search {definition.name!r} already, which is of no study in "
            f"{home.root}: choose another --name"
        )
    return store.torn()


def refuse_other_places(definition: StudyBase, home: Home, ledger: Ledger) -> None:
    """A resumed study must find what it wrote where it wrote it."""
    now = places_of(definition.name, home, isinstance(definition, SweepDefinition))
    if ledger.fact("definition") is None:
        ledger.set_fact(PLACES, now)
    before = ledger.fact(PLACES) or dict.fromkeys(now)
    for key, place in now.items():
        if place != before[key]:
            option = "--" + key.replace("_", "-")
            was, is_ = (p or "the home folder" for p in (before[key], place))
            raise StudyError(
                f"study {definition.name!r} was started with {option} {was}, now it is {is_}: "
                "resume it where it was, or choose another --name"
            )


def refuse_other_part(study: str, part: Part | None, ledger: Ledger) -> None:
    """A resumed study scores the part of its benchmarks that it scored: accuracies of two parts do not compare."""
    before = ledger.fact("part")
    if before is None and ledger.rows("finished") and part == "select":
        raise StudyError(
            f"search {study!r} was begun by a version that scored searches on test items, which this one keeps for "
            "confirmations: read it with equipoise front, and start a new one under another --name"
        )
    if before is None:
        ledger.set_fact("part", part)


def refuse_other_data(study: str, manifest_hash: str, ledger: Ledger) -> None:
    """A resumed study goes on with the data it was begun on: on another machine a data set may have been built anew."""
    before = ledger.fact(DATA)
    if before is None:
        ledger.set_fact(DATA, manifest_hash)
    elif before != manifest_hash:
        raise StudyError(
            f"study {study!r} was begun on other data: its manifests had the hash {before}, here it is "
            f"{manifest_hash}. Build or import the data as it was there, or name the home that has it with --home"
        )


def _told(value: Any) -> str:
    """A value of a definition in a sentence; plug-ins by name and not by their text."""
    plugins = [one for one in value if isinstance(one, dict) and "sha256" in one] if isinstance(value, list) else []
    return ", ".join(str(parse(Plugin, one, "plug-in")) for one in plugins) or repr(value)


def _same(key: str, now: Any, before: Any) -> bool:
    """Whether a key says what it said. A preset or regime of one's own is named by its file: the folder may move."""
    if key in ("preset", "regime") and str(now).endswith((".yaml", ".yml")):
        return Path(now).name == Path(str(before)).name
    return bool(now == before)


def parent_run(
    definition: StudyBase,
    kind: str,
    ledger: Ledger,
    tracker: Tracker,
    benchmarks: Sequence[str],
    part: Part | None,
) -> str:
    """Parent run of the study; a resumed study must be the one that was started."""
    now = definition.model_dump(mode="json")
    before = ledger.fact("definition")
    if before is not None:
        differs = [k for k in now if k not in MAY_CHANGE and not _same(k, now[k], before.get(k))]
        changed = [k for k in differs if k != MAY_END or now[k] is not None]
        if changed:
            key = changed[0]
            was, is_ = _told(before.get(key)), _told(now[key])
            raise StudyError(
                f"study {definition.name!r} was started with {key} {was}, now it is {is_}: "
                "resume it as it was, or choose another --name"
            )
    ledger.set_fact("definition", now)
    parent: str | None = ledger.fact("parent")
    if parent is None:
        parent = tracker.start_study(definition.name, kind, now)
        ledger.set_fact("parent", parent)
        tracker.tag(parent, benchmarks=json.dumps(list(benchmarks)), **({"part": part} if part else {}))
        if benchmarks:
            keep_view(tracker, definition.name, parent, [metric_of(b, part or EARLIER) for b in benchmarks])
    elif now != before:
        tracker.define(parent, now)  # prices, a budget, trials: what reads the record should see the newest
    return parent
