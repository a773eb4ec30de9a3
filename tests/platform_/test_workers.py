"""One trial over several workers and nodes: the same training, however many share it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from equipoise.models.objectives import list_objectives
from equipoise.platform.errors import StudyError
from equipoise.platform.record.home import Home
from equipoise.platform.settings.study import AblationDefinition
from equipoise.platform.study import run as study
from equipoise.platform.study.cluster import ray_cluster
from equipoise.platform.study.run import Outcome, RunOptions
from equipoise.platform.trial import checkpoint as checkpoints
from equipoise.platform.trial import process_group

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
NODE = {"num_cpus": 2, "object_store_memory": 80 * 2**20}
STEPS = list(range(1, 7))


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[str]:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": True, "dashboard_port": None})
    for _ in range(2):
        cluster.add_node(**NODE)
    try:
        with ray_cluster(cluster.address, dashboard=False):
            assert len(ray.nodes()) == 3
            yield cluster.address
    finally:
        cluster.shutdown()


MIXED = {
    "objectives": {record.name: record.published_weight / 10 for record in list_objectives() if record.kind == "loss"}
}


def train(home: Home, tiny_data: Path, address: str, name: str, variant: str, **resources: Any) -> Outcome:
    content = {
        "name": name,
        "regime": "miniature",
        "preset": str(tiny_data / "tiny.yaml"),
        "set": ["model.frames=8"],  # spectra need four time slots
        "variants": [] if variant == "mixed" else [variant],
        "custom": {"mixed": MIXED} if variant == "mixed" else {},
        "control_seeds": [],
        "refuse_controls": True,
        "resources": resources,
    }
    outcome = study.pretrain(AblationDefinition.model_validate(content), home, RunOptions(quiet=True, address=address))
    assert [(r.status, r.error) for r in outcome.rows] == [("finished", None)]
    return outcome


def curve(home: Home, outcome: Outcome, metric: str) -> list[float]:
    found: dict[int, float] = {}
    for one in home.tracker().client.get_metric_history(outcome.rows[0].run_id, f"train/{metric}"):
        # Workers that Ray lost on a busy machine start again and repeat their checkpoint's report, to the last bit.
        assert found.setdefault(one.step, one.value) == one.value
    # The context loss has weight 0 at the first step and is not computed there.
    assert sorted(found) == (STEPS[1:] if metric == "context" else STEPS)
    return [found[step] for step in sorted(found)]


def weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    assert outcome.rows[0].result is not None
    found = checkpoints.load(outcome.rows[0].result["checkpoint"])
    assert found.step == STEPS[-1]
    return {k: v for k, v in found.state["model"].items() if isinstance(v, torch.Tensor)}


def test_workers_change_neither_the_loss_curve_nor_the_result(home: Home, tiny_data: Path, three_nodes: str) -> None:
    alone = train(home, tiny_data, three_nodes, "alone", "mixed")
    shared = {
        "four": train(home, tiny_data, three_nodes, "four", "mixed", workers=4, placement="SPREAD"),
        "sharded": train(
            home, tiny_data, three_nodes, "sharded", "mixed", workers=2, parallel="fsdp", placement="STRICT_SPREAD"
        ),
    }
    for name, outcome in shared.items():
        for metric in ("loss", "jepa", "context", *MIXED["objectives"]):
            wanted = curve(home, alone, metric)
            assert curve(home, outcome, metric) == pytest.approx(wanted, rel=2e-3), (name, metric)
        for key, value in weights(alone).items():
            assert torch.allclose(weights(outcome)[key], value, atol=2e-3), (name, key)


@pytest.mark.long
def test_motion_guided_masks_are_those_of_the_whole_batch(home: Home, tiny_data: Path, three_nodes: str) -> None:
    alone = train(home, tiny_data, three_nodes, "guided-1", "motion_guided")
    two = train(home, tiny_data, three_nodes, "guided-2", "motion_guided", workers=2)
    assert curve(home, two, "jepa") == pytest.approx(curve(home, alone, "jepa"), rel=2e-3)


def test_a_placement_that_is_impossible_is_refused(home: Home, tiny_data: Path, three_nodes: str) -> None:
    with pytest.raises(StudyError, match=r"a trial needs 4 CPU \(4 workers of 1 CPU, STRICT_SPREAD\)"):
        train(home, tiny_data, three_nodes, "apart", "baseline", workers=4, placement="STRICT_SPREAD")


def test_workers_meet_on_the_interface_of_the_nodes_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert process_group.interface_of("127.0.0.1") == "lo"
    assert process_group.interface_of("203.0.113.9") is None
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "203.0.113.9")
    process_group.choose_interface()
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    process_group.choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    process_group.choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
