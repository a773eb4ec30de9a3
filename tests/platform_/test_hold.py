"""One driver for each study, in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from equipoise.platform.errors import StudyError
from equipoise.platform.study.hold import LOCK, held

CODE = """
import sys, time
from pathlib import Path
from equipoise.platform.study.hold import held
with held(Path(sys.argv[1]), "c4"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the study in ``tmp_path / "c4"``."""
    process = subprocess.Popen([sys.executable, "-c", CODE, str(tmp_path / "c4")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait(timeout=30)


def test_a_second_driver_is_told_who_has_the_study(driver: subprocess.Popen[str], tmp_path: Path) -> None:
    host = os.uname().nodename
    with (
        pytest.raises(
            StudyError, match=rf"'c4' is being run by process {driver.pid} on {host} since \d{{4}}-.*: end that"
        ),
        held(tmp_path / "c4", "c4"),
    ):
        pass
    with held(tmp_path / "other", "other"):  # another study is another matter
        pass


def test_a_driver_that_was_killed_blocks_nobody(driver: subprocess.Popen[str], tmp_path: Path) -> None:
    driver.send_signal(signal.SIGKILL)
    driver.wait(timeout=30)
    for _ in range(2):
        with held(tmp_path / "c4", "c4"):
            assert str(os.getpid()) in (tmp_path / "c4" / LOCK).read_text()


def test_a_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), held(tmp_path / "studies" / "c4", "c4"):
        raise RuntimeError
    assert not (tmp_path / "studies" / "c4").exists()
    with held(tmp_path / "studies" / "c4", "c4"):
        (tmp_path / "studies" / "c4" / "ledger.db").touch()
    assert (tmp_path / "studies" / "c4" / "ledger.db").exists()
