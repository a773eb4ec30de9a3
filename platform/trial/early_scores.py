"""Cheap scores of an encoder in the middle of its training: what early stopping compares.

They are taken on training items alone: a few hundred of a benchmark's training split, the same ones for every trial,
each predicted from the others. No test item is read, so stopping early cannot lean on one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from equipoise.models.encoder import VideoEncoder
from equipoise.models.probes import ridge_accuracy
from equipoise.platform.seeds import generator
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths
from equipoise.platform.trial.caches import open_cache
from equipoise.platform.trial.features import extract, view

COMMON_SEED = 0  # of the items: the same for every trial, so that trials differ by their encoders


def items_of(count: int, items: int) -> list[int]:
    """Which training items a rung looks at.

    Args:
        count: items of the training split.
        items: how many to look at, at most.

    Returns:
        Different rows of the split in a random order that is the same for every trial.
    """
    return torch.randperm(count, generator=generator(COMMON_SEED, "rung.items"))[:items].tolist()


def rung_features(
    encoder: VideoEncoder, settings: TrialSettings, paths: Paths, device: torch.device, benchmark: str, items: int
) -> tuple[Tensor, Tensor, int]:
    """What a rung looks at of one benchmark: features as its own probe reads them, labels, and the number of classes.

    Args:
        encoder: frozen, in evaluation mode.
        settings: the trial.
        paths: where to read.
        device: where to compute.
        benchmark: by name.
        items: how many training items.

    Returns:
        float32 ``[n, K, W]``, or ``[n, W]`` for a linear readout; int64 ``[n]``; C.
    """
    setting = settings.regime.benchmarks[benchmark]
    cache = open_cache(settings, paths, setting.train)
    rows = items_of(len(cache), items)
    features = extract(encoder, cache, **view(settings), pooled=setting.pooling == "linear", device=device, rows=rows)
    return features, torch.from_numpy(np.array(cache.labels)[rows]).to(device), len(cache.classes)


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
    return {
        name: ridge_accuracy(*rung_features(encoder, settings, paths, device, name, items)) for name in settings.scored
    }
