"""How often a claim is judged supported or refuted on tables in which no variant does anything.

Run by ``python bench/calibration.py claims``.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from equipoise.platform.analysis.claims.evidence import from_csv
from equipoise.platform.analysis.claims.judge import Evidence, judge_claims
from equipoise.platform.analysis.claims.scene import REFUTED, SUPPORTED
from equipoise.platform.analysis.claims.vocabulary import ClaimFile, load_claims
from equipoise.platform.settings.variant import BASELINE
from equipoise.platform.stats.published import published_path
from equipoise.platform.stats.table import ResultTable, Score


@dataclass(frozen=True)
class Layout:
    """Who ran with which seeds.

    Attributes:
        name: words.
        baseline: further seeds of the baseline, in every regime and on every benchmark.
        variants: further seeds of every other variant.
    """

    name: str
    baseline: tuple[int, ...] = ()
    variants: tuple[int, ...] = ()


LAYOUTS = (
    Layout("as published"),
    Layout("4 further baseline seeds", baseline=(1, 2, 3, 4)),
    Layout("3 seeds of each", baseline=(1, 2), variants=(1, 2)),
)


def null_table(table: ResultTable, layout: Layout, spread: float, stream: np.random.Generator) -> ResultTable:
    """The table with other accuracies: the baseline's mean, ``spread`` points of seed, and binomial test items."""
    level = table.mean_of(BASELINE)
    keys: dict[tuple[str, int, str], Score] = {}
    for score in table.scores:
        further = layout.baseline if score.variant == BASELINE else layout.variants
        for seed in (score.seed, *further):
            keys[score.variant, seed, score.benchmark] = replace(score, seed=seed)
    scores: list[Score] = []
    for score in keys.values():
        expected = np.clip(level[score.benchmark] + spread * stream.standard_normal(), 0.1, 99.9)
        items = score.items or 1000
        scores.append(replace(score, accuracy_percent=100 * stream.binomial(items, expected / 100) / items))
    return replace(table, scores=tuple(scores))


def verdicts(
    layout: Layout, claims: ClaimFile, evidence: Evidence, studies: int, spread: float, seed: int
) -> Mapping[int, Counter[str]]:
    """Claim to how often which verdict, over ``studies`` tables in which no variant does anything."""
    stream: np.random.Generator = np.random.default_rng([seed, *layout.name.encode()])
    found: dict[int, Counter[str]] = {claim.id: Counter() for claim in claims.claims}
    for _ in range(studies):
        tables = {regime: null_table(t, layout, spread, stream) for regime, t in evidence.tables.items()}
        for finding in judge_claims(claims, replace(evidence, tables=tables)).findings:
            found[finding.claim.id][finding.verdict] += 1
    return found


def row(cells: Iterable[str]) -> str:
    """A row of a table in Markdown."""
    return "| " + " | ".join(cells) + " |"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--studies", type=int, default=400, help="tables of each layout")
    parser.add_argument("--spread", type=float, default=1.5, help="standard deviation over seeds in points")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="parts of layout names")


def run(args: argparse.Namespace) -> None:
    """Print the share of tables with a verdict, by claim."""
    claims = load_claims()
    evidence = from_csv(published_path(), claims)
    numbers: Sequence[int] = [claim.id for claim in claims.claims]
    print(row(["supported or refuted, %", *map(str, numbers)]) + "\n" + row(["---"] * (len(numbers) + 1)))
    for layout in (one for one in LAYOUTS if not args.only or any(part in one.name for part in args.only)):
        found = verdicts(layout, claims, evidence, args.studies, args.spread, args.seed)
        shares: NDArray[np.float64] = (
            np.array([found[n][SUPPORTED] + found[n][REFUTED] for n in numbers]) / args.studies
        )
        print(row([layout.name, *(f"{100 * share:.1f}" for share in shares)]), flush=True)
