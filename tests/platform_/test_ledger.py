from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from equipoise.platform.errors import StudyError
from equipoise.platform.record.ledger import OPEN, Ledger, baseline_of


def test_a_new_trial_has_an_identity_and_nothing_else(tmp_path: Path) -> None:
    row = Ledger(tmp_path / "deep" / "book.sqlite").open_trial("hw", "search")
    assert (row.number, row.key, row.name, row.role, row.status) == (1, "t0001", "hw", "search", "proposed")
    assert (row.settings, row.optuna_number, row.run_id, row.ray_id, row.result, row.error) == (None,) * 6
    assert row.attempts == 0


def test_rows_survive_the_process(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "book.sqlite")
    for name in ("baseline", "hw", "fwm"):
        book.open_trial(name, "ablation", settings=f'{{"variant": "{name}"}}')
    book.update(2, status="finished", run_id="r2", result={"accuracies": {"mini_in": 12.5}, "flags": []}, attempts=1)
    rows = book.rows()
    book.close()
    again = Ledger(tmp_path / "book.sqlite")
    assert again.rows() == rows
    assert [r.number for r in again.rows()] == [1, 2, 3]
    assert again[2].result == {"accuracies": {"mini_in": 12.5}, "flags": []}
    assert again[2].settings == '{"variant": "hw"}'
    assert again.open_trial("new", "single").number == 4


def test_update_changes_one_row_and_the_named_columns(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "book.sqlite")
    first, second = book.open_trial("a", "search"), book.open_trial("b", "search")
    changed = book.update(second.number, status="running", ray_id="x", optuna_number=7)
    assert (changed.status, changed.ray_id, changed.optuna_number, changed.name) == ("running", "x", 7, "b")
    assert book[first.number] == first
    with pytest.raises(KeyError):
        book.update(99, status="failed")
    with pytest.raises(sqlite3.OperationalError, match="colour"):
        book.update(1, colour="red")


def test_identities_are_unique(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "book.sqlite")
    for _ in range(2):
        book.open_trial("a", "search")
    book.update(1, optuna_number=0, run_id="r")
    for column in ({"optuna_number": 0}, {"run_id": "r"}):
        with pytest.raises(sqlite3.IntegrityError):
            book.update(2, **column)
    assert book[2].optuna_number is None


def test_rows_are_in_order_and_by_status(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "book.sqlite")
    statuses = ["finished", "running", "failed", "proposed", "interrupted", "running", "ready"]
    for status in statuses:
        book.update(book.open_trial("a", "search").number, status=status)
    assert [r.status for r in book.rows()] == statuses
    assert [r.number for r in book.rows("running")] == [2, 6]
    assert [r.number for r in book.rows("running", "finished")] == [1, 2, 6]
    assert [r.number for r in book.rows(*OPEN)] == [2, 4, 5, 6, 7]


def test_only_a_trial_without_a_run_can_be_struck_out(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "book.sqlite")
    for _ in range(3):
        book.open_trial("a", "search")
    book.update(2, run_id="r")
    book.remove(2)
    book.remove(3)
    assert [r.number for r in book.rows()] == [1, 2]
    with pytest.raises(KeyError):
        book[3]


def test_facts_are_json_and_the_last_one_counts(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "book.sqlite")
    assert book.fact("definition") is None
    book.set_fact("definition", {"name": "x", "seeds": [0, 1], "weight": 0.1})
    book.set_fact("done", False)
    book.set_fact("done", True)
    again = Ledger(tmp_path / "book.sqlite")
    assert again.fact("definition") == {"name": "x", "seeds": [0, 1], "weight": 0.1}
    assert again.fact("done") is True


def test_the_display_reads_from_its_own_thread(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "book.sqlite")
    book.open_trial("a", "search")
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.extend(r.number for r in book.rows()))
    thread.start()
    thread.join()
    assert seen == [1]


def test_a_book_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "book.sqlite").write_text("this is no database, but it is long enough to be taken for one" * 20)
    with pytest.raises(StudyError, match=r"book\.sqlite is damaged \(file is not a database\)"):
        Ledger(tmp_path / "book.sqlite")
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be opened"):
        Ledger(tmp_path / "file" / "book.sqlite")


WRITER = """
import sys
from pathlib import Path
from equipoise.platform.record.ledger import Ledger
book = Ledger(Path(sys.argv[1]))
for i in range(100_000):
    row = book.open_trial(f"mix-{i}", "search", settings="{}")
    print(row.number, "opened", flush=True)
    book.update(row.number, status="running", run_id=f"run-{i}", result={"i": i}, attempts=1)
    print(row.number, "updated", flush=True)
"""


@pytest.mark.parametrize("stop_at", ["7 opened", "8 updated"])
def test_a_killed_driver_leaves_a_book_that_agrees_with_what_it_did(tmp_path: Path, stop_at: str) -> None:
    path = tmp_path / "book.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line.strip())
        if line.strip() == stop_at:
            process.send_signal(signal.SIGKILL)
            break
    said += [line.strip() for line in process.stdout]
    assert process.wait(timeout=30) == -signal.SIGKILL
    process.stdout.close()
    rows = {r.number: r for r in Ledger(path).rows()}
    for line in said:
        number, what = line.split()
        row = rows[int(number)]
        assert row.name == f"mix-{row.number - 1}"
        if what == "updated":
            assert (row.status, row.run_id, row.result) == ("running", f"run-{row.number - 1}", {"i": row.number - 1})
    # All columns of an update are there or none: at most the last row stands between the two.
    for row in rows.values():
        assert (row.status == "running") == (row.run_id is not None) == (row.result is not None) == (row.attempts == 1)
    assert [n for n, r in rows.items() if r.status == "proposed"] in ([], [max(rows)])
    assert sorted(rows) == list(range(1, len(rows) + 1))
    assert Ledger(path).open_trial("next", "search").number == len(rows) + 1


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (sqlite3.SQLITE_CORRUPT_INDEX, "is damaged"),  # an extended code: its last byte is the error's
        (sqlite3.SQLITE_NOTADB, "is damaged"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "cannot be used: so it is"),
        (sqlite3.SQLITE_IOERR_READ, "cannot be used: so it is"),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, None),
    ],
)
def test_what_sqlite_says_becomes_a_sentence_unless_it_is_our_mistake(
    code: int, words: str | None, tmp_path: Path
) -> None:
    error = sqlite3.OperationalError("so it is")
    error.sqlite_errorcode = code

    def fail() -> None:
        raise error

    ledger = Ledger(tmp_path / "ledger.db")
    if words is None:
        with pytest.raises(sqlite3.OperationalError):
            ledger._told(fail)
    else:
        with pytest.raises(StudyError, match=words):
            ledger._told(fail)
    ledger.close()


def test_the_baseline_is_the_mean_of_its_finished_trials_alone(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        assert baseline_of(ledger.rows()) is None
        for name, status, accuracy in (
            ("baseline", "finished", 40.0),
            ("baseline", "finished", 50.0),
            ("baseline", "running", None),
            ("baseline", "stopped", 99.0),
            ("hw", "finished", 90.0),
        ):
            number = ledger.open_trial(name, "ablation").number
            result = None if accuracy is None else {"accuracies": {"mini": accuracy}}
            ledger.update(number, status=status, result=result)
        assert baseline_of(ledger.rows()) == {"mini": 45.0}
