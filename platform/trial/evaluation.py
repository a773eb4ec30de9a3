"""Frozen transfer evaluation: features once, a bank of probes, a winner chosen on held-out training items."""

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
from equipoise.models.encoder import VideoEncoder
from equipoise.models.probes import AttentiveBank, LinearBank, fit_bank, predict
from equipoise.platform.seeds import generator
from equipoise.platform.settings.preset import ProbeSetting
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths, Place
from equipoise.platform.trial.caches import open_cache
from equipoise.platform.trial.features import Split, split_features


@dataclass(frozen=True)
class BenchmarkResult:
    """One encoder's score on one benchmark.

    Attributes:
        benchmark: name in the regime.
        accuracy: top-1 on the test split, percent.
        items: test items.
        chosen: learning rate and weight decay of the winner, and its held-out accuracy, percent.
        grid: the same of every probe of the bank; a single probe has no held-out accuracy.
        predicted: int64 ``[items]`` predicted class.
        labels: int64 ``[items]`` true class.
        paths: path of every test item.
    """

    benchmark: str
    accuracy: float
    items: int
    chosen: Mapping[str, float]
    grid: tuple[Mapping[str, float], ...]
    predicted: np.ndarray[Any, np.dtype[np.int64]]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    paths: tuple[str, ...]

    def write(self, folder: Place) -> Place:
        """Store the per-item outcome as ``BENCHMARK.parquet``: path, label, predicted, correct."""
        table = pa.table(
            {
                "path": list(self.paths),
                "label": self.labels,
                "predicted": self.predicted,
                "correct": self.predicted == self.labels,
            }
        )
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer)
        place = folder / f"{self.benchmark}.parquet"
        place.write(buffer.getvalue().to_pybytes())
        return place

    def summary(self) -> dict[str, Any]:
        """JSON-able record without the per-item vectors."""
        return {
            "benchmark": self.benchmark,
            "accuracy": self.accuracy,
            "items": self.items,
            "chosen": dict(self.chosen),
            "grid": [dict(g) for g in self.grid],
        }


def probe(
    train: Tensor, train_labels: Tensor, test: Tensor, classes: int, setting: ProbeSetting, seed: int
) -> tuple[Tensor, dict[str, float], list[dict[str, float]]]:
    """Train a bank on part of the training items, choose on the rest, refit the winner on all, predict the test items.

    A bank of one probe has nothing to choose: it is trained once, on all training items, and has no held-out accuracy.

    Args:
        train: ``[N, W]`` or ``[N, K, W]`` features of the training split.
        train_labels: int64 ``[N]``.
        test: features of the test split.
        classes: number of classes.
        setting: the bank.
        seed: of the split, the initial weights and the order of items.

    Returns:
        Predicted class of every test item, the winner's record, every probe's record.
    """
    N = len(train)
    grid = list(itertools.product(setting.lr, setting.weight_decay))
    order = torch.randperm(N, generator=generator(seed, "probe.holdout")).to(train.device)
    held = max(1, round(setting.holdout * N)) if len(grid) > 1 else 0
    choose, fit = order[:held], order[held:]
    axes = tuple(range(train.ndim - 1))
    # Statistics of the fitting items only: nothing of a held-out or test item enters a probe's input.
    mean, std = train[fit].mean(axes), train[fit].std(axes).clamp_min(1e-6)
    train, test = (train - mean) / std, (test - mean) / std

    def fitted(rates: list[float], decays: list[float], items: Tensor) -> LinearBank | AttentiveBank:
        draw = generator(seed, "probe.weights")
        many = (len(rates), train.shape[-1], classes)
        linear = setting.pooling == "linear"
        bank = LinearBank(*many, draw) if linear else AttentiveBank(*many, setting.heads, draw)
        bank.to(train.device)
        fit_bank(
            bank,
            train[items],
            train_labels[items],
            rates=rates,
            decays=decays,
            epochs=setting.epochs,
            batch=setting.batch,
            generator=generator(seed, "probe.order"),
        )
        return bank

    if not held:
        rate, decay = grid[0]
        only = {"lr": rate, "weight_decay": decay}
        return predict(fitted([rate], [decay], order), test)[0], only, [only]
    bank = fitted([g[0] for g in grid], [g[1] for g in grid], fit)
    right = (predict(bank, train[choose]) == train_labels[choose]).sum(1)
    records = [
        {"lr": lr, "weight_decay": wd, "holdout_accuracy": 100 * int(r) / held}
        for (lr, wd), r in zip(grid, right, strict=True)
    ]
    winner = records[int(right.argmax())]
    final = fitted([winner["lr"]], [winner["weight_decay"]], order)
    return predict(final, test)[0], winner, records


def score(
    encoder: VideoEncoder,
    settings: TrialSettings,
    paths: Paths,
    device: torch.device,
    progress: Progress | None = None,
    features_of: Callable[..., Tensor] = split_features,
) -> list[BenchmarkResult]:
    """Score a frozen encoder on every benchmark of a trial.

    Args:
        encoder: from :func:`frozen_encoder` or :func:`untrained_encoder`.
        settings: the trial.
        paths: where to read.
        device: where to compute.
        progress: called with a step's name, items done and items in all.
        features_of: :func:`split_features`, or what spreads it over several workers.

    Returns:
        One result per benchmark, in order.
    """
    results: list[BenchmarkResult] = []
    preset = settings.preset
    for name in settings.scored:
        benchmark = settings.regime.benchmarks[name]
        setting = preset.probes[benchmark.pooling]
        caches = {split: open_cache(settings, paths, getattr(benchmark, split)) for split in ("train", "test")}
        features = {
            split: features_of(
                encoder,
                Split(settings, paths, getattr(benchmark, split), setting.pooling == "linear"),
                device,
                progress=None if progress is None else _named(progress, f"{name} {split}"),
            )
            for split in caches
        }
        labels = {split: torch.from_numpy(np.array(cache.labels)).to(device) for split, cache in caches.items()}
        if progress is not None:
            progress(f"{name} probes", 0, 1)
        predicted, winner, grid = probe(
            features["train"], labels["train"], features["test"], len(caches["train"].classes), setting, settings.seed
        )
        correct = predicted == labels["test"]
        results.append(
            BenchmarkResult(
                benchmark=name,
                accuracy=100 * int(correct.sum()) / len(correct),
                items=len(correct),
                chosen=winner,
                grid=tuple(grid),
                predicted=predicted.cpu().numpy(),
                labels=labels["test"].cpu().numpy(),
                paths=tuple(caches["test"].paths),
            )
        )
    return results


def _named(progress: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)
