"""The parts of a benchmark as a trial reads them: for fitting probes, for choosing, and what is opened last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from equipoise.data.cache import ClipCache
from equipoise.data.manifest import Manifest
from equipoise.data.parts import select_rows
from equipoise.platform.settings.parts import Part
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths
from equipoise.platform.trial.caches import open_cache


@dataclass(frozen=True)
class PartItems:
    """One part of a benchmark.

    Attributes:
        manifest: its manifest, relative to the data folder; that of the training split where it is cut from that.
        cache: clips of the manifest.
        rows: which of the cache's clips are of the part, int64, ascending.
    """

    manifest: str
    cache: ClipCache
    rows: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of every item."""
        return np.array(self.cache.labels, dtype=np.int64)[self.rows]

    @property
    def paths(self) -> tuple[str, ...]:
        """Path of every item."""
        return tuple(str(self.cache.paths[row]) for row in self.rows)


def part_items(settings: TrialSettings, paths: Paths, name: str, part: Part) -> PartItems:
    """Items of one part of a benchmark.

    Args:
        settings: of the trial.
        paths: where to read.
        name: the benchmark.
        part: ``train``, ``select`` or ``test``.

    Raises:
        ValueError: its manifest or clip cache cannot be read.
    """
    benchmark = settings.regime.benchmarks[name]
    own = {"train": benchmark.train, "select": benchmark.select or benchmark.train, "test": benchmark.test}[part]
    cache = open_cache(settings, paths, own)
    rows = np.arange(len(cache))
    if part != "test" and benchmark.select is None:
        manifest = Manifest.read(paths.data / own)
        cut = select_rows(manifest, settings.preset.probes[benchmark.probe].holdout)
        chosen = set(manifest.path[cut].tolist())  # by path: files that could not be read are not in the cache
        inside = np.array([path in chosen for path in cache.paths], dtype=np.bool_)
        rows = np.flatnonzero(inside == (part == "select"))
    return PartItems(own, cache, rows)


def manifests_of(settings: TrialSettings, part: Part) -> list[str]:
    """Manifests that scoring a trial on a part reads, benchmark by benchmark."""
    found = []
    for name in settings.scored:
        benchmark = settings.regime.benchmarks[name]
        found += [benchmark.train, *([benchmark.select] if benchmark.select else [])]
        found += [benchmark.test] if part == "test" else []
    return found
