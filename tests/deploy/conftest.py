"""The deploy files as a person's shell makes them: with their variables filled in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Render = Callable[[str], list[Any]]

EXPORTED = {
    "AWS_REGION": "us-west-2",
    "AWS_ZONES": "us-west-2a,us-west-2b",
    "AWS_AMI": "ami-03cf127a",  # one the simulated EC2 has
    "AWS_SECURITY_GROUP": "sg-12345678",
    "GCP_PROJECT": "a-project",
    "GCP_REGION": "us-central1",
    "GCP_ZONE": "us-central1-a",
    "GCP_IMAGE_FAMILY": "a-family",
    "EQUIPOISE_IMAGE": "registry.example/equipoise:0.1.0",
    "EQUIPOISE_REGISTRY": "registry.example",
    "EQUIPOISE_BUCKET_URI": "s3://a-bucket",
}


@pytest.fixture(scope="session")
def deploy() -> Path:
    """The folder under test."""
    return Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="session")
def pinned(deploy: Path) -> dict[str, str]:
    """Versions in constraints.txt."""
    lines = (deploy.parent / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.fixture(scope="session")
def exported() -> dict[str, str]:
    """Example values of every variable that the README exports and the files name."""
    return dict(EXPORTED)


@pytest.fixture(scope="session")
def render(deploy: Path) -> Render:
    """The YAML documents of a file after `envsubst`."""

    def documents(name: str) -> list[Any]:
        text = re.sub(r"\$\{(\w+)\}", lambda m: EXPORTED[m.group(1)], (deploy / name).read_text())
        return [d for d in yaml.safe_load_all(text) if d is not None]

    return documents
