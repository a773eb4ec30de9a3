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

from equipoise.platform.home import Home

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.long]

GROWING = {
    "cluster_name": "grows",
    "max_workers": 3,
    "upscaling_speed": 10.0,
    "idle_timeout_minutes": 0.1,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
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
    cluster = make_nodes({**environment, "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"})
    config = tmp_path / "grows.json"
    config.write_text(json.dumps({**GROWING, "provider": {"type": "fake_multinode", "gcs_address": cluster.address}}))
    cluster.start_head(wait_for_server, f"--autoscaling-config={config}")
    counts = watch(cluster.address)
    said = sweep("--address", cluster.address, "--concurrent", "3").finish()
    assert set(check_books(home, "faulty", 12).values()) == {"finished"}
    assert counts[0] == 1
    assert max(counts) == 4, counts  # the head, and the configured maximum of three
    assert "wait for 1 CPU" in said
    assert "cluster growing: " in said
    deadline = time.monotonic() + 90
    while counts[-1] > 1:
        assert time.monotonic() < deadline, counts
        time.sleep(0.5)
