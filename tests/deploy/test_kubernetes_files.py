"""The Kubernetes manifests: Kubernetes' and KubeRay's schemas, and what Ray's own autoscaler reads in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

Render = Callable[[str], list[Any]]
CORE = ("kubernetes/record.yaml", "kubernetes/monitoring.yaml")
RAY = ("kubernetes/raycluster.yaml", "kubernetes/rayjob.yaml")
VERSION = "1.33"


@pytest.fixture(scope="module")
def kuberay() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((Path(__file__).parent / "schemas" / "kuberay.json").read_text())
    return schema


@pytest.fixture
def cluster(render: Render) -> dict[str, Any]:
    spec: dict[str, Any] = render("kubernetes/raycluster.yaml")[0]["spec"]
    return spec


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


@pytest.mark.parametrize("name", CORE)
def test_kubernetes_schema(render: Render, name: str) -> None:
    for document in render(name):
        kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("name", RAY)
def test_kuberays_schema(render: Render, name: str, kuberay: dict[str, Any]) -> None:
    (document,) = render(name)
    jsonschema.validate(document, {**kuberay, "$ref": f"#/definitions/{document['kind']}"})
    spec = document["spec"] if document["kind"] == "RayCluster" else document["spec"]["rayClusterSpec"]
    for group in groups(spec):
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": group["template"]}
        kubernetes_validate.validate(template, VERSION, strict=True)


def test_the_schema_checks_can_fail(render: Render, kuberay: dict[str, Any]) -> None:
    (document,) = render("kubernetes/raycluster.yaml")
    schema = {**kuberay, "$ref": "#/definitions/RayCluster"}
    document["spec"]["authOptions"] = {"mode": "password"}
    with pytest.raises(jsonschema.ValidationError, match="password"):
        jsonschema.validate(document, schema)
    document["spec"]["authOptions"] = {"mode": "token"}
    document["spec"]["workerGroupSpecs"][0]["minWorkers"] = 0
    with pytest.raises(jsonschema.ValidationError, match="minWorkers"):
        jsonschema.validate(document, schema)
    service = render("kubernetes/record.yaml")[3]
    assert service["kind"] == "Service"
    service["spec"]["port"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="port"):
        kubernetes_validate.validate(service, VERSION, strict=True)


def test_the_job_runs_on_the_same_cluster(render: Render, cluster: dict[str, Any]) -> None:
    job = render("kubernetes/rayjob.yaml")[0]["spec"]
    assert job["rayClusterSpec"] == cluster
    assert job["shutdownAfterJobFinishes"] is True
    # A retry would start the study a second time under the same name.
    assert job["backoffLimit"] == job["submitterConfig"]["backoffLimit"] == 0


def test_what_rays_autoscaler_reads(render: Render) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    (document,) = render("kubernetes/raycluster.yaml")
    document["metadata"]["namespace"] = "equipoise"
    read = _derive_autoscaling_config_from_ray_cr(document)
    assert read["idle_timeout_minutes"] == 10
    gpu, head = read["available_node_types"]["gpu"], read["available_node_types"][read["head_node_type"]]
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, 8)
    assert (gpu["resources"]["CPU"], gpu["resources"]["GPU"]) == (7, 1)
    assert head["resources"]["CPU"] == 0
    assert "GPU" not in head["resources"]


def test_token_and_places(cluster: dict[str, Any], pinned: dict[str, str]) -> None:
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == pinned["ray"]
    assert cluster["enableInTreeAutoscaling"] is True
    head, gpu = groups(cluster)
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in gpu["template"]["spec"][
        "tolerations"
    ]
    assert "tolerations" not in head["template"]["spec"]

    def places(group: dict[str, Any]) -> list[dict[str, Any]]:
        affinity = group["template"]["spec"]["affinity"]["nodeAffinity"]
        terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        return [e for t in terms for e in t["matchExpressions"]]

    assert {e["operator"] for e in places(gpu)} == {"In"}
    assert {e["operator"] for e in places(head)} == {"NotIn", "DoesNotExist"}
    assert {e["key"] for e in places(gpu)} == {e["key"] for e in places(head)}


def containers(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        for key in ("containers", "initContainers"):
            yield from value.get(key, [])
        for inner in value.values():
            yield from containers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from containers(inner)


@pytest.mark.parametrize("name", [*CORE, *RAY])
def test_nothing_is_reachable_from_outside(render: Render, name: str) -> None:
    documents = render(name)
    services = [d for d in documents if d["kind"] == "Service"]
    assert {s["spec"]["type"] for s in services} <= {"ClusterIP"}
    assert not {d["kind"] for d in documents} & {"Ingress", "Gateway", "HTTPRoute"}
    text = json.dumps(documents)
    for word in ("hostPort", "hostNetwork", "nodePort", "LoadBalancer", "externalIPs", "enableIngress"):
        assert word not in text
    if name in RAY:
        assert '"serviceType": "ClusterIP"' in text


@pytest.mark.parametrize("name", [*CORE, *RAY])
def test_containers_are_plain_users(render: Render, name: str) -> None:
    documents = render(name)
    found = list(containers(documents))
    assert found
    for container in found:
        locked = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["securityContext"] == locked, container["name"]

    def pods(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            if "containers" in value:
                yield value
            for inner in value.values():
                yield from pods(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from pods(inner)

    assert all(p["securityContext"]["runAsNonRoot"] is True for p in pods(documents))


def test_only_the_driver_reaches_the_record(render: Render, cluster: dict[str, Any]) -> None:
    policies = {
        d["metadata"]["name"]: d["spec"] for d in render("kubernetes/record.yaml") if d["kind"] == "NetworkPolicy"
    }
    assert policies.keys() == {"postgres", "mlflow"}
    driver = {"podSelector": {"matchLabels": {"app": "equipoise", "ray.io/node-type": "head"}}}
    assert policies["mlflow"]["ingress"][0]["from"] == [driver]
    assert {"podSelector": {"matchLabels": {"app": "mlflow"}}} in policies["postgres"]["ingress"][0]["from"]
    assert all(g["template"]["metadata"]["labels"]["app"] == "equipoise" for g in groups(cluster))
    # Workers hold no password: only the head's container has any.
    head, gpu = groups(cluster)
    assert "secretKeyRef" in json.dumps(head)
    assert "secretKeyRef" not in json.dumps(gpu)
