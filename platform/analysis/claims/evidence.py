"""What claims are judged on: the accuracies of a CSV file, or the record of a study."""

from __future__ import annotations

from pathlib import Path

from equipoise.platform.analysis.claims.judge import DEAD, Evidence
from equipoise.platform.analysis.claims.vocabulary import ClaimFile
from equipoise.platform.errors import StudyError
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.settings.mix import resolve
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.settings.variant import variants
from equipoise.platform.stats.published import read_csv, regimes_in
from equipoise.platform.stats.table import ResultTable


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


def from_studies(*records: StudyRecord) -> Evidence:
    """The finished trials of studies, with the settings each ran with and the items each got right.

    Args:
        records: of one study, or of several of different regimes, on which claims about several rest.

    Raises:
        TrackingError: a study without a finished trial, or a record without settings.
        StudyError: two studies of one regime: which of them a claim rests on would not be said.
        StatisticsError: outcomes of test items that are missing or do not fit together.
        StorageError: the place where its trials wrote cannot be reached.
    """
    titles, of, tables = [], dict[str, StudyRecord](), dict[str, ResultTable]()
    settings: dict[str, TrialSettings] = {}
    for record in records:
        table = record.table  # first: where nothing is finished it says so
        example = next(iter(record.settings.values()))
        regime = example.regime.name
        if regime in of:
            raise StudyError(
                f"studies {of[regime].name!r} and {record.name!r} are both of regime {regime}: claims rest on one "
                "study of a regime; equipoise pool puts several together"
            )
        of[regime], tables[regime] = record, table
        settings |= record.settings
        titles.append(
            f"study {record.name}, {regime} regime, preset {example.preset.name}, read {example.reading}, "
            f"{record.part} part"
        )
    widths = {s.preset.model.encoder.width for s in settings.values()}
    return Evidence(
        title="; ".join(titles),
        tables=tables,
        correctness={regime: record.correctness or {} for regime, record in of.items()},
        flags={v: frozenset({DEAD}) for v, s in settings.items() if any(t.detached for t in resolve(s).terms)},
        mixes={v: frozenset(k for k, o in s.variant.objectives.items() if o.weight > 0) for v, s in settings.items()},
        width=widths.pop() if len(widths) == 1 else None,
    )
