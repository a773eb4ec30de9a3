"""One trial over two hosts: network namespaces with addresses of their own, which see each other over a bridge only."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.long]

NETWORK = "10.213.77"
INTERFACE = "eth0"  # inside a host


@dataclass(frozen=True)
class Host:
    """A network namespace with a loopback and one address."""

    name: str
    ip: str

    @property
    def inside(self) -> list[str]:
        """What comes before a command that is to run there."""
        return ["ip", "netns", "exec", self.name]


@pytest.fixture
def two_hosts() -> Iterator[tuple[Host, Host]]:
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the ip command (Debian: iproute2)")
    mark = f"{os.getpid() % 100000:05d}"
    bridge = f"eqb{mark}"
    hosts = tuple(Host(f"eqh{k}-{mark}", f"{NETWORK}.{k + 2}") for k in range(2))
    undo: list[list[str]] = []

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    try:
        try:
            ip("link", "add", bridge, "type", "bridge")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
        undo.append(["link", "del", bridge])
        ip("addr", "add", f"{NETWORK}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for k, host in enumerate(hosts):
            outer = f"eqo{k}-{mark}"
            ip("netns", "add", host.name)
            undo.append(["netns", "del", host.name])
            ip("link", "add", outer, "type", "veth", "peer", "name", INTERFACE, "netns", host.name)
            ip("link", "set", outer, "master", bridge, "up")
            ip("-n", host.name, "addr", "add", f"{host.ip}/24", "dev", INTERFACE)
            ip("-n", host.name, "link", "set", INTERFACE, "up")
            ip("-n", host.name, "link", "set", "lo", "up")
        yield hosts[0], hosts[1]
    finally:
        for words in reversed(undo):
            ip(*words)


def test_a_trial_is_shared_by_two_hosts(
    two_hosts: tuple[Host, Host],
    make_nodes: Callable[..., Any],
    environment: dict[str, str],
    wait_for_server: Callable[..., None],
    edit_space: Callable[..., None],
    sweep: Callable[..., Any],
    accounted: Callable[..., None],
) -> None:
    here, there = two_hosts
    edit_space(set=["log_every=1", "checkpoint_every=5", "optimisation.batch=16", "optimisation.steps=15"])
    # Both share this machine's name: workers that looked it up would not find each other.
    cluster = make_nodes(environment, inside=here.inside, ip=here.ip)
    cluster.start_head(wait_for_server)
    cluster.add("here", here.inside, here.ip)
    cluster.add("there", there.inside, there.ip)
    words = ["--workers", "2", "--placement", "STRICT_SPREAD", "--address", cluster.address, "--concurrent", "1"]
    driver = sweep(*words, inside=here.inside)
    driver.wait_for("t0003 hw s0: pretrain")
    assert len(cluster.processes("here", "RayTrainWorker")) == len(cluster.processes("there", "RayTrainWorker")) == 1
    driver.finish()
    accounted("t0003", attempts=1, lost=0, steps=15)
