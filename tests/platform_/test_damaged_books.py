"""A study's book, MLflow's database and checkpoints that are cut, zeroed, overwritten: one sentence, nothing lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from equipoise.platform.errors import CheckpointError, EquipoiseError, StudyError
from equipoise.platform.record.client import TrackingError
from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import Ledger
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.report.html.page import write_report
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.study import AblationDefinition
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.stats.uncertainty import StatisticsError
from equipoise.platform.trial import checkpoint as checkpoints

Make = Callable[..., TrialSettings]
FINISHED: dict[str, Any] = {"accuracies": {"mini_in": 12.5}, "checkpoint": None, "flags": [], "summaries": []}
# A driver that is killed leaves its log beside the book: everything but the first rows is in it alone, or was.
DRIVER = f"""
import os, sys
from pathlib import Path
from equipoise.platform.record.ledger import Ledger
book = Ledger(Path(sys.argv[1]))
for number in range(1, 31):
    book.open_trial(f"mix-{{number}}", "search", settings='{{"seed": 0}}')
    book.update(number, status="running", run_id=f"run-{{number}}")
    if number < 30:
        book.update(number, status="finished", result={FINISHED!r})
    book.set_fact("listed", True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a study whose driver was killed."""
    folder = tmp_path_factory.mktemp("killed")
    words = [sys.executable, "-c", DRIVER, str(folder / "ledger.db")]
    assert subprocess.run(words, timeout=60).returncode == -signal.SIGKILL
    assert (folder / "ledger.db-wal").stat().st_size
    return folder


@pytest.fixture(scope="module")
def closed(killed: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same as one file."""
    folder = shutil.copytree(killed, tmp_path_factory.mktemp("closed") / "study")
    Ledger(folder / "ledger.db").close()
    assert not (folder / "ledger.db-wal").exists()
    return (folder / "ledger.db").read_bytes()


def finished(path: Path) -> list[tuple[int, str, Any]]:
    with Ledger(path) as book:
        return [(r.number, r.name, r.result) for r in book.rows("finished")]


def blocks(content: bytes, size: int, filler: bytes) -> Iterator[bytes]:
    for at in range(0, len(content), size):
        yield content[:at] + filler * min(size, len(content) - at) + content[at + size :]


def test_finished_trials_are_in_the_book_itself(killed: Path, tmp_path: Path) -> None:
    """Whatever becomes of the log and the index beside it: cut at many bytes, garbage, a stale one, gone."""
    log = (killed / "ledger.db-wal").read_bytes()
    cuts = [log[: len(log) - step] for step in range(1, 4121, 103)]  # a frame has 24 bytes and a page
    cases: list[bytes | None] = [*cuts, b"", bytes(len(log)), log[:32], os.urandom(len(log)), None]
    for number, case in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(killed / "ledger.db", folder)
        if case is not None:
            (folder / "ledger.db-wal").write_bytes(case)
        if number % 2:
            (folder / "ledger.db-shm").write_bytes(os.urandom(32768))
        assert [n for n, *_ in finished(folder / "ledger.db")] == list(range(1, 30))


def test_a_damaged_book_is_one_sentence_or_whole(closed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine" / "ledger.db"
    path.parent.mkdir()
    path.write_bytes(closed)
    before = finished(path)
    assert len(before) == 29
    page = 4096
    cases = [closed[:at] for at in range(0, len(closed), page // 4)] + [closed[:-1]]
    cases += [*blocks(closed, page, b"\0"), *blocks(closed, page, b"\xff"), *blocks(closed, 512, b"x")]
    said = []
    for case in cases:
        if case == closed:
            continue
        path.write_bytes(case)
        try:
            assert len(finished(path)) == len(before)
        except StudyError as error:
            said.append(str(error))
        for beside in ("-wal", "-shm"):
            Path(f"{path}{beside}").unlink(missing_ok=True)
    assert len(said) > len(cases) / 2
    assert all(str(path) in one and "\n" not in one for one in said)
    path.write_bytes(b"")
    with pytest.raises(StudyError, match=r"it is empty: 0 bytes.*equipoise studies delete mine"):
        Ledger(path)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("result", "{'a'"),
        ("result", "7"),
        ("settings", "{"),
        ("settings", "[1]"),
        ("rungs", "[]"),
        ("health", '{"x": 1}'),
        ("status", "fin1shed"),
        ("cost", "null?"),
        ("name", b"\xff\xfe"),
    ],
)
def test_a_row_that_makes_no_sense_is_named(closed: bytes, tmp_path: Path, column: str, value: Any) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(closed)
    with sqlite3.connect(path) as db:
        text = (
            f"CAST(X'{value.hex()}' AS TEXT)"
            if isinstance(value, bytes)
            else f"'{value.replace(chr(39), chr(39) * 2)}'"
        )
        db.execute(f"UPDATE trials SET {column} = {text} WHERE number = 3")
    db.close()
    with pytest.raises(StudyError, match=r"ledger\.db is damaged \(.*(t0003|UTF-8)"):
        finished(path)


def recorded(home: Home, make: Make) -> None:
    tracker = home.tracker()
    content = {"name": "mine", "regime": "miniature", "preset": "nano", "variants": ["hw"]}
    definition = parse(AblationDefinition, content, "mine").model_dump(mode="json")
    parent = tracker.start_study("mine", "ablation", definition)
    tracker.tag(parent, benchmarks='["mini_in"]', part="test")
    for number in range(1, 4):
        run = tracker.start_trial(parent, "mine", f"t{number:04d}", "ablation", make(seed=number), "0")
        tracker.metrics(run, {"mini_in/test": 10.0 + number, "score_seconds": 1.0}, 0)
        tracker.tag(run, part="test", flags="")
        tracker.end(run, "finished")


def test_a_damaged_mlflow_database_is_one_sentence(make_trial: Make, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    recorded(home, make_trial)
    content = (home.root / "mlflow.db").read_bytes()
    pick = random.Random(0)
    step = len(content) // 12
    cases = [content[:at] for at in range(0, len(content), step)] + [content[:-1], b"text" * 5000]
    cases += pick.sample([*blocks(content, 4096, b"\0")], 12) + pick.sample([*blocks(content, 512, b"y")], 12)
    said = []
    for number, case in enumerate(cases):
        root = tmp_path / str(number)
        root.mkdir()
        (root / "mlflow.db").write_bytes(case)
        try:
            record = StudyRecord.open(Home(root), "mine")
            assert record.name == "mine"
            assert len(record.finished) == 3
            assert record.table.benchmarks == ("mini_in",)
        except EquipoiseError as error:
            said.append(str(error))
            assert "mlflow.db" in said[-1]
        assert (root / "mlflow.db").stat().st_size == len(case), "nothing is written into it"
    assert len(said) > len(cases) / 2
    assert all("mlflow.db" in one and "\n" not in one for one in said)


@pytest.mark.parametrize("damage", [b"", b"no database" * 500], ids=["empty", "overwritten"])
def test_a_study_whose_book_is_damaged_is_shown_from_mlflow(make_trial: Make, tmp_path: Path, damage: bytes) -> None:
    home = Home(tmp_path / "home")
    recorded(home, make_trial)
    home.folder("mine").mkdir(parents=True)
    (home.folder("mine") / "ledger.db").write_bytes(damage)
    record = StudyRecord.open(home, "mine")
    assert [row.variant for row in record.select(tolerance=1.0).rows] == ["baseline"]
    assert record.launched == 0
    with pytest.raises(StatisticsError, match="is damaged"):
        _ = record.correctness
    assert write_report(record, tmp_path / "page.html", 1.0).path.is_file()


def test_mlflow_does_not_fill_an_empty_database_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(TrackingError, match=r"mlflow\.db is empty \(0 bytes\): put a copy of it back"):
        Home(tmp_path).tracker()
    assert (tmp_path / "mlflow.db").stat().st_size == 0


def test_a_damaged_checkpoint_is_set_aside(make_trial: Make, tmp_path: Path) -> None:
    settings = make_trial()
    state: dict[str, Any] = {"model": {"w": torch.arange(400.0)}, "optimiser": {}, "sampler": {}}
    for step in (3, 6):
        checkpoints.save(tmp_path / "checkpoints", settings, step, state, {}, {"loss": 1.0})
    for name in (checkpoints.STATE, checkpoints.RECORD):
        content = (tmp_path / "checkpoints" / "step_00000006" / name).read_bytes()
        cases = [content[: len(content) * part // 10] for part in range(10)] + [bytes(len(content)), content[:-1]]
        for number, case in enumerate(cases):
            folder = shutil.copytree(tmp_path / "checkpoints", tmp_path / f"{name}-{number}")
            (folder / "step_00000006" / name).write_bytes(case)
            with pytest.raises(CheckpointError, match=r"step_00000006 is damaged: [^\n]*$"):
                checkpoints.load(folder)
            found = checkpoints.load_latest(folder)
            assert found is not None
            assert found.step == 3
            assert torch.equal(found.state["model"]["w"], state["model"]["w"])
            assert sorted(p.name for p in folder.iterdir()) == ["step_00000003", "step_00000006.damaged"]
    for name in ("step_00000003", "step_00000006"):
        (tmp_path / "checkpoints" / name / checkpoints.STATE).write_bytes(b"")
    assert checkpoints.load_latest(tmp_path / "checkpoints") is None
