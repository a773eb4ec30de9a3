"""Frozen evaluation: what is scored is what was trained, and no test item helps to choose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from equipoise.data.decode import uniform_indices
from equipoise.data.transforms import center_crop_resize
from equipoise.models.probes import LinearBank, fit_bank
from equipoise.platform.errors import CheckpointError
from equipoise.platform.settings.preset import ProbeSetting
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths, Place
from equipoise.platform.trial import checkpoint as checkpoints
from equipoise.platform.trial import evaluation, features
from equipoise.platform.trial.caches import open_cache
from equipoise.platform.trial.encoders import frozen_encoder, untrained_encoder
from equipoise.platform.trial.evaluation import PART, probe, score
from equipoise.platform.trial.features import extract
from equipoise.platform.trial.parts import part_items
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer

Make = Callable[..., TrialSettings]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(make_trial: Make, paths: Paths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    Trainer(make_trial(), paths, LocalReporter(folder)).run()
    return folder


def test_extract_equals_one_clip_at_a_time(make_trial: Make, paths: Paths) -> None:
    settings = make_trial()
    encoder = untrained_encoder(settings)
    cache = open_cache(settings, paths, "miniature/mini_dive/test.parquet")
    found = extract(encoder, cache, frames=4, size=64, pooled=False, device=CPU, batch=5)
    pooled = extract(encoder, cache, frames=4, size=64, pooled=True, device=CPU, batch=7)
    for i in (0, 3, len(cache) - 1):
        frames = torch.from_numpy(cache.clip(i)[uniform_indices(8, 4)])[None]
        patches, kind = encoder.patches(center_crop_resize(frames, 64))
        alone = encoder(patches, kind)[..., -24:]  # the deepest of four levels
        torch.testing.assert_close(found[i : i + 1], alone)
        torch.testing.assert_close(pooled[i], alone[0].mean(0))


def test_scores_the_target_encoder_of_the_checkpoint(trained: Path, make_trial: Make) -> None:
    found = checkpoints.load(trained)
    encoder = frozen_encoder(found)
    state = {k.removeprefix("target.module."): v for k, v in found.state["model"].items() if "target.module." in k}
    assert all(torch.equal(v, state[k]) for k, v in encoder.state_dict().items())
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())


def test_an_encoder_that_never_moved_is_refused(make_trial: Make, paths: Paths, tmp_path: Path) -> None:
    Trainer(make_trial(), paths, LocalReporter(tmp_path)).run()
    found = checkpoints.load(tmp_path)
    start = untrained_encoder(found.settings).state_dict()
    for key, value in start.items():
        found.state["model"][f"target.module.{key}"] = value
    with pytest.raises(CheckpointError, match="would score an untrained encoder"):
        frozen_encoder(found)


def test_as_published_kinematic_scores_its_initialisation(make_trial: Make, paths: Paths, tmp_path: Path) -> None:
    settings = make_trial("kinematic", reading="as_published")
    Trainer(settings, paths, LocalReporter(tmp_path)).run()
    encoder = frozen_encoder(checkpoints.load(tmp_path)).state_dict()
    assert all(torch.equal(v, encoder[k]) for k, v in untrained_encoder(settings).state_dict().items())


def test_checkpoint_of_other_shapes_names_both(trained: Path) -> None:
    found = checkpoints.load(trained)
    wider = found.settings.model_dump(mode="json")
    wider["preset"]["model"]["encoder"]["width"] = 48
    changed = checkpoints.Checkpoint(
        found.path, TrialSettings.model_validate(wider), found.step, found.record, found.state
    )
    with pytest.raises(CheckpointError, match=r"is \(24, 1536\), these settings need \(48, 1536\)"):
        frozen_encoder(changed)


def test_results_and_per_item_outcomes(trained: Path, paths: Paths, tmp_path: Path) -> None:
    found = checkpoints.load(trained)
    results = score(frozen_encoder(found), found.settings, paths, CPU)
    assert [r.benchmark for r in results] == ["mini_dive", "mini_ssv2", "mini_in"]
    for r in results:
        table = pq.read_table(r.write(Place.at(tmp_path)).local).to_pydict()
        assert len(table["path"]) == r.items == len(set(table["path"]))
        assert r.accuracy == 100 * sum(table["correct"]) / r.items
        right = [p == y for p, y in zip(table["predicted"], table["label"], strict=True)]
        assert table["correct"] == right
        best = max(g["select_accuracy"] for g in r.grid)
        assert r.chosen["select_accuracy"] == best == r.accuracy
        assert len(r.grid) == 2
        assert r.part == "select"
        kept = pq.read_metadata(tmp_path / f"{r.benchmark}.parquet").metadata
        assert kept[PART.encode()] == b"select"
    again = score(frozen_encoder(found), found.settings, paths, CPU)
    assert [r.predicted.tolist() for r in again] == [r.predicted.tolist() for r in results]


def separable(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.randn(n, 6, generator=draw) * 0.3
    x[torch.arange(n), y] += 3
    return x, y


def test_the_test_part_changes_no_choice_and_no_probe(trained: Path, paths: Paths) -> None:
    found = checkpoints.load(trained)
    encoder = frozen_encoder(found)
    select = score(encoder, found.settings, paths, CPU)
    test = score(encoder, found.settings, paths, CPU, part="test")
    assert [r.grid for r in test] == [r.grid for r in select]
    assert [r.chosen for r in test] == [r.chosen for r in select]
    for one, other in zip(select, test, strict=True):
        assert (one.part, other.part) == ("select", "test")
        assert not set(one.paths) & set(other.paths)
        assert all(path.startswith("test/") for path in other.paths)


def test_a_select_part_is_cut_from_the_training_split(trained: Path, paths: Paths) -> None:
    """Where a benchmark names none: probes are fitted on the rest, and nothing is in both."""
    found = checkpoints.load(trained)
    benchmarks = {name: b.model_copy(update={"select": None}) for name, b in found.settings.regime.benchmarks.items()}
    regime = found.settings.regime.model_copy(update={"benchmarks": benchmarks})
    settings = found.settings.model_copy(update={"regime": regime})
    assert settings.key == found.settings.key
    train, select = (part_items(settings, paths, "mini_ssv2", part) for part in ("train", "select"))
    assert train.manifest == select.manifest
    assert not set(train.paths) & set(select.paths)
    assert sorted((*train.paths, *select.paths)) == sorted(train.cache.paths)
    results = score(frozen_encoder(found), settings, paths, CPU)
    assert results[1].paths == select.paths
    assert results[1].labels.tolist() == select.labels.tolist()


def test_probe_learns_and_never_sees_test_labels_or_statistics() -> None:
    setting = ProbeSetting(kind="linear", epochs=30, batch=16, lr=(1e-6, 0.01), weight_decay=(0.0,))
    x, y = separable(120, 0)
    chooser = separable(30, 2)
    test_x, test_y = separable(60, 1)
    predicted, winner, grid = probe(x, y, *chooser, 3, setting, seed=0, test=test_x)
    assert (predicted == test_y).float().mean() > 0.95
    assert winner["lr"] == 0.01
    assert winner in grid
    assert len(grid) == 2
    # Test items do not change the probe: each is predicted alone as in company.
    alone = torch.cat([probe(x, y, *chooser, 3, setting, seed=0, test=test_x[i : i + 1])[0] for i in range(5)])
    assert torch.equal(alone, predicted[:5])
    # Without them the select items are what is predicted, and their number right is what the choice went by.
    chosen, _, _ = probe(x, y, *chooser, 3, setting, seed=0)
    assert winner["select_accuracy"] == 100 * int((chosen == chooser[1]).sum()) / 30


def test_every_training_item_is_fitted_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[int] = []

    def counted(bank: LinearBank, features: torch.Tensor, *args: torch.Tensor, **more: Any) -> None:
        fitted.append(len(features))
        fit_bank(bank, features, *args, **more)

    monkeypatch.setattr(evaluation, "fit_bank", counted)
    x, y = separable(120, 0)
    setting = ProbeSetting(kind="linear", epochs=2, batch=16, lr=(0.01, 1e-6), weight_decay=(0.0,))
    probe(x, y, *separable(60, 1), 3, setting, seed=0)
    assert fitted == [120]


def test_probe_of_noise_is_at_chance() -> None:
    draw = torch.Generator().manual_seed(0)
    x, select, test = (torch.randn(n, 8, generator=draw) for n in (300, 100, 600))
    labels = torch.arange(300) % 4
    setting = ProbeSetting(kind="linear", epochs=20, batch=32, lr=(0.01, 0.001))
    predicted, _, _ = probe(x, labels, select, torch.arange(100) % 4, 4, setting, seed=0, test=test)
    accuracy = (predicted == torch.arange(600) % 4).float().mean().item()
    assert abs(accuracy - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 600)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_of_the_features_join_to_the_whole(
    parts: int, make_trial: Make, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "EXTRACT_BATCH", 8)
    settings = make_trial()
    encoder = untrained_encoder(settings)
    manifest = settings.regime.benchmarks["mini_dive"].train

    for probe_name in ("linear", "attentive"):
        split = features.Split(settings, paths, manifest, probe_name)
        whole = features.split_features(encoder, split, CPU)
        assert len(whole) == 48
        found = [features.split_features(encoder, split, CPU, (k, parts)) for k in range(parts)]
        assert max(len(f) for f in found) < len(whole)
        assert torch.equal(torch.cat([f for f in found if len(f)]), whole)
