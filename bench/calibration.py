"""Do the intervals hold? Simulates studies whose truth is known and prints error rates and coverages in Markdown.

    python bench/calibration.py intervals   # one comparison, and families of eight
    python bench/calibration.py holm        # families of 24, 60 and 300 tests
    python bench/calibration.py claims      # the paper's claims on tables in which nothing does anything
    python bench/calibration.py luck        # and bounds, floor, shrinkage, front, confirmation

A command is a pair of functions in ``COMMANDS``: one that adds its options, one that runs it.

For ``intervals`` a simulated item is right where a normal latent value is above 0. Its variance, 1 in all, is made of
the item's difficulty (shared by all variants), the item's difficulty for one variant, the seed, and what is left of one
seed on one item; so the expected accuracy is the normal distribution function at the latent mean, exactly, and the true
difference is known. Every study has two variants, is made once without and once with a difference, and is judged by
``compare``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import calibration_claims
import calibration_verdicts
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from equipoise.platform.stats.resampling import Spread
from equipoise.platform.stats.uncertainty import Sample, compare, holm

Bools = NDArray[np.bool_]
OWN_ITEM, REMAINDER = 0.1, 0.3  # shares of the latent variance; the item's shared difficulty has the rest
ERROR_RATE, COVERAGE = (4.0, 6.0), (93.0, 97.0)


@dataclass(frozen=True)
class Regime:
    """How studies are made.

    Attributes:
        name: what is special about it.
        seed_sd: standard deviation of a variant's accuracy over seeds, in points.
        items: test items.
        accuracy: expected accuracy of the variant that is compared against, in percent.
        together: correlation of the seed effects of two variants with the same seed.
        paired: both variants have the same seeds.
        own_item: share of the latent variance that is an item's difficulty for one variant.
        tails: degrees of freedom of the seed effects' Student's t, None for normal ones.
        further: seeds that only the baseline has.
    """

    name: str
    seed_sd: float
    items: int = 1000
    accuracy: float = 60.0
    together: float = 0.0
    paired: bool = True
    own_item: float = OWN_ITEM
    tails: int | None = None
    further: int = 0


REGIMES = (
    Regime("no seed effect", 0.0),
    Regime("no seed effect, variants equal in every item", 0.0, own_item=0.0),
    Regime("small seed effect", 0.5),
    Regime("few items", 1.0, items=500),
    Regime("many items", 1.0, items=2000),
    Regime("large seed effect", 3.0),
    Regime("seed effects correlate 0.7", 2.0, together=0.7),
    Regime("different seeds", 1.0, paired=False),
    Regime("different seeds, large effect", 3.0, paired=False),
    Regime("two more seeds of the baseline, not used", 1.0, further=2),
    Regime("low accuracy", 1.0, accuracy=10.0),
    Regime("heavy-tailed seed effects", 1.0, tails=3),
)


def draw(regime: Regime, seeds: int, gains: Sequence[float], stream: np.random.Generator) -> list[Sample]:
    """One study: the baseline and one variant per gain (in points), all on the same items."""
    variants, seeds = len(gains) + 1, seeds + regime.further
    expected = (regime.accuracy + np.array([0.0, *gains])) / 100
    mean = stats.norm.ppf(expected)
    scale = regime.seed_sd / 100 / stats.norm.pdf(mean[0])  # points to latent units
    shape = (variants, seeds, regime.items)
    effect = stream.standard_normal((variants, seeds))
    if regime.tails is not None:
        effect = stream.standard_t(regime.tails, (variants, seeds)) / np.sqrt(regime.tails / (regime.tails - 2))
    shared = stream.standard_normal(seeds)
    effect = scale * (np.sqrt(regime.together) * shared + np.sqrt(1 - regime.together) * effect)
    difficulty = np.sqrt(1 - regime.own_item - REMAINDER - scale**2) * stream.standard_normal(regime.items)
    own = np.sqrt(regime.own_item) * stream.standard_normal((variants, 1, regime.items))
    rest = np.sqrt(REMAINDER) * stream.standard_normal(shape, dtype=np.float32)
    right: NDArray[np.bool_] = mean[:, None, None] + effect[:, :, None] + difficulty + own + rest > 0
    others = [
        sample(f"v{v}", right[v, : seeds - regime.further], first=0 if regime.paired else seeds)
        for v in range(1, variants)
    ]
    return [sample("v0", right[0]), *others]


def sample(name: str, right: Bools, first: int = 0) -> Sample:
    """A sample from bool [seeds, items]; its seeds count from ``first``."""
    correct = {first + s: row for s, row in enumerate(right)}
    accuracy = {s: 100 * float(row.mean()) for s, row in correct.items()}
    return Sample(variant=name, benchmark="made up", accuracy=accuracy, items=right.shape[1], correct=correct)


@dataclass
class Count:
    """What became of the studies of one regime and number of seeds."""

    wrong: int = 0
    strict: int = 0
    covered: int = 0
    found: int = 0
    width: float = 0.0


def judge(regime: Regime, seeds: int, studies: int, gain: float, draws: int, seed: int) -> Count:
    """Error rate of studies without a difference, coverage and power of as many others with ``gain`` points."""
    stream = np.random.default_rng([seed, seeds, *regime.name.encode()])
    count = Count()
    for study in range(studies):
        base, variant = draw(regime, seeds, [0.0], stream)
        null = compare(variant, base, draws=draws, seed=study)
        count.wrong += null.p_value < 0.05  # also of one seed, whose p-value is never a verdict
        count.strict += null.p_value < 0.01
        base, variant = draw(regime, seeds, [gain], stream)
        real = compare(variant, base, draws=draws, seed=study)
        count.covered += real.low <= gain <= real.high
        count.found += real.low > 0
        count.width += (real.high - real.low) / 2 / studies
    return count


def family_error(regime: Regime, seeds: int, studies: int, variants: int, draws: int, seed: int) -> tuple[int, int]:
    """Studies of equal variants in which any differs from the baseline: before and after Holm's correction."""
    stream = np.random.default_rng([seed, seeds, variants, *regime.name.encode()])
    raw = corrected = 0
    for study in range(studies):
        base, *others = draw(regime, seeds, [0.0] * variants, stream)
        differences = [compare(other, base, draws=draws, seed=study) for other in others]
        raw += any(d.distinguishable for d in differences)
        corrected += any(d.distinguishable for d in holm(differences))
    return raw, corrected


def families(args: argparse.Namespace, variants: int) -> None:
    """Print how often a study of equal variants calls any of them different."""
    print(_row(["studies", "seeds", "any, %", "any after Holm, %"]) + "\n" + _row(["---"] * 4))
    for regime in (Regime("no seed effect", 0.0), Regime("seed effect", 1.0), Regime("large seed effect", 3.0)):
        for number in args.seeds:
            counts = family_error(regime, number, args.families, variants, args.draws, args.seed)
            shares = [f"{100 * count / args.families:.1f}" for count in counts]
            print(_row([f"{regime.name}, {variants} variants", f"{number}", *shares]), flush=True)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _marked(share: float, limits: tuple[float, float]) -> str:
    return f"{share:.1f}" if limits[0] <= share <= limits[1] else f"**{share:.1f}**"


def calibration(args: argparse.Namespace, regimes: Sequence[Regime], seeds: Sequence[int]) -> None:
    """Print one row per regime and number of seeds."""
    head = ["studies", "seed sd", "items", "seeds", "error rate at 5 %", "at 1 %", "coverage of 95 %", "half width"]
    print(_row([*head, f"finds {args.gain:g} points"]) + "\n" + _row(["---"] * (len(head) + 1)))
    for regime in regimes:
        for number in seeds:
            c = judge(regime, number, args.studies, args.gain, args.draws, args.seed)
            wrong, strict, covered, found = (100 * n / args.studies for n in (c.wrong, c.strict, c.covered, c.found))
            cells = [regime.name, f"{regime.seed_sd:g}", f"{regime.items}", f"{number}", _marked(wrong, ERROR_RATE)]
            cells += [f"{strict:.1f}", _marked(covered, COVERAGE), f"{c.width:.2f}", f"{found:.0f} %"]
            print(_row(cells), flush=True)


def interval_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``intervals``."""
    parser.add_argument("--studies", type=int, default=3000, help="without a difference, and as many with one")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--gain", type=float, default=3.0, help="true difference in points of the studies with one")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws of a comparison")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", type=int, default=1000, help="studies of eight equal variants")
    parser.add_argument("--only", nargs="*", help="parts of regime names")


def intervals(args: argparse.Namespace) -> None:
    """Print error rates and coverages of single comparisons, and of families of eight variants."""
    chosen = [r for r in REGIMES if not args.only or any(part in r.name for part in args.only)]
    calibration(args, chosen, args.seeds)
    print("\nOne seed: items only.\n")
    single = [Regime("one seed, no seed effect", 0.0), Regime("one seed, seed effect not seen", 1.0)]
    calibration(args, single, [1])
    print("\nHolm's correction.\n")
    families(args, 8)


def holm_error(seeds: int, share: float, tests: int, studies: int, stream: np.random.Generator) -> tuple[float, float]:
    """How often any of ``tests`` independent null tests passes Holm's first step, and how often a single one at 5 %.

    Args:
        seeds: paired seeds of every test.
        share: true share of the seeds in the variance.
        tests: size of the family.
        studies: families.
        stream: of random numbers.
    """
    freedom = seeds - 1
    grid = np.linspace(0, 1, 20_001) ** 2  # of the share as estimated; fine near 0
    at = {
        level: np.array([Spread(1.0, "seeds_and_items", float(u), freedom).interval(0.0, level)[1] for u in grid])
        for level in (0.05, 0.05 / tests)
    }
    part = share * stream.chisquare(freedom, (studies, tests)) / freedom
    total = part + 1 - share
    ratio = np.abs(stream.standard_normal((studies, tests))) / np.sqrt(total)
    single = float(np.mean(ratio > np.interp(part / total, grid, at[0.05])))
    return float(np.mean((ratio > np.interp(part / total, grid, at[0.05 / tests])).any(axis=1))), single


def holm_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``holm``."""
    parser.add_argument("--studies", type=int, default=10_000, help="families of each kind")
    parser.add_argument("--seed", type=int, default=0)


def holm_families(args: argparse.Namespace) -> None:
    """Print how often a family of independent tests without any effect has one that Holm's correction passes."""
    shares = (0.3, 0.5, 0.7, 0.9, 0.97, 1.0)
    head = ["any of a family, %; share of the seeds", *(f"{share:g}" for share in shares)]
    print(_row(head) + "\n" + _row(["---"] * len(head)))
    for seeds in (3, 5):
        singles = []
        for tests in (24, 60, 300):
            stream = np.random.default_rng([args.seed, seeds, tests])
            found = [holm_error(seeds, share, tests, args.studies, stream) for share in shares]
            print(_row([f"{tests} tests, {seeds} seeds", *(f"{100 * error:.1f}" for error, _ in found)]), flush=True)
            singles = [single for _, single in found]
        print(_row([f"one test at 5 %, {seeds} seeds", *(f"{100 * single:.1f}" for single in singles)]), flush=True)


Arguments, Command = Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], None]
COMMANDS: dict[str, tuple[Arguments, Command]] = {
    "intervals": (interval_arguments, intervals),
    "holm": (holm_arguments, holm_families),
    "claims": (calibration_claims.add_arguments, calibration_claims.run),
    **dict.fromkeys(calibration_verdicts.SIMULATIONS, (calibration_verdicts.add_arguments, calibration_verdicts.run)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Error rates and coverages of the statistics in simulated studies.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (add_arguments, command) in COMMANDS.items():
        told = calibration_verdicts.SIMULATIONS.get(name, command).__doc__ or ""
        one = commands.add_parser(name, help=told.splitlines()[0])
        add_arguments(one)
    args = parser.parse_args()
    began = time.process_time()
    COMMANDS[args.command][1](args)
    print(f"\n{time.process_time() - began:.0f} CPU seconds", file=sys.stderr)


if __name__ == "__main__":
    main()
