"""Studies whose disk is full and whose MLflow server goes away."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from equipoise.platform.record.home import Home

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

Sweep = Callable[..., Any]
Accounted = Callable[..., None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for little."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting a small file system is not allowed here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.long
def test_the_storage_is_full(sweep: Sweep, small_disk: Path, accounted: Accounted) -> None:
    filler = small_disk / "filler"
    driver = sweep("--concurrent", "1", "--storage", str(small_disk))
    driver.wait_for("t0003 hw s0: pretrain")
    room = os.statvfs(small_disk)
    filler.write_bytes(bytes(room.f_bavail * room.f_bsize - 4096))
    said = driver.finish(1)
    assert "No space left on device" in said
    assert "mend that, then go on with --resume" in said
    filler.unlink()
    sweep("--concurrent", "1", "--storage", str(small_disk), "--resume").finish()
    accounted("t0003")


def test_the_mlflow_server_is_away(
    sweep: Sweep,
    home: Home,
    tmp_path: Path,
    free_port: Callable[[], int],
    wait_for_server: Callable[..., None],
    end_tree: Callable[[int], None],
    accounted: Accounted,
) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", str(tmp_path / "a")]

    def serve() -> subprocess.Popen[Any]:
        with (tmp_path / "server.log").open("a") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        wait_for_server(port, process)
        return process

    server = serve()
    try:
        driver = sweep("--concurrent", "1", "--tracking-uri", uri)
        driver.wait_for("t0003 hw s0: pretrain")
        end_tree(server.pid)
        server.wait(timeout=30)
        driver.wait_for(f"MLflow at {uri} does not answer")
        time.sleep(float(os.environ.get("EQUIPOISE_MLFLOW_AWAY_S", "10")))
        server = serve()
        driver.finish()
        object.__setattr__(home, "tracking_uri", uri)  # the fixture's home reads the same record
        accounted("t0003", attempts=1, lost=0)
    finally:
        end_tree(server.pid)
