"""Which mixes help what, over several studies: of other regimes, other laboratories, other seeds.

Each study compares a mix with its own baseline; the differences are put together by a random-effects meta-analysis, so
that studies may truly differ. Studies are pooled only where a benchmark's accuracies mean the same in all of them: the
same items of the same part, the same probe, the same view of a clip. What is pretrained on may differ, and how long.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from equipoise.platform.analysis.differences import against, noise_of
from equipoise.platform.errors import StudyError
from equipoise.platform.record.bundle import Bundle, Shelf
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.settings.variant import BASELINE, CONTROLS, Variant, variants
from equipoise.platform.stats.meta import Pooled, adjust, pool
from equipoise.platform.stats.uncertainty import Difference

HELPS, HURTS, UNCLEAR = "helps", "hurts", "not distinguishable"


@dataclass(frozen=True)
class PooledStudy:
    """A study among those that are pooled: its name, what it was pretrained on, its preset and steps, and its seeds."""

    name: str
    regime: str
    preset: str
    steps: int
    seeds: int


@dataclass(frozen=True)
class PooledMix:
    """One mix on one benchmark.

    Attributes:
        name: of the mix; the shipped one where it is shipped.
        benchmark: where.
        studies: name of a study to the difference from its own baseline.
        pooled: over them; None where fewer than two studies know their error.
    """

    name: str
    benchmark: str
    studies: Mapping[str, Difference]
    pooled: Pooled | None
    level: float

    @property
    def verdict(self) -> str:
        """What the studies say together; empty where there is nothing to put together."""
        if self.pooled is None:
            return ""
        p = self.pooled.p_value if self.pooled.p_adjusted is None else self.pooled.p_adjusted
        if p >= self.level:
            return UNCLEAR
        return HELPS if self.pooled.estimate > 0 else HURTS

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record; a number that is not known is null."""
        studies = {
            name: {"estimate": d.estimate, "low": _known(d.low), "high": _known(d.high), "seeds": list(d.seeds)}
            for name, d in self.studies.items()
        }
        record: dict[str, Any] = {"mix": self.name, "benchmark": self.benchmark, "studies": studies}
        if self.pooled is not None:
            record |= {**vars(self.pooled), "verdict": self.verdict}
        return record


@dataclass(frozen=True)
class Pooling:
    """Several studies together.

    Attributes:
        studies: in the order in which they were given.
        benchmarks: that all of them share.
        part: of the benchmarks.
        mixes: those that two or more studies have, controls left out; all on all benchmarks are one family.
        untrained: the untrained encoder against the baseline, of no family.
        single: mixes that one study alone has.
        notes: what a reader must know, one sentence each.
    """

    studies: tuple[PooledStudy, ...]
    benchmarks: tuple[str, ...]
    part: str
    mixes: tuple[PooledMix, ...]
    untrained: tuple[PooledMix, ...]
    single: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {
            "studies": [vars(study) for study in self.studies],
            "benchmarks": list(self.benchmarks),
            "part": self.part,
            "mixes": [one.to_dict() for one in self.mixes],
            "untrained": [one.to_dict() for one in self.untrained],
            "single": list(self.single),
            "notes": list(self.notes),
        }


def pooling_of(records: Sequence[StudyRecord], level: float = 0.05) -> Pooling:
    """Put studies together.

    Args:
        records: of bundles, two or more.
        level: 0.05 for intervals of 95 %.

    Raises:
        StudyError: fewer than two studies, one twice, one without a baseline, studies without a common benchmark or
            scored by unlike protocols, or with a trial in common.
        TrackingError: a study without a finished trial.
    """
    _refuse(records)
    benchmarks = tuple(b for b in records[0].benchmarks if all(b in one.benchmarks for one in records))
    if not benchmarks:
        raise StudyError(
            "the studies have no benchmark in common: "
            + "; ".join(f"{one.name} has {', '.join(one.benchmarks)}" for one in records)
        )
    for benchmark in benchmarks:
        _refuse_unlike(records, benchmark)
    notes = _shared_trials(records)
    if len(records) == 2:
        notes.append("Two studies say little of how much studies differ: intervals rest on one degree of freedom.")
    found: dict[tuple[str, str], dict[str, Difference]] = {}
    names: dict[str, str] = {}
    for record in records:
        for key, name, differences in _of_study(record, benchmarks, level):
            names.setdefault(key, name)
            for benchmark, difference in differences.items():
                found.setdefault((key, benchmark), {})[record.name] = difference
    together = {key: one for key, one in found.items() if len(one) > 1}
    never = {_identity(v) for v in variants().values() if v.untrained}
    mixes = [_pooled(names[k], b, one, level) for (k, b), one in together.items() if k not in never]
    controls = [_pooled(names[k], b, one, level) for (k, b), one in together.items() if k in never]
    several = {key for key, _ in together}
    single = dict.fromkeys(names[key] for key, _ in found if key not in several)
    return Pooling(
        studies=tuple(_described(record) for record in records),
        benchmarks=benchmarks,
        part=records[0].part,
        mixes=tuple(_family(mixes)),
        untrained=tuple(controls),
        single=tuple(single),
        notes=tuple(notes),
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _identity(variant: Variant) -> str:
    """What a mix does, whatever it is called."""
    return variant.model_dump_json(include={"objectives", "teacher", "untrained", "unchanged"})


def _of_study(
    record: StudyRecord, benchmarks: Sequence[str], level: float
) -> list[tuple[str, str, dict[str, Difference]]]:
    """Identity, name and differences by benchmark of every variant of a study besides its baseline."""
    table, shipped = record.table, {_identity(v): name for name, v in reversed([*variants().items()])}
    others = [variant for variant in table.variants if variant != BASELINE]
    differences = against(BASELINE, others, benchmarks, record.samples, noise_of(record), level)
    found = []
    for variant in others:
        key = _identity(record.settings[variant].variant)
        own = {b: differences[variant, b] for b in benchmarks if (variant, b) in differences}
        found.append((key, shipped.get(key, variant), own))
    return found


def _pooled(name: str, benchmark: str, studies: Mapping[str, Difference], level: float) -> PooledMix:
    known = [d for d in studies.values() if math.isfinite(d.spread.variance) and d.spread.variance > 0]
    together = None
    if len(known) > 1:
        together = pool([d.estimate for d in known], [d.spread.variance for d in known], level)
    return PooledMix(name, benchmark, dict(studies), together, level)


def _family(mixes: Sequence[PooledMix]) -> list[PooledMix]:
    """The same with Holm's p-values over all of them."""
    adjusted = iter(adjust([one.pooled.p_value for one in mixes if one.pooled is not None]))
    return [
        one if one.pooled is None else replace(one, pooled=replace(one.pooled, p_adjusted=next(adjusted)))
        for one in mixes
    ]


def _described(record: StudyRecord) -> PooledStudy:
    settings = record.settings[BASELINE]
    return PooledStudy(
        record.name,
        settings.regime.name,
        settings.preset.name,
        settings.preset.optimisation.steps,
        len(record.table.seeds(BASELINE)),
    )


def _refuse(records: Sequence[StudyRecord]) -> None:
    if len(records) < 2:
        raise StudyError(f"{len(records)} study given; pooling takes two or more: name further bundles or references")
    for record in records:
        if not record.benchmarks:
            raise StudyError(f"study {record.name!r} scores nothing, so there is nothing of it to pool: leave it out")
        if BASELINE not in record.table.variants:
            raise StudyError(f"study {record.name!r} has no finished baseline to compare its mixes with: leave it out")
    names = [record.name for record in records]
    for name in names:
        if names.count(name) > 1:
            raise StudyError(f"study {name!r} is given twice: a study counts once")


def _bundle(record: StudyRecord) -> Bundle:
    assert isinstance(record.home, Shelf)
    return next(one for one in record.home.bundles if one.study == record.name)


def _protocol(record: StudyRecord, benchmark: str) -> dict[str, Any]:
    """What an accuracy on a benchmark means in a study."""
    bundle, settings = _bundle(record), record.settings[BASELINE]
    preset, asked = settings.preset, settings.regime.benchmarks[benchmark]
    items = next(one for one in bundle.outcomes if one.benchmark == benchmark)
    digest = hashlib.sha256(json.dumps([items.path, items.label.tolist()]).encode()).hexdigest()[:12]
    return {
        "part": items.part,
        f"items of the {items.part} part": digest,
        "training items": bundle.about["manifests"].get(asked.train),
        "probe": preset.probes[asked.probe].model_dump(mode="json"),
        "frames of a clip": preset.model.frames,
        "pixels": preset.model.size,
    }


def _refuse_unlike(records: Sequence[StudyRecord], benchmark: str) -> None:
    first, *others = [(record.name, _protocol(record, benchmark)) for record in records]
    for name, protocol in others:
        for key, value in first[1].items():
            # A bundle that was written away from the data does not know the training items.
            here = protocol.get(key)
            if here == value or (key == "training items" and None in (value, here)):
                continue
            raise StudyError(
                f"studies {first[0]!r} and {name!r} were scored on {benchmark} by unlike protocols: {key} {value} in "
                f"the one, {here} in the other; accuracies of two protocols are never pooled: leave one out, or score "
                "it again"
            )


def _shared_trials(records: Sequence[StudyRecord]) -> list[str]:
    """Refuse two studies with one trained mix's trial; of shared controls a note."""
    notes = []
    keys = {
        record.name: {(settings := row.asked).key: settings for row in _bundle(record).rows if row.status == "finished"}
        for record in records
    }
    for (one, mine), (other, its) in itertools.combinations(keys.items(), 2):
        shared = [mine[key] for key in mine if key in its]
        mixes = [s for s in shared if s.variant_name not in CONTROLS]
        if mixes:
            raise StudyError(
                f"studies {one!r} and {other!r} hold the same trial, {mixes[0].variant_name} with seed "
                f"{mixes[0].seed}: it would count twice; pool studies with seeds of their own"
            )
        if shared:
            notes.append(
                f"{one} and {other} share {len(shared)} trials of controls: their differences are not independent, and "
                "the intervals somewhat too narrow."
            )
    return notes
