"""What only a GPU can show; left out where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from equipoise.models.objectives import list_objectives
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
WEIGHTS = {r.name: 0.1 for r in list_objectives()}


@pytest.fixture
def synchronising_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_the_step_never_waits_for_the_gpu(
    tiny_settings: Callable[..., TrialSettings], miniature_paths: Paths, synchronising_is_an_error: None, tmp_path: Path
) -> None:
    losses = {name: {"weight": w} for name, w in WEIGHTS.items() if name != "motion_guided"}
    trainer = Trainer(tiny_settings(losses), miniature_paths, LocalReporter(tmp_path))
    assert trainer.device.type == "cuda"
    with trainer.batches.open() as batches:
        trainer.train_step(next(batches))  # warm-up: allocations and kernels may be set up here
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(3):
            trainer.step += 1
            trainer.train_step(next(batches))


def test_gpu_and_cpu_agree(tiny_settings: Callable[..., TrialSettings], miniature_paths: Paths, tmp_path: Path) -> None:
    settings = tiny_settings(
        {n: {"weight": w} for n, w in WEIGHTS.items()}, "as_described", "optimisation.precision=float32"
    )
    found = []
    for device in ("cpu", "cuda"):
        trainer = Trainer(settings, miniature_paths, LocalReporter(tmp_path / device, device=torch.device(device)))
        with trainer.batches.open() as batches:
            found.append({k: float(v) for k, v in trainer.train_step(next(batches)).items()})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        # SIGReg's random directions come from each device's own generator.
        assert found[1][name] == pytest.approx(value, rel=5e-3 if name not in ("sigreg", "loss") else 0.2), name
