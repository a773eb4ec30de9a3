"""Clip caches of large regimes, built by Ray Data: the shards of one spread over the nodes of a cluster."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.data._files import WorkerError, run_jobs
from equipoise.data.cache import CacheError, Runner
from equipoise.data.importers import command_for
from equipoise.platform.errors import StudyError
from equipoise.platform.record.home import Home
from equipoise.platform.settings.parts import Part
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.study.cluster import ray_cluster
from equipoise.platform.trial.caches import check_cache_space, open_cache
from equipoise.platform.trial.parts import manifests_of

LARGE = 16  # shards, 1 GiB of frames: what less a driver decodes itself before tasks have started
BLOCKS_PER_CPU = 4  # so that a slow node does not hold up the end


def cache_runner(address: str | None) -> Runner | None:
    """What spreads the decoding of a clip cache over a cluster; None where there is no cluster.

    Args:
        address: of the Ray cluster; None for none.
    """
    return None if address is None else partial(over_cluster, address)


def over_cluster(
    address: str, work: Callable[[Any], dict[str, Any]], jobs: list[Any], workers: int
) -> Iterator[tuple[int, Any]]:
    """Builds shards as tasks of Ray Data, one CPU each; the cache's folder has to be one that all nodes see.

    Every file is decoded in a process of its task's own, so that one that dies costs the file it died on. A task that
    a node took with it runs again elsewhere. The cluster is joined only if there is much to do.

    Args:
        address: of the Ray cluster.
        work: makes the shard of a job.
        jobs: shards, each with its ``file``.
        workers: processes of this machine, for what is too little to be spread.

    Yields:
        Number of a job and what ``work`` made of it, in any order.

    Raises:
        CacheError: if a node does not see the folder.
        WorkerError: if decoding processes keep dying.
        OSError: what a node's file system refused.
        StudyError: if the cluster cannot be reached.
    """
    if len(jobs) < LARGE:
        yield from run_jobs(work, jobs, workers)
        return
    import ray
    import ray.data  # late: it takes seconds, and only this needs it

    with ray_cluster(address, dashboard=False):
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False  # the caller shows its own
        cpus = math.ceil(ray.cluster_resources().get("CPU", 1))
        rows = [{"number": number, "job": pickle.dumps((work, job))} for number, job in enumerate(jobs)]
        tasks = ray.data.from_items(rows, override_num_blocks=min(len(jobs), BLOCKS_PER_CPU * cpus))
        for row in tasks.map_batches(_build_part, batch_size=None, num_cpus=1).iter_rows():
            _refuse(json.loads(row["error"]))
            yield int(row["number"]), json.loads(row["note"])


def _refuse(error: dict[str, Any]) -> None:
    """Raises here what went wrong in a task."""
    if "unseen" in error:
        raise CacheError(
            f"Node {error['node']} does not see {error['unseen']}: to build clip caches on a cluster, choose a home "
            "folder on a file system that all its nodes share."
        )
    if "died" in error:
        raise WorkerError(f"{error['died']} (node {error['node']})")
    if "errno" in error:
        raise OSError(error["errno"], error["strerror"])


def _build_part(batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, list[Any]]:
    """Some shards, on whichever node this runs."""
    built: dict[str, list[Any]] = {"number": [], "note": [], "error": []}
    numbers = [int(number) for number in batch["number"]]
    parts = [pickle.loads(part) for part in batch["job"]]
    work, jobs = parts[0][0], [job for _, job in parts]

    def add(number: int, note: Any, **error: Any) -> None:
        where = {"node": socket.gethostname()} if error else {}
        for column, value in (("number", number), ("note", json.dumps(note)), ("error", json.dumps(error | where))):
            built[column].append(value)

    folder = Path(jobs[0].file).parent
    if not folder.is_dir():
        add(numbers[0], None, unseen=str(folder.parent))
        return built
    try:
        for place, note in run_jobs(work, jobs, 1):
            add(numbers[place], note)
    except WorkerError as error:
        add(numbers[0], None, died=str(error))
    except OSError as error:
        add(numbers[0], None, errno=error.errno, strerror=error.strerror)
    return built


CacheProgress = Callable[[str, int, int], None]


def prepare_caches(
    settings: TrialSettings,
    home: Home,
    part: Part | None,
    progress: CacheProgress | None = None,
    address: str | None = None,
) -> str:
    """Read every manifest and build every clip cache a trial will need, before anything starts.

    ``part`` is what it is scored on, None for nothing; without the test part no test manifest is read.

    With the ``address`` of a cluster its nodes build large ones together.

    Returns:
        Sixteen hex digits that identify the content of all the manifests together.

    Raises:
        ValueError: a manifest, decoding or cache error, in one sentence.
    """
    names = manifest_names(settings, part)
    for manifest in names:
        if not (home.data / manifest).is_file():
            raise StudyError(
                f"the manifest {home.data / manifest} of regime {settings.regime.name!r} does not exist: "
                f"make it by {command_for(manifest)}, or name the home that has it with --home"
            )
    run = cache_runner(address)
    check_cache_space(settings, home.paths, names)
    return data_identity({m: open_cache(settings, home.paths, m, progress, run).manifest_hash for m in names})


def manifest_names(settings: TrialSettings, part: Part | None) -> tuple[str, ...]:
    """Manifests that a trial reads, relative to the data folder; ``part`` is what it is scored on, None for nothing."""
    sources = [s.manifest for s in settings.regime.sources.values()]
    return tuple(dict.fromkeys([*sources, *(manifests_of(settings, part) if part is not None else [])]))


def data_identity(hashes: Mapping[str, str]) -> str:
    """Sixteen hex digits for the content of manifests, hash by name, together."""
    return hashlib.sha256(json.dumps(dict(hashes), sort_keys=True).encode()).hexdigest()[:16]
