"""Studies that lose the nodes they run on, the head among them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

PROCESS = "ImplicitFunc"  # what Ray calls the process of a trial
Sweep = Callable[..., Any]
Accounted = Callable[..., None]


def test_a_node_is_killed(sweep: Sweep, nodes: Any, accounted: Accounted) -> None:
    nodes.add("first")
    nodes.add("second")
    driver = sweep("--address", nodes.address, "--concurrent", "1")
    driver.wait_for("t0003 hw s0: pretrain")
    nodes.kill(nodes.of(PROCESS))
    driver.finish()
    accounted("t0003")


@pytest.mark.long
def test_a_node_is_told_to_go(
    sweep: Sweep, nodes: Any, accounted: Accounted, environment: dict[str, str], edit_space: Callable[..., None]
) -> None:
    # Without the notice everything since the first step would be lost: there is no other checkpoint.
    edit_space(set=["log_every=1", "checkpoint_every=100000", "optimisation.batch=16", "optimisation.steps=300"])
    nodes.add("first")
    driver = sweep("--address", nodes.address, "--concurrent", "1")
    driver.wait_for("t0003 hw s0: pretrain")
    node = nodes.ids()["first"]
    nodes.add("second")
    words = [str(Path(sys.executable).parent / "ray"), "drain-node", "--address", nodes.address, "--node-id", node]
    words += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken back"]
    subprocess.run([*words, "--deadline-remaining-seconds", "8"], env=environment, check=True, capture_output=True)
    time.sleep(8)
    nodes.kill("first")
    driver.finish()
    accounted("t0003", lost=150, steps=300)


@pytest.mark.long
def test_the_head_is_restarted(
    sweep: Sweep,
    nodes: Any,
    accounted: Accounted,
    wait_for_server: Callable[..., None],
    environment: dict[str, str],
) -> None:
    environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = (
        "15"  # Ray's own minute, shortened: how long a head is missed
    )
    nodes.add("first")
    driver = sweep("--address", nodes.address, "--concurrent", "1")
    driver.wait_for("t0003 hw s0: pretrain")
    nodes.kill_head()
    assert driver.process.wait(timeout=200) != 0
    nodes.kill("first")
    nodes.start_head(wait_for_server)
    nodes.add("again")
    sweep("--address", nodes.address, "--concurrent", "1", "--resume").finish()
    accounted("t0003")
