"""What fits into a cluster, and the sentences about what does not."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from equipoise.platform.errors import StudyError
from equipoise.platform.settings.trial import Resources
from equipoise.platform.study import cluster
from equipoise.platform.study.cluster import (
    ANSWER_S,
    MOST_TEMPORARY,
    Growth,
    capacity,
    check_start,
    fits_now,
    idle_gpus,
    short_folder,
    waiting,
)
from equipoise.platform.trial.device import device_of


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Nodes that Ray is made to report; none grows unless a test says so."""
    found: list[dict[str, Any]] = []

    def total() -> dict[str, float]:
        return {k: sum(n["Resources"].get(k, 0.0) for n in found if n["Alive"]) for k in ("CPU", "GPU")}

    monkeypatch.setattr(ray, "nodes", lambda: found)
    monkeypatch.setattr(ray, "cluster_resources", total)
    monkeypatch.setattr(cluster, "growth", lambda: None)
    return found


def node(cpu: float, gpu: float = 0.0, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {k: v for k, v in (("CPU", cpu), ("GPU", gpu)) if v}}


def by_search(places: list[int], workers: int) -> int:
    """Most groups of ``workers`` on different nodes, by trying every way to take one group after the other."""
    options = itertools.combinations([i for i, p in enumerate(places) if p], workers)
    best = 0
    for chosen in options:
        left = [p - (i in chosen) for i, p in enumerate(places)]
        best = max(best, 1 + by_search(left, workers))
    return best


def test_gpus_that_nobody_asked_for_are_said(nodes: list[dict[str, Any]]) -> None:
    nodes += [node(8, 2)]
    assert idle_gpus(Resources(gpus_per_worker=0.5)) is None
    assert "2 GPU of the cluster stay idle: --gpus-per-worker 1" in (idle_gpus(Resources()) or "")
    nodes[:] = [node(8)]
    assert idle_gpus(Resources()) is None


def test_a_trial_computes_where_it_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert device_of(Resources()).type == "cpu", "also where its process sees a GPU"
    with pytest.raises(StudyError, match=r"asks for 0\.5 GPU a worker, and its process sees none"):
        device_of(Resources(gpus_per_worker=0.5))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(Resources(gpus_per_worker=1)).type == "cuda"


def test_an_address_where_nothing_answers_is_a_sentence_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port, and it answers nobody
        began = time.monotonic()
        for address in (f"127.0.0.1:{taken.getsockname()[1]}", f"ray://127.0.0.1:{taken.getsockname()[1]}"):
            with pytest.raises(StudyError, match=f"nothing answers at {address}"):
                check_start(address)
        assert time.monotonic() - began < 2 * ANSWER_S
    with pytest.raises(StudyError, match=r"nothing answers at no-such-host\.invalid:6379"):
        check_start("no-such-host.invalid:6379")
    check_start("auto")


def test_a_long_tmpdir_is_left_for_a_short_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("d" * 60) / "job.1234567.0"
    long.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    short = short_folder()
    assert short is not None
    assert len(short) <= MOST_TEMPORARY
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StudyError, match=rf"{long}, is too long for Ray's sockets.*set TMPDIR to a path of at most"):
        check_start(None)
    monkeypatch.setattr(tempfile, "tempdir", "/t")
    check_start(None)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_cluster_starts_under_a_long_tmpdir_and_clears_up(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 60) / "job.1234567.0"
    long.mkdir(parents=True)
    code = (
        "import os, ray\n"
        "from equipoise.platform.study.cluster import ray_cluster\n"
        "with ray_cluster(None, False):\n"
        "    where = ray._private.worker._global_node.get_session_dir_path()\n"
        "    print(ray.get(ray.remote(lambda: 6 * 7).remote()), where)\n"
        "print(os.path.exists(os.path.dirname(where)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(long)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer, left = done.stdout.splitlines()[-2:]
    assert answer.startswith("42 ")
    assert left == "False"


def test_trials_are_counted_node_by_node(nodes: list[dict[str, Any]]) -> None:
    nodes += [node(3), node(3), node(8, alive=False)]
    assert fits_now(Resources(cpus_per_worker=2)) == 2  # six CPUs, and still no third place for two
    assert fits_now(Resources(cpus_per_worker=0.3)) == 20
    assert fits_now(Resources(cpus_per_worker=4)) == 0


def test_shares_of_a_gpu_are_counted_without_rounding_errors(nodes: list[dict[str, Any]]) -> None:
    nodes += [node(64, 1)]
    assert fits_now(Resources(gpus_per_worker=0.1)) == 10
    assert fits_now(Resources(gpus_per_worker=0.5)) == 2


@pytest.mark.parametrize(("placement", "fits"), [("PACK", 3), ("SPREAD", 3), ("STRICT_PACK", 2), ("STRICT_SPREAD", 2)])
def test_placement_decides_how_workers_fit(placement: str, fits: int, nodes: list[dict[str, Any]]) -> None:
    nodes += [node(5), node(1), node(1)]
    assert fits_now(Resources.model_validate({"workers": 2, "placement": placement})) == fits


@pytest.mark.parametrize("workers", [2, 3])
def test_groups_on_different_nodes_against_a_search(workers: int, nodes: list[dict[str, Any]]) -> None:
    for places in itertools.product(range(3), repeat=4):
        nodes[:] = [node(p) for p in places]
        resources = Resources(workers=workers, placement="STRICT_SPREAD")
        assert fits_now(resources) == by_search(list(places), workers), places


def test_capacity_of_a_cluster_that_does_not_grow(nodes: list[dict[str, Any]]) -> None:
    nodes += [node(4)]
    assert capacity(Resources(), None) == 4
    assert capacity(Resources(), 3) == 3
    assert capacity(Resources(), 9) == 4
    with pytest.raises(StudyError, match=r"a trial needs 1 CPU, 1 GPU; the cluster has 4 CPU and 0 GPU on 1 node"):
        capacity(Resources(gpus_per_worker=1), 2)
    with pytest.raises(StudyError, match=r"needs 8 CPU \(2 workers of 4 CPU, SPREAD\)"):
        capacity(Resources(workers=2, cpus_per_worker=4, placement="SPREAD"), None)


def test_capacity_of_a_cluster_that_grows(nodes: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    nodes += [node(4)]
    monkeypatch.setattr(cluster, "growth", lambda: Growth(1, 0, None))
    gpu = Resources(gpus_per_worker=1)
    assert capacity(gpu, 8) == 8
    with pytest.raises(StudyError, match="does not say how far it may grow: give the number of trials at once"):
        capacity(gpu, None)
    monkeypatch.setattr(cluster, "growth", lambda: Growth(1, 0, {"CPU": 68, "GPU": 8}))
    assert capacity(gpu, None) == 8
    assert capacity(Resources(workers=4, gpus_per_worker=1), None) == 2


def test_what_trials_wait_for(nodes: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    nodes += [node(4)]
    assert (
        waiting(1, Resources())
        == "1 trial waits for 1 CPU: the cluster is full (the cluster has 4 CPU and 0 GPU on 1 node)"
    )
    monkeypatch.setattr(cluster, "growth", lambda: Growth(2, 2, None))
    text = waiting(3, Resources(workers=2, gpus_per_worker=1))
    assert text == "3 trials wait for 2 CPU and 2 GPU, cluster growing: 2 of 4 nodes"
    monkeypatch.setattr(cluster, "growth", lambda: Growth(2, 0, None))
    assert "the autoscaler adds none at the moment" in waiting(1, Resources())
