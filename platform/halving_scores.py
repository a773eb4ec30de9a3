"""Cheap scores of an encoder in the middle of its training: what early stopping compares.

They are taken on training items alone: a few hundred of a benchmark's training split, the same ones for every trial, of
which a part is kept from the probe and scored. No test item is read, so stopping early cannot lean on one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.models.encoder import VideoEncoder
from equipoise.platform.checkpoint import load_strictly
from equipoise.platform.evaluation import extract, probe
from equipoise.platform.halving import RungProbes
from equipoise.platform.home import Paths
from equipoise.platform.mix import resolve
from equipoise.platform.seeds import generator
from equipoise.platform.settings import ProbeSetting, TrialSettings
from equipoise.platform.training import build_model, open_cache

COMMON_SEED = 0  # of items, probe weights and orders: the same for every trial, so that trials differ by their encoders


def encoder_of(settings: TrialSettings, state: Mapping[str, Any]) -> VideoEncoder:
    """The encoder that evaluation would score, apart from the model that is being trained.

    Args:
        settings: the trial.
        state: the whole model's state, as a checkpoint holds it.
    """
    mix = resolve(settings)
    model = build_model(settings, mix)
    load_strictly(model, dict(state), f"of {settings.variant_name}")
    encoder = model.target_encoder if mix.evaluated == "target" else model.encoder
    return encoder.eval().requires_grad_(False)


def items_of(count: int, items: int) -> tuple[list[int], int]:
    """Which training items a rung looks at, and how many of them, from the end, are scored and not fitted.

    Args:
        count: items of the training split.
        items: how many to look at, at most.

    Returns:
        Different rows of the split in a random order that is the same for every trial; a third of them, rounded up.
    """
    order = torch.randperm(count, generator=generator(COMMON_SEED, "rung.items"))[:items].tolist()
    return order, math.ceil(len(order) / 3)


def short(setting: ProbeSetting, probes: RungProbes) -> ProbeSetting:
    """A benchmark's probe bank with fewer epochs."""
    return setting.model_copy(update={"epochs": min(setting.epochs, probes.epochs)})


def rung_scores(
    encoder: VideoEncoder, settings: TrialSettings, paths: Paths, device: torch.device, probes: RungProbes
) -> dict[str, float]:
    """Accuracy in percent on held-out training items of every benchmark of a trial.

    Args:
        encoder: frozen, in evaluation mode.
        settings: the trial.
        paths: where to read.
        device: where to compute.
        probes: how many items and epochs.
    """
    found: dict[str, float] = {}
    model = settings.preset.model
    for name in settings.scored:
        benchmark = settings.regime.benchmarks[name]
        setting = short(settings.preset.probes[benchmark.pooling], probes)
        cache = open_cache(settings, paths, benchmark.train)
        rows, held = items_of(len(cache), probes.items)
        features = extract(
            encoder,
            cache,
            frames=model.frames,
            size=model.size,
            pooled=setting.pooling == "linear",
            device=device,
            repeat_stills=resolve(settings).images == "repeat",
            rows=rows,
        )
        labels = torch.from_numpy(np.array(cache.labels)[rows]).to(device)
        found[name] = _held_out(features, labels, held, len(cache.classes), setting)
    return found


def _held_out(features: Tensor, labels: Tensor, held: int, classes: int, setting: ProbeSetting) -> float:
    """Percent right among the last ``held`` items of a bank that saw the others."""
    fit, truth = labels[:-held], labels[-held:]
    predicted, _, _ = probe(features[:-held], fit, features[-held:], classes, setting, COMMON_SEED)
    return 100 * int((predicted == truth).sum()) / held
