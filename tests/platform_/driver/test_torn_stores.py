"""Stores of a study that are torn or damaged, under a driver without Ray: what can be mended is, nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from equipoise.platform.errors import StorageError
from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import Ledger, TrialRow
from equipoise.platform.record.tracking import Tracker
from equipoise.platform.search.journal import Journal
from equipoise.platform.search.store import SearchStore

Begin = Callable[..., Any]
TRIALS = 4


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, begin: Begin) -> Path:
    """Folder of a search that is finished; its driver has gone."""
    folder = tmp_path_factory.mktemp("finished")
    sweep = begin(folder, trials=TRIALS)
    sweep.finish()
    sweep.ledger.close()
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Callable[[], Path]:
    def made() -> Path:
        shutil.rmtree(tmp_path / "study", ignore_errors=True)
        shutil.copytree(finished, tmp_path / "study")
        return tmp_path / "study"

    return made


def results(rows: list[TrialRow]) -> list[Any]:
    return [(r.number, r.name, r.status, r.settings, r.optuna_number, r.result) for r in rows]


def agree(sweep: Any, before: list[Any]) -> None:
    """Every finished trial is in the book as it was, and in Optuna with its values."""
    rows = sweep.ledger.rows()
    assert results(rows) == before
    told = {t.number: t for t in sweep.optuna()}
    for row in rows:
        if row.optuna_number is not None:
            trial = told[row.optuna_number]
            assert (trial.state, trial.values) == (TrialState.COMPLETE, list(row.result["accuracies"].values()))
            assert sweep.definition.variant(trial.params).objectives == row.asked.variant.objectives


def ends(content: bytes) -> Iterator[bytes]:
    """A journal cut at every byte of its last record, with zeros or half a line behind it, and more of it gone."""
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    yield from (content[:at] for at in range(last, len(content)))
    yield content[:-1] + bytes(512)
    yield content + bytes(512)
    yield content + bytes(7) + b"\n"
    yield content + b'{"op_code": 5, "wor\n'
    lines = content.splitlines(keepends=True)
    yield from (b"".join(lines[:count]) for count in range(len(lines)))


def test_a_torn_journal_is_mended_before_anything_is_appended(
    copy: Callable[[], Path], begin: Begin, finished: Path
) -> None:
    content = (finished / "optuna.journal").read_bytes()
    with Ledger(finished / "ledger.db") as book:
        before = results(book.rows())
    cases = list(ends(content))
    for case in cases:
        folder = copy()
        (folder / "optuna.journal").write_bytes(case)
        sweep = begin(folder, trials=TRIALS)
        agree(sweep, before)
        assert sweep.trial() is None, "nothing is left to do"
        sweep.ledger.close()


def test_a_damaged_line_before_others_is_one_sentence_and_moving_it_away_loses_nothing(
    copy: Callable[[], Path], begin: Begin, finished: Path
) -> None:
    content = (finished / "optuna.journal").read_bytes()
    with Ledger(finished / "ledger.db") as book:
        before = results(book.rows())
    lines = content.splitlines(keepends=True)
    for number in range(0, len(lines) - 1, max(1, len(lines) // 20)):
        for line in (lines[number][:9] + b"\n", bytes(len(lines[number]) - 1) + b"\n", b"\xff" + lines[number], b"7\n"):
            folder = copy()
            journal = folder / "optuna.journal"
            journal.write_bytes(b"".join([*lines[:number], line, *lines[number + 1 :]]))
            damaged = journal.read_bytes()
            for attempt in (SearchStore(str(journal)).open, SearchStore(str(journal)).torn):
                at = len(b"".join(lines[:number]))
                with pytest.raises(
                    StorageError, match=rf"optuna\.journal is damaged in line {number + 1} \(byte {at}\)"
                ):
                    attempt()
            with pytest.raises(StorageError, match="nothing may be appended"):
                Journal(journal).append_logs([{"op_code": 0, "worker_id": "x"}])
            assert journal.read_bytes() == damaged
    journal.rename(folder / "optuna.journal.damaged")
    agree(begin(folder, trials=TRIALS), before)


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    for content in (b"notes", b"one\ntwo\n", b'{"a": 1}\n', b"\x89PNG\r\n\0\0\0\r"):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(StorageError, match="is no journal of Optuna"):
            Journal(tmp_path / "file").append_logs([{"op_code": 0, "worker_id": "x"}])
        assert (tmp_path / "file").read_bytes() == content


def test_what_is_cut_off_is_said(copy: Callable[[], Path]) -> None:
    journal = copy() / "optuna.journal"
    store, size = SearchStore(str(journal)), journal.stat().st_size
    assert store.torn() is None
    journal.write_bytes(journal.read_bytes() + b'{"op_co')
    assert store.torn() == (
        f"the last 7 bytes of {journal}, from byte {size} on, are no whole record: they are cut off, and what they "
        "said is taken from the study's book"
    )
    assert store.export("s") == journal.read_bytes()[:size]
    assert journal.stat().st_size == size + 7, "who reads mends nothing"


def test_a_lock_that_a_killed_process_left_blocks_nobody(copy: Callable[[], Path], begin: Begin) -> None:
    folder = copy()
    # Optuna's own: a link to the journal, here to one that is not there any more, as in a folder that was moved.
    (folder / "optuna.journal.lock").symlink_to(folder / "before" / "optuna.journal")
    (folder / ".optuna.journal.lock").write_text("left")
    began = time.monotonic()
    sweep = begin(folder, trials=TRIALS + 1)
    assert sweep.trial() is not None
    assert time.monotonic() - began < 20


def test_a_journal_that_was_cut_while_it_was_in_use_is_not_written(copy: Callable[[], Path]) -> None:
    path = copy() / "optuna.journal"
    journal = Journal(path)
    records = list(journal.read_logs(0))
    os.truncate(path, path.stat().st_size // 2)
    left = path.read_bytes()
    with pytest.raises(StorageError, match=r"was cut to .* bytes while it was in use"):
        journal.append_logs(records[-1:])
    assert path.read_bytes() == left


def test_two_writers_of_a_journal_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from equipoise.platform.search.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for n in range(50): journal.append_logs([{'op_code': 0, 'worker_id': sys.argv[2], 'n': n}])"
    )
    path = tmp_path / "optuna.journal"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    found = list(Journal(path).read_logs(0))
    assert sorted((r["worker_id"], r["n"]) for r in found) == [(name, n) for name in "ab" for n in range(50)]


class Recorded:
    """MLflow itself, in the place of a study's stand-in."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker, self.parent = tracker, tracker.start_study("s", "sweep", {"name": "s"})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tracker, name)

    def start_trial(self, parent: str, *more: Any) -> str:
        return self.tracker.start_trial(self.parent, *more)

    def children(self, parent: str) -> list[Any]:
        return self.tracker.children(self.parent)


@pytest.mark.parametrize("keeps", [1, 3])
def test_a_book_that_lost_its_end_takes_finished_trials_back(tmp_path: Path, begin: Begin, keeps: int) -> None:
    """An older copy of the book: trials that finished since, the one that ran, and its number are not given twice."""
    folder = tmp_path / "study"
    folder.mkdir()
    sweep = begin(folder, trials=TRIALS)
    sweep.runs = Recorded(Home(tmp_path).tracker())
    sweep.ledger.close()
    sweep.begin()
    for _ in range(keeps):
        sweep.trial()
    shutil.copy(folder / "ledger.db", tmp_path / "older.db")
    sweep.finish()
    scores: dict[str, Any] = {"benchmarks": [], "flags": [], "health": {}}
    rows = sweep.ledger.rows()
    for row in rows:
        (sweep.plan.trials / row.key / "scores.json").write(json.dumps(scores))
        sweep.runs.tracker.tag(row.run_id, status="finished")
    sweep.ledger.close()
    for beside in ("-wal", "-shm"):
        (folder / f"ledger.db{beside}").unlink(missing_ok=True)
    shutil.copy(tmp_path / "older.db", folder / "ledger.db")
    with Ledger(folder / "ledger.db") as book:
        assert len(book.rows("finished")) == keeps
    sweep.begin()
    now = sweep.ledger.rows()
    assert [(r.number, r.name, r.status, r.settings, r.optuna_number, r.run_id) for r in now] == [
        (r.number, r.name, r.status, r.settings, r.optuna_number, r.run_id) for r in rows
    ]
    assert [(r.result or {})["accuracies"] for r in now] == [
        pytest.approx((r.result or {})["accuracies"]) for r in rows
    ]
    assert sweep.trial() is None
