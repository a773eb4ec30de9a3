"""Frozen transfer evaluation: features once, a bank of probes fitted on train, a winner chosen on select items."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from equipoise.data._files import Progress
from equipoise.models.encoders import Encoder
from equipoise.models.probes import AttentiveBank, LinearBank, fit_bank, predict
from equipoise.platform.seeds import generator
from equipoise.platform.settings.parts import Part
from equipoise.platform.settings.preset import ProbeSetting
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths, Place
from equipoise.platform.trial.features import Split, split_features
from equipoise.platform.trial.parts import part_items

PART = "equipoise.part"  # metadata of a file of outcomes: the part of its items


@dataclass(frozen=True)
class BenchmarkResult:
    """One encoder's score on one benchmark.

    Attributes:
        benchmark: name in the regime.
        part: that was scored: ``select`` or ``test``.
        accuracy: top-1 on that part, percent.
        items: of that part.
        chosen: learning rate and weight decay of the winner, and its accuracy on select items, percent.
        grid: the same of every probe of the bank.
        predicted: int64 ``[items]`` predicted class.
        labels: int64 ``[items]`` true class.
        paths: path of every item.
    """

    benchmark: str
    part: Part
    accuracy: float
    items: int
    chosen: Mapping[str, float]
    grid: tuple[Mapping[str, float], ...]
    predicted: np.ndarray[Any, np.dtype[np.int64]]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    paths: tuple[str, ...]

    def write(self, folder: Place) -> Place:
        """Store outcomes as ``BENCHMARK.parquet``: path, label, predicted, correct; in its metadata the part."""
        table = pa.table(
            {
                "path": list(self.paths),
                "label": self.labels,
                "predicted": self.predicted,
                "correct": self.predicted == self.labels,
            }
        ).replace_schema_metadata({PART: self.part})
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer)
        place = folder / f"{self.benchmark}.parquet"
        place.write(buffer.getvalue().to_pybytes())
        return place

    def summary(self) -> dict[str, Any]:
        """JSON-able record without the per-item vectors."""
        return {
            "benchmark": self.benchmark,
            "part": self.part,
            "accuracy": self.accuracy,
            "items": self.items,
            "chosen": dict(self.chosen),
            "grid": [dict(g) for g in self.grid],
        }


def probe(
    train: Tensor,
    train_labels: Tensor,
    select: Tensor,
    select_labels: Tensor,
    classes: int,
    setting: ProbeSetting,
    seed: int,
    test: Tensor | None = None,
) -> tuple[Tensor, dict[str, float], list[dict[str, float]]]:
    """Train a bank on the training items, choose on the select items, predict these or the test items.

    Args:
        train: ``[N, W]`` or ``[N, K, W]`` features of the training items.
        train_labels: int64 ``[N]``.
        select: features of the select items.
        select_labels: int64.
        classes: number of classes.
        setting: the bank.
        seed: of the initial weights and the order of items.
        test: features of the test items; None: the select items are what is predicted.

    Returns:
        Predicted class of every item, the winner's record, every probe's record.
    """
    grid = list(itertools.product(setting.lr, setting.weight_decay))
    axes = tuple(range(train.ndim - 1))
    # Statistics of the fitting items only: nothing of any other item enters a probe's input.
    mean, std = train.mean(axes), train.std(axes).clamp_min(1e-6)
    draw = generator(seed, "probe.weights")
    many = (len(grid), train.shape[-1], classes)
    linear = setting.pooling == "linear"
    bank = LinearBank(*many, draw) if linear else AttentiveBank(*many, setting.heads, draw)
    bank.to(train.device)
    fit_bank(
        bank,
        (train - mean) / std,
        train_labels,
        rates=[rate for rate, _ in grid],
        decays=[decay for _, decay in grid],
        epochs=setting.epochs,
        batch=setting.batch,
        generator=generator(seed, "probe.order"),
    )
    found = predict(bank, (select - mean) / std)  # [G, items]
    right = (found == select_labels).sum(1)
    records = [
        {"lr": lr, "weight_decay": wd, "select_accuracy": 100 * int(r) / len(select_labels)}
        for (lr, wd), r in zip(grid, right, strict=True)
    ]
    winner = int(right.argmax())
    predicted = found if test is None else predict(bank, (test - mean) / std)
    return predicted[winner], records[winner], records


def score(
    encoder: Encoder,
    settings: TrialSettings,
    paths: Paths,
    device: torch.device,
    progress: Progress | None = None,
    features_of: Callable[..., Tensor] = split_features,
    *,
    part: Part = "select",
) -> list[BenchmarkResult]:
    """Score a frozen encoder on every benchmark of a trial.

    Args:
        encoder: from :func:`frozen_encoder` or :func:`untrained_encoder`.
        settings: the trial.
        paths: where to read.
        device: where to compute.
        progress: called with a step's name, items done and items in all.
        features_of: :func:`split_features`, or what spreads it over several workers.
        part: ``select`` or ``test``; with ``select`` no test item is read.

    Returns:
        One result per benchmark, in order.
    """
    return [_scored(encoder, settings, paths, device, progress, features_of, name, part) for name in settings.scored]


def _scored(
    encoder: Encoder,
    settings: TrialSettings,
    paths: Paths,
    device: torch.device,
    progress: Progress | None,
    features_of: Callable[..., Tensor],
    name: str,
    part: Part,
) -> BenchmarkResult:
    """Score on one benchmark; arguments as of :func:`score`."""
    setting = settings.preset.probes[settings.regime.benchmarks[name].pooling]
    wanted: tuple[Part, ...] = ("train", "select") if part == "select" else ("train", "select", "test")
    items = {one: part_items(settings, paths, name, one) for one in wanted}
    whole: dict[str, Tensor] = {}  # features by manifest: a select part may be cut from that of the training items
    for one, found in items.items():
        if found.manifest not in whole:
            split = Split(settings, paths, found.manifest, setting.pooling == "linear")
            told = None if progress is None else _named(progress, f"{name} {one}")
            whole[found.manifest] = features_of(encoder, split, device, progress=told)
    features = {
        one: whole[i.manifest]
        if len(i.rows) == len(i.cache)
        else whole[i.manifest][torch.from_numpy(i.rows).to(device)]
        for one, i in items.items()
    }
    labels = {one: torch.from_numpy(i.labels).to(device) for one, i in items.items()}
    if progress is not None:
        progress(f"{name} probes", 0, 1)
    predicted, winner, grid = probe(
        features["train"],
        labels["train"],
        features["select"],
        labels["select"],
        len(items["train"].cache.classes),
        setting,
        settings.seed,
        features.get("test"),
    )
    correct = predicted == labels[part]
    return BenchmarkResult(
        benchmark=name,
        part=part,
        accuracy=100 * int(correct.sum()) / len(correct),
        items=len(correct),
        chosen=winner,
        grid=tuple(grid),
        predicted=predicted.cpu().numpy(),
        labels=labels[part].cpu().numpy(),
        paths=items[part].paths,
    )


def _named(progress: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)
