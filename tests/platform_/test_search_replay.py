"""The replay of searches in ``bench/``: it runs, is the same again, and its accounts are right."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of ``bench/``."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


def test_a_replay_accounts_for_every_step(bench: Any) -> None:
    worlds, replay = bench("search_worlds"), bench("search_replay")
    halving = importlib.import_module("equipoise.platform.halving")
    stopping = halving.EarlyStopping(rungs=2, warmup=2)
    strategy = replay.Strategy("random", stopping, halving.SeedFidelity(most=2))
    search = replay.Search(worlds.TestFunction("dtlz7", 1), strategy, 1)
    curve = search.run(12)
    first, second = (s / replay.STEPS for s in stopping.steps(replay.STEPS))
    expected = 0.0
    for row in search.rows.values():
        legs = [first + replay.LOOK, second - first + replay.LOOK]
        searched = row.role == "search"
        expected += 1.0 + 2 * replay.LOOK * searched if row.status == "finished" else sum(legs[: len(row.rungs)])
    assert search.spent == pytest.approx(expected)
    assert curve[-1][0] <= search.spent
    assert {r.status for r in search.rows.values()} == {"finished", "stopped"}
    assert {r.role for r in search.rows.values()} == {"search", "repeat"}
    again = replay.Search(worlds.TestFunction("dtlz7", 1), strategy, 1)
    assert again.run(12) == curve


def test_test_functions_have_their_front_where_they_say(bench: Any) -> None:
    worlds = bench("search_worlds")
    world = worlds.TestFunction("dtlz2", 4)
    place = np.zeros(18)
    place[world.distance] = world.best
    place[world.position] = (0.3, 0.6)
    own = 2 * (1 - world.truth(place) / 100)  # back in the function's own units: on the unit sphere
    assert np.linalg.norm(own) == pytest.approx(1.0)
    worse = place.copy()
    worse[world.distance[0]] += 0.2
    assert np.linalg.norm(2 * (1 - world.truth(worse) / 100)) > 1.0


def test_a_curve_reaches_a_goal_where_it_stays_above(bench: Any) -> None:
    report = bench("search_report")
    grid = np.linspace(0, 10, 11)
    mean = np.array([0, 1, 3, 2, 3, 4, 4, 4, 4, 4, 4.0])
    assert report.reach(mean, 2.5, grid) == pytest.approx(0.4)
    assert report.reach(mean, 5.0, grid) == float("inf")
    record = {"seed": 3, "curve": [[2.0, 5.0], [6.0, 10.0]]}
    found = report.curves([record], {3: 10.0}, grid)[3]
    assert found.tolist() == [0, 0, 0.5, 0.5, 0.5, 0.5, 1, 1, 1, 1, 1]


def test_the_collected_trials_are_whole(bench: Any) -> None:
    """What ships can be fitted, and a world drawn from it is the same again."""
    worlds = bench("search_worlds")
    collected = worlds.Collected(BENCH / "search_trials.parquet")
    assert {r["variant"] for r in collected.rows} >= {"baseline", "mix-000"}
    place = np.zeros(18)
    one, same, other = (worlds.Surrogate(collected, seed) for seed in (1, 1, 2))
    assert json.dumps(one.truth(place).tolist()) == json.dumps(same.truth(place).tolist())
    place[:] = 0.5
    assert one.truth(place).tolist() == same.truth(place).tolist() != other.truth(place).tolist()
