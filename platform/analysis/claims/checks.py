"""The checks of a claim on one table: which differences it rests on, and what they come to.

A check is made in two steps, because the differences of all checks of a claim are corrected together: `prepare` lists
them, then, with their adjusted p-values, the check is judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from equipoise.platform.analysis.claims.scene import (
    REFUTED,
    SUPPORTED,
    UNCLEAR,
    UNTESTABLE,
    Arm,
    ClaimVerdict,
    Comparison,
    ComparisonSet,
    few_repeats,
    known,
    no_repeats,
)
from equipoise.platform.analysis.claims.vocabulary import (
    AssociationCheck,
    BalancedCheck,
    Check,
    CountCheck,
    EmbeddingCheck,
    GainCheck,
    LargestCheck,
    Names,
)
from equipoise.platform.settings.variant import BASELINE, CONTROLS
from equipoise.platform.stats.resampling import UNKNOWN, Residual, Spread, freedom_of
from equipoise.platform.stats.table import mean
from equipoise.platform.stats.uncertainty import Difference, Sample, holm

SMALLEST_GROUP = 3  # variants on either side of an association; a spread of two says nothing
DIGITS, RANGE_DIGITS = 0.005, 0.05  # half a unit of the last published digit, of a number and of a range


def worst(verdicts: Iterable[ClaimVerdict]) -> ClaimVerdict:
    """What several things come to that must all hold: one that is refuted refutes, an unclear one leaves unclear."""
    found = set(verdicts)
    return next((v for v in (REFUTED, UNCLEAR, UNTESTABLE) if v in found), SUPPORTED)


Checker = Callable[[Sequence[Comparison]], tuple[ClaimVerdict, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A check before its differences are corrected.

    Attributes:
        comparisons: what it rests on.
        missing: what the table lacks for it, one phrase each.
        decide: from the corrected comparisons to a verdict and further numbers.
    """

    comparisons: tuple[Comparison, ...] = ()
    missing: tuple[str, ...] = ()
    decide: Checker


def adjust(prepared: Sequence[Prepared]) -> list[Prepared]:
    """Holm's correction over the comparisons of all checks of a claim that can decide something.

    Where the seeds allow no verdict on several differences at once, that is said to be missing.
    """
    family = [c for p in prepared for c in p.comparisons if c.judged and not c.together]
    corrected = {
        id(c): replace(c, tested=tested) for c, tested in zip(family, holm([c.tested for c in family]), strict=True)
    }
    found = [replace(p, comparisons=tuple(corrected.get(id(c), c) for c in p.comparisons)) for p in prepared]
    return [replace(p, missing=tuple(dict.fromkeys((*p.missing, *_few_seeds(p.comparisons))))) for p in found]


def _few_seeds(comparisons: Sequence[Comparison]) -> list[str]:
    return [few_repeats(c.tested) for c in comparisons if c.judged and c.tested.untestable is not None]


def prepare(check: Check, basis: ComparisonSet, arm: Arm) -> Prepared:
    """What a check rests on, against one baseline."""
    content = check.content
    match content:
        case GainCheck():
            return _gain(content, basis, arm)
        case LargestCheck():
            return _largest(content, basis)
        case CountCheck():
            return _count(content, basis, arm)
        case BalancedCheck():
            return _balanced(content, basis, arm)
        case AssociationCheck():
            return _association(content, basis, arm)
        case EmbeddingCheck():
            return _embedding(content, basis)


def _gain(check: GainCheck, basis: ComparisonSet, arm: Arm) -> Prepared:
    up = check.direction != "down"
    bound = 0.0 if check.within is None else -check.within
    transfers = check.within is None or basis.comparable(check.benchmark)
    found, missing = _against_baseline(
        check.variants, check.benchmark, basis, arm, up=up, bound=bound, judged=transfers
    )
    if not transfers:
        missing.append(f"a margin for {basis.here(check.benchmark)}: {check.within:g} points are of {check.benchmark}")

    def decide(comparisons: Sequence[Comparison]) -> tuple[ClaimVerdict, dict[str, Any]]:
        estimates = {c.difference.variant: c.difference.estimate for c in comparisons}
        outside = None
        if check.claimed is not None and basis.comparable(check.benchmark) and estimates:
            outside = [name for name, estimate in estimates.items() if not _agrees(estimate, check.claimed)]
        return _all_hold(comparisons, missing), {
            "claimed": list(check.claimed) if isinstance(check.claimed, tuple) else check.claimed,
            "found": {name: known(estimate) for name, estimate in estimates.items()},
            "agrees": None if outside is None else not outside,
            "outside": outside or [],
        }

    return Prepared(comparisons=tuple(found), missing=tuple(missing), decide=decide)


def _largest(check: LargestCheck, basis: ComparisonSet) -> Prepared:
    up = check.direction == "up"
    samples, missing = _samples(check.among, check.benchmark, basis)
    found: list[Comparison] = []
    for name in (v for v in check.variants if v in samples):
        for rival in (v for v in samples if v not in check.variants):
            comparison, lacking = basis.compare(samples[name], samples[rival], up=up)
            found.append(comparison)
            missing += lacking

    def decide(comparisons: Sequence[Comparison]) -> tuple[ClaimVerdict, dict[str, Any]]:
        means = {name: mean(sample.accuracy.values()) for name, sample in samples.items()}
        order = sorted(means, key=lambda name: means[name], reverse=up)[: len(check.variants)]
        return _all_hold(comparisons, missing), {
            "claimed": list(check.variants),
            "direction": check.direction,
            "found": order,
            "agrees": set(order) == set(check.variants) if len(means) == len(check.among) else None,
        }

    return Prepared(comparisons=tuple(found), missing=tuple(dict.fromkeys(missing)), decide=decide)


def _count(check: CountCheck, basis: ComparisonSet, arm: Arm) -> Prepared:
    comparable = basis.comparable(check.benchmark)
    bound = -check.lose_more_than if comparable else 0.0
    found, missing = _against_baseline(check.among, check.benchmark, basis, arm, up=False, bound=bound)

    def decide(comparisons: Sequence[Comparison]) -> tuple[ClaimVerdict, dict[str, Any]]:
        lose = sum(c.verdict == SUPPORTED for c in comparisons)
        at_most = len(check.among) - sum(c.verdict == REFUTED for c in comparisons)
        point = sum(c.difference.estimate < bound for c in comparisons)
        verdict = UNTESTABLE if missing or any(c.verdict == UNTESTABLE for c in comparisons) else UNCLEAR
        if lose >= check.claimed:
            verdict = SUPPORTED
        elif at_most < check.claimed:
            verdict = REFUTED
        return verdict, {
            "claimed": check.claimed,
            "found": point,
            "agrees": point == check.claimed if comparable and not missing else None,
            "at_least": lose,
            "at_most": at_most,
            "of": len(check.among),
            "points": -bound,
        }

    return Prepared(comparisons=tuple(found), missing=tuple(missing), decide=decide)


def _balanced(check: BalancedCheck, basis: ComparisonSet, arm: Arm) -> Prepared:
    """Smallest gains by intervals that hold all at once (Bonferroni), so that their smallest can be compared.

    The baseline's own error is in every one of them, which makes the verdict careful, never hasty.
    """
    together = replace(basis, level=basis.level / (len(check.among) * len(check.benchmarks)))
    found: list[Comparison] = []
    missing: list[str] = []
    for benchmark in check.benchmarks:
        gains, lacking = _against_baseline(check.among, benchmark, together, arm, up=True)
        found += gains
        missing += lacking
    family = sum(gain.judged for gain in found)
    found = [replace(gain, together=True, tested=replace(gain.tested, family=family)) for gain in found]

    def decide(comparisons: Sequence[Comparison]) -> tuple[ClaimVerdict, dict[str, Any]]:
        smallest: dict[str, tuple[float, float, float]] = {}
        for name in check.among:
            own = [c.difference for c in comparisons if c.difference.variant == name and c.judged]
            if len(own) == len(check.benchmarks):
                smallest[name] = (min(d.estimate for d in own), min(d.low for d in own), min(d.high for d in own))
        numbers: dict[str, Any] = {
            "claimed": check.variant,
            "found": max(smallest, key=lambda name: smallest[name][0]) if smallest else None,
            "agrees": None,
            "smallest_gains": {
                n: dict(zip(("difference", "low", "high"), map(known, v), strict=True)) for n, v in smallest.items()
            },
        }
        if check.variant not in smallest or _few_seeds(comparisons):
            return UNTESTABLE, numbers
        if basis.same_regime and len(smallest) == len(check.among):
            numbers["agrees"] = numbers["found"] == check.variant
        _, low, high = smallest[check.variant]
        verdicts: list[ClaimVerdict] = [UNTESTABLE] if missing else []
        for name, (_, other_low, other_high) in smallest.items():
            if name != check.variant:
                verdicts.append(SUPPORTED if low > other_high else REFUTED if other_low > high else UNCLEAR)
        return worst(verdicts), numbers

    return Prepared(comparisons=tuple(found), missing=tuple(dict.fromkeys(missing)), decide=decide)


def _association(check: AssociationCheck, basis: ComparisonSet, arm: Arm) -> Prepared:
    """Two differences whose units are variants: the group from the baseline, and from the variants outside it.

    Welch's two-sample t-test for the second. In the first, all gains are against one baseline and share its error: its
    variance over seeds (and test items) is added to that of the group's mean over variants, with the degrees of freedom
    of both. A test of the gains as if they were independent would take the baseline's luck for an effect.

    Rows of untrained encoders and of variants with a dead loss belong to neither group, nor do variants whose
    objectives are unknown.
    """
    here = basis.here(check.benchmark)
    inside: dict[str, float] = {}
    outside: dict[str, float] = {}
    bases: list[Sample] = []
    left_out: list[str] = []
    for variant in basis.table.variants:
        sample = basis.sample(variant, check.benchmark)
        if variant in CONTROLS or sample is None:
            continue
        if basis.flags.get(variant) or variant not in basis.mixes:
            left_out.append(variant)
            continue
        group = inside if basis.mixes[variant] & set(check.objectives) else outside
        group[variant] = mean(sample.accuracy.values())
        base = basis.baseline(sample, check.benchmark, arm)
        if group is inside and base is not None:
            bases.append(base)
    missing: list[str] = []
    found: list[Comparison] = []
    if len(bases) < len(inside):
        missing.append(f"a score of {BASELINE} on {here}")
    elif min(len(inside), len(outside)) < SMALLEST_GROUP:
        sizes = f"{len(inside)} with and {len(outside)} without these objectives are there"
        missing.append(f"at least {SMALLEST_GROUP} variants in each group: {sizes}")
    elif here not in basis.noise:
        missing.append(no_repeats(here))
    else:
        alone = _group_from_baseline(list(inside.values()), bases, basis.noise[here])
        apart = stats.ttest_ind(list(inside.values()), list(outside.values()), equal_var=False)
        ends = apart.confidence_interval(1 - basis.level)
        estimate = mean(inside.values()) - mean(mean(base.accuracy.values()) for base in bases)
        found.append(_over_variants(estimate, alone, BASELINE, here, basis.level))
        welch = mean(inside.values()) - mean(outside.values()), float(ends.low), float(ends.high), float(apart.pvalue)
        found.append(_over_variants(welch[0], welch[1:], "the others", here, basis.level))

    def decide(comparisons: Sequence[Comparison]) -> tuple[ClaimVerdict, dict[str, Any]]:
        return _all_hold(comparisons, missing), {
            "claimed": "lower",
            "found": [known(c.difference.estimate) for c in comparisons],
            "agrees": all(c.difference.estimate < 0 for c in comparisons) if comparisons else None,
            "group": list(inside),
            "others": list(outside),
            "left_out": left_out,
            "rank_correlation": _rank_correlation(check, basis, [*inside, *outside]),
        }

    return Prepared(comparisons=tuple(found), missing=tuple(missing), decide=decide)


def _embedding(check: EmbeddingCheck, basis: ComparisonSet) -> Prepared:
    lacking = [b for b in check.benchmarks if not any(name == basis.here(b) for _, name in basis.samples)]
    missing = [f"a score on {b}" for b in lacking]
    if basis.width is None:
        missing.insert(0, "the encoder's width: accuracies alone do not say it, the record of a study does")
    elif basis.width != check.width:
        missing.insert(0, f"an encoder {check.width} wide: this one is {basis.width} wide")

    def decide(_: Sequence[Comparison]) -> tuple[ClaimVerdict, dict[str, Any]]:
        agrees = None if basis.width is None else basis.width == check.width
        numbers = {"claimed": check.width, "found": basis.width, "agrees": agrees}
        return (UNTESTABLE if missing else SUPPORTED), numbers

    return Prepared(missing=tuple(missing), decide=decide)


def _samples(variants: Names, benchmark: str, basis: ComparisonSet) -> tuple[dict[str, Sample], list[str]]:
    found = {v: s for v in variants if (s := basis.sample(v, benchmark)) is not None}
    lacking = [v for v in variants if v not in found]
    return found, [f"a score of {', '.join(lacking)} on {basis.here(benchmark)}"] if lacking else []


def _against_baseline(
    variants: Names,
    benchmark: str,
    basis: ComparisonSet,
    arm: Arm,
    *,
    up: bool,
    bound: float = 0.0,
    judged: bool = True,
) -> tuple[list[Comparison], list[str]]:
    """Each variant against the baseline, and what is missing."""
    samples, missing = _samples(variants, benchmark, basis)
    found: list[Comparison] = []
    without: list[str] = []
    for name, sample in samples.items():
        base = basis.baseline(sample, benchmark, arm)
        if base is None:
            without.append(name)
            continue
        comparison, lacking = basis.compare(sample, base, up=up, bound=bound, judged=judged)
        found.append(comparison)
        missing += lacking
    if without:
        which = "" if arm == "all" else f" with seed {', '.join(map(str, basis.baseline_seeds(arm)))}"
        missing.append(f"a score of {BASELINE}{which} on {basis.here(benchmark)}")
    return found, list(dict.fromkeys(missing))


def _all_hold(comparisons: Sequence[Comparison], missing: Sequence[str]) -> ClaimVerdict:
    verdicts = [c.verdict for c in comparisons if c.judged]
    return worst([*verdicts, UNTESTABLE] if missing or not verdicts else verdicts)


def _group_from_baseline(values: Sequence[float], bases: Sequence[Sample], noise: Residual) -> Spread:
    """Spread of a group's mean gain: of its mean over variants, and of the one baseline that all are compared with."""
    seeds = min(len(base.accuracy) for base in bases)
    parts = np.array([float(np.var(values, ddof=1)) / len(values), noise.variance / seeds])
    freedoms = np.array([len(values) - 1.0, noise.freedom])
    level = mean(mean(base.accuracy.values()) for base in bases)
    items = max(level * (100 - level) / base.items if base.items else 0.0 for base in bases)
    total = float(parts.sum()) + items
    freedom = freedom_of(parts, freedoms)
    return Spread(total, "seeds", float(parts.sum()) / total, freedom, least_freedom=float(freedoms.min()))


def _over_variants(
    estimate: float, found: Spread | tuple[float, float, float], against: str, benchmark: str, level: float
) -> Comparison:
    """A difference whose units are variants, from its spread or from both ends of its interval and its p-value."""
    spread = found if isinstance(found, Spread) else UNKNOWN
    low, high, p_value = (
        found if isinstance(found, tuple) else (*found.interval(estimate, level), found.p_value(estimate))
    )
    difference = Difference(
        variant="the group",
        against=against,
        benchmark=benchmark,
        estimate=estimate,
        low=low,
        high=high,
        level=level,
        p_value=p_value,
        seeds=(1, 1),
        paired_seeds=0,
        items=None,
        source="none",
        spread=spread,
    )
    usable = math.isfinite(difference.p_value)
    return Comparison(difference=difference, up=False, over="variants", judged=usable, tested=difference)


def _rank_correlation(check: AssociationCheck, basis: ComparisonSet, variants: Sequence[str]) -> dict[str, Any] | None:
    """Spearman's, of the two benchmarks over variants: whether a gain on one comes with a loss on the other."""
    if check.order is None:
        return None
    pairs = []
    for variant in variants:
        one, other = basis.sample(variant, check.order), basis.sample(variant, check.benchmark)
        if one is not None and other is not None:
            pairs.append((mean(one.accuracy.values()), mean(other.accuracy.values())))
    if len(pairs) < SMALLEST_GROUP:
        return None
    value = float(stats.spearmanr([p[0] for p in pairs], [p[1] for p in pairs]).statistic)
    names = [basis.here(check.order), basis.here(check.benchmark)]
    return {"benchmarks": names, "variants": len(pairs), "value": known(value)}


def _agrees(found: float, claimed: float | tuple[float, float]) -> bool:
    if isinstance(claimed, tuple):
        return claimed[0] - RANGE_DIGITS - 1e-9 <= found <= claimed[1] + RANGE_DIGITS + 1e-9
    return abs(found - claimed) <= DIGITS + 1e-9
