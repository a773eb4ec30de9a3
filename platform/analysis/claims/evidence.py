"""What claims are judged on: the accuracies of a CSV file, or the record of a study."""

from __future__ import annotations

from pathlib import Path

from equipoise.platform.analysis.claims.judge import DEAD, Evidence
from equipoise.platform.analysis.claims.vocabulary import ClaimFile
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.settings.mix import resolve
from equipoise.platform.settings.variant import variants
from equipoise.platform.stats.published import read_csv, regimes_in


def from_csv(path: Path, claims: ClaimFile, title: str | None = None) -> Evidence:
    """Every regime of a CSV file that the claims speak of; variants are the shipped ones by name.

    Raises:
        ResultsError: as :func:`equipoise.platform.stats.published.read_csv`.
    """
    there = regimes_in(path)
    return Evidence(
        title=title or str(path),
        tables={
            regime: read_csv(path, regime, benchmarks=claims.benchmarks())
            for regime in claims.regimes()
            if regime in there
        },
        mixes={name: frozenset(variant.objectives) for name, variant in variants().items()},
    )


def from_study(record: StudyRecord) -> Evidence:
    """The finished trials of a study, with the settings each ran with and the items each got right.

    Raises:
        TrackingError: no finished trial, or a record without settings.
        StatisticsError: outcomes of test items that are missing or do not fit together.
        StorageError: the place where its trials wrote cannot be reached.
    """
    table, settings = record.table, record.settings
    example = next(iter(settings.values()))
    widths = {s.preset.model.encoder.width for s in settings.values()}
    return Evidence(
        title=(
            f"study {record.name}, {example.regime.name} regime, preset {example.preset.name}, read {example.reading}, "
            f"{record.part} part"
        ),
        tables={example.regime.name: table},
        correctness={example.regime.name: record.correctness or {}},
        flags={v: frozenset({DEAD}) for v, s in settings.items() if any(t.detached for t in resolve(s).terms)},
        mixes={v: frozenset(k for k, o in s.variant.objectives.items() if o.weight > 0) for v, s in settings.items()},
        width=widths.pop() if len(widths) == 1 else None,
    )
