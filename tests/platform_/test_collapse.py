"""What a collapse is, in curves of real trainings, and what a table of results says of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import TrialRow
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.search.collapse import IN_A_ROW, WATCHED_FROM, collapse_under_way
from equipoise.platform.search.repeats import next_repeat
from equipoise.platform.settings.search import SeedFidelity
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.stats.collapse import COLLAPSED_BELOW, Health, collapsed, describe, mean_health, share_of
from equipoise.platform.stats.selection import select
from equipoise.platform.stats.table import BARRED, COLLAPSED, UNTRAINED

CURVES = Path(__file__).parents[1] / "reference" / "collapse_curves.json"
HARSH = "harsh"
Curve = dict[int, Health]


@pytest.fixture(scope="module")
def recorded() -> list[dict[str, Any]]:
    """Runs that ``bench/collapse.py`` trained."""
    found: list[dict[str, Any]] = json.loads(CURVES.read_text())
    return found


def curve_of(run: dict[str, Any]) -> Curve:
    return {s: Health(r, x) for s, r, x in zip(run["steps"], run["rank"], run["spread"], strict=True)}


def group(recorded: list[dict[str, Any]], name: str) -> list[Curve]:
    return [curve_of(run) for run in recorded if run["group"] == name]


def stopped(curve: Curve, baselines: list[Curve], steps: int) -> str | None:
    """The first verdict that a trial would have heard."""
    so_far: Curve = {}
    for step in sorted(curve):
        so_far[step] = curve[step]
        if (why := collapse_under_way(so_far, baselines, steps)) is not None:
            return why
    return None


def test_none_of_a_hundred_healthy_runs_is_stopped_or_flagged(recorded: list[dict[str, Any]]) -> None:
    baselines, healthy = group(recorded, "baseline"), group(recorded, "healthy")
    assert len(healthy) >= 100
    steps = max(healthy[0])
    assert [stopped(curve, baselines, steps) for curve in healthy] == [None] * len(healthy)
    ends = {number: curve[steps] for number, curve in enumerate(healthy)}
    assert collapsed(ends, [curve[steps] for curve in baselines]) == set()
    # Nor against any single seed of the baseline, which is all that an impatient study may have when it decides.
    assert not [1 for curve in healthy for one in baselines if stopped(curve, [one], steps)]


def test_collapses_are_stopped_and_flagged(recorded: list[dict[str, Any]]) -> None:
    """Case 18 of the field, ``teacher: self`` or ``momentum: 0`` at a high rate, against the preset's baseline."""
    baselines = group(recorded, "baseline")
    steps = max(baselines[0])
    fallen = [curve_of(r) for r in recorded if r["group"] == "collapse" and HARSH in r["name"]]
    assert len(fallen) >= 6
    for curve in fallen:
        assert "directions at step" in (stopped(curve, baselines, steps) or "")
    assert len(collapsed({k: c[steps] for k, c in enumerate(fallen)}, [c[steps] for c in baselines])) == len(fallen)


def test_the_case_as_it_was_written_is_caught_against_its_own_baseline(recorded: list[dict[str, Any]]) -> None:
    """Both seeds keep a half of the directions or more; their features have come to one place."""
    baselines = group(recorded, "case 18 baseline")
    steps = max(baselines[0])
    fallen = [curve_of(r) for r in recorded if r["name"] == "no_ema, case 18"]
    assert len(fallen) == 2
    ends = [curve[steps] for curve in baselines]
    for curve in fallen:
        assert "directions at step" in (stopped(curve, baselines, steps) or "")
        assert curve[steps].rank > mean_health(ends).rank / 2
    assert collapsed(dict(enumerate(curve[steps] for curve in fallen)), ends) == {0, 1}


def flat(rank: float, spread: float | None = 0.8, steps: range = range(10, 101, 10)) -> Curve:
    return dict.fromkeys(steps, Health(rank, spread))


def test_a_verdict_takes_a_part_of_the_training_and_several_reports_in_a_row() -> None:
    baseline = [flat(30.0)]
    first = min(step for step in flat(1.0) if step >= WATCHED_FROM * 100)
    cut = {step: health for step, health in flat(2.0).items() if step <= first + 10 * (IN_A_ROW - 2)}
    assert collapse_under_way(cut, baseline, 100) is None
    now = first + 10 * (IN_A_ROW - 1)
    assert collapse_under_way({**cut, now: Health(2.0, 0.8)}, baseline, 100) == (
        f"its features use 2 directions at step {now}, the baseline's 30 there"
    )
    assert collapse_under_way({**flat(2.0), now: Health(29.0, 0.8)}, baseline, 1000) is None, "too early"
    broken = {step: Health(29.0 if step == 60 else 2.0, 0.8) for step in range(10, 71, 10)}
    assert collapse_under_way(broken, baseline, 100) is None, "it came back, and fell again"
    assert collapse_under_way(flat(2.0), baseline, 100) is None, "at the last step the result tells all"


def test_without_a_baseline_nothing_is_stopped() -> None:
    reports = flat(1.0, steps=range(10, 91, 10))
    assert collapse_under_way(reports, [], 100) is None
    assert collapse_under_way(reports, [flat(30.0, steps=range(15, 96, 10))], 100) is None, "at other steps"
    assert collapse_under_way(reports, [flat(30.0)], 100) is not None
    assert collapse_under_way(reports, [flat(1.5)], 100) is None, "the baseline has collapsed too"
    assert collapsed({"a": Health(1.0)}, []) == set()


def test_features_at_one_place_have_collapsed_whatever_they_do_around_it() -> None:
    """The effective rank does not see how large features are."""
    baseline = Health(18.0, 0.8)
    assert share_of(Health(18.0, 0.08), baseline) == pytest.approx(0.1)
    assert share_of(Health(9.0, 1.6), baseline) == 0.5, "wider than the baseline is no merit"
    assert share_of(Health(9.0, None), baseline) == 0.5
    assert share_of(Health(9.0, 0.1), Health(18.0, None)) == 0.5
    why = collapse_under_way(flat(18.0, 0.1, range(10, 91, 10)), [flat(18.0, 0.8)], 100)
    assert why == (
        "its features use 18 directions at step 90, the baseline's 18 there, "
        "and vary by 0.1 there, the baseline's by 0.8"
    )


def test_a_mean_has_a_spread_only_where_all_have_one() -> None:
    assert mean_health([Health(10, 0.5), Health(20, 1.0)]) == (15, 0.75)
    assert mean_health([Health(10, 0.5), Health(20, None)]) == (15, None)


def test_several_are_named_in_one_sentence() -> None:
    said = describe({"a": Health(3.14, 0.8), "b": Health(12.6, 0.2)}, Health(32.0, 0.9))
    assert said == (
        "their features use 3.1 (a), 13 (b) directions at the end, the baseline's 32, "
        "and vary by 0.2 (b) there, the baseline's by 0.9"
    )


BENCHMARKS = ("one", "two")


def test_a_variant_that_collapsed_earns_no_further_seed() -> None:
    def row(number: int, name: str, role: str, value: float, rank: float) -> TrialRow:
        result = {"accuracies": dict.fromkeys(BENCHMARKS, value)}
        settings = json.dumps({"seed": 0})
        health = {10: Health(30.0, 0.8), 20: Health(rank, 0.8)}
        return TrialRow(number, name, role, "finished", settings, None, None, None, 1, result, {}, None, None, health)

    def earned(rank: float) -> str | None:
        rows = [row(1, "baseline", "control", 10, 30.0), row(2, "mix", "search", 30, rank)]
        rows += [row(n, f"mix-{n}", "search", 5, 30.0) for n in range(3, 6)]
        found = next_repeat(rows, BENCHMARKS, SeedFidelity(most=2, share=0.5))
        return None if found is None else found[0].name

    assert (earned(29.0), earned(3.0)) == ("mix", None)


def record(home: Home, make: Any, ends: dict[tuple[str, int], float | None], flags: dict[str, str]) -> StudyRecord:
    """A study as its driver writes it, without running it; every variant but the baseline gains 10 points."""
    tracker = home.tracker()
    parent = tracker.start_study("s", "ablation", {"name": "s"})
    tracker.tag(parent, benchmarks=json.dumps(BENCHMARKS))
    for number, ((variant, seed), rank) in enumerate(ends.items()):
        settings: TrialSettings = make(seed=seed)
        settings = settings.model_copy(update={"variant_name": variant})
        run = tracker.start_trial(parent, "s", f"t{number:04d}", "ablation", settings, "0")
        if rank is not None:
            tracker.trained(run, {"effective_rank": 40.0, "target_std": 0.9}, 10)
            tracker.trained(run, {"effective_rank": rank, "target_std": 0.8}, 20)
        gain = 0.0 if variant == "baseline" else 10.0 + number
        tracker.metrics(run, dict.fromkeys(BENCHMARKS, 50.0 + gain + seed), 0)
        tracker.tag(run, flags=flags.get(variant, ""))
        tracker.end(run, "finished")
    return StudyRecord.open(home, "s")


def test_a_collapsed_encoder_is_flagged_and_never_the_candidate(tmp_path: Path, make_trial: Any, call: Any) -> None:
    ends = {
        ("baseline", 0): 31.0,
        ("baseline", 1): 33.0,
        ("random_init", 0): None,
        ("hw", 0): 30.0,
        ("delta", 0): 32 * COLLAPSED_BELOW + 0.1,
        ("no_ema", 0): 3.1,
        ("kinematic", 0): 2.0,
    }
    found = record(Home(tmp_path / "home"), make_trial, ends, {"kinematic": UNTRAINED})
    table = found.table
    assert {v: sorted(table.flags(v)) for v in table.variants if table.flags(v)} == {
        "no_ema": [COLLAPSED],
        "kinematic": [UNTRAINED],
    }
    assert table.flag_meanings == ((COLLAPSED, "its features use 3.1 directions at the end, the baseline's 32"),)
    selection = select(table)
    assert {r.variant for r in selection.rows if not r.eligible} == {"baseline", "random_init", "no_ema", "kinematic"}
    assert selection.row("no_ema").smallest_gain > selection.row("hw").smallest_gain
    assert any("no_ema" in n and "use 3.1 directions at the end, the baseline's 32" in n for n in selection.notes)
    assert {UNTRAINED, COLLAPSED} == BARRED
    code, out, err = call("front", "s", "--home", tmp_path / "home")
    assert code == 0, err
    assert "collapsed (no_ema): its features use 3.1 directions at the end, the baseline's 32" in " ".join(out.split())


def test_one_collapsed_seed_bars_a_variant_and_no_baseline_no_verdict(tmp_path: Path, make_trial: Any) -> None:
    ends: dict[tuple[str, int], float | None] = {("baseline", 0): 30.0, ("hw", 0): 29.0, ("hw", 1): 4.0, ("ld", 0): 5.0}
    found = record(Home(tmp_path / "a"), make_trial, ends, {})
    assert {s.variant: s.seed for s in found.table.scores if s.flags} == {"hw": 1, "ld": 0}
    assert found.table.flag_meanings[0][1] == (
        "their features use 4 (hw), 5 (ld) directions at the end, the baseline's 30"
    )
    del ends["baseline", 0]
    alone = record(Home(tmp_path / "b"), make_trial, ends, {})
    assert not any(s.flags for s in alone.table.scores)
    assert alone.table.flag_meanings == ()
