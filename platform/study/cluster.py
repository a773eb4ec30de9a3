"""The Ray cluster under a study: joining it, what fits into it, and what a trial that does not fit waits for."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from joblib import cpu_count
from ray._private.state import state as ray_state
from ray.experimental.internal_kv import _internal_kv_get

from equipoise.platform.errors import StudyError
from equipoise.platform.settings.trial import Resources

MEBIBYTE = 1024**2
ANSWER_S = 5.0  # how long a cluster's address may take to answer
# Of a folder for temporary files, in bytes: a socket's path has 107, of which Ray takes up to 67 for a session's own.
MOST_TEMPORARY = 40
V1_STATUS = "__autoscaling_status"  # where Ray's first autoscaler keeps its report


@contextlib.contextmanager
def ray_cluster(address: str | None, dashboard: bool) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine and stop it at the end.

    Args:
        address: ``auto`` or a cluster's address; None starts a local one.
        dashboard: start the dashboard with its state API, without which placement groups of stopped trials leak.

    Raises:
        StudyError: if the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    check_start(address)
    with contextlib.ExitStack() as after:
        local: dict[str, Any] = {}
        if address is None:
            local = {
                "num_cpus": cpu_count(),  # less where a container or a batch job has a quota
                "object_store_memory": 256 * MEBIBYTE,  # clips travel through the memory-mapped cache, not through Ray
                "include_dashboard": dashboard,
            }
            short = short_folder()
            if short is not None:
                local["_temp_dir"] = tempfile.mkdtemp(prefix="ray-", dir=short)
                after.callback(shutil.rmtree, local["_temp_dir"], ignore_errors=True)
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
        except (OSError, RuntimeError, ValueError) as error:
            raise StudyError(f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}") from None
        after.callback(ray.shutdown)
        yield


def check_start(address: str | None) -> None:
    """See that a cluster can be joined, or started here, before anything is built for it.

    Raises:
        StudyError: nothing answers at the address, or no folder is short enough for Ray's sockets.
    """
    if address is None:
        short_folder()
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():  # ``auto``, which Ray looks up itself
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise StudyError(
            f"nothing answers at {address} ({error}): give the address that ray start printed, or auto on a machine of "
            "the cluster"
        ) from None


def short_folder() -> str | None:
    """Where Ray's sockets go where ``TMPDIR`` is too long for them; None where it is not.

    Raises:
        StudyError: it is too long, and no other folder for temporary files can be written.
    """
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) <= MOST_TEMPORARY:
        return None
    for folder in ("/tmp", "/var/tmp", "/dev/shm"):
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise StudyError(
        f"the folder for temporary files, {usual}, is too long for Ray's sockets, whose whole path may have 107 bytes, "
        f"and neither /tmp nor /var/tmp can be written: set TMPDIR to a path of at most {MOST_TEMPORARY} bytes"
    )


@dataclass(frozen=True)
class Growth:
    """What a cluster's autoscaler is doing.

    Attributes:
        alive: nodes that are there, the head included.
        coming: nodes that were asked for and are not there yet.
        limit: resources of the cluster at its largest, where the autoscaler says so.
    """

    alive: int
    coming: int
    limit: Mapping[str, float] | None


def growth() -> Growth | None:
    """The autoscaler's state; None in a cluster without one."""
    from ray.autoscaler._private.util import format_readonly_node_type
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    if is_autoscaler_v2(fetch_from_server=True):
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        kinds = {n.node_id: n.ray_node_type_name for n in (*status.active_nodes, *status.idle_nodes)}
        coming = len(status.pending_nodes) + sum(p.count for p in status.pending_launches)
    else:
        report = json.loads(_internal_kv_get(V1_STATUS) or "{}").get("autoscaler_report", {})
        kinds = report.get("node_type_mapping") or {}
        coming = len(report.get("pending_nodes", ())) + sum(report.get("pending_launches", {}).values())
    # Every cluster reports; one that nobody scales names the type of each node after the node.
    if all(kind == format_readonly_node_type(node) for node, kind in kinds.items()):
        return None
    alive = sum(node["Alive"] for node in ray.nodes())
    return Growth(alive, coming, ray_state.get_max_resources_from_cluster_config())


def per_worker(resources: Resources) -> dict[str, float]:
    """What one worker occupies."""
    need = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    return {name: amount for name, amount in need.items() if amount > 0}


def fits_now(resources: Resources) -> int:
    """Trials of these resources that the nodes that are there can hold at once, node by node."""
    need = per_worker(resources)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    # A tenth of a thousandth: 0.1 fits ten times into 1.
    places = [min(int(node.get(k, 0.0) / v + 1e-4) for k, v in need.items()) for node in nodes]
    if resources.workers == 1:
        return sum(places)
    if resources.placement == "STRICT_PACK":
        return sum(p // resources.workers for p in places)
    if resources.placement == "STRICT_SPREAD":
        return _spread(places, resources.workers)
    return sum(places) // resources.workers


def _spread(places: list[int], workers: int) -> int:
    """How many groups of ``workers``, each on as many different nodes, fit into nodes with these places."""
    groups = 0
    while sum(min(p, groups + 1) for p in places) >= workers * (groups + 1):
        groups += 1
    return groups


def capacity(resources: Resources, concurrent: int | None) -> int:
    """Trials that may be asked for at once: what fits, or what a growing cluster may come to hold.

    Args:
        resources: of one trial.
        concurrent: the person's own limit.

    Raises:
        StudyError: if not even one fits, now or later, or a growing cluster's limit is not known.
    """
    fits = fits_now(resources)
    grows = growth()
    if grows is None:
        if fits < 1:
            raise StudyError(f"{_need(resources)}; {_have()}: lower the resources of a trial or join a larger cluster")
        return min(fits, concurrent or fits)
    if concurrent is not None:
        return concurrent
    if grows.limit:
        need = per_worker(resources)
        fits = max(fits, min(int(grows.limit.get(k, 0.0) / v) for k, v in need.items()) // resources.workers)
    if fits < 1:
        raise StudyError(
            f"{_need(resources)}; {_have()} now, and its autoscaler does not say how far it may grow: "
            "give the number of trials at once with --concurrent"
        )
    return fits


def idle_gpus(resources: Resources) -> str | None:
    """A sentence where the cluster has GPUs and trials asked for none; None where nothing lies idle."""
    there = ray.cluster_resources().get("GPU", 0)
    if resources.gpus_per_worker or not there:
        return None
    return f"Trials compute on CPUs, and {there:g} GPU of the cluster stay idle: --gpus-per-worker 1 uses them."


def unplaced() -> int:
    """Placement groups, of trials and of Train's workers, that no node has room for yet."""
    groups = ray.util.placement_group_table().values()
    return sum(group["state"] in ("PENDING", "RESCHEDULING") for group in groups)


def waiting(trials: int, resources: Resources) -> str:
    """One line that says what trials wait for."""
    need = " and ".join(f"{v * resources.workers:g} {k}" for k, v in per_worker(resources).items())
    who = "1 trial waits" if trials == 1 else f"{trials} trials wait"
    grows = growth()
    if grows is None:
        return f"{who} for {need}: the cluster is full ({_have()})"
    if grows.coming:
        return f"{who} for {need}, cluster growing: {grows.alive} of {grows.alive + grows.coming} nodes"
    return f"{who} for {need}: {grows.alive} nodes, the autoscaler adds none at the moment"


def _need(resources: Resources) -> str:
    need = ", ".join(f"{v * resources.workers:g} {k}" for k, v in per_worker(resources).items())
    if resources.workers > 1:
        each = ", ".join(f"{v:g} {k}" for k, v in per_worker(resources).items())
        need += f" ({resources.workers} workers of {each}, {resources.placement})"
    return f"a trial needs {need}"


def _have() -> str:
    have = ray.cluster_resources()
    count = sum(node["Alive"] for node in ray.nodes())
    nodes = "1 node" if count == 1 else f"{count} nodes"
    return f"the cluster has {have.get('CPU', 0):g} CPU and {have.get('GPU', 0):g} GPU on {nodes}"
