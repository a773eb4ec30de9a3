"""What must not change unnoticed: keys of trials, and the losses of a short training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from equipoise.models.objectives import published_objectives
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.files import shipped
from equipoise.platform.settings.preset import load_preset
from equipoise.platform.settings.trial import TrialSettings, load_regime
from equipoise.platform.settings.variant import UNCHANGED, Reading, Variant, variants
from equipoise.platform.storage import Paths
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer

REFERENCE = Path(__file__).parents[1] / "reference"
KEYS: dict[str, dict[str, str]] = json.loads((REFERENCE / "trial_keys.json").read_text())
TRAINING: dict[str, Any] = json.loads((REFERENCE / "short_training.json").read_text())


def test_every_preset_and_variant_has_a_pinned_key() -> None:
    assert set(KEYS) == set(shipped("presets"))
    assert all(set(found) == set(variants()) - {UNCHANGED} for found in KEYS.values())


@pytest.mark.parametrize("preset", KEYS)
def test_a_trial_keeps_its_key(preset: str) -> None:
    """An interrupted trial finds its checkpoint by this key: a setting that is new must not enter it by its default."""
    loaded, regime = load_preset(preset), load_regime("miniature")
    found = {
        name: TrialSettings(variant_name=name, variant=variant, preset=loaded, regime=regime).key
        for name, variant in variants().items()
        if name != UNCHANGED  # it is of no shipped preset, as none starts from a checkpoint
    }
    assert found == KEYS[preset]


@pytest.mark.parametrize("reading", ["as_described", "as_published"])
@pytest.mark.parametrize("name", ["every objective", "baseline"])
def test_a_short_training_has_the_losses_it_had(
    name: str, reading: Reading, miniature_paths: Paths, tiny_overrides: tuple[str, ...], tmp_path: Path
) -> None:
    """Bit for bit on the version of PyTorch and the vector instructions it was recorded with; closely on others."""
    weights = dict.fromkeys((r.name for r in published_objectives()), 0.1) if name == "every objective" else {}
    settings = TrialSettings(
        variant_name="made_up",
        variant=parse(Variant, {"objectives": weights}, name),
        reading=reading,
        seed=4,
        preset=load_preset("nano", [*tiny_overrides, "log_every=1", "checkpoint_every=100"]),
        regime=load_regime("miniature"),
    )
    losses: list[float] = []

    def hear(metrics: dict[str, float]) -> None:
        losses.append(metrics["loss"])

    Trainer(settings, miniature_paths, LocalReporter(tmp_path, hear)).run()
    recorded = [float.fromhex(value) for value in TRAINING["losses"][f"{name}, {reading}"]]
    here = (torch.__version__, torch.backends.cpu.get_cpu_capability())
    if here == (TRAINING["torch"], TRAINING["cpu"]):
        assert losses == recorded
    else:
        assert losses == pytest.approx(recorded, rel=1e-3)
