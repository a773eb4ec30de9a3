"""Clip caches of a trial's manifests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from equipoise.data.cache import ClipCache, Runner
from equipoise.data.direct import DirectClips
from equipoise.data.manifest import Manifest
from equipoise.data.mixture import Source
from equipoise.platform.settings.preset import Preset
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths


def open_cache(
    settings: TrialSettings, paths: Paths, manifest: str, progress: Any = None, run: Runner | None = None
) -> ClipCache:
    """The clip cache of one manifest, built if it is not there yet; ``run`` spreads its shards over machines.

    With ``cache_storage: none`` nothing is built: clips are decoded at every reading.
    """
    found, preset = Manifest.read(paths.data / manifest), settings.preset
    if preset.cache_storage == "none":
        return DirectClips(found, preset.cache_size, preset.cache_frames)
    return ClipCache.open(found, paths.cache, **_stored(preset), progress=progress, run=run)


def check_cache_space(settings: TrialSettings, paths: Paths, manifests: Iterable[str]) -> None:
    """Refuse clip caches that do not fit on the disk together, before any is built."""
    if settings.preset.cache_storage == "none":
        return
    ClipCache.check_space([Manifest.read(paths.data / m) for m in manifests], paths.cache, **_stored(settings.preset))


def _stored(preset: Preset) -> dict[str, Any]:
    return {"size": preset.cache_size, "frames": preset.cache_frames, "storage": preset.cache_storage}


def open_sources(settings: TrialSettings, paths: Paths) -> list[Source]:
    """The regime's sources over their clip caches."""
    return [
        Source(name, open_cache(settings, paths, s.manifest), s.weight) for name, s in settings.regime.sources.items()
    ]
