"""What one claim is judged on: the scores, the baselines to compare with, and single comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from equipoise.platform.analysis.claims.vocabulary import Names
from equipoise.platform.settings.variant import BASELINE, CONTROLS
from equipoise.platform.stats.resampling import Residual, seed_noise
from equipoise.platform.stats.table import UNTRAINED, ResultTable, mean
from equipoise.platform.stats.uncertainty import Difference, Sample, compare, interval

ClaimVerdict = Literal["supported", "refuted", "not distinguishable", "not testable here"]
Arm = Literal["all", "quoted", "same_seed"]
SUPPORTED: ClaimVerdict = "supported"
REFUTED: ClaimVerdict = "refuted"
UNCLEAR: ClaimVerdict = "not distinguishable"
UNTESTABLE: ClaimVerdict = "not testable here"
RANDOM = CONTROLS[1]
TRAINED = f"rows of trained encoders: those flagged {UNTRAINED} scored the random initialisation"
SEEDS = "seeds: "  # how a phrase begins on what is missing because too few runs were repeated


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One difference that a check rests on, in points.

    Attributes:
        difference: sample minus against, with its interval.
        up: the claim says that the difference is above ``bound``; otherwise below.
        bound: points.
        seeds: of the sample, of against.
        accuracies: mean, low and high in percent, of the sample and of against.
        over: what the interval covers: ``items``, ``seeds``, ``seeds_and_items``, ``variants``, ``none``.
        judged: False where it is shown but can decide nothing, as the row of an untrained encoder.
        together: its interval holds at once with others of its kind, so that it needs no further correction.
        tested: the difference from the bound, with the p-value of that; adjusted by `adjust`.
    """

    difference: Difference
    up: bool
    bound: float = 0.0
    seeds: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    accuracies: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    over: str
    judged: bool = True
    together: bool = False
    tested: Difference

    @property
    def verdict(self) -> ClaimVerdict:
        """What this difference alone says."""
        if not self.judged or self.tested.untestable is not None:
            return UNTESTABLE
        if not self.tested.distinguishable:
            return UNCLEAR
        return SUPPORTED if (self.tested.estimate > 0) == self.up else REFUTED

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record; what is unknown is None."""
        d = self.difference
        names = ("percent", "low", "high")
        sides = [dict(zip(names, map(known, side), strict=True)) for side in self.accuracies or ()]
        return {
            "variant": d.variant,
            "against": d.against,
            "benchmark": d.benchmark,
            "difference": known(d.estimate),
            "low": known(d.low),
            "high": known(d.high),
            "bound": self.bound,
            "claimed_direction": "up" if self.up else "down",
            "p_value": known(self.tested.p_value),
            "p_adjusted": known(self.tested.p_adjusted),
            "verdict": self.verdict,
            "interval_over": self.over,
            "level": d.level,
            "items": d.items,
            "seeds": list(self.seeds[0]),
            "against_seeds": list(self.seeds[1]),
            "accuracy": sides[0] if sides else None,
            "against_accuracy": sides[1] if sides else None,
        }


@dataclass(frozen=True, kw_only=True)
class ComparisonSet:
    """What one claim is judged on.

    Attributes:
        table: scores of one regime.
        samples: (variant, benchmark) to sample.
        flags: by variant.
        mixes: objectives that are on, by variant, where known.
        width: of the encoder's embedding, None where unknown.
        counterparts: benchmarks that may stand in for others.
        same_regime: the table is of the regime the claim speaks of.
        quoted: seed of the baseline that published gains are quoted against.
        noise: benchmark to the variance of one accuracy over seeds, pooled over every trained variant that was
            repeated; benchmarks without one are left out.
        level: of every interval and test.
    """

    table: ResultTable
    samples: Mapping[tuple[str, str], Sample]
    flags: Mapping[str, frozenset[str]]
    mixes: Mapping[str, frozenset[str]]
    width: int | None
    counterparts: Mapping[str, Names] = field(default_factory=dict)
    same_regime: bool
    quoted: int | None
    noise: Mapping[str, Residual] = field(default_factory=dict)
    level: float

    @property
    def _own_seeds(self) -> set[int]:
        return {s for v in self.table.variants if v not in CONTROLS for s in self.table.seeds(v)}

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The baselines to judge against: all of it, or that of the quoted seed and that of the variants' own seed."""
        apart = self.quoted in self.table.seeds(BASELINE) and self.quoted not in self._own_seeds
        return ("quoted", "same_seed") if self.same_regime and apart else ("all",)

    def baseline_seeds(self, arm: Arm) -> tuple[int, ...]:
        """Seeds of the baseline in an arm."""
        seeds = self.table.seeds(BASELINE)
        if arm == "quoted":
            return tuple(s for s in seeds if s == self.quoted)
        return tuple(s for s in seeds if s in self._own_seeds) if arm == "same_seed" else seeds

    def here(self, benchmark: str) -> str:
        """The table's benchmark that stands for one of a claim; the claim's own name where there is none."""
        scored = {b for _, b in self.samples}
        return next((b for b in (benchmark, *self.counterparts.get(benchmark, ())) if b in scored), benchmark)

    def comparable(self, benchmark: str) -> bool:
        """Whether points found here are the points the claim speaks of."""
        return self.same_regime and self.here(benchmark) == benchmark

    def sample(self, variant: str, benchmark: str) -> Sample | None:
        """Scores of a variant, None where there are none."""
        return self.samples.get((variant, self.here(benchmark)))

    def baseline(self, sample: Sample, benchmark: str, arm: Arm) -> Sample | None:
        """The baseline that a sample is compared with, None where it has no such score."""
        base = self.sample(BASELINE, benchmark)
        if base is None or arm == "all":
            return base
        kept = {self.quoted} if arm == "quoted" else set(sample.accuracy)
        accuracy = {seed: value for seed, value in base.accuracy.items() if seed in kept}
        correct = None if base.correct is None else {s: c for s, c in base.correct.items() if s in kept}
        return replace(base, accuracy=accuracy, correct=correct) if accuracy else None

    def untrained(self, variant: str) -> bool:
        """Whether the variant's rows scored an encoder that was never trained."""
        return variant == RANDOM or UNTRAINED in self.flags.get(variant, frozenset())

    def compare(
        self, sample: Sample, against: Sample, *, up: bool, bound: float = 0.0, judged: bool = True
    ) -> tuple[Comparison, list[str]]:
        """A comparison, and what is missing for it to decide anything."""
        difference = compare(sample, against, noise=self.noise.get(sample.benchmark), level=self.level)
        missing = [TRAINED] if self.untrained(sample.variant) or self.untrained(against.variant) else []
        if math.isnan(difference.low) or math.isnan(difference.high):
            missing.append(f"the number of test items of {difference.benchmark}, or more seeds of {sample.variant}")
        elif difference.source == "items":
            missing.append(no_repeats(difference.benchmark))
        return Comparison(
            difference=difference,
            up=up,
            bound=bound,
            seeds=(tuple(sorted(sample.accuracy)), tuple(sorted(against.accuracy))),
            accuracies=(self._accuracy(sample), self._accuracy(against)),
            over=difference.source,
            judged=judged and not missing,
            tested=_from_bound(difference, bound),
        ), missing

    def _accuracy(self, sample: Sample) -> tuple[float, float, float]:
        return (mean(sample.accuracy.values()), *interval(sample, level=self.level))


def repeated(table: ResultTable, flags: Mapping[str, frozenset[str]], benchmark: str) -> dict[str, dict[int, float]]:
    """Trained variants with several seeds on a benchmark, to accuracy by seed."""
    found = {v: table.values(v, benchmark) for v in table.variants if v != RANDOM and UNTRAINED not in flags.get(v, ())}
    return {variant: values for variant, values in found.items() if len(values) > 1}


def noise_of(table: ResultTable, flags: Mapping[str, frozenset[str]]) -> dict[str, Residual]:
    """Benchmark to the variance over seeds, pooled over the trained variants that were repeated there."""
    pooled = {
        b: seed_noise([list(values.values()) for values in repeated(table, flags, b).values()])
        for b in table.benchmarks
    }
    return {benchmark: noise for benchmark, noise in pooled.items() if noise is not None}


def no_repeats(benchmark: str) -> str:
    """What is missing where seeds are unknown."""
    return f"{SEEDS}a trained variant that ran with two of them on {benchmark}"


def few_repeats(difference: Difference) -> str:
    """What is missing where a variance over seeds is known too badly for several differences at once."""
    return (
        f"{SEEDS}more than the {difference.spread.fewest:g} degree of freedom of their variance, too little for "
        f"{difference.family} differences at once, on {difference.benchmark}"
    )


def _from_bound(difference: Difference, bound: float) -> Difference:
    """The difference moved so that the bound, in points, lies at 0, with the p-value that goes with it."""
    if bound == 0 or math.isnan(difference.low):
        return difference
    estimate = difference.estimate - bound
    return replace(
        difference,
        estimate=estimate,
        low=difference.low - bound,
        high=difference.high - bound,
        p_value=difference.spread.p_value(estimate),
    )


def known(value: float | None) -> float | None:
    """None in place of what is no number, so that JSON stays JSON."""
    return None if value is None or math.isnan(value) else round(value, 6)
