"""Claims judged on a table of accuracies: supported, refuted, not distinguishable, or not testable here.

A verdict is about evidence, not about arithmetic. A check is

- supported, where the differences it rests on are distinguishable in the direction it claims,
- refuted, where one is distinguishable in the other direction (or beyond the other side of a claimed bound),
- not distinguishable, where an interval holds both,
- not testable here, where a row, a benchmark, the number of test items or a setting is missing. A row that scored an
  untrained encoder is a missing row: whatever its number, it says nothing about the objective it is named after. Seeds
  can be missing too: one seed of a variant says nothing about another. What was trained with several seeds shows their
  variance, which then enters every difference of a single seed, with its degrees of freedom; where nothing was, no
  difference decides anything, and one degree of freedom decides no several differences at once.

A claim is the worst of its checks, in the order refuted, not distinguishable, not testable, supported. Differences that
one claim rests on are corrected together (Holm). Published points never decide: whether they are found again is a field
of its own, ``agrees``. Where the published gains are quoted against a baseline of another seed than the variants',
every claim is judged against both baselines, and is called supported or refuted only if both say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from equipoise.platform.analysis.claims.checks import Prepared, adjust, prepare, worst
from equipoise.platform.analysis.claims.scene import (
    REFUTED,
    SEEDS,
    SUPPORTED,
    UNCLEAR,
    UNTESTABLE,
    Arm,
    ClaimVerdict,
    ComparisonSet,
    noise_of,
    repeated,
)
from equipoise.platform.analysis.claims.vocabulary import Check, Claim, ClaimFile
from equipoise.platform.settings.variant import BASELINE, CONTROLS
from equipoise.platform.stats.table import UNTRAINED, ResultTable, mean
from equipoise.platform.stats.uncertainty import Bools, samples

VERDICTS: tuple[ClaimVerdict, ...] = (SUPPORTED, REFUTED, UNCLEAR, UNTESTABLE)
DEAD = "dead_loss"
BELOW = "baseline_below_untrained"
MEANINGS = {
    BELOW: "the trained baseline is not above the untrained encoder there, so that no gain shows learning",
    UNTRAINED: "the row scored an encoder that was never trained",
    DEAD: "a loss of the mix reached no parameter, so it trained nothing",
}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What claims are judged on.

    Attributes:
        title: words for its origin.
        tables: scores by regime.
        correctness: by regime, (variant, seed, benchmark) to which items were right.
        flags: by variant, beyond those of the tables.
        mixes: objectives that are on, by variant, where known.
        width: of the encoder's embedding, None where unknown.
    """

    title: str
    tables: Mapping[str, ResultTable]
    correctness: Mapping[str, Mapping[tuple[str, int, str], Bools]] = field(default_factory=dict)
    flags: Mapping[str, frozenset[str]] = field(default_factory=dict)
    mixes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    width: int | None = None

    def flags_in(self, regime: str) -> dict[str, frozenset[str]]:
        """Flags of every variant of a regime, the table's and those beyond."""
        table = self.tables[regime]
        return {v: table.flags(v) | self.flags.get(v, frozenset()) for v in table.variants}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One claim and what became of it.

    Attributes:
        claim: the claim.
        verdict: of all its checks together.
        regime: that it was judged on; None where there is none.
        numbers: one record for each check.
        flags: what is known of rows it rests on: flag, variants, meaning.
        missing: what a table must have to test it, one phrase each.
        stand_ins: what the claim names, to what stood in for it.
        notes: what a reader must know, one sentence each.
    """

    claim: Claim
    verdict: ClaimVerdict
    regime: str | None
    numbers: tuple[dict[str, Any], ...] = ()
    flags: tuple[dict[str, Any], ...] = ()
    missing: tuple[str, ...] = ()
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {
            "id": self.claim.id,
            "verdict": self.verdict,
            "numbers": list(self.numbers),
            "flags": list(self.flags),
            "title": self.claim.title,
            "statement": self.claim.statement,
            "regime": self.claim.regime,
            "judged_on": self.regime,
            "missing": list(self.missing),
            "stand_ins": dict(self.stand_ins),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Every claim of a file, judged.

    Attributes:
        source: where the claims were made.
        evidence: words for what they were judged on.
        level: error level of intervals and tests.
        findings: one for each claim.
        notes: what holds for all of them.
    """

    source: str
    evidence: str
    level: float
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """How many came to what, and which are supported."""
        n = {v: [f.claim.id for f in self.findings if f.verdict == v] for v in VERDICTS}
        named = f" (claim{'s' * (len(n[SUPPORTED]) != 1)} {_listed(n[SUPPORTED])})" if n[SUPPORTED] else ""
        rest = ", ".join(f"{len(n[v])} {v}" for v in VERDICTS if v != SUPPORTED)
        return f"{len(n[SUPPORTED])} of {len(self.findings)} claims supported{named}, {rest}."

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {
            "source": self.source,
            "evidence": self.evidence,
            "level": self.level,
            "claims": [finding.to_dict() for finding in self.findings],
            "counts": {v: sum(f.verdict == v for f in self.findings) for v in VERDICTS},
            "sentence": self.sentence,
            "notes": list(self.notes),
        }


def judge_claims(claims: ClaimFile, evidence: Evidence, *, level: float = 0.05) -> Judgement:
    """Judge every claim.

    Args:
        claims: what is claimed.
        evidence: the accuracies, and what is known of their runs.
        level: error level of every interval and test.
    """
    findings = tuple(_finding(claim, claims, evidence, level) for claim in claims.claims)
    judged = sorted({f.regime for f in findings if f.regime is not None})
    notes = [note for regime in judged for note in _general_notes(regime, claims, evidence)]
    swaps = {f"{new} for {old}": None for f in findings for old, new in f.stand_ins.items()}
    if swaps:
        notes.append(f"Stand-ins: {', '.join(swaps)}. Directions are judged; published points are not compared.")
    return Judgement(
        source=claims.source,
        evidence=evidence.title,
        level=level,
        findings=findings,
        notes=tuple(notes),
    )


def _finding(claim: Claim, claims: ClaimFile, evidence: Evidence, level: float) -> Finding:
    candidates = (claim.regime, *claims.counterparts.regimes.get(claim.regime, ()))
    regime = next((name for name in candidates if name in evidence.tables), None)
    if regime is None:
        there = ", ".join(evidence.tables) or "none"
        lacking = f"rows of the regime {' or '.join(candidates)} (there: {there})"
        return Finding(claim=claim, verdict=UNTESTABLE, regime=None, missing=(lacking,))
    table = evidence.tables[regime]
    flags = evidence.flags_in(regime)
    basis = ComparisonSet(
        table=table,
        samples=samples(table, evidence.correctness.get(regime)),
        flags=flags,
        mixes=evidence.mixes,
        width=evidence.width,
        counterparts=claims.counterparts.benchmarks,
        same_regime=regime == claim.regime,
        quoted=claims.quoted_baseline.get(claim.regime),
        noise=noise_of(table, flags),
        level=level,
    )
    arms = {arm: adjust([prepare(check, basis, arm) for check in claim.checks]) for arm in basis.arms}
    first, *second = arms.values()
    records = tuple(
        _record(check, basis, {arm: checks[position] for arm, checks in arms.items()})
        for position, check in enumerate(claim.checks)
    )
    missing = _missing(first)
    verdict = worst(record["verdict"] for record in records)
    notes: list[str] = []
    if any(record["depends_on_baseline_seed"] for record in records):
        notes.append("The verdict depends on the seed of the baseline.")
    unasked = [phrase for checks in second for phrase in _missing(checks) if phrase not in missing]
    if unasked:
        notes.append(f"Missing for the second baseline: {'; '.join(unasked)}.")
    caveats = (claim.caveat, claim.caveat_published if basis.same_regime else "")
    return Finding(
        claim=claim,
        verdict=verdict,
        regime=regime,
        numbers=records,
        flags=_flags(records, basis),
        missing=missing,
        stand_ins=_stand_ins(claim, regime, basis),
        notes=(*notes, *filter(None, caveats)),
    )


def _missing(prepared: Sequence[Prepared]) -> tuple[str, ...]:
    """Phrases of all checks, each once; what lacks scores on several benchmarks in one phrase."""
    phrases = dict.fromkeys(phrase for one in prepared for phrase in one.missing)
    parts = [phrase.rpartition(" on ") for phrase in phrases]
    found: dict[str, list[str]] = {}
    for (subject, _, benchmark), phrase in zip(parts, phrases, strict=True):
        scored = phrase.startswith(("a score of ", SEEDS))
        found.setdefault(subject if scored else phrase, []).extend([benchmark] if scored else [])
    return tuple(f"{text} on {', '.join(names)}" if names else text for text, names in found.items())


def _record(check: Check, basis: ComparisonSet, arms: Mapping[Arm, Prepared]) -> dict[str, Any]:
    """Numbers of one check: the claimed ones, those found, and every comparison, against each baseline."""
    against: dict[str, dict[str, Any]] = {}
    for arm, prepared in arms.items():
        if against and not prepared.comparisons:
            continue  # no second baseline for this check
        verdict, found = prepared.decide(prepared.comparisons)
        against[arm] = {
            "baseline_seeds": list(basis.baseline_seeds(arm)),
            "verdict": verdict,
            **found,
            "comparisons": [comparison.to_dict() for comparison in prepared.comparisons],
        }
    first = next(iter(against.values()))
    verdicts = {one["verdict"] for one in against.values() if one["verdict"] != UNTESTABLE}
    # A baseline of another seed that says something else leaves the check open; one that cannot be asked does not.
    return {
        "check": check.kind,
        "benchmarks": [basis.here(b) for b in check.benchmarks],
        "verdict": first["verdict"] if first["verdict"] == UNTESTABLE or len(verdicts) == 1 else UNCLEAR,
        "claimed": first["claimed"],
        "found": first["found"],
        "agrees": first["agrees"],
        "depends_on_baseline_seed": first["verdict"] != UNTESTABLE and len(verdicts) > 1,
        "against": against,
    }


def _flags(records: Sequence[Mapping[str, Any]], basis: ComparisonSet) -> tuple[dict[str, Any], ...]:
    """Flags of every row that a claim's numbers use or left out, and a baseline below the untrained encoder."""
    used: dict[str, None] = {}
    for one in (one for record in records for one in record["against"].values()):
        for comparison in one["comparisons"]:
            used |= {comparison["variant"]: None, comparison["against"]: None}
        used |= dict.fromkeys([*one.get("group", ()), *one.get("others", ()), *one.get("left_out", ())])
    meanings = {**MEANINGS, **dict(basis.table.flag_meanings)}
    carriers: dict[str, list[str]] = {}
    for variant in used:
        for flag in sorted(basis.flags.get(variant, ())):
            carriers.setdefault(flag, []).append(variant)
    found = [{"flag": f, "variants": v, "meaning": meanings.get(f, "")} for f, v in carriers.items()]
    compared = {c["benchmark"] for c in _comparisons(records) if c["against"] == BASELINE}
    below = [text for name in basis.table.benchmarks if name in compared and (text := _below_untrained(name, basis))]
    if below:
        found.append({"flag": BELOW, "variants": [BASELINE], "meaning": MEANINGS[BELOW], "detail": "; ".join(below)})
    return tuple(found)


def _below_untrained(benchmark: str, basis: ComparisonSet) -> str:
    """Both accuracies where the baseline's is no higher than that of the untrained rows, else nothing."""
    means = basis.table.means()
    untrained = [means[v][benchmark] for v in means if basis.untrained(v) and benchmark in means[v]]
    base = means[BASELINE].get(benchmark)
    if base is None or not untrained:
        return ""
    level = mean(untrained)
    return f"{benchmark} {base:.2f} against {level:.2f} %" if base <= level else ""


def _stand_ins(claim: Claim, regime: str, basis: ComparisonSet) -> dict[str, str]:
    names = dict.fromkeys(b for check in claim.checks for b in check.benchmarks)
    found = {claim.regime: regime, **{b: basis.here(b) for b in names}}
    return {old: new for old, new in found.items() if new != old}


def _general_notes(regime: str, claims: ClaimFile, evidence: Evidence) -> list[str]:
    """Which baselines there are, and what is known of seeds."""
    notes: list[str] = []
    table = evidence.tables[regime]
    quoted = claims.quoted_baseline.get(regime)
    variants = [v for v in table.variants if v not in CONTROLS]
    own = sorted({seed for v in variants for seed in table.seeds(v)})
    if quoted in table.seeds(BASELINE) and quoted not in own:
        notes.append(
            f"{regime}: published gains are quoted against the baseline of seed {quoted}, the variants ran seed "
            f"{_listed(own)}. Both baselines are asked; a claim is supported or refuted only where they agree."
        )
    if any(len(table.values(v, b)) == 1 for v in variants for b in table.benchmarks):
        notes.append(f"{regime}: {_seeds_known(table, evidence.flags_in(regime))}")
    return notes


def _seeds_known(table: ResultTable, flags: Mapping[str, frozenset[str]]) -> str:
    """Where the variance over seeds of single runs comes from, in a sentence."""
    noise = noise_of(table, flags)
    if not noise:
        return (
            "single seeds, and nothing that was trained ran with two: the intervals shown cover test items only, and "
            "decide nothing."
        )
    who = {v: None for b in noise for v in repeated(table, flags, b)}
    said = ", ".join(
        f"{math.sqrt(n.variance):.2f} points on {b} ({n.freedom:g} degree{'s' * (n.freedom != 1)} of freedom)"
        for b, n in noise.items()
    )
    return (
        f"differences of single seeds hold the standard deviation over seeds of {', '.join(who)}: {said}; where there "
        "is none, intervals cover test items only and decide nothing."
    )


def _comparisons(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [c for record in records for one in record["against"].values() for c in one["comparisons"]]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
