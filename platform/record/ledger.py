"""The study's own book of trials: one identity per trial, written before anything else knows of it.

A row ties together the Ray trial, the Optuna number and the MLflow run. Only the driver writes here; everything that
happens to a trial is in the book before it is told to Optuna or MLflow, so a driver that dies at any point leaves a
book from which the other two can be put right.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from equipoise.platform.errors import StudyError
from equipoise.platform.settings.variant import BASELINE
from equipoise.platform.stats.collapse import Health
from equipoise.platform.stats.table import mean

Status = Literal["proposed", "ready", "running", "finished", "stopped", "failed", "interrupted"]
# SQLite's codes for a file that is busy, locked, read-only, damaged, gone, or on a disk that is full or fails.
UNUSABLE = (5, 6, 8, 10, 11, 13, 14)
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


class Ledger:
    """The book, a SQLite file in the study's folder.

    Args:
        path: the file; created if missing.

    Raises:
        StudyError: if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Tune calls searcher and callbacks from the driver's main thread; the display reads from its own.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(SCHEMA)
            there = {column[1] for column in self._db.execute("PRAGMA table_info(trials)")}
            for column in set(LATER) - there:
                self._db.execute(f"ALTER TABLE trials ADD COLUMN {column} TEXT")
        except (OSError, sqlite3.Error) as error:
            raise StudyError(f"the study's book {path} cannot be opened: {error}") from None
        self._db.row_factory = sqlite3.Row
        self._path = path

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in UNUSABLE:
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
        row = self._execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row["value"])

    def set_fact(self, key: str, value: Any) -> None:
        """Store a JSON-able fact of the study."""
        self._execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, json.dumps(value)))

    def facts(self) -> dict[str, Any]:
        """All facts of the study."""
        found = self._execute("SELECT key, value FROM facts ORDER BY key").fetchall()
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
        for r in self._execute(f"SELECT * FROM trials {clause}", values).fetchall():
            columns = {k: r[k] for k in r.keys() if k not in ("created", "updated")}  # noqa: SIM118  sqlite3.Row
            columns["result"] = None if r["result"] is None else json.loads(r["result"])
            columns["cost"] = None if r["cost"] is None else json.loads(r["cost"])
            columns["rungs"] = {int(step): scores for step, scores in json.loads(r["rungs"] or "{}").items()}
            columns["health"] = {int(step): Health(*one) for step, one in json.loads(r["health"] or "{}").items()}
            yield TrialRow(**columns)


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
