"""Prometheus and Grafana: they look where Ray writes, and ask for what Ray reports."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

Render = Callable[[str], list[Any]]


@pytest.fixture(scope="module")
def dashboard(deploy: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((deploy / "monitoring" / "study.json").read_text())
    return content


def queries(dashboard: dict[str, Any]) -> list[str]:
    return [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]


def test_the_dashboard_asks_for_metrics_that_ray_has(dashboard: dict[str, Any]) -> None:
    folder = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    source = "\n".join(p.read_text() for p in folder.glob("*_panels.py"))
    assert "ray_node_cpu_utilization" in source
    known = set(re.findall(r"\b(?:ray|autoscaler)_\w+", source))
    asked = {m for q in queries(dashboard) for m in re.findall(r"\b(?:ray|autoscaler)_\w+", q)}
    assert len(asked) > 10
    assert asked <= known, asked - known


def test_the_dashboards_panels_stand_apart(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({p["id"] for p in panels}) == len({p["title"] for p in panels}) == len(panels)
    assert len({(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels}) == len(panels)
    for query in queries(dashboard):
        for left, right in ("()", "{}", "[]"):
            assert query.count(left) == query.count(right), query


def test_grafana_finds_prometheus_and_the_dashboard(deploy: Path, dashboard: dict[str, Any], render: Render) -> None:
    (source,) = yaml.safe_load((deploy / "monitoring" / "grafana-datasource.yaml").read_text())["datasources"]
    assert {p["datasource"]["uid"] for p in dashboard["panels"]} == {source["uid"]}
    (provider,) = yaml.safe_load((deploy / "monitoring" / "grafana-dashboards.yaml").read_text())["providers"]
    folder = provider["options"]["path"]
    assert f"{folder}/study.json:ro" in (deploy / "compose.yaml").read_text()
    documents = {(d["kind"], d["metadata"]["name"]): d for d in render("kubernetes/monitoring.yaml")}
    grafana = documents["Deployment", "grafana"]["spec"]["template"]["spec"]["containers"][0]
    assert folder in {m["mountPath"] for m in grafana["volumeMounts"]}
    # The data source's address is a service's name, in Compose and in Kubernetes.
    name, port = re.fullmatch(r"http://(\w+):(\d+)", source["url"]).groups()  # type: ignore[union-attr]
    assert documents["Service", name]["spec"]["ports"][0]["port"] == int(port)
    assert f"\n  {name}:\n" in (deploy / "compose.yaml").read_text()


def test_prometheus_looks_where_ray_writes(deploy: Path, render: Render) -> None:
    config = yaml.safe_load((deploy / "monitoring" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]}]
    for name in ("ray-aws.yaml", "ray-gcp.yaml"):
        assert any("/tmp/ray:/tmp/ray" in o for o in render(name)[0]["docker"]["head_run_options"])
    assert "/tmp/ray:/tmp/ray:ro" in (deploy / "compose.yaml").read_text()


def test_prometheus_keeps_the_ports_the_pods_name(deploy: Path, render: Render) -> None:
    config = yaml.safe_load((deploy / "monitoring" / "prometheus-kubernetes.yml").read_text())
    (job,) = config["scrape_configs"]
    rules = {r["source_labels"][0].removeprefix("__meta_kubernetes_pod_"): r for r in job["relabel_configs"]}
    kept = set(rules["container_port_name"]["regex"].split("|"))
    head = render("kubernetes/raycluster.yaml")[0]["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert kept <= {p["name"] for p in head["ports"]}
    # KubeRay labels its pods ray.io/cluster; Prometheus writes other signs as underscores.
    assert "labelpresent_ray_io_cluster" in rules
    role = next(d for d in render("kubernetes/monitoring.yaml") if d["kind"] == "Role")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
