"""Tables of benchmark scores: who scored what, with which seed, on how many items.

A table says nothing about what is better; :mod:`equipoise.platform.stats.selection` does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from equipoise.platform.errors import EquipoiseError

if TYPE_CHECKING:
    import pandas

UNTRAINED = "untrained_encoder"
COLLAPSED = "collapsed"
BARRED = frozenset({UNTRAINED, COLLAPSED})
"""Flags of encoders whose scores are never taken for a gain of their objectives."""


Part = Literal["train", "select", "test"]  # of a benchmark, as `platform/settings/parts.py` has them


class ResultsError(EquipoiseError, ValueError):
    """A result table that cannot be read or used; the message says what to do."""


def heading(benchmark: str, part: str, unit: str = "%") -> str:
    """What stands over or beside accuracies wherever they are shown: ``mini_dive select %``."""
    return f"{benchmark} {part} {unit}"


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean: how seeds of a variant become one number, everywhere."""
    listed = list(values)
    return math.fsum(listed) / len(listed)


@dataclass(frozen=True, kw_only=True)
class Score:
    """One accuracy of one frozen encoder.

    Attributes:
        variant: name of the objective mix.
        seed: seed of the pretraining run.
        benchmark: name of the benchmark.
        accuracy_percent: top-1 accuracy, 0 to 100.
        items: test items behind it, None where unknown.
        flags: what is known about the run that the number does not say, such as ``untrained_encoder``.
        protocol: by which probe it was taken, ``attentive 1f3a9c02``; None where unknown.
    """

    variant: str
    seed: int
    benchmark: str
    accuracy_percent: float
    items: int | None = None
    flags: frozenset[str] = frozenset()
    protocol: str | None = None

    def __post_init__(self) -> None:
        where = f"score of {self.variant!r}, seed {self.seed}, on {self.benchmark!r}"
        if not (math.isfinite(self.accuracy_percent) and 0 <= self.accuracy_percent <= 100):
            raise ResultsError(f"{where} is {self.accuracy_percent}; expected an accuracy in percent, 0 to 100")
        if self.items is not None and self.items < 1:
            raise ResultsError(f"{where} was taken on {self.items} items; expected at least 1, or none given")


@dataclass(frozen=True)
class ResultTable:
    """Scores of one regime, at most one for each variant, seed and benchmark.

    Attributes:
        scores: every score.
        benchmarks: the benchmarks in the order in which they are shown; all of them count for completeness.
        flag_meanings: (flag, meaning) pairs for the flags that ``scores`` carry.
        part: of the benchmarks that the scores were taken on: ``select`` or ``test``.
        notes: what a reader must know of where they are from, one sentence each.

    Raises:
        ResultsError: no score, a benchmark outside ``benchmarks``, one score given twice, or a benchmark that was
            scored by two protocols.
    """

    scores: tuple[Score, ...]
    benchmarks: tuple[str, ...]
    flag_meanings: tuple[tuple[str, str], ...] = ()
    part: Part = "test"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.scores:
            raise ResultsError("the result table has no scores; expected at least those of the baseline")
        if len(set(self.benchmarks)) != len(self.benchmarks):
            raise ResultsError(f"benchmarks are named twice: {', '.join(self.benchmarks)}; name each once")
        seen: set[tuple[str, int, str]] = set()
        for score in self.scores:
            if score.benchmark not in self.benchmarks:
                raise ResultsError(
                    f"{score.variant!r} has a score on {score.benchmark!r}, which is not a benchmark of the table: "
                    f"{', '.join(self.benchmarks)}"
                )
            key = (score.variant, score.seed, score.benchmark)
            if key in seen:
                raise ResultsError(
                    f"{score.variant!r}, seed {score.seed}, has two scores on {score.benchmark!r}; keep one"
                )
            seen.add(key)
        for benchmark in self.benchmarks:
            self._refuse_two_protocols(benchmark)

    def _refuse_two_protocols(self, benchmark: str) -> None:
        by = {s.protocol: s for s in self.scores if s.benchmark == benchmark and s.protocol is not None}
        if len(by) > 1:
            one, other = list(by.values())[:2]
            raise ResultsError(
                f"{benchmark} was scored by {one.protocol} ({one.variant!r}, seed {one.seed}) and by {other.protocol} "
                f"({other.variant!r}, seed {other.seed}): accuracies of two protocols are never compared; leave one "
                "out, or score it again"
            )

    @property
    def protocols(self) -> dict[str, str]:
        """By which probe each benchmark was scored, where it is known."""
        found = {s.benchmark: s.protocol for s in self.scores if s.protocol is not None}
        return {name: found[name] for name in self.benchmarks if name in found}

    @classmethod
    def from_scores(cls, scores: Iterable[Score], benchmarks: Sequence[str] | None = None) -> ResultTable:
        """Make a table; without ``benchmarks`` they come in the order of their first score."""
        rows = tuple(scores)
        return cls(
            rows, tuple(benchmarks) if benchmarks is not None else tuple(dict.fromkeys(r.benchmark for r in rows))
        )

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each variant and seed: ``variant``, ``seed``, accuracies in percent by benchmark, ``flags``.

        A benchmark without a score is NaN; flags are joined by commas.
        """
        import pandas

        rows: dict[tuple[str, int], dict[str, object]] = {}
        for score in self.scores:
            row = rows.setdefault((score.variant, score.seed), {"variant": score.variant, "seed": score.seed})
            row[score.benchmark] = score.accuracy_percent
            row["flags"] = ",".join(sorted(score.flags))
        return pandas.DataFrame(list(rows.values()), columns=["variant", "seed", *self.benchmarks, "flags"])

    @cached_property
    def variants(self) -> tuple[str, ...]:
        """Every variant, in the order of its first score."""
        return tuple(dict.fromkeys(score.variant for score in self.scores))

    @cached_property
    def _of_variant(self) -> dict[str, list[Score]]:
        """Scores by variant: a study may have a thousand, and each is asked for many times."""
        found: dict[str, list[Score]] = {}
        for score in self.scores:
            found.setdefault(score.variant, []).append(score)
        return found

    @cached_property
    def _accuracies(self) -> dict[tuple[str, str], dict[int, float]]:
        """Accuracy by seed, seeds ascending, by variant and benchmark."""
        found: dict[tuple[str, str], dict[int, float]] = {}
        for score in sorted(self.scores, key=lambda s: s.seed):
            found.setdefault((score.variant, score.benchmark), {})[score.seed] = score.accuracy_percent
        return found

    def values(self, variant: str, benchmark: str) -> dict[int, float]:
        """Accuracy in percent by seed, seeds ascending; empty where there is no score."""
        return dict(self._accuracies.get((variant, benchmark), {}))

    def seeds(self, variant: str) -> tuple[int, ...]:
        """Seeds with a score on any benchmark, ascending."""
        return tuple(sorted({score.seed for score in self._of_variant.get(variant, ())}))

    def means(self) -> dict[str, dict[str, float]]:
        """Variant to benchmark to the mean accuracy in percent, over the seeds that have a score there."""
        return {variant: self.mean_of(variant) for variant in self.variants}

    def mean_of(self, variant: str) -> dict[str, float]:
        """Benchmark to the mean accuracy of one variant in percent, over the seeds that have a score there."""
        found = {benchmark: self.values(variant, benchmark) for benchmark in self.benchmarks}
        return {b: mean(v.values()) for b, v in found.items() if v}

    def items(self, variant: str, benchmark: str) -> int | None:
        """Test items behind the scores (the fewest over seeds), None where any is unknown or there is no score."""
        counts = [s.items for s in self._of_variant.get(variant, ()) if s.benchmark == benchmark]
        known = [count for count in counts if count is not None]
        return min(known) if known and len(known) == len(counts) else None

    def flags(self, variant: str) -> frozenset[str]:
        """Every flag on any score of the variant."""
        return frozenset().union(*(score.flags for score in self._of_variant.get(variant, ())))

    def incomplete(self) -> dict[str, tuple[str, ...]]:
        """Variants that lack a benchmark, each with the benchmarks it lacks."""
        means = self.means()
        lacking = {v: tuple(b for b in self.benchmarks if b not in means[v]) for v in self.variants}
        return {variant: names for variant, names in lacking.items() if names}

    def complete_variants(self) -> tuple[str, ...]:
        """Variants with at least one score on every benchmark."""
        lacking = self.incomplete()
        return tuple(variant for variant in self.variants if variant not in lacking)

    def only_seeds(self, variant: str, seeds: Collection[int]) -> ResultTable:
        """The same table with only these seeds of one variant.

        Raises:
            ResultsError: none of ``seeds`` has a score of ``variant``.
        """
        if not set(seeds) & set(self.seeds(variant)):
            have = ", ".join(map(str, self.seeds(variant))) or "none"
            raise ResultsError(f"{variant!r} has no score with seed {sorted(seeds)}; seeds it has: {have}")
        kept = tuple(score for score in self.scores if score.variant != variant or score.seed in seeds)
        return ResultTable(kept, self.benchmarks, self.flag_meanings, self.part)


def spread(table: ResultTable, variant: str) -> dict[str, float | None]:
    """Sample standard deviation over seeds, per benchmark."""
    values = {benchmark: list(table.values(variant, benchmark).values()) for benchmark in table.benchmarks}
    return {b: float(np.std(v, ddof=1)) if len(v) > 1 else None for b, v in values.items()}


def item_error(table: ResultTable, variant: str) -> dict[str, float | None]:
    """Binomial standard error of the mean accuracy in points; seeds share test items, so they do not shrink it."""
    errors: dict[str, float | None] = {}
    for benchmark, mean in table.mean_of(variant).items():
        items = table.items(variant, benchmark)
        errors[benchmark] = math.sqrt(mean * (100 - mean) / items) if items else None
    return errors
