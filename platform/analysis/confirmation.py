"""How much of a search's gain survives on fresh seeds.

The gain that a search reports for its winner is the largest of many noisy numbers: part of it is luck, and the luck
does not come again (regression to the mean). The gain on fresh seeds had no part in the choice, so its interval is
honest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equipoise.platform.errors import StudyError
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.settings.variant import BASELINE
from equipoise.platform.stats.contrasts import contrast
from equipoise.platform.stats.pareto import SelectionError
from equipoise.platform.stats.selection import select
from equipoise.platform.stats.table import ResultTable, mean
from equipoise.platform.stats.uncertainty import Difference, Sample, holm


@dataclass(frozen=True, kw_only=True)
class ConfirmedGain:
    """What a variant, or the mean of all confirmed ones, gains over the baseline on one benchmark, in points.

    Attributes:
        variant: name; for the mean of several, ``top 3``.
        benchmark: where.
        search: gain in the study that is confirmed, biased upward by the choice.
        fresh: gain on fresh seeds, with its interval.
    """

    variant: str
    benchmark: str
    search: float
    fresh: Difference

    @property
    def share(self) -> float | None:
        """Share of the search's gain that is there on fresh seeds; None where the search had no gain."""
        return self.fresh.estimate / self.search if self.search > 0 else None

    @property
    def share_interval(self) -> tuple[float, float] | None:
        """Interval of ``share``, the search's gain being the number that it reported; None where unknown."""
        if self.search <= 0 or math.isnan(self.fresh.low):
            return None
        return self.fresh.low / self.search, self.fresh.high / self.search

    @property
    def verdict(self) -> str:
        """What fresh seeds say, in a few words."""
        if math.isnan(self.fresh.p_value):
            return "nothing is known of the error"
        if self.fresh.untestable is not None:
            return self.fresh.untestable
        if not self.fresh.distinguishable:
            return "not distinguishable from 0"
        return "confirmed as a gain" if self.fresh.estimate > 0 else "a loss"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record; a number that is not known is null."""
        f = self.fresh
        known = {"low": f.low, "high": f.high, "p_value": f.p_value}
        interval = self.share_interval
        return {
            "variant": self.variant,
            "benchmark": self.benchmark,
            "search_gain": self.search,
            "fresh_gain": f.estimate,
            **{key: None if math.isnan(value) else value for key, value in known.items()},
            "p_adjusted": f.p_adjusted,
            "source": f.source,
            "share": self.share,
            "share_interval": None if interval is None else list(interval),
            "verdict": self.verdict,
        }


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """A study's top variants on fresh seeds.

    Attributes:
        study: name of the confirmation.
        confirms: name of the study.
        variants: what was confirmed, best of the study first; those without a score on fresh seeds are in ``missing``.
        missing: see ``variants``.
        benchmarks: in the order in which they are shown.
        search_seeds: seeds of each variant, and of the baseline, in the study.
        fresh_seeds: seeds of the confirmation.
        gains: of every variant on every benchmark.
        together: mean gain of all variants, by benchmark.
        smallest: variant to its smallest gain over the benchmarks, which the study chose by, in points: in the study
            and on fresh seeds.
        baseline: benchmark to the baseline's mean accuracy in the study and on fresh seeds.
        balanced_before: the study's balanced variant, None where it has none.
        balanced: the balanced variant of the fresh seeds alone, None where they have none.
        sentences: the result in plain words.
        notes: what a reader must know, one sentence each.
    """

    study: str
    confirms: str
    variants: tuple[str, ...]
    missing: tuple[str, ...]
    benchmarks: tuple[str, ...]
    search_seeds: Mapping[str, tuple[int, ...]]
    fresh_seeds: tuple[int, ...]
    gains: tuple[ConfirmedGain, ...]
    together: Mapping[str, ConfirmedGain]
    smallest: Mapping[str, tuple[float, float]]
    baseline: Mapping[str, tuple[float, float]]
    balanced_before: str | None
    balanced: str | None
    sentences: tuple[str, ...]
    notes: tuple[str, ...]

    def of(self, variant: str) -> dict[str, ConfirmedGain]:
        """Gains of one variant by benchmark."""
        return {gain.benchmark: gain for gain in self.gains if gain.variant == variant}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        pairs = {"smallest_gain": self.smallest, "baseline": self.baseline}
        return {
            "study": self.study,
            "confirms": self.confirms,
            "variants": list(self.variants),
            "missing": list(self.missing),
            "benchmarks": list(self.benchmarks),
            "search_seeds": {name: list(seeds) for name, seeds in self.search_seeds.items()},
            "fresh_seeds": list(self.fresh_seeds),
            "gains": [gain.to_dict() for gain in self.gains],
            "together": [gain.to_dict() for gain in self.together.values()],
            **{key: {k: {"search": a, "fresh": b} for k, (a, b) in found.items()} for key, found in pairs.items()},
            "balanced_before": self.balanced_before,
            "balanced": self.balanced,
            "sentences": list(self.sentences),
            "notes": list(self.notes),
        }


def confirmation_of(record: StudyRecord, *, tolerance: float | None = None, level: float = 0.05) -> Confirmation | None:
    """What a confirmation found, from its record; None for a study of another kind.

    Args:
        record: of the confirmation.
        tolerance: points a balanced variant may lose; None for each study's noise floor.
        level: 0.05 for intervals of 95 %.

    Raises:
        TrackingError: no finished trial, or the study it confirms is not in the record.
        StudyError: the baseline has no score on fresh seeds.
        StatisticsError: outcomes of test items that are missing or do not fit together.
    """
    asked = record.definition
    if "confirms" not in asked:
        return None
    return compare_gains(
        record.name,
        asked["confirms"],
        tuple(asked["mixes"]),
        StudyRecord.open(record.home, asked["confirms"]).table,
        record.table,
        record.samples,
        tolerance=tolerance,
        level=level,
    )


def compare_gains(
    study: str,
    confirms: str,
    variants: Sequence[str],
    before: ResultTable,
    after: ResultTable,
    fresh: Mapping[tuple[str, str], Sample],
    *,
    tolerance: float | None = None,
    level: float = 0.05,
    draws: int = 4000,
) -> Confirmation:
    """Compare the gains of a search with those on fresh seeds.

    Args:
        study: name of the confirmation.
        confirms: name of the study.
        variants: what was confirmed, best first.
        before: the study's scores.
        after: the confirmation's scores.
        fresh: the same by (variant, benchmark), with the test items each got right where they are at hand.
        tolerance: points a balanced variant may lose; None for each study's noise floor.
        level: 0.05 for intervals of 95 %.
        draws: bootstrap draws behind an interval.

    Raises:
        StudyError: the baseline, or every variant, lacks a score.
    """
    benchmarks = after.benchmarks
    there = _scored(study, variants, benchmarks, fresh)
    old = before.means()
    gains: list[ConfirmedGain] = []
    together: dict[str, ConfirmedGain] = {}
    for b in benchmarks:
        searched = {v: old[v][b] - old[BASELINE][b] for v in there}
        mine, together[b] = _gains_on(b, searched, fresh, level, draws)
        gains += mine
    of = {v: [gain for gain in gains if gain.variant == v] for v in there}
    smallest = {v: (min(g.search for g in mine), min(g.fresh.estimate for g in mine)) for v, mine in of.items()}
    new = after.means()
    balanced_before, balanced = _balanced(before, tolerance), _balanced(after, tolerance)
    return Confirmation(
        study=study,
        confirms=confirms,
        variants=there,
        missing=tuple(v for v in variants if v not in there),
        benchmarks=benchmarks,
        search_seeds={v: before.seeds(v) for v in (*there, BASELINE)},
        fresh_seeds=tuple(sorted({s for v in (*there, BASELINE) for s in after.seeds(v)})),
        gains=tuple(gains),
        together=together,
        smallest=smallest,
        baseline={b: (old[BASELINE][b], new[BASELINE][b]) for b in benchmarks},
        balanced_before=balanced_before,
        balanced=balanced,
        sentences=(
            *(_survival(gain) for gain in together.values()),
            _regression(there[0], smallest),
            _choice(balanced_before, balanced, variants),
        ),
        notes=_notes(gains, tuple(v for v in variants if v not in there), before, there),
    )


def _scored(
    study: str, variants: Sequence[str], benchmarks: Sequence[str], fresh: Mapping[tuple[str, str], Sample]
) -> tuple[str, ...]:
    """Variants with a score on every benchmark.

    Raises:
        StudyError: there is none, or the baseline has none.
    """
    there = tuple(v for v in variants if all((v, b) in fresh for b in benchmarks))
    if not there or any((BASELINE, b) not in fresh for b in benchmarks):
        lacking = "any confirmed variant" if (BASELINE, benchmarks[0]) in fresh else "the baseline"
        raise StudyError(
            f"confirmation {study!r} has no score of {lacking} on every benchmark yet: go on with --resume, or see why "
            "its trials failed"
        )
    return there


def _gains_on(
    benchmark: str, searched: Mapping[str, float], fresh: Mapping[tuple[str, str], Sample], level: float, draws: int
) -> tuple[list[ConfirmedGain], ConfirmedGain]:
    """Gains of every variant on one benchmark, and of all together; ``searched``: gains in the search, in points."""
    base = (-1.0, fresh[BASELINE, benchmark])
    differences = holm([contrast(v, [(1.0, fresh[v, benchmark]), base], level=level, draws=draws) for v in searched])
    mine = [
        ConfirmedGain(variant=v, benchmark=benchmark, search=gain, fresh=difference)
        for (v, gain), difference in zip(searched.items(), differences, strict=True)
    ]
    name = f"top {len(mine)}" if len(mine) > 1 else mine[0].variant
    parts = [*((1 / len(mine), fresh[v, benchmark]) for v in searched), base]
    found = contrast(name, parts, level=level, draws=draws)
    return mine, ConfirmedGain(variant=name, benchmark=benchmark, search=mean(searched.values()), fresh=found)


def _balanced(table: ResultTable, tolerance: float | None) -> str | None:
    """The balanced variant; None also where there is neither tolerance nor noise floor."""
    try:
        found = select(table, tolerance=tolerance).balanced
    except SelectionError:
        return None
    return None if found is None else found.variant


def points(difference: Difference) -> str:
    """A gain with its interval."""
    if math.isnan(difference.low):
        return f"{difference.estimate:+.2f}"
    return f"{difference.estimate:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"


def _survival(gain: ConfirmedGain) -> str:
    """How much is left of the mean gain on one benchmark."""
    who = f"the {gain.variant} together" if gain.variant.startswith("top ") else gain.variant
    head = f"{gain.benchmark}: {who} {gain.search:+.2f} points in the search, {points(gain.fresh)} on fresh seeds"
    if gain.share is None:
        return f"{head} ({gain.verdict}); there was no gain that could survive."
    return f"{head}: {share_text(gain)} of the gain survives ({gain.verdict})."


def share_text(gain: ConfirmedGain) -> str:
    """The share that survives with its interval; none where nothing does, for a negative share says no more."""
    if gain.share is None:
        return ""
    text = f"{gain.share:.0%}" if gain.share > 0 else "none"
    interval = gain.share_interval
    return text if interval is None else f"{text} [{interval[0]:.0%}, {interval[1]:.0%}]"


def _regression(winner: str, smallest: Mapping[str, tuple[float, float]]) -> str:
    """What became of the number that the winner was chosen by."""
    was, now = smallest[winner]
    change = "smaller: a choice among many favours luck, which does not come again" if now < was else "not smaller"
    return (
        f"{winner} was first in the search by its smallest gain, {was:+.2f} points; on fresh seeds that is {now:+.2f}, "
        f"{change}."
    )


def _choice(before: str | None, after: str | None, variants: Sequence[str]) -> str:
    """Who is balanced now."""
    if after is None:
        was = f", {before} was in the search" if before else ""
        return f"On fresh seeds none of them is balanced{was}."
    if after == before:
        return f"{after} is balanced on fresh seeds, as in the search."
    was = f"{before} was in the search" if before else "in the search nothing was"
    left = " and is not among the confirmed" if before and before not in variants else ""
    return f"{after} is balanced on fresh seeds; {was}{left}."


def _notes(
    gains: Sequence[ConfirmedGain], missing: Sequence[str], before: ResultTable, variants: Sequence[str]
) -> tuple[str, ...]:
    """What a reader must know."""
    notes = []
    if missing:
        notes.append(f"No complete score on fresh seeds: {', '.join(missing)}.")
    single = [v for v in (*variants, BASELINE) if len(before.seeds(v)) == 1]
    if single:
        notes.append(f"One seed only in the search: {', '.join(single)}.")
    sources = {gain.fresh.source for gain in gains}
    if "items" in sources:
        notes.append("One fresh seed only: intervals cover test items, and another seed may give another sign.")
    if "seeds" in sources:
        notes.append("Which items were right is not at hand: intervals cover seeds, for this test set only.")
    if "none" in sources:
        notes.append("Nothing is known of the error of some gains: their scores show no spread over seeds and items.")
    notes.append(
        "A share is that of the gain as the search reported it; its interval is that of the gain on fresh seeds. Both "
        "studies have the same test items, so luck with items is still in it."
    )
    return tuple(notes)
