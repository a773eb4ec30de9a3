from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from equipoise.data.miniature import Sizes, build
from equipoise.platform.mix import load_variant
from equipoise.platform.settings import TrialSettings, Variant, load_preset, load_regime, parse
from equipoise.platform.training import Paths

TINY_SIZES = Sizes(pixels=32, frames=16, train_clips=16, test_clips=4, train_stills=16, test_stills=4)
TINY_PRESET = (
    "model.size=32",
    "model.encoder={width: 24, depth: 4, heads: 2, patch: 8, tubelet: 2, levels: 4}",
    "model.predictor={width: 16, depth: 1, heads: 2}",
    "model.masks={blocks: [{count: 8, area: 0.15}, {count: 2, area: 0.7}]}",
    "context={weight: 0.5, start: 0.0, full: 0.1}",
    "sampling={stride: 2, images: frame}",
    "optimisation.steps=6",
    "optimisation.batch=8",
    "optimisation.warmup_steps=0",
    "probes.attentive.heads=2",
    "cache_size=32",
)

MakeSettings = Callable[..., TrialSettings]


@pytest.fixture(scope="session")
def miniature_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with the four miniature sets at 32 px, a few clips each."""
    home = tmp_path_factory.mktemp("home")
    build(home / "data" / "miniature", seed=3, workers=1, sizes=TINY_SIZES)
    return home


@pytest.fixture(scope="session")
def miniature_paths(miniature_home: Path) -> Paths:
    return Paths(miniature_home / "data", miniature_home / "cache")


@pytest.fixture(scope="session")
def tiny_overrides() -> tuple[str, ...]:
    return TINY_PRESET


@pytest.fixture(scope="session")
def tiny_settings() -> MakeSettings:
    """Settings of a trial that takes milliseconds a step: a shipped variant by name, or objectives by weight."""

    def make(
        variant: str | dict[str, Any], reading: str = "as_described", *overrides: str, **more: Any
    ) -> TrialSettings:
        if isinstance(variant, str):
            name, loaded = variant, load_variant(variant)
        else:
            name, loaded = "made_up", parse(Variant, {"objectives": variant, **more}, "made_up")
        content = {
            "variant_name": name,
            "variant": loaded,
            "reading": reading,
            "preset": load_preset("nano", [*TINY_PRESET, *overrides]),
            "regime": load_regime("miniature"),
        }
        return parse(TrialSettings, content, name)

    return make
