"""The files of Ray's cluster launcher: Ray's schema, and a start against simulated clouds."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import click
import googleapiclient.discovery_cache
import httplib2
import pytest
from googleapiclient.discovery import build_from_document
from moto import mock_aws
from ray.autoscaler._private.util import prepare_config, validate_config

Render = Callable[[str], list[Any]]
FILES = ("ray-aws.yaml", "ray-gcp.yaml")


def prepared(render: Render, name: str) -> dict[str, Any]:
    config: dict[str, Any] = prepare_config(copy.deepcopy(render(name)[0]))
    return config


@pytest.mark.parametrize("name", FILES)
def test_rays_schema(render: Render, name: str) -> None:
    validate_config(prepared(render, name))


@pytest.mark.parametrize("name", FILES)
def test_the_schema_check_can_fail(render: Render, name: str) -> None:
    config = prepared(render, name)
    config["idle_timeout"] = 5
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(config)


@pytest.mark.parametrize("name", FILES)
def test_workers_come_from_zero_and_leave(render: Render, name: str) -> None:
    config = prepared(render, name)
    assert 0 < config["idle_timeout_minutes"] <= 30
    assert config["provider"]["cache_stopped_nodes"] is False
    types = config["available_node_types"]
    assert {t["min_workers"] for t in types.values()} == {0}
    head, gpu = types[config["head_node_type"]], types["gpu"]
    # CPU 0 keeps trials off the head; Ray takes it for "no CPU", not for "unknown".
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert gpu["resources"]["GPU"] == 1
    assert gpu["max_workers"] == config["max_workers"] > 0


@pytest.mark.parametrize("name", FILES)
def test_ray_asks_for_its_token_and_listens_inside(render: Render, name: str) -> None:
    config = prepared(render, name)
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    start = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start
    assert "$RAY_HEAD_IP:6379" in " ".join(config["worker_start_ray_commands"])
    assert "0.0.0.0" not in json.dumps(config)


@pytest.mark.parametrize("name", FILES)
def test_ray_knows_the_start_options(render: Render, name: str) -> None:
    from ray.scripts.scripts import start

    config = render(name)[0]
    for command in (config["head_start_ray_commands"][1], config["worker_start_ray_commands"][1]):
        assert command.startswith("ray start ")
        start.make_context("start", command.split()[2:])


@pytest.mark.parametrize("name", FILES)
def test_a_node_fetches_its_data(render: Render, name: str, tmp_path: Path) -> None:
    (source := tmp_path / "home" / "data" / "miniature").mkdir(parents=True)
    (source / "train.parquet").write_text("rows")
    config = render(name)[0]
    (command,) = config["setup_commands"]
    here = command.replace("s3://a-bucket", tmp_path.as_uri()).replace("/home/ray/equipoise_home", f"{tmp_path}/node")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", here], env=env, check=True)
    assert (tmp_path / "node" / "data" / "miniature" / "train.parquet").read_text() == "rows"
    # Kubernetes' nodes run the same words.
    group = render("kubernetes/raycluster.yaml")[0]["spec"]["workerGroupSpecs"][0]
    code = group["template"]["spec"]["initContainers"][0]["command"][2]
    assert shlex.split(command)[2].replace("'", '"') == code
    # A bucket without data stops the node, with a reason.
    empty = here.replace(tmp_path.as_uri(), (tmp_path / "elsewhere").as_uri())
    failed = subprocess.run(["bash", "-c", empty], env=env, capture_output=True, text=True)
    assert failed.returncode != 0
    assert "FileNotFoundError" in failed.stderr


def test_both_clouds_do_the_same(render: Render) -> None:
    aws, gcp = (render(name)[0] for name in FILES)
    different = {k for k in aws if aws[k] != gcp[k]}
    assert different == {"provider", "available_node_types", "initialization_commands"}
    assert aws.keys() == gcp.keys()


@pytest.fixture
def simulated_ec2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.setenv("HOME", str(tmp_path))  # the launcher writes the SSH key it makes there
    with mock_aws():
        yield boto3.client("ec2")


@pytest.mark.slow
def test_start_against_a_simulated_ec2(render: Render, simulated_ec2: Any) -> None:
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    ec2 = simulated_ec2
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="equipoise", Description="nodes", VpcId=vpc)["GroupId"]
    for role in ("head", "worker"):
        boto3.client("iam").create_instance_profile(InstanceProfileName=f"equipoise-{role}")
    config = prepared(render, "ray-aws.yaml")
    for node_type in config["available_node_types"].values():
        node_type["node_config"]["SecurityGroupIds"] = [group]

    config = bootstrap_aws(AWSNodeProvider.fillout_available_node_types_resources(config))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, node_type in config["available_node_types"].items():
        provider.create_node(node_type["node_config"], {"ray-node-type": name}, 1)

    started = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    assert [(i["InstanceType"], i.get("InstanceLifecycle")) for i in started] == [
        ("m7i.xlarge", None),
        ("g6.2xlarge", "spot"),
    ]
    assert [i["IamInstanceProfile"]["Arn"].rpartition("/")[2] for i in started] == [
        "equipoise-head",
        "equipoise-worker",
    ]
    assert config["available_node_types"]["gpu"]["resources"]["accelerator_type:L4"] == 1
    assert config["available_node_types"]["head"]["resources"]["CPU"] == 0
    # Ray opened nothing: the group has the rules a person gave it (here none), and there is no other group.
    groups = ec2.describe_security_groups()["SecurityGroups"]
    assert {g["GroupName"] for g in groups} == {"default", "equipoise"}
    assert next(g for g in groups if g["GroupId"] == group)["IpPermissions"] == []


@pytest.mark.slow
def test_a_missing_group_stops_the_start(render: Render, simulated_ec2: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Ray would otherwise make a group that lets the whole world at the SSH port."""
    from ray.autoscaler._private.aws.config import bootstrap_aws

    for role in ("head", "worker"):
        boto3.client("iam").create_instance_profile(InstanceProfileName=f"equipoise-{role}")
    with pytest.raises((click.ClickException, AssertionError)):
        bootstrap_aws(prepared(render, "ray-aws.yaml"))
    assert "security group" in capfd.readouterr().err


class GoogleAnswers:
    """Answers of Google's services to the launcher, in place of a connection."""

    def __init__(self) -> None:
        self.inserted: list[Any] = []

    def request(self, uri: str, method: str = "GET", body: str | None = None, **_: Any) -> tuple[Any, bytes]:
        email = {"email": "ray-autoscaler-sa-v1@a-project.iam.gserviceaccount.com", "projectId": "a-project"}
        answers = {
            r"cloudresourcemanager.*/projects/a-project\?": {"projectId": "a-project", "lifecycleState": "ACTIVE"},
            r":getIamPolicy": {"bindings": []},
            r":setIamPolicy": {},
            r"serviceAccounts/": email,
            r"compute.*setCommonInstanceMetadata": {"name": "operation"},
            r"global/operations": {"status": "DONE"},
            r"compute.*projects/a-project\?": {"name": "a-project", "commonInstanceMetadata": {"items": []}},
            r"zones/us-central1-a/instances\?": {"name": "operation"},
        }
        if method == "POST" and "/instances?" in uri:
            self.inserted.append(json.loads(body or ""))
        found = [answer for pattern, answer in answers.items() if re.search(pattern, uri)]
        assert found, f"unexpected request: {method} {uri}"
        return httplib2.Response({"status": 200}), json.dumps(found[0]).encode()


def discovery(api: str) -> dict[str, Any]:
    folder = Path(googleapiclient.discovery_cache.__file__).parent / "documents"
    document: dict[str, Any] = json.loads((folder / f"{api}.json").read_text())
    return document


def unknown(value: Any, schema: dict[str, Any], schemas: dict[str, Any], where: str = "") -> list[str]:
    """What of a value Google's description of its service does not know, or knows as another type."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"]]
    if "properties" in schema and isinstance(value, dict):
        known = schema["properties"]
        extra = [f"{where}.{k}" for k in value if k not in known]
        return extra + [
            e for k, v in value.items() if k in known for e in unknown(v, known[k], schemas, f"{where}.{k}")
        ]
    if schema["type"] == "array" and isinstance(value, list):
        return [e for v in value for e in unknown(v, schema["items"], schemas, f"{where}[]")]
    if "additionalProperties" in schema and isinstance(value, dict):
        return [e for v in value.values() for e in unknown(v, schema["additionalProperties"], schemas, where)]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}={value}"]
    # A 64-bit number is described as a string; JSON's own number is taken as well.
    types = {"string": (str, int) if schema.get("format") == "int64" else str, "boolean": bool, "integer": int}
    expected = types.get(schema["type"])
    return [] if expected and isinstance(value, expected) else [f"{where} is a {type(value).__name__}"]


def test_start_against_a_simulated_compute_engine(
    render: Render, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ray.autoscaler._private.gcp import config as gcp
    from ray.autoscaler._private.gcp.node import GCPCompute

    monkeypatch.setenv("HOME", str(tmp_path))  # the launcher writes the SSH key it makes there
    answers, compute = GoogleAnswers(), discovery("compute.v1")
    services = [
        build_from_document(discovery(api), http=answers) for api in ("cloudresourcemanager.v1", "iam.v1", "compute.v1")
    ]
    monkeypatch.setattr(gcp, "construct_clients_from_provider_config", lambda _: (*services, None))
    monkeypatch.setattr(GCPCompute, "get_new_authorized_http", lambda *_: answers)
    config = gcp.bootstrap_gcp(prepared(render, "ray-gcp.yaml"))
    google = GCPCompute(services[2], "a-project", "us-central1-a", "equipoise")
    for name, node_type in config["available_node_types"].items():
        google.create_instance(
            node_type["node_config"], {"ray-node-name": f"ray-equipoise-{name}"}, wait_for_operation=False
        )

    head, gpu = answers.inserted
    for body in (head, gpu):
        assert unknown(body, {"$ref": "Instance"}, compute["schemas"]) == []
        (interface,) = body["networkInterfaces"]
        assert interface["network"].endswith("networks/equipoise"), "never the default network: its SSH port is open"
    assert unknown({**gpu, "scheduling": [{"preemptible": True}]}, {"$ref": "Instance"}, compute["schemas"])
    assert head["machineType"].endswith("n2-standard-4")
    assert "scheduling" not in head
    assert gpu["machineType"].endswith("g2-standard-8")
    assert gpu["scheduling"]["provisioningModel"] == "SPOT"
    assert gpu["serviceAccounts"][0]["email"].startswith("equipoise-worker@")
    assert config["head_node"]["serviceAccounts"][0]["email"].startswith("ray-autoscaler-sa-v1@")
