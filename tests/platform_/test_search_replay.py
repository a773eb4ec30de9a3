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
    halving = importlib.import_module("equipoise.platform.settings.search")
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


def test_a_source_goes_with_its_target_to_the_degree_given(bench: Any) -> None:
    worlds = bench("search_worlds")
    collected = worlds.Collected(BENCH / "search_trials.parquet")
    target = worlds.Surrogate(collected, 3)
    for degree in (0.0, 0.5, 0.9, 1.0):
        source = worlds.source_of(target, collected, 3, degree)
        for mine, wanted in zip(source.coefficients, target.coefficients, strict=True):
            for half in (slice(0, 18), slice(18, 36)):
                assert np.corrcoef(mine[half], wanted[half])[0, 1] == pytest.approx(degree, abs=1e-9)
                assert mine[half].std() == pytest.approx(wanted[half].std())
    np.testing.assert_allclose(source.coefficients, target.coefficients)
    other = worlds.source_of(worlds.Surrogate(collected, 4), collected, 4, 0.5)
    assert not np.allclose(other.coefficients, worlds.source_of(target, collected, 3, 0.5).coefficients)


def test_a_search_begins_with_the_best_of_the_one_before(bench: Any) -> None:
    worlds, replay = bench("search_worlds"), bench("search_replay")
    collected = worlds.Collected(BENCH / "search_trials.parquet")
    target = worlds.Surrogate(collected, 5)
    before = replay.Search(worlds.source_of(target, collected, 5, 0.5), replay.Strategy("random"), 5)
    before.run(20)
    left = replay.left_by(before)
    seen = {r.name: list(r.result["accuracies"].values()) for r in before.rows.values()}
    names = [mix.name.removeprefix("source.") for mix in left.starts]
    assert 1 <= len(names) <= 8
    for name in names:
        dominating = [
            all(a >= b for a, b in zip(o, seen[name], strict=True)) and o != seen[name] for o in seen.values()
        ]
        assert not any(dominating)
    scaled = (np.array(list(seen.values())) - np.mean(list(seen.values()), axis=0)) / np.std(
        list(seen.values()), axis=0
    )
    score = dict(zip(seen, scaled.mean(axis=1), strict=True))
    assert names == sorted(names, key=lambda name: -score[name])
    after = replay.Search(target, replay.Strategy("tpe", source=0.5), 5, earlier=left)
    after.run(12)
    begun = [row.name for row in after.rows.values()][: len(names)]
    assert begun == [mix.name for mix in left.starts]
    assert [after.variants[n] for n in begun] == [before.variants[n] for n in names]
    assert after.strategy.name == "tpe after a source at 0.5"


def test_tables_go_under_their_own_mark(bench: Any) -> None:
    placed = bench("search_report").placed
    words = "A\n<!-- one -->\nold\n<!-- end -->\nB\n<!-- two -->\nold too"
    first = placed(words, "one", "new\n")
    assert first == "A\n<!-- one -->\n\nnew\n\n<!-- end -->\nB\n<!-- two -->\nold too"
    assert placed(first, "two", "new") == "A\n<!-- one -->\n\nnew\n\n<!-- end -->\nB\n<!-- two -->\n\nnew"
    assert placed(first, "one", "new\n") == first


def test_blind_looks_are_the_same_for_every_mix(bench: Any) -> None:
    worlds, replay = bench("search_worlds"), bench("search_replay")
    halving = importlib.import_module("equipoise.platform.settings.search")
    told = {}
    for blind in (False, True):
        search = replay.Search(
            worlds.TestFunction("dtlz2", 1), replay.Strategy("random", halving.EarlyStopping(), blind=blind), 1
        )
        search.run(60)
        pairs = [(r.rungs[240]["one"], search.truths[r.name][0]) for r in search.rows.values()]
        told[blind] = float(np.corrcoef(np.array(pairs).T)[0, 1])
    assert told[False] > 0.5
    assert abs(told[True]) < 0.3
