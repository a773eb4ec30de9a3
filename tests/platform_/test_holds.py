"""A study is run by one process: the others are told by which, a killed one blocks nobody, and reading is free."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from equipoise.platform.cli.main import cli
from equipoise.platform.errors import EquipoiseError, StudyError
from equipoise.platform.record import hold
from equipoise.platform.record.home import Home
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.settings.study import AblationDefinition, SweepDefinition
from equipoise.platform.study import run as study
from equipoise.platform.study.removal import delete_study, kept_studies
from equipoise.platform.study.run import RunOptions

DRIVER = """
import sys, time
from pathlib import Path
from typing import Any
from equipoise.platform.record.home import Home
with Home(Path(sys.argv[1]), storage=sys.argv[2] or None).hold(sys.argv[3]):
    print("holds", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def driver(home: Path, name: str, storage: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that runs a study."""
    words = [sys.executable, "-c", DRIVER, str(home), storage, name]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        try:
            yield process
        finally:
            process.kill()


def refused(home: Home, name: str) -> str:
    with pytest.raises(StudyError) as caught, home.hold(name):
        pass
    return str(caught.value)


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM, None])
def test_a_second_driver_is_told_who_the_first_is(tmp_path: Path, stop: int | None) -> None:
    home = Home(tmp_path)
    with driver(tmp_path, "c4") as first:
        said = refused(home, "c4")
        assert said.startswith(f"study 'c4' is being run by process {first.pid} on {os.uname().nodename} since ")
        assert said.endswith(": end that first")
        assert home.holder("c4") == said.removeprefix("study 'c4' is being run by ").removesuffix(": end that first")
        with home.hold("another"):
            assert home.holder("another") is not None
        if stop is None:
            first.communicate("")
        else:
            first.send_signal(stop)
        first.wait(timeout=30)
        assert home.holder("c4") is None
        with home.hold("c4"):
            assert f"process {os.getpid()} on" in refused(home, "c4"), "nor twice in one process"
        assert not list(tmp_path.rglob("*.lock"))


def test_a_holder_of_another_day_is_told_with_its_day(monkeypatch: pytest.MonkeyPatch) -> None:
    since = time.mktime((2026, 3, 5, 9, 7, 0, 0, 0, -1))
    holder = hold.Holder("node-1", 77, since)
    for now, said in (
        ((2026, 3, 5, 23, 0), "09:07"),
        ((2026, 3, 6, 9, 7), "2026-03-05 09:07"),
        ((2026, 4, 5, 9, 7), "2026-03-05 09:07"),
        ((2027, 3, 5, 9, 7), "2026-03-05 09:07"),
    ):
        at = time.mktime((*now, 0, 0, 0, -1))
        monkeypatch.setattr(time, "time", lambda at=at: at)
        assert str(holder) == f"process 77 on node-1 since {said}"


def test_homes_that_share_the_place_of_their_trials_share_its_studies(tmp_path: Path) -> None:
    shared = str(tmp_path / "shared")
    with driver(tmp_path / "one", "c4", shared):
        assert "is being run by" in refused(Home(tmp_path / "two", storage=shared), "c4")
        with Home(tmp_path / "two").hold("c4"):
            pass


def test_a_file_system_without_locks_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*words: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    with (
        pytest.raises(EquipoiseError, match=r"cannot be locked \(No locks available\): its file system keeps no locks"),
        Home(tmp_path).hold("c4"),
    ):
        pass


def test_a_lock_that_is_waited_for_keeps_threads_and_processes_out(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def enter() -> None:
        for _ in range(20):
            with hold.locked(tmp_path / "lock"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def file_of(tmp_path: Path, kind: str) -> Path:
    content: dict[str, Any] = {"name": "c4", "regime": "miniature", "preset": "nano"}
    content |= (
        {"variants": ["delta"], "seeds": [0]}
        if kind == "ablate"
        else {"trials": 2, "objectives": {"delta": {"low": 0.1, "high": 1.0}}}
    )
    path = tmp_path / "c4.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("words", [["ablate"], ["ablate", "--resume"], ["sweep"], ["sweep", "--resume"]])
def test_no_command_starts_a_second_driver(tmp_path: Path, words: list[str]) -> None:
    file, home = file_of(tmp_path, words[0]), tmp_path / "home"
    with Home(home).book("c4", create=True) as book:
        book.open_trial("delta", "ablation")
    with driver(home, "c4"):
        found = CliRunner().invoke(cli, [words[0], str(file), *words[1:], "--home", str(home)])
    assert isinstance(found.exception, StudyError)
    assert "study 'c4' is being run by process" in str(found.exception)
    with Home(home).book("c4") as book:
        assert [r.attempts for r in book.rows()] == [0]


def test_reading_a_study_that_is_run(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.book("c4", create=True) as book:
        book.open_trial("delta", "ablation")
    home.tracker().start_study("c4", "ablation", {"name": "c4"})
    with driver(tmp_path, "c4") as first:
        assert StudyRecord.open(home, "c4").definition == {"name": "c4"}
        (kept,) = kept_studies(home)
        assert (kept.name, kept.trials) == ("c4", {"proposed": 1})
        assert f"process {first.pid} on" in (kept.holder or "")
        with pytest.raises(StudyError, match="is being run by"):
            delete_study(home, "c4")
    assert home.has_book("c4")


Make = Callable[..., object]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optuna_storage": "postgresql://nobody@127.0.0.1:1/none"}, "Optuna's storage .* cannot be used"),
        ({"optuna_storage": "/proc/none/optuna.journal"}, "Optuna's storage .* cannot be used"),
        ({"optuna_storage": "NOTES"}, "is no journal of Optuna"),
        ({"tracking_uri": "http://127.0.0.1:1"}, "cannot be used"),
    ],
)
def test_a_store_that_is_not_there_leaves_no_study(
    home: Home, tiny_data: Path, tmp_path: Path, change: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "audit_study", lambda *words: [])
    (tmp_path / "notes.txt").write_text("one\ntwo\nthree\n")
    change = {key: value.replace("NOTES", str(tmp_path / "notes.txt")) for key, value in change.items()}
    content = {"name": "c4", "regime": "miniature", "preset": str(tiny_data / "tiny.yaml"), "trials": 2}
    content |= {"objectives": {"delta": {"low": 0.1, "high": 1.0}}, "control_seeds": [0]}
    definition = SweepDefinition.model_validate(content)
    with pytest.raises(EquipoiseError, match=said):
        study.sweep(definition, Home(home.root, **change), RunOptions(quiet=True))
    assert not home.has_book("c4")
    assert not home.folder("c4").exists()
    assert (tmp_path / "notes.txt").read_text() == "one\ntwo\nthree\n"


def test_a_record_that_is_gone_is_not_begun_anew(home: Home, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "prepare_caches", lambda *words: "0")
    content = {"name": "c4", "regime": "miniature", "preset": str(tiny_data / "tiny.yaml"), "variants": ["delta"]}
    with home.book("c4", create=True) as book:
        book.open_trial("delta", "ablation")
    definition = AblationDefinition.model_validate(content)
    with pytest.raises(StudyError, match=r"there is no mlflow\.db\), though the books of studies are: put a copy"):
        study.ablate(definition, home, RunOptions(quiet=True, resume=True))
    assert not (home.root / "mlflow.db").exists()


@pytest.mark.slow
@pytest.mark.cluster
def test_resources_that_are_not_there_leave_no_study(home: Home, tiny_data: Path) -> None:
    content = {"name": "c4", "regime": "miniature", "preset": str(tiny_data / "tiny.yaml"), "variants": ["delta"]}
    definition = AblationDefinition.model_validate({**content, "resources": {"cpus_per_worker": 4096}})
    with pytest.raises(StudyError, match="a trial needs 4096 CPU"):
        study.ablate(definition, home, RunOptions(quiet=True))
    assert not home.has_book("c4")
    assert home.tracker().studies() == []
