"""Frozen transfer evaluation: features once, a bank of probes, a winner chosen on held-out training items."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from equipoise.data._files import Progress
from equipoise.data.cache import ClipCache
from equipoise.data.decode import Frames
from equipoise.data.transforms import center_crop_resize, sample_frames
from equipoise.models.encoder import VideoEncoder
from equipoise.models.probes import AttentiveBank, LinearBank, fit_bank, predict
from equipoise.platform.checkpoint import Checkpoint, load_strictly
from equipoise.platform.errors import CheckpointError
from equipoise.platform.home import Paths
from equipoise.platform.mix import resolve
from equipoise.platform.seeds import generator
from equipoise.platform.settings import ProbeSetting, TrialSettings
from equipoise.platform.storage import Place
from equipoise.platform.training import build_model, open_cache

EXTRACT_BATCH = 32  # clips that go through a frozen encoder together; 64 of `nano` take 7 % longer each on a processor


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


def frozen_encoder(found: Checkpoint) -> VideoEncoder:
    """The encoder that evaluation scores, in evaluation mode.

    Raises:
        CheckpointError: if it is of other shapes, or its parameters still equal their initialisation although the
            variant was trained.
    """
    mix = resolve(found.settings)
    model = build_model(found.settings, mix)
    start = {k: v.clone() for k, v in model.target_encoder.state_dict().items()}
    load_strictly(model, found.state["model"], found.path)
    encoder = model.target_encoder if mix.evaluated == "target" else model.encoder
    moved = any(not torch.equal(v, start[k]) for k, v in encoder.state_dict().items())
    if not moved and not mix.untrained_allowed:
        raise CheckpointError(
            f"checkpoint {found.path}: the {mix.evaluated} encoder still equals its initialisation after "
            f"{found.step} steps, so scoring variant {found.settings.variant_name!r} would score an untrained encoder"
        )
    return encoder.eval().requires_grad_(False)


def untrained_encoder(settings: TrialSettings) -> VideoEncoder:
    """The encoder of a trial before its first step: what the control ``random_init`` scores."""
    return build_model(settings, resolve(settings)).target_encoder.eval().requires_grad_(False)


@torch.inference_mode()
def extract(
    encoder: VideoEncoder,
    cache: ClipCache,
    *,
    frames: int,
    size: int,
    pooled: bool,
    device: torch.device,
    repeat_stills: bool = False,
    rows: Sequence[int] | None = None,
    batch: int = EXTRACT_BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Features of clips of a cache, in its order: the deepest level, ``frames`` uniform frames, centre crop.

    Args:
        encoder: frozen, in evaluation mode.
        cache: clips of one kind.
        frames: frames of a clip; a still image is one frame, or as many equal ones with ``repeat_stills``.
        size: side of the crop in pixels.
        pooled: mean over tokens.
        device: where to compute.
        repeat_stills: show a still image as a still clip: what an encoder needs that was trained on images as clips,
            because its one-frame embedding then never moved.
        rows: which clips, in which order; None: all.
        batch: clips at a time.
        progress: called with clips done and clips in all.

    Returns:
        float32 ``[N, W]`` if pooled, else ``[N, K, W]``, on ``device``.
    """
    encoder.to(device)
    found: list[Tensor] = []
    wanted = range(len(cache)) if rows is None else rows
    for start, chosen in _read_ahead(cache, wanted, batch, frames, repeat_stills):
        # Their cached frames may differ in shape: those that do not are cropped together.
        alike = len({c.shape for c in chosen}) == 1
        stacks = [np.stack(chosen)] if alike else [c[None] for c in chosen]
        cropped = [center_crop_resize(torch.from_numpy(s).to(device), size) for s in stacks]
        patches, kind = encoder.patches(torch.cat(cropped))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            features = encoder(patches, kind, last_only=True)
        features = features.float()
        found.append(features.mean(1) if pooled else features)
        if progress is not None:
            progress(min(start + batch, len(wanted)), len(wanted))
    return torch.cat(found)


def _read_ahead(
    cache: ClipCache, wanted: Sequence[int], batch: int, frames: int, repeat_stills: bool
) -> Iterator[tuple[int, list[Frames]]]:
    """Place and uniform frames of each batch of clips, one batch ahead: the encoder never waits for a file."""

    def read(start: int) -> list[Frames]:
        found: list[Frames] = []
        for clip in wanted[start : start + batch]:
            there = int(cache.shapes[clip, 0])
            numbers = sample_frames(there, frames if there > 1 or repeat_stills else 1, mode="uniform")
            found.append(cache.frames(clip, numbers))
        return found

    with ThreadPoolExecutor(1, thread_name_prefix="clip-reader") as pool:
        ahead = pool.submit(read, 0)
        for start in range(0, len(wanted), batch):
            found = ahead.result()
            if start + batch < len(wanted):
                ahead = pool.submit(read, start + batch)
            yield start, found


def split_features(
    encoder: VideoEncoder,
    settings: TrialSettings,
    paths: Paths,
    manifest: str,
    pooled: bool,
    device: torch.device,
    part: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Features of one split of a benchmark, or of a part of it: joined in order, the parts are the whole, bit for bit.

    Args:
        encoder: frozen, in evaluation mode.
        settings: the trial.
        paths: where to read.
        manifest: the split's, relative to the data folder.
        pooled: mean over tokens.
        device: where to compute.
        part: which part, and of how many; a part may be empty.
        progress: called with clips done and clips in all.

    Returns:
        float32 ``[n, W]`` if pooled, else ``[n, K, W]``; ``[0]`` for an empty part.
    """
    cache = open_cache(settings, paths, manifest)
    batches = math.ceil(len(cache) / EXTRACT_BATCH)
    # Whole batches, so that the same clips go through the encoder together however many parts there are.
    low, high = (min(EXTRACT_BATCH * (batches * k // part[1]), len(cache)) for k in (part[0], part[0] + 1))
    model = settings.preset.model
    if low == high:
        return torch.zeros(0, device=device)
    return extract(
        encoder,
        cache,
        frames=model.frames,
        size=model.size,
        pooled=pooled,
        device=device,
        repeat_stills=resolve(settings).images == "repeat",
        rows=range(low, high),
        batch=EXTRACT_BATCH,
        progress=progress,
    )


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
        bank: LinearBank | AttentiveBank
        if setting.pooling == "linear":
            bank = LinearBank(len(rates), train.shape[-1], classes, draw)
        else:
            bank = AttentiveBank(len(rates), train.shape[-1], classes, setting.heads, draw)
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
                settings,
                paths,
                getattr(benchmark, split),
                setting.pooling == "linear",
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
