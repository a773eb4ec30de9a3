"""What fits into a cluster, and the sentences about what does not."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import ray

from equipoise.platform.errors import StudyError
from equipoise.platform.settings.trial import Resources
from equipoise.platform.study import cluster
from equipoise.platform.study.cluster import Growth, capacity, fits_now, waiting


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
