"""Pictures of what two frozen encoders see: a frame beside the principal components of its tokens."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from equipoise.data.cache import CacheError, ClipCache
from equipoise.data.decode_report import DecodeBudgetError
from equipoise.data.manifest import ManifestError
from equipoise.data.transforms import center_square, sample_frames
from equipoise.models.diagnostics import principal_colours
from equipoise.models.encoders import Encoder
from equipoise.platform.errors import CheckpointError, EquipoiseError
from equipoise.platform.record.home import Home
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.record.registry import MODEL_FOLDER
from equipoise.platform.trial import checkpoint as checkpoints
from equipoise.platform.trial.checkpoint import Checkpoint
from equipoise.platform.trial.encoders import frozen_encoder
from equipoise.platform.trial.features import extract, view
from equipoise.platform.trial.parts import part_items

CLIPS = 4
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """One clip as data URIs of PNG pictures.

    Attributes:
        benchmark: where the clip is from.
        label: its class.
        frame: its middle frame.
        maps: variant to its tokens' colours at that frame, one pixel per token.
    """

    benchmark: str
    label: str
    frame: str
    maps: dict[str, str]


@dataclass(frozen=True)
class Pictures:
    """Pictures of the same clips seen by several encoders.

    Attributes:
        pictures: the clips.
        names: variant and seed of every encoder, in order.
        record: the first encoder's checkpoint record: versions and manifest hashes.
        note: why there are none, or None.
    """

    pictures: tuple[Picture, ...] = ()
    names: tuple[tuple[str, int], ...] = ()
    record: dict[str, Any] | None = None
    note: str | None = None


def feature_pictures(record: StudyRecord, variants: Sequence[str]) -> Pictures:
    """Pictures of a few test clips by the encoders of ``variants``, one seed that all of them have.

    Args:
        record: of the study.
        variants: trained variants, two or more.

    Returns:
        The pictures, or a note on what they would need.
    """
    home = record.home
    runs = {(r.data.tags["variant"], int(r.data.tags["seed"])): r for r in record.finished}
    shared = set.intersection(*({s for v, s in runs if v == variant} for variant in variants))
    seeds = {v: min(shared) if shared else min(s for w, s in runs if w == v) for v in variants}
    found: list[Checkpoint] = []
    try:
        for variant, seed in seeds.items():
            found.append(_checkpoint(record, runs[variant, seed]))
        if not home.cache.is_dir():
            raise CheckpointError(f"the clip caches are not in {home.root.name}")
        pictures = _pictures(home, found)
    except (EquipoiseError, CacheError, DecodeBudgetError, ManifestError) as error:
        kept = found[0].record if found else None
        return Pictures(record=kept, note=f"There are no pictures of features: {_first_sentence(error)}.")
    return Pictures(tuple(pictures), tuple(seeds.items()), found[0].record)


def _first_sentence(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")


def _checkpoint(record: StudyRecord, run: Any) -> Checkpoint:
    """Checkpoint of a trial, from where it was written or from its run's artifacts."""
    kept, tracker = record.checkpoint(run), record.tracker
    if kept is not None and (checkpoints.find(kept) / checkpoints.RECORD).exists():
        return checkpoints.load(kept)
    if tracker.files(run.info.run_id, MODEL_FOLDER):
        with tempfile.TemporaryDirectory() as temporary:
            return checkpoints.load(tracker.fetch(run.info.run_id, MODEL_FOLDER, Path(temporary)))
    raise CheckpointError(f"the checkpoint of {run.info.run_name} is neither where it was written nor in the record")


def _pictures(home: Home, found: Sequence[Checkpoint]) -> list[Picture]:
    """The clips' frames and every encoder's colours for them; the colours of one encoder share one basis."""
    settings = found[0].settings
    clips = _clips(home, found[0])
    colours: list[Tensor] = []
    for one in found:
        encoder = frozen_encoder(one)
        tokens = [_middle_tokens(encoder, cache, index, one) for _, cache, index in clips]
        colours.append(principal_colours(torch.stack(tokens)))
    pictures = []
    size, frames = settings.preset.model.size, settings.preset.model.frames
    grid = found[0].settings.preset.model.grid("video")
    for place, (benchmark, cache, index) in enumerate(clips):
        maps = {
            one.settings.variant_name: _png(_bytes(c[place]).reshape(grid.height, grid.width, 3))
            for one, c in zip(found, colours, strict=True)
        }
        shown = _png(_middle_frame(cache.clip(index), frames, size, settings.preset.model.encoder.tubelet))
        pictures.append(Picture(benchmark, cache.classes[int(cache.labels[index])], shown, maps))
    return pictures


def _clips(home: Home, one: Checkpoint) -> list[tuple[str, ClipCache, int]]:
    """Benchmark, cache and index of a few select clips, spread over the benchmarks and over each of their parts."""
    settings = one.settings
    chosen: list[tuple[str, ClipCache, int]] = []
    for place in range(CLIPS):
        name = settings.scored[place % len(settings.scored)]
        benchmark = settings.regime.benchmarks[name]
        manifest = benchmark.select or benchmark.train
        if not (home.data / manifest).is_file():
            raise CheckpointError(f"the data set {manifest} is not in {home.root.name}")
        found = part_items(settings, home.paths, name, "select")
        turn = place // len(settings.scored) + 1
        row = int(found.rows[len(found.rows) * turn // (CLIPS // len(settings.scored) + 2)])
        chosen.append((name, found.cache, row))
    return chosen


def _middle_tokens(encoder: Encoder, cache: ClipCache, index: int, one: Checkpoint) -> Tensor:
    """``[K, W]`` tokens of a clip's middle time slot."""
    chosen = range(index, index + 1)
    features = extract(encoder, cache, **view(one.settings), pooled=False, device=torch.device("cpu"), rows=chosen)[0]
    slots = features.reshape(-1, encoder.grid.height * encoder.grid.width, features.shape[-1])
    return slots[len(slots) // 2]


def _middle_frame(clip: Pixels, frames: int, size: int, tubelet: int) -> Pixels:
    """The first frame of the middle time slot, cut as the encoder sees it: uint8 ``[size, size, 3]``."""
    if len(clip) == 1:
        chosen = clip
    else:
        at = sample_frames(len(clip), frames, mode="uniform")[frames // tubelet // 2 * tubelet]
        chosen = clip[at : at + 1]
    square: Pixels = center_square(torch.from_numpy(chosen.copy())[None], size)[0, 0].numpy()
    return square


def _bytes(colours: Tensor) -> Pixels:
    scaled: Pixels = (colours * 255).round().to(torch.uint8).numpy()
    return scaled


def _png(pixels: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
