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
from equipoise.models.probe_records import PROBES
from equipoise.models.probes import (
    AttentiveBank,
    Bank,
    BlocksBank,
    LinearBank,
    fit_bank,
    nearest_neighbours,
    predict,
)
from equipoise.platform.seeds import generator
from equipoise.platform.settings.parts import Part
from equipoise.platform.settings.preset import ProbeSetting
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths, Place
from equipoise.platform.trial.device import enough_memory
from equipoise.platform.trial.features import Split, split_features
from equipoise.platform.trial.parts import PartItems, part_items

LESS = "views, clips, levels or labels of its probe, model.size or model.frames"
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
    """Fit probes on the training items, choose on the select items, predict these or the test items.

    Args:
        train: ``[N V, W]`` or ``[N V, K, W]`` features of the training items, the V views of an item in a row.
        train_labels: int64 ``[N]``.
        select: features of the select items.
        select_labels: int64.
        classes: number of classes.
        setting: the probes.
        seed: of which items have labels, the initial weights and the order of items.
        test: features of the test items; None: the select items are what is predicted.

    Returns:
        Predicted class of every item, the winner's record, every probe's record.
    """
    views = setting.views
    rows = labelled(train_labels, setting, seed)
    if rows is not None:
        train = train.unflatten(0, (-1, views))[rows].flatten(0, 1) if views > 1 else train[rows]
        train_labels = train_labels[rows]
    train_labels = train_labels.repeat_interleave(views)  # a view is fitted as an item
    if setting.kind == "knn":
        records = [{"neighbours": float(k)} for k in setting.neighbours]
        found, predicted = (
            None
            if of is None
            else nearest_neighbours(train, train_labels, of, classes, setting.neighbours, views=views)
            for of in (select, test)
        )
    elif setting.kind in PROBES:
        found, predicted, records = _own(train, train_labels, select, test, classes, setting, seed)
    else:
        found, predicted, records = _bank(train, train_labels, select, test, classes, setting, seed)
    assert found is not None
    right = (found == select_labels).sum(1)
    for record, r in zip(records, right, strict=True):
        record["select_accuracy"] = 100 * int(r) / len(select_labels)
    winner = int(right.argmax())
    return (found if predicted is None else predicted)[winner], records[winner], records


def labelled(labels: Tensor, setting: ProbeSetting, seed: int) -> Tensor | None:
    """Which training items have labels where a probe is to learn from few: int64, ascending; None where all have.

    Of each class ``labels_per_class`` items, all where it has fewer, or ``labels_share`` of them, at least one. The
    same seed draws the same items for every variant.
    """
    if setting.labels_per_class is None and setting.labels_share is None:
        return None
    draw = generator(seed, "probe.labels")
    of = labels.cpu()
    chosen = []
    for label in of.unique():
        there = torch.nonzero(of == label).flatten()
        wanted = setting.labels_per_class or max(1, round((setting.labels_share or 0) * len(there)))
        chosen.append(there[torch.randperm(len(there), generator=draw)[:wanted]])
    return torch.cat(chosen).sort().values.to(labels.device)


def _own(
    train: Tensor,
    labels: Tensor,
    select: Tensor,
    test: Tensor | None,
    classes: int,
    setting: ProbeSetting,
    seed: int,
) -> tuple[Tensor, Tensor | None, list[dict[str, Any]]]:
    """Fit a probe of one's own with every combination of its parameters; returns as :func:`_bank` does."""
    views, record = setting.views, PROBES[setting.kind]
    grid = [dict(zip(setting.params, values, strict=True)) for values in itertools.product(*setting.params.values())]
    found: dict[str, list[Tensor]] = {"select": [], "test": []}
    for params in grid:
        score = record.fit(train, labels, classes, generator(seed, "probe.own"), **params)
        for part, of in (("select", select), ("test", test)):
            if of is not None:
                scores = torch.cat([score(x) for x in of.split(512 * views)])
                found[part].append(scores.softmax(-1).unflatten(0, (-1, views)).mean(1).argmax(-1))
    return torch.stack(found["select"]), torch.stack(found["test"]) if test is not None else None, grid


def _bank(
    train: Tensor,
    labels: Tensor,
    select: Tensor,
    test: Tensor | None,
    classes: int,
    setting: ProbeSetting,
    seed: int,
) -> tuple[Tensor, Tensor | None, list[dict[str, float]]]:
    """Train a bank; its predictions of the select items ``[G, items]``, of the test items, and its grid."""
    grid = list(itertools.product(setting.lr, setting.weight_decay))
    axes = tuple(range(train.ndim - 1))
    # Statistics of the fitting items only: nothing of any other item enters a probe's input.
    mean, std = train.mean(axes), train.std(axes).clamp_min(1e-6)
    draw = generator(seed, "probe.weights")
    many = (len(grid), train.shape[-1], classes)
    bank: Bank
    if setting.kind == "linear":
        bank = LinearBank(*many, draw)
    elif setting.blocks is None:
        bank = AttentiveBank(*many, setting.heads, draw)
    else:
        bank = BlocksBank(*many, setting.heads, setting.blocks, draw)
    bank.to(train.device)
    fit_bank(
        bank,
        (train - mean) / std,
        labels,
        rates=[rate for rate, _ in grid],
        decays=[decay for _, decay in grid],
        epochs=setting.epochs,
        batch=setting.batch,
        generator=generator(seed, "probe.order"),
    )
    found, predicted = (
        None if of is None else predict(bank, (of - mean) / std, views=setting.views) for of in (select, test)
    )
    assert found is not None
    return found, predicted, [{"lr": lr, "weight_decay": wd} for lr, wd in grid]


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
    found = []
    for name in settings.scored:
        with enough_memory(device, f"scoring on {name}", LESS):
            found.append(_scored(encoder, settings, paths, device, progress, features_of, name, part))
    return found


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
    probe_name = settings.regime.benchmarks[name].probe
    setting = settings.preset.probes[probe_name]
    wanted: tuple[Part, ...] = ("train", "select") if part == "select" else ("train", "select", "test")
    items = {one: part_items(settings, paths, name, one) for one in wanted}
    whole: dict[str, Tensor] = {}  # features by manifest: a select part may be cut from that of the training items
    for one, found in items.items():
        if found.manifest not in whole:
            split = Split(settings, paths, found.manifest, probe_name)
            told = None if progress is None else _named(progress, f"{name} {one} features")
            whole[found.manifest] = features_of(encoder, split, device, progress=told)
    features = {one: _of_items(whole[i.manifest], i, setting.views) for one, i in items.items()}
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


def _of_items(features: Tensor, items: PartItems, views: int) -> Tensor:
    """Features of a part's items among those of its whole manifest, with all views of each."""
    if len(items.rows) == len(items.cache):
        return features
    rows = torch.from_numpy(items.rows).to(features.device)
    return features[rows] if views == 1 else features.unflatten(0, (-1, views))[rows].flatten(0, 1)


def _named(progress: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)
