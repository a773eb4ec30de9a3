"""The study's own book of trials: one identity per trial, written before anything else knows of it.

A row ties together the Ray trial, the Optuna number and the MLflow run. Only the driver writes here; everything that
happens to a trial is in the book before it is told to Optuna or MLflow, so a driver that dies at any point leaves a
book from which the other two can be put right.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from equipoise.platform.errors import StudyError
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.settings.variant import BASELINE
from equipoise.platform.stats.collapse import Health
from equipoise.platform.stats.table import mean

T = TypeVar("T")
Status = Literal["proposed", "ready", "running", "finished", "stopped", "failed", "interrupted"]
# SQLite's codes for a file that is busy, locked, read-only, gone, or on a disk that is full or fails.
UNUSABLE = (5, 6, 8, 10, 13, 14)
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
OPEN: tuple[Status, ...] = ("proposed", "ready", "running", "interrupted")
ENDED: tuple[Status, ...] = ("finished", "stopped", "failed")
SEARCHED = ("search", "repeat")  # roles that count against the trials a search was asked for

SCHEMA = """
CREATE TABLE IF NOT EXISTS trials (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    status TEXT NOT NULL,
    settings TEXT,
    optuna_number INTEGER UNIQUE,
    run_id TEXT UNIQUE,
    ray_id TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    result TEXT,
    rungs TEXT,
    cost TEXT,
    health TEXT,
    error TEXT,
    created REAL NOT NULL,
    updated REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
JSON = ("result", "rungs", "cost", "health")  # columns that hold JSON
LATER = ("rungs", "cost", "health")  # which books of earlier versions do not have


@dataclass(frozen=True)
class TrialRow:
    """One trial of the book.

    Attributes:
        number: identity within the study; folders and MLflow tags carry it.
        name: variant name.
        role: ``control``, ``search``, ``repeat`` (a found variant with another seed), ``ablation`` or ``single``.
        status: where it stands; ``stopped`` is an early end, by decision, not a failure.
        settings: the trial's settings as JSON, None until they are decided.
        optuna_number: number of the Optuna trial, None outside a sweep's search.
        run_id: MLflow run.
        ray_id: id of the newest Ray trial.
        attempts: how often it was started.
        result: accuracies and summaries of a finished trial.
        rungs: scores taken on the way, by step; final ones are in ``result`` alone.
        cost: what it has cost so far, see :class:`equipoise.platform.record.cost.Cost`; None before its first start.
        error: one sentence for a failed one, or for one that was stopped because it collapsed.
        health: what the training of a search's trials reported of it, by step.
    """

    number: int
    name: str
    role: str
    status: Status
    settings: str | None
    optuna_number: int | None
    run_id: str | None
    ray_id: str | None
    attempts: int
    result: dict[str, Any] | None
    rungs: dict[int, dict[str, float]]
    cost: dict[str, float] | None
    error: str | None
    health: dict[int, Health] = field(default_factory=dict)

    @property
    def stopped_at(self) -> int:
        """Step at which a stopped trial was stopped: at its last rung, or at the report that showed a collapse."""
        return max(self.rungs if self.error is None else self.health)

    @property
    def key(self) -> str:
        """``t0007``: name of the trial's folder."""
        return f"t{self.number:04d}"

    @functools.cached_property
    def asked(self) -> TrialSettings:
        """Its settings.

        Raises:
            SettingsError: the book holds none, or something else.
        """
        return parse(TrialSettings, json.loads(self.settings or "null"), f"settings of trial {self.key} in the book")


class Ledger:
    """The book, a SQLite file in the study's folder.

    Args:
        path: the file; created if missing, whole or not at all.

    Raises:
        StudyError: if it cannot be opened, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                self._make()
            elif not path.stat().st_size:
                raise self._damaged("it is empty: 0 bytes")
            # Tune calls searcher and callbacks from the driver's main thread; the display reads from its own.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise StudyError(f"the study's book {path} cannot be opened: {error}") from None
        self._db.row_factory = sqlite3.Row
        try:
            found = self._all("PRAGMA quick_check(1)")[0][0]
            if found != "ok":
                raise self._damaged(found.splitlines()[-1])
            self._all("PRAGMA journal_mode=WAL")
            self._execute("PRAGMA synchronous=FULL")
            there = {c[1] for table in ("trials", "facts") for c in self._all(f"PRAGMA table_info({table})")}
            lacking = sorted({"key", "value", "created", "updated", *(f.name for f in fields(TrialRow))} - there)
            if set(lacking) - set(LATER):
                raise self._damaged(f"it has no column {lacking[0]!r}")
            for column in lacking:
                self._execute(f"ALTER TABLE trials ADD COLUMN {column} TEXT")
            for row in self.rows():
                with self._sense(f"settings of trial {row.key}"):
                    dict(json.loads(row.settings or "{}"))
            self.facts()
        except BaseException:
            self._db.close()
            raise

    def _make(self) -> None:
        """An empty book, under its name when all of it is there."""
        new = self._path.with_name(f".{self._path.name}.{os.uname().nodename}.{os.getpid()}")
        new.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(new)) as db:
            db.executescript(SCHEMA)
        os.replace(new, self._path)

    def _damaged(self, what: str) -> StudyError:
        study = self._path.parent.name
        return StudyError(
            f"the study's book {self._path} is damaged ({what}): put a copy of it back; what MLflow keeps of the study "
            f"is shown still (equipoise front {study}), and equipoise studies delete {study} makes its name free"
        )

    @contextlib.contextmanager
    def _sense(self, where: str) -> Iterator[None]:
        """What is read in here makes sense, or the book is damaged there."""
        try:
            yield
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise self._damaged(f"{where}: {str(error).splitlines()[0]}") from None

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._told(lambda: self._db.execute(statement, values))

    def _all(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        return self._told(lambda: self._db.execute(statement, values).fetchall())

    def _told(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", None)
            # Without a code: the text of a column is no text.
            if code is None or code & 0xFF in DAMAGED:
                raise self._damaged(str(error)) from error
            if code & 0xFF not in UNUSABLE:
                raise  # a mistake of ours
            raise StudyError(f"the study's book {self._path} cannot be used: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def fact(self, key: str) -> Any:
        """A fact of the study, or None."""
        found = self._all("SELECT value FROM facts WHERE key = ?", (key,))
        with self._sense(f"fact {key!r}"):
            return json.loads(found[0]["value"]) if found else None

    def set_fact(self, key: str, value: Any) -> None:
        """Store a JSON-able fact of the study."""
        self._execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, json.dumps(value)))

    def facts(self) -> dict[str, Any]:
        """All facts of the study."""
        found = self._all("SELECT key, value FROM facts ORDER BY key")
        with self._sense("its facts"):
            return {row["key"]: json.loads(row["value"]) for row in found}

    def restore(self, rows: Iterable[TrialRow]) -> None:
        """Write trials of another book as they are, numbers and all, into an empty one."""
        now = time.time()
        for row in rows:
            columns = {f.name: getattr(row, f.name) for f in fields(TrialRow)} | {"created": now, "updated": now}
            columns |= {name: json.dumps(columns[name]) for name in JSON}
            marks = ", ".join("?" * len(columns))
            self._execute(f"INSERT INTO trials ({', '.join(columns)}) VALUES ({marks})", tuple(columns.values()))

    def open_trial(self, name: str, role: str, settings: str | None = None) -> TrialRow:
        """Write a new trial's identity."""
        now = time.time()
        cursor = self._execute(
            "INSERT INTO trials (name, role, status, settings, created, updated) VALUES (?, ?, 'proposed', ?, ?, ?)",
            (name, role, settings, now, now),
        )
        assert cursor.lastrowid is not None
        return self[cursor.lastrowid]

    def update(self, number: int, **columns: Any) -> TrialRow:
        """Change columns of a trial, all or none; those that hold JSON are given as what they hold."""
        columns |= {name: json.dumps(columns[name]) for name in JSON if name in columns}
        names = ", ".join(f"{c} = ?" for c in (*columns, "updated"))
        self._execute(f"UPDATE trials SET {names} WHERE number = ?", (*columns.values(), time.time(), number))
        if columns.get("status") in ENDED:
            # Into the file itself: what lies in the log beside it is lost where the book is copied without it.
            self._all("PRAGMA wal_checkpoint(PASSIVE)")
        return self[number]

    def remove(self, number: int) -> None:
        """Strike out a trial that never got further than its identity."""
        self._execute("DELETE FROM trials WHERE number = ? AND run_id IS NULL", (number,))

    def __getitem__(self, number: int) -> TrialRow:
        found = list(self._rows("WHERE number = ?", number))
        if not found:
            raise KeyError(number)
        return found[0]

    def rows(self, *statuses: Status) -> list[TrialRow]:
        """Trials by number, of the given statuses or all."""
        if not statuses:
            return list(self._rows("ORDER BY number"))
        marks = ", ".join("?" * len(statuses))
        return list(self._rows(f"WHERE status IN ({marks}) ORDER BY number", *statuses))

    def _rows(self, clause: str, *values: Any) -> Iterator[TrialRow]:
        for r in self._all(f"SELECT * FROM trials {clause}", values):
            with self._sense(f"trial t{r['number']:04d}"):
                row = _row(r)
            if row.status not in get_args(Status):
                raise self._damaged(f"trial {row.key}: its status is {row.status!r}")
            yield row


def _row(r: sqlite3.Row) -> TrialRow:
    columns = {k: r[k] for k in r.keys() if k not in ("created", "updated")}  # noqa: SIM118  sqlite3.Row
    for name in ("result", "cost"):
        found = json.loads(r[name] or "null")
        columns[name] = None if found is None else dict(found)
    columns["rungs"] = {int(step): scores for step, scores in json.loads(r["rungs"] or "{}").items()}
    columns["health"] = {int(step): Health(*one) for step, one in json.loads(r["health"] or "{}").items()}
    return TrialRow(**columns)


def means(rows: Sequence[TrialRow], benchmarks: Sequence[str]) -> dict[str, list[float]]:
    """Accuracies of every variant with a finished trial, the mean over its seeds, in the order of the book."""
    found: dict[str, list[list[float]]] = {}
    for row in rows:
        if row.status == "finished" and row.result is not None:
            found.setdefault(row.name, []).append([row.result["accuracies"][b] for b in benchmarks])
    return {name: [mean(one) for one in zip(*values, strict=True)] for name, values in found.items()}


def healthy_of(rows: Iterable[TrialRow]) -> list[dict[int, Health]]:
    """What the finished trials of the baseline reported of their health, by step; empty while there is none."""
    return [r.health for r in rows if r.name == BASELINE and r.status == "finished" and r.health]


def baseline_of(rows: Iterable[TrialRow]) -> dict[str, float] | None:
    """Accuracies of the baseline in a study's book, means over its finished seeds; None while there is none."""
    found = [(r.result or {})["accuracies"] for r in rows if r.name == BASELINE and r.status == "finished"]
    return {b: mean(one[b] for one in found) for b in found[0]} if found else None
