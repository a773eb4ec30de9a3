"""Every variant of a study against a control, on every benchmark: one family of tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.settings.variant import BASELINE, CONTROLS
from equipoise.platform.stats.noise import SeedNoise, study_noise
from equipoise.platform.stats.uncertainty import Difference, Sample, compare, holm

Samples = Mapping[tuple[str, str], Sample]  # by variant and benchmark
Differences = dict[tuple[str, str], Difference]  # likewise


def against(
    control: str,
    variants: Sequence[str],
    benchmarks: Sequence[str],
    found: Samples,
    noise: SeedNoise,
    level: float = 0.05,
) -> Differences:
    """Differences of variants from a control, all of them one family for Holm's correction.

    Args:
        control: what is subtracted.
        variants: to be compared with it.
        benchmarks: on which.
        found: samples; what lacks one is left out.
        noise: what seeds do, for variants with one seed.
        level: 0.05 for intervals of 95 %.
    """
    family = [
        compare(found[v, b], found[control, b], noise=noise.residual(b), level=level)
        for v in variants
        for b in benchmarks
        if (v, b) in found and (control, b) in found
    ]
    return {(d.variant, d.benchmark): d for d in holm(family)}


def differences(record: StudyRecord, level: float = 0.05) -> Differences:
    """Differences of a study's trained variants from its baseline.

    Raises:
        TrackingError: no trial is finished.
        StatisticsError: outcomes of items that are missing or do not fit together.
        StorageError: the place where its trials wrote cannot be reached.
    """
    table = record.table
    mixes = [variant for variant in table.variants if variant not in CONTROLS]
    return against(BASELINE, mixes, table.benchmarks, record.samples, noise_of(record), level)


def noise_of(record: StudyRecord) -> SeedNoise:
    """What seeds do in a study; an encoder that was never trained says nothing of what a training's seed does."""
    return study_noise(record.table, leave_out=tuple(c for c in CONTROLS if c != BASELINE))
