"""Cheap scores of an encoder in the middle of its training: what early stopping compares.

They are taken on select items alone: up to a few hundred of a benchmark, the same ones for every trial, each predicted
from the others. No test item is read, so stopping early cannot lean on one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.models.encoders import Encoder
from equipoise.models.probes import ridge_accuracy
from equipoise.platform.seeds import generator
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths
from equipoise.platform.trial.features import extract, view
from equipoise.platform.trial.parts import part_items

COMMON_SEED = 0  # of the items: the same for every trial, so that trials differ by their encoders


def items_of(count: int, items: int) -> list[int]:
    """Which select items a rung looks at.

    Args:
        count: items of the select part.
        items: how many to look at, at most.

    Returns:
        Different items of the part in a random order that is the same for every trial.
    """
    return torch.randperm(count, generator=generator(COMMON_SEED, "rung.items"))[:items].tolist()


def rung_features(
    encoder: Encoder, settings: TrialSettings, paths: Paths, device: torch.device, benchmark: str, items: int
) -> tuple[Tensor, Tensor, int]:
    """What a rung looks at of one benchmark: features of one clip, labels, and the number of classes.

    Args:
        encoder: frozen, in evaluation mode.
        settings: the trial.
        paths: where to read.
        device: where to compute.
        benchmark: by name.
        items: how many select items, at most.

    Returns:
        float32 ``[n, K, W]``, or ``[n, W]`` where its probe reads their mean; int64 ``[n]``; C.
    """
    setting = settings.preset.probes[settings.regime.benchmarks[benchmark].probe]
    found = part_items(settings, paths, benchmark, "select")
    chosen = items_of(len(found.rows), items)
    rows = found.rows[chosen].tolist()
    features = extract(encoder, found.cache, **view(settings), pooled=setting.pooled, device=device, rows=rows)
    return features, torch.from_numpy(found.labels[chosen]).to(device), len(found.cache.classes)


def rung_scores(
    encoder: Encoder, settings: TrialSettings, paths: Paths, device: torch.device, items: int
) -> dict[str, float]:
    """Leave-one-out accuracy in percent on select items of every benchmark of a trial.

    Of ridge regression, on what the benchmark's own probe reads: all tokens, or their mean. On the miniature regime it
    tells more of the final accuracy than a short probe on the same items does (bench/search.md).

    Args:
        encoder: frozen, in evaluation mode.
        settings: the trial.
        paths: where to read.
        device: where to compute.
        items: how many select items of each benchmark, at most.
    """
    return {
        name: ridge_accuracy(*rung_features(encoder, settings, paths, device, name, items)) for name in settings.scored
    }
