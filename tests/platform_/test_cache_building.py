"""Clip caches built on a cluster: the same files, also when a node goes; what goes wrong on a node is told."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from equipoise.data import _building as building
from equipoise.data._files import WorkerError
from equipoise.data.cache import CacheError, ClipCache
from equipoise.data.manifest import Manifest
from equipoise.platform.record.home import Home
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths
from equipoise.platform.study import caches as cache_building
from equipoise.platform.study.caches import cache_runner, prepare_caches
from equipoise.platform.trial.encoders import untrained_encoder
from equipoise.platform.trial.evaluation import score
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer

Make = Callable[..., TrialSettings]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
CLIPS = "miniature/mini_ucf/test.parquet"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        yield found
    finally:
        found.shutdown()


@pytest.fixture
def manifest(tiny_data: Path) -> Manifest:
    return Manifest.read(tiny_data / "data" / CLIPS)


@pytest.fixture(autouse=True)
def one_clip_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_SHARD_BYTES", 1)


def test_without_a_cluster_nothing_is_spread() -> None:
    assert cache_runner(None) is None


@pytest.mark.slow
@pytest.mark.cluster
def test_a_cluster_builds_the_same_files_although_a_node_goes(
    cluster: Cluster, manifest: Manifest, tmp_path: Path
) -> None:
    here = ClipCache.open(manifest, tmp_path / "here", size=32, workers=0)
    second = cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    seen: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        if not seen:
            assert len(ray.nodes()) == 2
            cluster.remove_node(second, allow_graceful=False)
        seen.append(done)

    run = cache_runner(cluster.address)
    there = ClipCache.open(manifest, tmp_path / "there", size=32, run=run, progress=progress)
    assert not ray.is_initialized()
    assert sorted(seen) == list(range(1, len(manifest) + 1))
    names = sorted(path.name for path in here.folder.iterdir())
    assert len(names) == 2 * len(manifest) + 2
    assert names == sorted(path.name for path in there.folder.iterdir())
    assert all((here.folder / name).read_bytes() == (there.folder / name).read_bytes() for name in names)


def test_what_goes_wrong_on_a_node_is_said_here(manifest: Manifest, tmp_path: Path) -> None:
    def task(folder: Path) -> dict[str, list[Any]]:
        clips = tuple(building._plan(manifest, 32, None)[0][0])
        job = pickle.dumps((building._write_shard, building._Shard(clips, str(folder / "a.arrow"), 32, None, "raw")))
        return cache_building._build_part({"number": np.array([3]), "job": np.array([job], dtype=object)})

    unseen = task(tmp_path / "nowhere")
    assert unseen["number"] == [3]
    with pytest.raises(CacheError, match=rf"Node .* does not see {tmp_path}: .* that all its nodes share"):
        cache_building._refuse(json.loads(unseen["error"][0]))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.arrow").mkdir()  # the finished file cannot take its place
    with pytest.raises(OSError, match="Is a directory"):
        cache_building._refuse(json.loads(task(tmp_path / "full")["error"][0]))
    with pytest.raises(WorkerError, match=r"memory\? \(node n\)"):
        cache_building._refuse({"died": "out of memory?", "node": "n"})
    (tmp_path / "well").mkdir()
    well = task(tmp_path / "well")
    cache_building._refuse(json.loads(well["error"][0]))
    assert json.loads(well["note"][0])["failed"] == []


def test_too_little_to_be_spread_is_decoded_here(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_building, "LARGE", len(manifest) + 1)
    run = cache_runner("127.0.0.1:1")  # is never asked
    assert len(ClipCache.open(manifest, tmp_path, size=16, workers=0, run=run)) == len(manifest)


def test_a_preset_says_how_frames_are_stored(make_trial: Make, paths: Paths, tmp_path: Path) -> None:
    packed = make_trial(overrides=("cache_storage=jpeg", "optimisation.steps=2"))
    plain = make_trial(overrides=("cache_storage=raw", "optimisation.steps=2"))
    usual = make_trial(overrides=("optimisation.steps=2",))
    assert "cache_storage" not in usual.model_dump_json()  # trials keep the keys they had before there was a choice
    assert plain.key == usual.key != packed.key
    assert TrialSettings.model_validate_json(packed.model_dump_json()).preset.cache_storage == "jpeg"
    losses: list[list[float]] = []
    for folder in ("one", "two"):
        seen: list[dict[str, float]] = []
        trainer = Trainer(packed, paths, LocalReporter(tmp_path / folder, seen.append))
        trainer.run()
        assert {source.cache.storage for source in trainer.batches.sources} == {"jpeg"}
        losses.append([report["loss"] for report in seen])
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]


def test_a_training_without_a_cache_sees_the_clips_of_a_raw_one(
    make_trial: Make, paths: Paths, home: Home, tmp_path: Path
) -> None:
    found: list[tuple[list[float], dict[str, float]]] = []
    for storage, cache in (("raw", paths.cache), ("none", tmp_path / "nothing")):
        settings = make_trial(overrides=(f"cache_storage={storage}", "optimisation.steps=2"))
        own, seen = Paths(paths.data, cache), list[dict[str, float]]()
        Trainer(settings, own, LocalReporter(tmp_path / storage, seen.append)).run()
        scored = score(untrained_encoder(settings), settings, own, torch.device("cpu"))
        found.append(([report["loss"] for report in seen], {r.benchmark: r.accuracy for r in scored}))
    assert found[0] == found[1]
    assert not (tmp_path / "nothing").exists()
    # Before a study nothing is built, and its data are the same data.
    both = [make_trial(overrides=(f"cache_storage={storage}",)) for storage in ("raw", "none")]
    assert len({prepare_caches(settings, home, "select") for settings in both}) == 1
