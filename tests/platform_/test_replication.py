"""What a study and its repetition say together: verdicts on made-up differences, errors on simulated ones."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from equipoise.platform.analysis.replication import (
    NEITHER,
    NEW,
    OTHER,
    REFUTED,
    REPLICATED,
    SAME,
    UNKNOWN,
    Replication,
    replication_of,
)
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.stats.table import ResultTable, Score
from equipoise.platform.stats.uncertainty import samples

SEEDS, ITEMS = 4, 400


def study(
    name: str, effects: dict[str, float], seeds: range, rng: np.random.Generator, data: str = "d", **definition: Any
) -> StudyRecord:
    """A record of a made-up study: every item right with a chance that variant, item and seed decide."""
    ease = np.random.default_rng(7).normal(size=ITEMS)
    scores, correct = [], {}
    for variant, points in {"baseline": 0.0, **effects}.items():
        for seed in seeds:
            chance = 1 / (1 + np.exp(-(ease + points / 20 + rng.normal(0, 0.08))))
            right = rng.random(ITEMS) < chance
            correct[variant, seed, "b"] = right
            accuracy = 100 * float(right.mean())
            scores.append(
                Score(
                    variant=variant,
                    seed=seed,
                    benchmark="b",
                    accuracy_percent=accuracy,
                    items=ITEMS,
                    flags=frozenset(),
                )
            )
    table = ResultTable(tuple(scores), ("b",), (), "test")
    record = SimpleNamespace(
        name=name,
        definition={"seeds": list(seeds), "mixes": dict.fromkeys(effects), **definition},
        benchmarks=("b",),
        part="test",
        trials=[SimpleNamespace(data=SimpleNamespace(tags={"manifest_hash": data}))],
        table=table,
        samples=samples(table, correct),
    )
    return cast(StudyRecord, record)


def repeated(
    was: dict[str, float], now: dict[str, float], seed: int = 0, data: str = "d", seeds: int = SEEDS
) -> Replication:
    rng = np.random.default_rng(seed)
    source = study("s", was, range(SEEDS), rng)
    return replication_of(study("r", now, range(SEEDS, SEEDS + seeds), rng, data, replicates="s"), source)


@pytest.mark.parametrize(
    ("was", "now", "verdicts"),
    [
        (12.0, 12.0, {REPLICATED}),
        (-12.0, -12.0, {REPLICATED}),
        (12.0, -12.0, {REFUTED}),
        (14.0, 0.0, {REFUTED, SAME, OTHER}),
        (0.0, 12.0, {NEW}),
        (0.0, 0.0, {NEITHER}),
    ],
)
def test_a_verdict_says_what_both_say(was: float, now: float, verdicts: set[str]) -> None:
    (found,) = repeated({"mix": was}, {"mix": now}).differences
    assert found.verdict in verdicts
    assert found.study.estimate * was >= 0
    assert found.low < found.combined < found.high


def test_one_fresh_seed_refutes_nothing() -> None:
    (found,) = repeated({"mix": 12.0}, {"mix": -12.0}, seeds=1).differences
    assert found.verdict == UNKNOWN


def test_the_interval_of_both_covers_and_is_narrower_than_either() -> None:
    """Over simulated studies, with the difference over new seeds and new items known by integration."""
    covered, widths = [], []
    for seed in range(150):
        (found,) = repeated({"mix": 4.0}, {"mix": 4.0}, seed).differences
        truth = _truth(4.0)
        covered.append(found.low <= truth <= found.high)
        widths.append((found.high - found.low) / min(d.high - d.low for d in (found.study, found.fresh)))
    rate = float(np.mean(covered))
    assert rate > 0.95 - 3 * math.sqrt(0.95 * 0.05 / len(covered))
    assert np.median(widths) < 1


def _truth(points: float) -> float:
    """The difference over new seeds and these items' kind, by integration over both."""
    grid = np.linspace(-6, 6, 4001)
    weight = np.exp(-(grid**2) / 2) / np.exp(-(grid**2) / 2).sum()
    high, low = (float(weight @ (1 / (1 + np.exp(-(grid + shift))))) for shift in (points / 20, 0.0))
    return 100 * (high - low)


def test_a_mix_that_does_nothing_is_seldom_found_again() -> None:
    """Both have to be more than chance: one in four hundred, of the same sign one in eight hundred."""
    found = [
        d.verdict
        for seed in range(150)
        for d in repeated(dict.fromkeys("abc", 0.0), dict.fromkeys("abc", 0.0), seed).differences
    ]
    assert found.count(REPLICATED) <= 2
    assert found.count(REFUTED) <= 0.05 * len(found)
    assert found.count(NEITHER) > 0.9 * len(found)


def test_other_data_is_noted_and_weighed_by_precision() -> None:
    same, other = (repeated({"mix": 8.0}, {"mix": 8.0}, data=data) for data in ("d", "e"))
    assert not same.notes
    assert "The data is not that of the study" in other.notes[0]
    (one,) = other.differences
    weights = np.array([1 / one.study.spread.variance, 1 / one.fresh.spread.variance])
    wanted = weights @ np.array([one.study.estimate, one.fresh.estimate]) / weights.sum()
    assert one.combined == pytest.approx(wanted)
