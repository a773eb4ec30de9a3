"""Simulated studies behind bench/statistics.md: is what is said of a candidate, and of a confirmation, true as often?

Every study is made of accuracies (and, where it says so, of items) whose truth is known, and goes through the very
functions that `equipoise front` and `equipoise confirm` call. `python bench/calibration.py NAME` runs one of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from equipoise.platform.analysis.confirmation import compare_gains
from equipoise.platform.stats.noise import study_noise
from equipoise.platform.stats.selection import Selection, select
from equipoise.platform.stats.table import ResultTable, Score
from equipoise.platform.stats.uncertainty import samples

Array = NDArray[np.float64]
BENCHMARKS = ("dive", "ssv2", "in")
SD = 2.0  # of one accuracy over seeds, in points: nano's
RELIABILITY = (0.3, 0.8, 0.6)  # share of the variance of one nano run that is the mix
REFERENCE = 0.5  # correlation between benchmarks of what a seed does


def _noise(stream: np.random.Generator, *shape: int, correlation: float = REFERENCE) -> Array:
    """What seeds do [..., M], standard deviation 1."""
    M = len(BENCHMARKS)
    joint = np.full((M, M), correlation) + (1 - correlation) * np.eye(M)
    return np.asarray(stream.standard_normal((*shape, M)) @ np.linalg.cholesky(joint).T)


def study(
    stream: np.random.Generator,
    effects: Array,
    *,
    baseline: int = 4,
    seeds: int = 1,
    correlation: float = REFERENCE,
) -> ResultTable:
    """A study whose mixes have true effects [K, M] in standard deviations over seeds; mixes share seeds from 0 on."""
    runs = {"baseline": 50 + SD * _noise(stream, baseline, correlation=correlation)}
    for k, effect in enumerate(effects):
        runs[f"mix-{k:03d}"] = 50 + SD * (effect + _noise(stream, seeds, correlation=correlation))
    return ResultTable.from_scores(
        Score(variant=name, seed=s, benchmark=b, accuracy_percent=float(np.clip(row[m], 0, 100)))
        for name, rows in runs.items()
        for s, row in enumerate(rows)
        for m, b in enumerate(BENCHMARKS)
    )


def _selected(table: ResultTable, **given: float) -> Selection:
    return select(table, draws=0, **given)  # type: ignore[arg-type]


def luck(studies: int = 3000) -> list[list[str]]:
    """How often the candidate of a null study has a probability of luck of at most 5 %."""
    rows = [["mixes", "baseline seeds", "correlation", "P(p <= 5 %), %", "no candidate, %"]]
    for mixes in (6, 20, 100):
        for baseline in (2, 3, 5):
            for correlation in (REFERENCE, 0.0) if mixes == 20 else (REFERENCE,):
                stream = np.random.default_rng([mixes, baseline, int(10 * correlation)])
                found = []
                for _ in range(studies):
                    table = study(stream, np.zeros((mixes, 3)), baseline=baseline, correlation=correlation)
                    candidate = _selected(table, tolerance=50.0).candidate
                    found.append(1.0 if candidate is None or candidate.luck is None else candidate.luck)
                low, none = np.mean(np.array(found) <= 0.05), np.mean(np.array(found) == 1.0)
                rows.append([str(mixes), str(baseline), f"{correlation:g}", f"{100 * low:.1f}", f"{100 * none:.1f}"])
    return rows


def bounds(studies: int = 1000) -> list[list[str]]:
    """How often a mix is called better on every benchmark, one of them being 0 for all mixes and the others +10 sd."""
    rows = [
        ["mixes", "baseline seeds", "seeds of a mix", "false statements, %", "within tolerance said at its edge, %"]
    ]
    for mixes in (6, 20, 100):
        for baseline, seeds in ((3, 1), (4, 1), (5, 3)):
            stream = np.random.default_rng([mixes, baseline, seeds, 7])
            better = kept = 0
            for _ in range(studies):
                effects = np.full((mixes, 3), 10.0)
                effects[:, 0] = 0.0
                found = _selected(study(stream, effects, baseline=baseline, seeds=seeds))
                better += any(all(v is not None and v > 0 for v in r.at_least.values()) for r in found.rows)
                effects[:, 0] = -1.0  # the tolerance below is 1 sd: a loss of just that is not within it
                found = _selected(study(stream, effects, baseline=baseline, seeds=seeds), tolerance=SD)
                kept += any(all(v is not None and v > -SD for v in r.at_least.values()) for r in found.rows)
            shares = [f"{100 * n / studies:.1f}" for n in (better, kept)]
            rows.append([str(mixes), str(baseline), str(seeds), *shares])
    return rows


def floor(studies: int = 20000) -> list[list[str]]:
    """How often the noise floor is below half the truth, from accuracies alone."""
    rows = [["control seeds", "degrees of freedom", "P(floor < half the truth), %", "median of floor / truth"]]
    for seeds in (4, 5, 6, 8):
        stream = np.random.default_rng([seeds, 11])
        found = []
        for _ in range(studies // len(BENCHMARKS)):
            noise = study_noise(study(stream, np.zeros((0, 3)), baseline=seeds))
            found += [(noise.floor(b) or 0.0) / SD for b in BENCHMARKS]
        low = 100 * np.mean(np.array(found) < 0.5)
        rows.append([str(seeds), str(seeds - 1), f"{low:.1f}", f"{np.median(found):.2f}"])
    return rows


def shrinkage(studies: int = 1500) -> list[list[str]]:
    """Mean of expected less true gain of the candidate, in standard deviations over seeds."""
    head = ["mixes", "baseline seeds", "spread of effects", "bias of the measured gain", "bias of the expected gain"]
    rows = [[*head, "covered by its interval, %"]]
    for mixes in (20, 100):
        for baseline in (4, 7):
            for spread in (0.0, 0.5, 1.0):
                stream = np.random.default_rng([mixes, baseline, int(10 * spread), 13])
                measured, expected, covered = [], [], []
                for _ in range(studies if mixes < 50 else studies // 2):
                    effects = spread * _noise(stream, mixes, correlation=0.25)
                    candidate = _selected(study(stream, effects, baseline=baseline), tolerance=50.0).candidate
                    if candidate is None or candidate.expected is None:
                        continue
                    true = SD * effects[int(candidate.variant[4:])]
                    told = list(candidate.expected.values())
                    measured.append(np.mean(np.array(list(candidate.gains.values())) - true) / SD)
                    expected.append(np.mean(np.array([e.points for e in told]) - true) / SD)
                    covered.append(np.mean([e.low <= t <= e.high for e, t in zip(told, true, strict=True)]))
                means = [f"{np.mean(measured):+.2f}", f"{np.mean(expected):+.2f}", f"{100 * np.mean(covered):.0f}"]
                rows.append([str(mixes), str(baseline), f"{spread:g}", *means])
    return rows


def front(studies: int = 500) -> list[list[str]]:
    """What share of variants that were said to be on the front with a probability are on it, by bins of that."""
    rows = [["studies", "said: 0 to 20 %", "20 to 40 %", "40 to 60 %", "60 to 80 %", "80 to 100 %"]]
    spread = np.sqrt(np.array(RELIABILITY) / (1 - np.array(RELIABILITY)))
    cases: list[tuple[str, int, int, Array | float]] = [
        ("20 mixes, one seed, nano's reliability", 20, 1, spread),
        ("20 mixes, three seeds, nano's reliability", 20, 3, spread),
        ("20 mixes, one seed, effects of 2 sd", 20, 1, 2.0),
        ("20 mixes, one seed, effects of 1 sd", 20, 1, 1.0),
        ("50 mixes, one seed, nano's reliability", 50, 1, spread),
        ("6 mixes, one seed, nano's reliability", 6, 1, spread),
    ]
    for name, mixes, seeds, size in cases:
        stream = np.random.default_rng([mixes, seeds, len(name), 17])
        said, true = [], []
        for number in range(studies):
            effects = size * _noise(stream, mixes, correlation=0.3)
            table = study(stream, effects, seeds=seeds)
            found = select(table, tolerance=50.0, draws=400, seed=number)
            points = np.vstack([np.zeros(3), effects])
            for row in found.rows:
                mine = points[0 if row.control else 1 + int(row.variant[4:])]
                beaten = ((points >= mine).all(1) & (points > mine).any(1)).any()
                said.append(row.front_probability or 0.0)
                true.append(not beaten)
        bins = np.clip((np.array(said) * 5).astype(int), 0, 4)
        cells = []
        for k in range(5):
            inside = bins == k
            share = f"{100 * np.mean(np.array(said)[inside]):.0f} → {100 * np.mean(np.array(true)[inside]):.0f}"
            cells.append(f"{share} ({inside.sum()})" if inside.sum() > 30 else "–")
        rows.append([name, *cells])
    return rows


def confirmation(studies: int = 2000, items: int = 500) -> list[list[str]]:
    """How often a confirmation of three mixes that do nothing has any star, and how often one is called balanced."""
    head = ["seeds", "seed sd, points", "any star, %", "balanced at a loss of the tolerance, %"]
    rows = [[*head, "balanced where nothing changes, %"]]
    for seeds in (3, 5):
        for spread in (0.5, 2.0):
            stream = np.random.default_rng([seeds, int(10 * spread), 19])
            star = edge = same = 0
            for _ in range(studies):
                star += any(
                    g.fresh.distinguishable
                    for found in (_confirmed(stream, seeds, spread, items, 0.0),)
                    for g in (*found.gains, *found.together.values())
                )
                edge += _confirmed(stream, seeds, spread, items, -SD, stars=False).balanced is not None
                same += _confirmed(stream, seeds, spread, items, 0.0, stars=False).balanced is not None
            shares = [f"{100 * n / studies:.1f}" for n in (star, edge, same)]
            rows.append([str(seeds), f"{spread:g}", *shares])
    return rows


def _confirmed(stream: np.random.Generator, seeds: int, spread: float, items: int, effect: float, stars: bool = True):  # type: ignore[no-untyped-def]
    """A confirmation of three mixes on fresh seeds, of items; the first mix has the effect on the first benchmark."""
    names = ["baseline", "a", "b", "c"] if stars else ["baseline", "a"]
    scores, right = [], {}
    for m, b in enumerate(BENCHMARKS):
        hard = 0.8 * stream.standard_normal(items)
        for name in names:
            own = 0.3 * stream.standard_normal(items)
            shift = effect if name == "a" and m == 0 else 0.0
            for s in range(seeds):
                # A latent value of standard deviation 1 around 0: one point of accuracy is 0.0251 of it.
                seed = (shift + spread * stream.standard_normal()) * 0.0251
                outcome = hard + own + seed + 0.52 * stream.standard_normal(items) > 0
                right[name, s, b] = outcome
                scores.append(
                    Score(variant=name, seed=s, benchmark=b, accuracy_percent=100 * outcome.mean(), items=items)
                )
    after = ResultTable.from_scores(scores, BENCHMARKS)
    found = samples(after, right)
    tolerance = dict.fromkeys(BENCHMARKS, SD)
    return compare_gains("c", "s", names[1:], after, after, found, tolerance=tolerance, draws=400)


SIMULATIONS: dict[str, Callable[..., Sequence[Sequence[str]]]] = {
    "luck": luck,
    "bounds": bounds,
    "floor": floor,
    "shrinkage": shrinkage,
    "front": front,
    "confirmation": confirmation,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of every one of them."""
    parser.add_argument("--studies", type=int, help="of each row; default: what bench/statistics.md has")


def run(args: argparse.Namespace) -> None:
    """Print the table of one of them in Markdown."""
    found = SIMULATIONS[args.command]
    for number, cells in enumerate(found() if args.studies is None else found(args.studies)):
        print(f"| {' | '.join(cells)} |")
        if number == 0:
            print(f"| {' | '.join(['---'] * len(cells))} |")
