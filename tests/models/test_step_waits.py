"""The step never reads a number back from the device: on ``meta`` tensors, which hold none, any such read raises."""

from __future__ import annotations

import contextlib

import pytest
import torch
from timm.optim import create_optimizer_v2

from equipoise.models.encoders import EncoderConfig
from equipoise.models.jepa import ClipGroup, JepaConfig, Term, VideoJEPA
from equipoise.models.masking import FuturePredictive, MaskConfig, MaskSampler
from equipoise.models.objectives import Latents, create, list_objectives
from equipoise.models.predictor import PredictorConfig

LOSSES = tuple(r.name for r in list_objectives() if r.kind == "loss")


def config() -> JepaConfig:
    return JepaConfig(
        frames=8,
        size=32,
        encoder=EncoderConfig(width=16, depth=4, heads=2, patch=8, tubelet=2),
        predictor=PredictorConfig(width=12, depth=1, heads=2, rope_theta=10.0),
    )


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast knows no ``meta`` device; it reads no values either."""
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: contextlib.nullcontext())


def test_a_read_raises_here() -> None:
    with pytest.raises(RuntimeError):
        torch.zeros(3, device="meta").sum().item()
    with pytest.raises(NotImplementedError):
        torch.zeros(3, device="meta").cpu()


@pytest.mark.parametrize("stills", [False, True])
def test_no_part_of_a_step_reads_a_number(stills: bool) -> None:
    model = VideoJEPA(config(), [Term(name) for name in LOSSES]).to("meta")
    sampler = MaskSampler(config().grid(), MaskConfig(), future_predictive=FuturePredictive())
    # A still clip is in no temporal term, and spectral needs places that are visible throughout: one or the other.
    shares = {"future_predictive": 0.0 if stills else 0.5}
    masks = sampler.sample(4, torch.Generator().manual_seed(0), shares=shares)
    still = torch.tensor([False, True, False, False]) if stills else None
    group = ClipGroup(torch.zeros(4, 3, 8, 32, 32, device="meta"), masks, still)
    optimiser = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.04, filter_bias_and_bn=True)
    out = model([group], dict.fromkeys(LOSSES, 1.0), 0.5)
    assert set(LOSSES) <= set(out.weighted)
    out.loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    model.update_target()


@pytest.mark.parametrize("name", LOSSES)
def test_an_objective_alone_reads_no_number(name: str) -> None:
    """Alone: no other objective has filled a shared value before it."""
    grid, channels = config().grid(), 64
    mask = MaskSampler(grid, MaskConfig()).sample(2, torch.Generator().manual_seed(1))[0]
    shape = (2, *grid.shape, channels)
    latents = Latents(
        student=torch.zeros(shape, device="meta", requires_grad=True),
        visible=grid.visible(mask.visible).to("meta"),
        target=torch.zeros(shape, device="meta"),
        predicted=torch.zeros(2, mask.masked.shape[1], channels, device="meta", requires_grad=True),
        masked=mask.masked.to("meta"),
        clip=torch.zeros(2, 3, 8, 32, 32, device="meta"),
        patch=8,
        visible_host=grid.visible(mask.visible),
    )
    value = create(name, channels=channels).to("meta")(latents)
    assert value is not None
    value.backward()
