"""`equipoise ui` serves the studies of a home folder."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from equipoise.platform.study import Home

pytestmark = pytest.mark.slow


def test_ui_serves_the_record_and_ends_on_ctrl_c(home: Home) -> None:
    tracker = home.tracker()
    parent = tracker.start_study("shown", "sweep", {"regime": "miniature"})
    tracker.end(parent, "finished")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "equipoise.platform.cli", "ui", "--home", str(home.root), "--port", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        body = json.dumps({"experiment_ids": [tracker.experiment_id]}).encode()
        ask = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
        )
        found = None
        for _ in range(240):
            try:
                with urllib.request.urlopen(ask, timeout=5) as answer:
                    found = json.load(answer)
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert server.poll() is None, "the server ended by itself"
                time.sleep(0.25)
        assert found is not None
        assert [r["info"]["run_name"] for r in found["runs"]] == ["shown"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
            assert b"MLflow" in page.read()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)
    for _ in range(40):
        with socket.socket() as after:
            if after.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.25)
    raise AssertionError("the server outlived its command")
