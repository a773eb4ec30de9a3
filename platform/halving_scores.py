"""Cheap scores of an encoder in the middle of its training: what early stopping compares.

They are taken on training items alone: a few hundred of a benchmark's training split, the same ones for every trial,
each predicted from the others. No test item is read, so stopping early cannot lean on one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from equipoise.models.encoder import VideoEncoder
from equipoise.models.probes import ridge_accuracy
from equipoise.platform.checkpoint import load_strictly
from equipoise.platform.evaluation import extract
from equipoise.platform.home import Paths
from equipoise.platform.mix import resolve
from equipoise.platform.seeds import generator
from equipoise.platform.settings import TrialSettings
from equipoise.platform.training import build_model, open_cache

COMMON_SEED = 0  # of the items: the same for every trial, so that trials differ by their encoders


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


def items_of(count: int, items: int) -> list[int]:
    """Which training items a rung looks at.

    Args:
        count: items of the training split.
        items: how many to look at, at most.

    Returns:
        Different rows of the split in a random order that is the same for every trial.
    """
    return torch.randperm(count, generator=generator(COMMON_SEED, "rung.items"))[:items].tolist()


def rung_scores(
    encoder: VideoEncoder, settings: TrialSettings, paths: Paths, device: torch.device, items: int
) -> dict[str, float]:
    """Leave-one-out accuracy in percent on training items of every benchmark of a trial.

    Of ridge regression, on what the benchmark's own probe reads: all tokens, or their mean. On the miniature regime it
    tells more of the final accuracy than a short probe on the same items does (bench/search.md).

    Args:
        encoder: frozen, in evaluation mode.
        settings: the trial.
        paths: where to read.
        device: where to compute.
        items: how many training items of each benchmark.
    """
    found: dict[str, float] = {}
    model = settings.preset.model
    for name in settings.scored:
        benchmark = settings.regime.benchmarks[name]
        cache = open_cache(settings, paths, benchmark.train)
        rows = items_of(len(cache), items)
        features = extract(
            encoder,
            cache,
            frames=model.frames,
            size=model.size,
            pooled=benchmark.pooling == "linear",
            device=device,
            repeat_stills=resolve(settings).images == "repeat",
            rows=rows,
        )
        labels = torch.from_numpy(np.array(cache.labels)[rows]).to(device)
        found[name] = ridge_accuracy(features, labels, len(cache.classes))
    return found
