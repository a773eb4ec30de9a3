"""Features of a frozen encoder, a part of a manifest at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.data.cache import ClipCache
from equipoise.data.decode import Frames
from equipoise.data.transforms import center_crop_resize, sample_frames
from equipoise.models.encoders import Encoder
from equipoise.platform.settings.mix import resolve
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths
from equipoise.platform.trial.caches import open_cache
from equipoise.platform.trial.device import has_bfloat16

EXTRACT_BATCH = 32  # clips that go through a frozen encoder together; 64 of `nano` take 7 % longer each on a processor


@torch.inference_mode()
def extract(
    encoder: Encoder,
    cache: ClipCache,
    *,
    frames: int,
    size: int,
    pooled: bool,
    device: torch.device,
    repeat_stills: bool = False,
    clips: int = 1,
    views: int = 1,
    all_levels: bool = False,
    rows: Sequence[int] | None = None,
    batch: int = EXTRACT_BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Features of items of a cache, in its order: the deepest level, ``frames`` uniform frames, centre crop.

    Args:
        encoder: frozen, in evaluation mode.
        cache: clips of one kind.
        frames: frames of a clip; a still image is one frame, or as many equal ones with ``repeat_stills``.
        size: side of the crop in pixels.
        pooled: mean over tokens.
        device: where to compute.
        clips: of an item, one after the other in time, each of ``frames`` frames; a still image is one.
        views: crops of an item, spread evenly along its longer side.
        all_levels: all levels of the encoder: one after the other among the tokens, or if pooled among the channels.
        repeat_stills: show a still image as a still clip: what an encoder needs that was trained on images as clips,
            because its one-frame embedding then never moved.
        rows: which clips, in which order; None: all.
        batch: items at a time.
        progress: called with items done and items in all.

    Returns:
        float32 ``[N V, W]`` if pooled, else ``[N V, K, W]``, on ``device``; the V views of an item one after the other.
    """
    encoder.to(device)
    found: list[Tensor] = []
    wanted = range(len(cache)) if rows is None else rows
    for start, chosen in _read_ahead(cache, wanted, batch, clips * frames, repeat_stills):
        # Their cached frames may differ in shape: those that do not are cropped together.
        alike = len({c.shape for c in chosen}) == 1
        stacks = [np.stack(chosen)] if alike else [c[None] for c in chosen]
        seen: list[Tensor] = []
        for view in range(views):
            place = view / (views - 1) if views > 1 else 0.5
            cropped = torch.cat([center_crop_resize(torch.from_numpy(s).to(device), size, place) for s in stacks])
            seen.append(_encoded(encoder, cropped, 1 if cropped.shape[2] == 1 else clips, pooled, all_levels))
        found.append(seen[0] if views == 1 else torch.stack(seen, dim=1).flatten(0, 1))
        if progress is not None:
            progress(min(start + batch, len(wanted)), len(wanted))
    return torch.cat(found)


def _encoded(encoder: Encoder, items: Tensor, clips: int, pooled: bool, all_levels: bool) -> Tensor:
    """Features of cropped items ``[B, 3, clips F, S, S]``; arguments as of :func:`extract`."""
    cut = (
        items if clips == 1 else items.unflatten(2, (clips, -1)).transpose(1, 2).flatten(0, 1)
    )  # [B clips, 3, F, S, S]
    patches, kind = encoder.patches(cut)
    with torch.autocast(items.device.type, dtype=torch.bfloat16, enabled=has_bfloat16(items.device)):
        features = encoder(patches, kind, last_only=not all_levels)
    found: Tensor = features.float()
    if clips > 1:
        found = found.unflatten(0, (-1, clips)).flatten(1, 2)
    if pooled:
        return found.mean(1)
    return torch.cat(found.chunk(encoder.config.levels, dim=2), dim=1) if all_levels else found


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


@dataclass(frozen=True)
class Split:
    """A split of a benchmark as a trial's encoder sees it.

    Attributes:
        settings: the trial.
        paths: where to read.
        manifest: the split's, relative to the data folder.
        probe: name of the probe that reads it.
    """

    settings: TrialSettings
    paths: Paths
    manifest: str
    probe: str


def view(settings: TrialSettings) -> dict[str, Any]:
    """Arguments of :func:`extract` by which a frozen encoder sees clips as its training did."""
    model = settings.preset.model
    return {"frames": model.frames, "size": model.size, "repeat_stills": resolve(settings).images == "repeat"}


def split_features(
    encoder: Encoder,
    split: Split,
    device: torch.device,
    part: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Features of one split of a benchmark, or of a part of it: joined in order, the parts are the whole, bit for bit.

    Args:
        encoder: frozen, in evaluation mode.
        split: which, and how it is seen.
        device: where to compute.
        part: which part, and of how many; a part may be empty.
        progress: called with clips done and clips in all.

    Returns:
        float32 ``[n V, W]`` or ``[n V, K, W]``, as :func:`extract` gives it to the probe; ``[0]`` for an empty part.
    """
    cache = open_cache(split.settings, split.paths, split.manifest)
    batches = math.ceil(len(cache) / EXTRACT_BATCH)
    # Whole batches, so that the same clips go through the encoder together however many parts there are.
    low, high = (min(EXTRACT_BATCH * (batches * k // part[1]), len(cache)) for k in (part[0], part[0] + 1))
    if low == high:
        return torch.zeros(0, device=device)
    setting = split.settings.preset.probes[split.probe]
    return extract(
        encoder,
        cache,
        **view(split.settings),
        pooled=setting.pooled,
        clips=setting.clips,
        views=setting.views,
        all_levels=setting.levels == "all",
        device=device,
        rows=range(low, high),
        batch=EXTRACT_BATCH,
        progress=progress,
    )
