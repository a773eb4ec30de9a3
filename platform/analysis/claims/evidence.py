"""What claims are judged on: the accuracies of a CSV file, or the record of a study."""

from __future__ import annotations

from pathlib import Path

from equipoise.platform.analysis.claims.judge import DEAD, Evidence
from equipoise.platform.analysis.claims.vocabulary import ClaimFile
from equipoise.platform.record.home import Home
from equipoise.platform.record.reading import settings_of
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


def from_study(study: str, home: Home) -> Evidence:
    """The finished trials of a study, with the settings each ran with and the test items each got right.

    Raises:
        TrackingError: no such study, no finished trial, or a record without settings.
        StatisticsError: outcomes of test items that are missing or do not fit together.
        StorageError: the place where its trials wrote cannot be reached.
    """
    from equipoise.platform.record.correctness import read_correctness

    tracker = home.tracker()
    parent = tracker.study_run(study)
    name = parent.data.tags["equipoise.study"]
    table = tracker.result_table(study)
    settings = settings_of(tracker, parent.info.run_id)
    example = next(iter(settings.values()))
    # A study on a tracking server may have its folder on another machine: then only its accuracies are at hand.
    at_hand = (home.folder(name) / "ledger.db").is_file()
    correctness = read_correctness(home.folder(name), home.trials(name)) if at_hand else {}
    widths = {s.preset.model.encoder.width for s in settings.values()}
    return Evidence(
        title=f"study {name}, {example.regime.name} regime, preset {example.preset.name}, read {example.reading}",
        tables={example.regime.name: table},
        correctness={example.regime.name: correctness},
        flags={v: frozenset({DEAD}) for v, s in settings.items() if any(t.detached for t in resolve(s).terms)},
        mixes={v: frozenset(k for k, o in s.variant.objectives.items() if o.weight > 0) for v, s in settings.items()},
        width=widths.pop() if len(widths) == 1 else None,
    )
