"""The image and the Compose file: their own parsers, what they open, and an MLflow server started as they start it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Render = Callable[[str], list[Any]]
BIN = Path(sys.executable).parent
SECRETS = ("postgres_password", "mlflow_admin_password", "mlflow_session_key", "grafana_admin_password")


@pytest.fixture(scope="module")
def compose(deploy: Path, exported: dict[str, str]) -> dict[str, Any]:
    """The Compose file as Docker Compose itself reads it."""
    run = subprocess.run(
        [BIN / "docker-compose", "--file", deploy / "compose.yaml", "config", "--format", "json"],
        env={**os.environ, **exported, "EQUIPOISE_SECRETS": "/srv/secrets"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "not set" not in run.stderr
    read: dict[str, Any] = json.loads(run.stdout)
    return read


@pytest.mark.parametrize("missing", ["EQUIPOISE_IMAGE", "EQUIPOISE_BUCKET_URI", "EQUIPOISE_SECRETS"])
def test_compose_says_what_is_missing(deploy: Path, exported: dict[str, str], missing: str) -> None:
    env = {**os.environ, **exported, "EQUIPOISE_SECRETS": "/s"}
    del env[missing]
    run = subprocess.run(
        [BIN / "docker-compose", "--file", deploy / "compose.yaml", "config"], env=env, capture_output=True, text=True
    )
    assert run.returncode != 0
    assert missing in run.stderr


def test_ports_are_open_on_loopback_only(compose: dict[str, Any]) -> None:
    ports = {name: service.get("ports", []) for name, service in compose["services"].items()}
    assert {p["host_ip"] for found in ports.values() for p in found} == {"127.0.0.1"}
    assert ports["postgres"] == []
    assert {p["published"] for found in ports.values() for p in found} == {"5000", "9090", "3000"}
    assert not any(s.get("network_mode") or s.get("privileged") for s in compose["services"].values())


def test_secrets_are_files_outside_the_repository(compose: dict[str, Any]) -> None:
    assert {k: s["file"] for k, s in compose["secrets"].items()} == {name: f"/srv/secrets/{name}" for name in SECRETS}
    used = {s["source"] for service in compose["services"].values() for s in service.get("secrets", [])}
    assert used == set(SECRETS)


def test_every_mounted_file_exists(compose: dict[str, Any]) -> None:
    mounts = [v for s in compose["services"].values() for v in s.get("volumes", []) if v["type"] == "bind"]
    files = [Path(v["source"]) for v in mounts if v["source"] != "/tmp/ray"]
    files += [Path(c["file"]) for c in compose["configs"].values() if "file" in c]
    assert len(files) == 5
    assert all(f.is_file() for f in files)
    assert all(v.get("read_only") for v in mounts)


def test_mlflow_runs_alike_in_compose_and_kubernetes(compose: dict[str, Any], render: Render) -> None:
    def flags(words: str) -> dict[str, str]:
        return dict(re.findall(r"--([a-z-]+)(?:[= ](?!-)'?([^\s']+))?", words))

    deployments = {
        d["metadata"]["name"]: d["spec"]["template"]["spec"]["containers"][0]
        for d in render("kubernetes/record.yaml")
        if d["kind"] == "Deployment"
    }
    one, other = flags(compose["services"]["mlflow"]["command"][2]), flags(" ".join(deployments["mlflow"]["args"]))
    different = {k for k in one if one[k] != other.get(k)}
    assert different == {"artifacts-destination", "allowed-hosts"}  # by variable; and there by the Service's name too
    assert one.keys() == other.keys()
    assert one["app-name"] == "basic-auth"
    assert other["artifacts-destination"] == "s3://a-bucket/mlflow"
    assert compose["services"]["mlflow"]["environment"]["ARTIFACTS"] == "s3://a-bucket/mlflow"
    assert "*" not in (one["allowed-hosts"] + other["allowed-hosts"]).replace(":*", "")


@pytest.fixture
def server(compose: dict[str, Any], deploy: Path, tmp_path: Path) -> Iterator[str]:
    """MLflow as the Compose file starts it, with SQLite and a folder in place of PostgreSQL and the bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in SECRETS:
        (tmp_path / name).write_text(f"not-{name}")
    (tmp_path / "auth.ini").write_text(
        re.sub(r"postgresql\S+", f"sqlite:///{tmp_path}/auth.db", (deploy / "mlflow-auth.ini").read_text())
    )
    service = compose["services"]["mlflow"]
    shell, option, script = service["command"]
    for old, new in {
        r"\$\$": "$",  # Compose's way to write one
        "/run/secrets": str(tmp_path),
        r"postgresql\S+": f"sqlite:///{tmp_path}/mlflow.db",
        "--host 0.0.0.0 --port 5000 --workers 2": f"--host 127.0.0.1 --port {port} --workers 1",
    }.items():
        script, changed = re.subn(old, new, script)
        assert changed
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")},
        **service["environment"],
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
        "ARTIFACTS": (tmp_path / "artifacts").as_uri(),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    log = tmp_path / "log.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            [shell, option, script], env=env, cwd=tmp_path, stdout=out, stderr=out, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while status(f"{url}/health") != 200:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def status(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.slow
def test_mlflow_as_compose_starts_it_wants_the_password(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from equipoise.platform.record.client import TrackingError
    from equipoise.platform.record.tracking import Tracker

    search = f"{server}/api/2.0/mlflow/experiments/search?max_results=1"

    def password(word: str) -> str:
        return "Basic " + b64encode(f"admin:{word}".encode()).decode()

    assert status(search) == 401
    assert status(search, Authorization=password("wrong")) == 401
    assert status(search, Authorization=password("not-mlflow_admin_password")) == 200
    assert status(search, Authorization=password("not-mlflow_admin_password"), Host="elsewhere.example") == 403

    # The driver's way to the password: a file in the folder the launcher files mount as ~/.mlflow.
    for key in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match="401"):
        Tracker(server, tmp_path)
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text(
        "[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = not-mlflow_admin_password\n"
    )
    tracker = Tracker(server, tmp_path)
    run = tracker.start_study("first", "sweep", {"name": "first"})
    assert [a.path for a in tracker.client.list_artifacts(run)] == ["study.json"]
    assert list((tmp_path / "artifacts").rglob("study.json")), "artifacts go through the server into the bucket"


def test_dockerfile_lints(deploy: Path) -> None:
    run = subprocess.run([BIN / "hadolint", "--no-color", deploy / "Dockerfile"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    bad = subprocess.run([BIN / "hadolint", "-"], input="FROM python\nRUN cd /x\n", capture_output=True, text=True)
    assert bad.returncode != 0


def test_dockerfile_says_what_the_files_rely_on(deploy: Path, pinned: dict[str, str]) -> None:
    text = (deploy / "Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE) == ["python:3.11-slim-bookworm"]
    assert "--constraint constraints.txt" in text
    assert pinned["ray"]
    assert re.findall(r"^USER (\S+)", text, flags=re.MULTILINE)[-1] == "1000"
    assert "COPY . ." in text, "src/ holds links: the whole tree has to come along"
    for setting in (
        "HOME=/home/ray",
        "EQUIPOISE_HOME=/home/ray/equipoise_home",
        "RAY_AUTH_MODE=token",
        "NVIDIA_VISIBLE_DEVICES=all",
    ):
        assert setting in text
    ignored = (deploy / "Dockerfile.dockerignore").read_text().split("\n")
    for kept in (
        "src",
        "platform",
        "models",
        "data",
        "search_spaces",
        "deploy",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ):
        assert kept not in ignored
    assert {".git", ".venv", "equipoise_home"} <= set(ignored)
