"""Whether a study's differences are there again on fresh seeds: both differences, and what they say together.

A difference is *replicated* where it was more than chance in the study, is more than chance on fresh seeds, and has the
same sign; Holm's correction counts all differences of each of the two as one family. What is not distinguishable from 0
on fresh seeds is called that, with its sign: to fail to find is not to refute. A difference is *refuted* where the two
estimates are farther apart than their errors allow, or the fresh one is more than chance with the other sign.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from equipoise.platform.analysis.differences import Differences, differences, noise_of
from equipoise.platform.errors import StudyError
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.settings.variant import BASELINE, CONTROLS
from equipoise.platform.stats.resampling import Spread
from equipoise.platform.stats.table import Part
from equipoise.platform.stats.uncertainty import Difference, Sample, compare

MANY = 1e9  # degrees of freedom
REPLICATED, REFUTED, NEW = "replicated", "refuted", "found only on fresh seeds"
SAME, OTHER = "not found again, same sign", "not found again, other sign"
NEITHER, UNKNOWN = "in neither", "not testable"


@dataclass(frozen=True, kw_only=True)
class Replicated:
    """One difference from the baseline, in the study and on fresh seeds, in points.

    Attributes:
        study: as it was.
        fresh: on fresh seeds.
        combined: of both, over all their seeds where the items are the same, else weighed by precision.
        low: lower end of its interval; nan where an error is not known.
        high: upper end.
        apart: p-value of the difference between the two estimates, as if they were on different items, which is
            cautious; nan where an error is not known.
    """

    study: Difference
    fresh: Difference
    combined: float
    low: float
    high: float
    apart: float

    @property
    def variant(self) -> str:
        """Name of the variant."""
        return self.study.variant

    @property
    def benchmark(self) -> str:
        """Name of the benchmark."""
        return self.study.benchmark

    @property
    def verdict(self) -> str:
        """What the two say together, in a few words."""
        was, now = self.study, self.fresh
        same = was.estimate * now.estimate > 0
        if math.isnan(now.p_value) or now.untestable is not None:
            return UNKNOWN
        if not was.distinguishable:
            return NEW if now.distinguishable else NEITHER
        if now.distinguishable:
            return REPLICATED if same else REFUTED
        if self.apart < now.level:
            return REFUTED
        return SAME if same else OTHER

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record; a number that is not known is null."""

        def known(value: float) -> float | None:
            return None if math.isnan(value) else value

        both = {
            key: {
                "estimate": one.estimate,
                "low": known(one.low),
                "high": known(one.high),
                "p_adjusted": one.p_adjusted,
                "seeds": list(one.seeds),
            }
            for key, one in (("study", self.study), ("fresh", self.fresh))
        }
        combined = {"estimate": self.combined, "low": known(self.low), "high": known(self.high)}
        record = {"variant": self.variant, "benchmark": self.benchmark, **both, "combined": combined}
        return {**record, "apart": known(self.apart), "verdict": self.verdict}


@dataclass(frozen=True, kw_only=True)
class Replication:
    """A study and its replication.

    Attributes:
        study: name of the study.
        replication: name of its replication.
        part: of the benchmarks that both were scored on.
        seeds: fresh ones.
        benchmarks: in the order in which they are shown.
        differences: of every variant on every benchmark.
        notes: what a reader must know, one sentence each.
    """

    study: str
    replication: str
    part: Part
    seeds: tuple[int, ...]
    benchmarks: tuple[str, ...]
    differences: tuple[Replicated, ...]
    notes: tuple[str, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        """How many differences came to each verdict."""
        found: dict[str, int] = {}
        for one in self.differences:
            found[one.verdict] = found.get(one.verdict, 0) + 1
        return found

    @property
    def sentence(self) -> str:
        """The result in plain words."""
        was = [d for d in self.differences if d.study.distinguishable]
        again = sum(d.verdict == REPLICATED for d in was)
        against = sum(d.verdict == REFUTED for d in was)
        sign = sum(d.study.estimate * d.fresh.estimate > 0 for d in self.differences)
        return (
            f"Of {len(was)} differences that were more than chance in {self.study}, {again} are replicated and "
            f"{against} refuted on {len(self.seeds)} fresh seeds; {sign} of all {len(self.differences)} have the same "
            "sign."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {
            "study": self.study,
            "replication": self.replication,
            "part": self.part,
            "seeds": list(self.seeds),
            "sentence": self.sentence,
            "verdicts": dict(self.counts),
            "differences": [one.to_dict() for one in self.differences],
            "notes": list(self.notes),
        }


def replication_of(record: StudyRecord, source: StudyRecord, *, level: float = 0.05) -> Replication:
    """Compare a replication with the study that it repeats.

    Args:
        record: of the replication.
        source: of the study.
        level: 0.05 for intervals of 95 %.

    Raises:
        StudyError: the one is no replication of the other, or they share no scored variant.
        TrackingError: no trial of one of them is finished.
        SelectionError: a baseline is missing.
    """
    if record.definition.get("replicates") != source.name:
        raise StudyError(f"study {record.name!r} does not replicate {source.name!r}")
    was, now = differences(source, level), differences(record, level)
    shared = [key for key in was if key in now]
    if not shared:
        raise StudyError(f"study {record.name!r} has no finished variant of {source.name!r} yet: go on with --resume")
    notes = []
    hashes = [{run.data.tags.get("manifest_hash") for run in one.trials} for one in (source, record)]
    same = hashes[0] == hashes[1]
    if not same:
        notes.append("The data is not that of the study: what differs may be that.")
    together = _together(source, record, level) if same else {}
    missing = [v for v in record.definition["mixes"] if not any(key[0] == v for key in shared)]
    if missing:
        notes.append(f"Without a score on fresh seeds: {', '.join(missing)}.")
    return Replication(
        study=source.name,
        replication=record.name,
        part=record.part,
        seeds=tuple(record.definition["seeds"]),
        benchmarks=record.benchmarks,
        differences=tuple(_both(was[key], now[key], together.get(key)) for key in shared),
        notes=tuple(notes),
    )


def _together(source: StudyRecord, record: StudyRecord, level: float) -> Differences:
    """Differences over the seeds of both studies, on the items that both were scored on."""
    old, new, noise = source.samples, record.samples, noise_of(source)
    both = {key: _merged(old[key], new[key]) for key in old if key in new}
    return {
        (v, b): compare(sample, both[BASELINE, b], noise=noise.residual(b), level=level)
        for (v, b), sample in both.items()
        if v not in CONTROLS
    }


def _merged(one: Sample, other: Sample) -> Sample:
    both = one.correct is not None and other.correct is not None
    correct = {**(one.correct or {}), **(other.correct or {})} if both else None
    return replace(one, accuracy={**one.accuracy, **other.accuracy}, correct=correct)


def _freedom(spread: Spread) -> float:
    """Degrees of freedom of a variance that comes in part from seeds and in part from items, by Satterthwaite."""
    inverse = spread.share**2 / spread.seed_freedom + (1 - spread.share) ** 2 / spread.item_freedom
    return 1 / inverse if inverse else math.inf


def _both(was: Difference, now: Difference, together: Difference | None) -> Replicated:
    """Two estimates of one difference; ``together`` is over the seeds of both, None where their items differ."""
    variances = np.array([was.spread.variance, now.spread.variance])
    known = bool(np.isfinite(variances).all() and (variances > 0).all())
    # Of infinitely many, a number that Student's t takes for the normal distribution.
    freedoms = np.minimum([_freedom(was.spread), _freedom(now.spread)], MANY)
    apart = math.nan
    if known:
        total = float(variances.sum())
        between = total**2 / float((variances**2 / freedoms).sum())
        apart = 2 * float(stdtr(between, -abs(was.estimate - now.estimate) / math.sqrt(total)))
    if together is not None:
        estimate, low, high = together.estimate, together.low, together.high
    elif known:
        shares = (1 / variances) / (1 / variances).sum()
        estimate = float(shares @ np.array([was.estimate, now.estimate]))
        freedom = 1 / float((shares**2 / freedoms).sum())
        half = -float(stdtrit(freedom, now.level / 2)) * math.sqrt(1 / (1 / variances).sum())
        low, high = estimate - half, estimate + half
    else:
        estimate, low, high = (was.estimate + now.estimate) / 2, math.nan, math.nan
    return Replicated(study=was, fresh=now, combined=estimate, low=low, high=high, apart=apart)
