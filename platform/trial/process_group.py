"""Workers of Ray Train meet over the network that Ray itself uses.

Gloo, which workers without GPUs talk through, looks its host's name up and takes the interface that is found there. On
hosts whose name stands for the loopback, as Debian sets them up, workers of different nodes then wait for one another
without a word until the group's half hour is over.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig

VARIABLE = "GLOO_SOCKET_IFNAME"


def interface_of(ip: str) -> str | None:
    """Name of this host's network interface that has an IPv4 address, or None."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.family == socket.AF_INET and a.address == ip for a in addresses):
            return name
    return None


def choose_interface() -> None:
    """Point Gloo, in this process, to the interface of this node's address in Ray; what the user has set stays."""
    found = interface_of(ray.util.get_node_ip_address())
    if found is not None:
        os.environ.setdefault(VARIABLE, found)


class NodeTorchConfig(TorchConfig):  # type: ignore[misc]  # Ray is not typed
    """Ray Train's process group, after every worker has chosen its interface."""

    @property
    def backend_cls(self) -> type[Any]:
        """What Ray Train starts in its workers."""

        class NodeBackend(super().backend_cls):  # type: ignore[misc]
            def on_start(self, worker_group: Any, backend_config: Any) -> None:
                worker_group.execute(choose_interface)
                super().on_start(worker_group, backend_config)

        return NodeBackend
