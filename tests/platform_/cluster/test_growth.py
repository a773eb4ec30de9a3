"""An autoscaling cluster grows for a sweep and shrinks after it, and the user is told what is waited for."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from equipoise.platform.record.home import Home

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.long]

HEAD = "ray.head.default"  # the name that Ray's provider for tests has for it
GROWING = {
    "cluster_name": "grows",
    "max_workers": 3,
    "upscaling_speed": 10.0,
    "idle_timeout_minutes": 0.3,  # longer than a trial takes to start
    "head_node_type": HEAD,
    "available_node_types": {
        HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "node": {
            "resources": {"CPU": 1, "object_store_memory": 80_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 3,
        },
    },
    **{key: {} for key in ("auth", "docker", "file_mounts")},
    **{
        key: []
        for key in (
            *("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands"),
            *("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"),
        )
    },
    "file_mounts_sync_continuously": False,
}
SLOW = """
import time
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

class SlowNodes(FakeMultiNodeProvider):
    # A cloud takes its time, too.
    def create_node_with_resources_and_labels(self, *args):
        time.sleep(12)
        return super().create_node_with_resources_and_labels(*args)
"""
WATCH = """
import ray, sys, time
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
while True:
    print(sum(n["Alive"] for n in ray.nodes()), flush=True)
    time.sleep(0.5)
"""


@pytest.fixture
def watch(environment: dict[str, str]) -> Iterator[Callable[[str], list[int]]]:
    """Counts the living nodes of the cluster at an address, twice a second, from now on."""
    processes: list[subprocess.Popen[str]] = []

    def start(address: str) -> list[int]:
        words = [sys.executable, "-c", WATCH, address]
        processes.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True))
        stream = processes[-1].stdout
        assert stream is not None
        counts: list[int] = []
        lines = (int(n) for n in stream if n.strip().isdigit())
        threading.Thread(target=counts.extend, args=(lines,), daemon=True).start()
        return counts

    try:
        yield start
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_sweep_grows_the_cluster_and_leaves_it_small(
    sweep: Callable[..., Any],
    edit_space: Callable[..., None],
    home: Home,
    environment: dict[str, str],
    tmp_path: Path,
    make_nodes: Callable[..., Any],
    wait_for_server: Callable[..., None],
    watch: Callable[[str], list[int]],
    check_books: Callable[[Home, str, int], dict[str, str]],
) -> None:
    # Long enough that the first node cannot do all of it while the others start.
    edit_space(set=["optimisation.steps=150", "optimisation.batch=16"], trials=10)
    (tmp_path / "slow_nodes.py").write_text(SLOW)
    fake = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "PYTHONPATH": str(tmp_path)}
    cluster = make_nodes({**environment, **fake})
    config = tmp_path / "grows.json"
    # The nodes are processes of this machine, which share an address; there is nothing to log in to.
    flags = ("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check", "launch_multiple")
    provider = {"type": "external", "module": "slow_nodes.SlowNodes", "gcs_address": cluster.address}
    provider |= dict.fromkeys(flags, True)
    config.write_text(json.dumps({**GROWING, "provider": provider}))
    cluster.start_head(wait_for_server, f"--autoscaling-config={config}")
    counts = watch(cluster.address)
    said = sweep("--address", cluster.address, "--concurrent", "3").finish()
    assert set(check_books(home, "faulty", 12).values()) == {"finished"}
    assert counts[0] == 1
    # The head, and the configured maximum of three; Ray's provider for tests may start more, which Ray ends at once.
    assert max(counts) >= 4, counts
    words = " ".join(said.split())  # long lines are broken
    assert "3 trials wait for 1 CPU, cluster growing: 1 of 4 nodes" in words, said
    deadline = time.monotonic() + 90
    while counts[-1] > 1:
        assert time.monotonic() < deadline, counts
        time.sleep(0.5)
