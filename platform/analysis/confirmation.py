"""Whether a study's candidate is balanced, and how much of a search's gain survives, on fresh seeds and test items.

The gain that a search reports for its winner is the largest of many noisy numbers: part of it is luck, and the luck
does not come again (regression to the mean). The gain on fresh seeds had no part in the choice, so its interval is
honest.

The candidate was named before a fresh seed was trained, so it is tested first, alone and at the full level: it is
balanced where each of its intervals lies above minus the tolerance, which was fixed before too. Nothing is picked among
the confirmed a second time. Stars are of one Holm family: every variant, and their mean, on every benchmark. What seeds
do is pooled over all variants that were trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from equipoise.platform.errors import StudyError
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.settings.variant import BASELINE
from equipoise.platform.stats.contrasts import block_residual, contrast
from equipoise.platform.stats.gains import gain
from equipoise.platform.stats.table import Part, ResultTable, mean
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
        at_least: variant to the interval of its smallest gain on fresh seeds: the smallest lower and the smallest upper
            end over the benchmarks; nan where one is not known.
        baseline: benchmark to the baseline's mean accuracy in the study and on fresh seeds.
        tolerance: benchmark to the points that a balanced variant may lose, fixed with the study.
        candidate: the variant that was named beforehand.
        balanced: the candidate, where it keeps within the tolerance on every benchmark; else None.
        better: whether the candidate's intervals lie above 0 on every benchmark.
        sentences: the result in plain words.
        notes: what a reader must know, one sentence each.
        parts: of the benchmarks, what the study was scored on and what the confirmation was.
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
    at_least: Mapping[str, tuple[float, float]]
    baseline: Mapping[str, tuple[float, float]]
    tolerance: Mapping[str, float]
    candidate: str
    balanced: str | None
    better: bool
    sentences: tuple[str, ...]
    notes: tuple[str, ...]
    parts: tuple[Part, Part]

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
            "smallest_interval": {
                v: None if math.isnan(low) else [low, high] for v, (low, high) in self.at_least.items()
            },
            "tolerance": dict(self.tolerance),
            "candidate": self.candidate,
            "balanced": self.balanced,
            "better_on_every_benchmark": self.better,
            "sentences": list(self.sentences),
            "notes": list(self.notes),
            "parts": {"search": self.parts[0], "fresh": self.parts[1]},
        }


def confirmation_of(record: StudyRecord, *, tolerance: float | None = None, level: float = 0.05) -> Confirmation | None:
    """What a confirmation found, from its record; None for a study of another kind.

    Args:
        record: of the confirmation.
        tolerance: points a balanced variant may lose; None for the noise floor of the study that is confirmed.
        level: 0.05 for intervals of 95 %.

    Raises:
        TrackingError: no finished trial, or the study it confirms is not in the record.
        StudyError: the baseline has no score on fresh seeds.
        StatisticsError: outcomes of test items that are missing or do not fit together.
    """
    asked = record.definition
    if "confirms" not in asked:
        return None
    source = StudyRecord.open(record.home, asked["confirms"])
    return compare_gains(
        record.name,
        asked["confirms"],
        tuple(asked["mixes"]),
        source.table,
        record.table,
        record.samples,
        tolerance=source.select(tolerance).tolerance,
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
    tolerance: Mapping[str, float],
    level: float = 0.05,
    draws: int = 4000,
) -> Confirmation:
    """Compare the gains of a search with those on fresh seeds.

    Args:
        study: name of the confirmation.
        confirms: name of the study.
        variants: what was confirmed; the first is the candidate.
        before: the study's scores.
        after: the confirmation's scores.
        fresh: the same by (variant, benchmark), with the test items each got right where they are at hand.
        tolerance: benchmark to the points a balanced variant may lose.
        level: 0.05 for intervals of 95 %.
        draws: bootstrap draws behind an interval.

    Raises:
        StudyError: the baseline, or every variant, lacks a score.
    """
    benchmarks = after.benchmarks
    there = _scored(study, variants, benchmarks, fresh)
    old, new = before.means(), after.means()
    searched = {(v, b): gain(before, v, BASELINE, b).points for v in there for b in benchmarks}
    gains, together = _gains(there, benchmarks, searched, fresh, level, draws)
    of = {v: [found for found in gains if found.variant == v] for v in there}
    smallest = {v: (min(g.search for g in mine), min(g.fresh.estimate for g in mine)) for v, mine in of.items()}
    at_least = {v: _ends([g.fresh for g in mine]) for v, mine in of.items()}
    candidate = variants[0]
    own = {g.benchmark: g.fresh for g in of.get(candidate, ())}
    kept = bool(own) and all(d.low > -tolerance[b] for b, d in own.items())  # never where an end is nan
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
        at_least=at_least,
        baseline={b: (old[BASELINE][b], new[BASELINE][b]) for b in benchmarks},
        tolerance=dict(tolerance),
        candidate=candidate,
        balanced=candidate if kept else None,
        better=kept and all(d.low > 0 for d in own.values()),
        sentences=(
            _verdict(candidate, own, at_least, tolerance),
            *(_survival(found) for found in together.values()),
            _regression(there[0], smallest),
        ),
        notes=_notes(gains, tuple(v for v in variants if v not in there), before, after, there),
        parts=(before.part, after.part),
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


def _gains(
    variants: Sequence[str],
    benchmarks: Sequence[str],
    searched: Mapping[tuple[str, str], float],
    fresh: Mapping[tuple[str, str], Sample],
    level: float,
    draws: int,
) -> tuple[list[ConfirmedGain], dict[str, ConfirmedGain]]:
    """Gains of every variant on every benchmark, and of all together: one Holm family.

    Args:
        variants: what was confirmed.
        benchmarks: where.
        searched: (variant, benchmark) to its gain in the search, in points.
        fresh: what was scored on fresh seeds.
        level: 0.05 for intervals of 95 %.
        draws: bootstrap draws behind an interval.
    """
    name = f"top {len(variants)}" if len(variants) > 1 else ""
    found = []
    for b in benchmarks:
        base = (-1.0, fresh[BASELINE, b])
        residual = block_residual([fresh[v, b] for v in (*variants, BASELINE)])
        rows = {v: [(1.0, fresh[v, b]), base] for v in variants}
        if name:
            rows[name] = [*((1 / len(variants), fresh[v, b]) for v in variants), base]
        found += [contrast(v, parts, residual=residual, level=level, draws=draws) for v, parts in rows.items()]
    gains, together = [], {}
    for d in holm(found):
        every = [searched[v, d.benchmark] for v in variants]
        search = mean(every) if d.variant == name else searched[d.variant, d.benchmark]
        one = ConfirmedGain(variant=d.variant, benchmark=d.benchmark, search=search, fresh=d)
        if d.variant != name:
            gains.append(one)
        if d.variant == name or not name:
            together[d.benchmark] = one
    return gains, together


def _ends(found: Sequence[Difference]) -> tuple[float, float]:
    """The smallest lower and the smallest upper end of several intervals; nan where one is not known.

    The smallest gain is above the first with at least the intervals' probability, and below the second.
    """
    ends = np.array([(d.low, d.high) for d in found])
    low, high = ends.min(0)  # nan stays nan
    return float(low), float(high)


def _verdict(
    candidate: str,
    own: Mapping[str, Difference],
    at_least: Mapping[str, tuple[float, float]],
    tolerance: Mapping[str, float],
) -> str:
    """Whether the candidate is balanced."""
    if not own:
        return f"{candidate}, the candidate, has no complete score on fresh seeds: it is not confirmed."
    low, high = at_least[candidate]
    if math.isnan(low):
        return f"{candidate} is not confirmed: nothing is known of the error of its gains."
    smallest = f"its smallest gain is {min(d.estimate for d in own.values()):+.2f} points [{low:+.2f}, {high:+.2f}]"
    limits = ", ".join(f"{b} {tolerance[b]:.2f}" for b in own)
    short = [b for b, d in own.items() if d.low <= -tolerance[b]]
    if short:
        return (
            f"{candidate} is not confirmed as balanced: {smallest}, and on {', '.join(short)} a loss of more than the "
            f"tolerance ({limits} points) is not excluded."
        )
    if all(d.low > 0 for d in own.values()):
        return f"{candidate} is balanced, and better than {BASELINE} on every benchmark: {smallest}."
    return f"{candidate} is balanced: {smallest}, and no loss beyond the tolerance ({limits} points) on any benchmark."


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


def _notes(
    gains: Sequence[ConfirmedGain],
    missing: Sequence[str],
    before: ResultTable,
    after: ResultTable,
    variants: Sequence[str],
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
    notes.append("What seeds do is pooled over the confirmed variants and the baseline.")
    notes.append(
        f"A share is that of the gain as the search reported it, on {before.part} items; its interval is that of the "
        f"gain on fresh seeds and {after.part} items."
    )
    return tuple(notes)
