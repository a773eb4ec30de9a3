"""Fixtures shared by all tests: a tiny miniature data set on disk, and settings to match."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from equipoise.data import miniature
from equipoise.platform.mix import load_variant
from equipoise.platform.settings import TrialSettings, load_preset, load_regime
from equipoise.platform.study import Home
from equipoise.platform.training import Paths

SIZES = miniature.Sizes(frames=8, train_clips=48, test_clips=24, train_stills=60, test_stills=40)
TINY = {
    "name": "tiny",
    "description": "for tests",
    "model": {
        "frames": 4,
        "size": 64,
        "encoder": {"width": 24, "depth": 4, "heads": 2, "patch": 16, "tubelet": 2, "levels": 4, "rope_theta": 100},
        "predictor": {"width": 24, "depth": 1, "heads": 2, "rope_theta": 100},
        "teacher": {"momentum": 0.9},
    },
    "optimisation": {"steps": 6, "batch": 8, "lr": 1e-3, "lr_start": 1e-4, "warmup_steps": 2},
    "sampling": {"stride": 2},
    "cache_size": 64,
    "probes": {
        "attentive": {"pooling": "attentive", "epochs": 2, "batch": 16, "lr": [1e-3, 1e-2], "heads": 2},
        "linear": {"pooling": "linear", "epochs": 2, "batch": 16, "lr": [1e-3, 1e-2], "weight_decay": [0.0]},
    },
    "checkpoint_every": 2,
    "log_every": 1,
}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start a Ray cluster go to one process, one after the other: two on a machine disturb each other."""
    for item in items:
        if item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.xdist_group("cluster"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder whose ``data/`` holds a small build of the miniature data sets."""
    root = tmp_path_factory.mktemp("tiny")
    miniature.build(root / "data" / "miniature", seed=0, workers=1, sizes=SIZES)
    (root / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return root


@pytest.fixture(scope="session")
def paths(tiny_data: Path) -> Paths:
    """Where trials read."""
    return Paths(tiny_data / "data", tiny_data / "cache")


@pytest.fixture
def home(tiny_data: Path, tmp_path: Path) -> Home:
    """A fresh home folder over the shared data and caches."""
    root = tmp_path / "home"
    root.mkdir()
    (root / "data").symlink_to(tiny_data / "data")
    (tiny_data / "cache").mkdir(exist_ok=True)
    (root / "cache").symlink_to(tiny_data / "cache")
    return Home(root)


Make = Callable[..., TrialSettings]


@pytest.fixture(scope="session")
def make_trial(tiny_data: Path) -> Make:
    """Builds tiny trial settings: ``make_trial("hw", seed=1, reading="as_published", overrides=["..."])``."""

    def make(variant: str = "baseline", *, overrides: tuple[str, ...] = (), **more: object) -> TrialSettings:
        content = {
            "variant_name": variant,
            "variant": load_variant(variant),
            "preset": load_preset(str(tiny_data / "tiny.yaml"), overrides),
            "regime": load_regime("miniature"),
            **more,
        }
        return TrialSettings.model_validate(content)

    return make
