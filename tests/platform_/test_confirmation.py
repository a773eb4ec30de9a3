"""Confirmations: which trials they ask for, and what they say of gains whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console
from scipy.stats import t

import equipoise
from equipoise.platform.analysis.confirmation import Confirmation, compare_gains
from equipoise.platform.errors import StudyError
from equipoise.platform.record.client import TrackingError
from equipoise.platform.record.home import Home
from equipoise.platform.record.openings import openings_of
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.report.tables.confirmation import show_confirmation
from equipoise.platform.settings.study import ConfirmationDefinition
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.settings.variant import ObjectiveSetting, Variant, load_variant
from equipoise.platform.stats import power
from equipoise.platform.stats.selection import select
from equipoise.platform.stats.table import ResultTable, Score
from equipoise.platform.stats.uncertainty import samples
from equipoise.platform.study.confirm import CONFIRMED_BY, confirmations, define, forecast

Make = Callable[..., TrialSettings]
Command = Callable[..., tuple[int, str, str]]
BENCHMARKS = ("dive", "ssv2")
DEFINITION = {"name": "mine", "regime": "miniature", "preset": "nano", "seed": 7, "reading": "as_described"}


def table(
    stream: np.random.Generator,
    gains: Mapping[str, float],
    seeds: Mapping[str, range],
    spread: float = 1.0,
    items: int | None = None,
) -> ResultTable:
    """Scores of made-up variants: each gains the same on every benchmark over a baseline of 40 %."""
    return ResultTable.from_scores(
        [
            Score(
                variant=v,
                seed=s,
                benchmark=b,
                accuracy_percent=float(40 + gain + spread * stream.normal()),
                items=items,
            )
            for v, gain in gains.items()
            for s in seeds.get(v, seeds["others"])
            for b in BENCHMARKS
        ]
    )


def judged(
    before: ResultTable, after: ResultTable, variants: list[str], tolerance: float = 1.0, **options: Any
) -> Confirmation:
    allowed = dict.fromkeys(BENCHMARKS, tolerance)
    return compare_gains(
        "again", "mine", variants, before, after, samples(after), tolerance=allowed, draws=300, **options
    )


def top(before: ResultTable, count: int) -> list[str]:
    return [row.variant for row in select(before, tolerance=1.0).rows if row.eligible][:count]


# ---- what survives


def test_a_real_gain_survives_and_is_told_from_luck() -> None:
    stream = np.random.default_rng(5)
    gains = {"baseline": 0.0, "random_init": -20.0, "good": 5.0, "lucky": 0.0}
    before = ResultTable.from_scores(
        [
            Score(variant=v, seed=s, benchmark=b, accuracy_percent=40 + g)
            for v, g in {**gains, "good": 6.0, "lucky": 4.0}.items()
            for s in (0, 1)
            for b in BENCHMARKS
        ]
    )
    after = table(stream, gains, {"others": range(2, 8)}, spread=0.5)
    found = judged(before, after, ["good", "lucky"])
    good, lucky = found.of("good"), found.of("lucky")
    for b in BENCHMARKS:
        assert good[b].search == 6
        fresh = {v: np.array(list(after.values(v, b).values())) for v in ("baseline", "good", "lucky")}
        estimate = (fresh["good"] - fresh["baseline"]).mean()
        # by hand: what is left beside the means of three variants and six seeds, with ten degrees of freedom
        rest = np.array(list(fresh.values()))
        rest = rest - rest.mean(0) - rest.mean(1, keepdims=True) + rest.mean()
        reach = t.ppf(0.975, 10) * np.sqrt(2 / 6 * (rest**2).sum() / 10)
        assert (good[b].fresh.estimate, good[b].fresh.low) == pytest.approx((estimate, estimate - reach))
        assert good[b].share == pytest.approx(estimate / 6)
        low, high = good[b].share_interval or (0.0, 0.0)
        assert low < 5 / 6 < high
        assert good[b].verdict == "confirmed as a gain"
        assert lucky[b].verdict == "not distinguishable from 0"
        together = found.together[b]
        assert together.search == 5
        assert together.fresh.estimate == pytest.approx((good[b].fresh.estimate + lucky[b].fresh.estimate) / 2)
    assert found.candidate == found.balanced == "good"
    assert found.better
    lowest = [min(getattr(good[b].fresh, end) for b in BENCHMARKS) for end in ("low", "high")]
    assert found.at_least["good"] == tuple(lowest)
    assert found.sentences[0].startswith("good is balanced, and better than baseline on every benchmark: ")
    assert found.smallest["lucky"][0] == 4
    assert found.smallest["lucky"][1] < 1
    assert found.sentences[1].startswith("dive: the top 2 together +5.00 points in the search, ")
    assert found.fresh_seeds == tuple(range(2, 8))


def test_the_winners_of_pure_noise_lose_their_gain() -> None:
    """Twenty variants that equal the baseline: the search finds gains, fresh seeds do not, at their level."""
    stream = np.random.default_rng(1)
    noise = {"baseline": 0.0, "random_init": -20.0, **{f"mix-{i:03d}": 0.0 for i in range(20)}}
    search, covered, called, shrunk = [], 0, 0, 0
    for _ in range(60):
        before = table(stream, noise, {"others": range(1), "baseline": range(3), "random_init": range(3)})
        best = top(before, 3)
        after = table(stream, dict.fromkeys(["baseline", "random_init", *best], 0.0), {"others": range(3, 8)})
        found = judged(before, after, best)
        search += [gain.search for gain in found.gains]
        covered += sum(gain.fresh.low <= 0 <= gain.fresh.high for gain in found.together.values())
        called += any(gain.verdict == "confirmed as a gain" for gain in found.of(best[0]).values())
        was, now = found.smallest[best[0]]
        shrunk += now < was
    assert np.mean(search) > 0.5, "the choice alone makes a gain of half a standard deviation and more"
    assert 0.88 <= covered / 120 <= 0.995
    assert called <= 6
    assert shrunk > 45


def test_no_gain_has_no_share() -> None:
    stream = np.random.default_rng(2)
    gains = {"baseline": 0.0, "bad": -3.0}
    before = table(stream, gains, {"others": range(2)}, spread=0.1)
    found = judged(before, table(stream, gains, {"others": range(2, 5)}, spread=0.1), ["bad"])
    gain = found.of("bad")["dive"]
    assert gain.share is None
    assert gain.share_interval is None
    assert gain.verdict == "a loss"
    assert "there was no gain that could survive" in found.sentences[1]
    assert found.balanced is None
    assert found.sentences[0].startswith("bad is not confirmed as balanced: its smallest gain is -")
    assert (
        "on dive, ssv2 a loss of more than the tolerance (dive 1.00, ssv2 1.00 points) is not excluded"
        in found.sentences[0]
    )
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["gains"][0]["share"] is None
    assert record["gains"][0]["search_gain"] == pytest.approx(-3, abs=0.5)


def test_nothing_is_picked_a_second_time() -> None:
    """The second of the confirmed keeps within the tolerance, the candidate does not: nothing is balanced."""
    stream = np.random.default_rng(7)
    before = table(stream, {"baseline": 0.0, "first": 3.0, "second": 2.0}, {"others": range(1)}, spread=0.0)
    after = table(stream, {"baseline": 0.0, "first": -4.0, "second": 2.0}, {"others": range(1, 6)}, spread=0.3)
    found = judged(before, after, ["first", "second"])
    assert found.at_least["second"][0] > -1
    assert (found.candidate, found.balanced) == ("first", None)
    assert any("first was first in the search by its smallest gain, +3.00 points" in s for s in found.sentences)
    assert any("smaller: a choice among many favours luck" in s for s in found.sentences)


def test_one_fresh_seed_confirms_nothing() -> None:
    rows = [("baseline", 40.0), ("first", 45.0)]
    made = ResultTable.from_scores(
        [Score(variant=v, seed=0, benchmark=b, accuracy_percent=m, items=500) for v, m in rows for b in BENCHMARKS]
    )
    found = judged(made, made, ["first"])
    assert found.balanced is None
    assert any(note.startswith("One fresh seed only: intervals cover test items") for note in found.notes)
    assert any(note.startswith("One seed only in the search: first, baseline") for note in found.notes)


def test_within_the_tolerance_is_balanced_without_being_better() -> None:
    stream = np.random.default_rng(8)
    before = table(stream, {"baseline": 0.0, "a": 1.0}, {"others": range(1)}, spread=0.0)
    after = table(stream, {"baseline": 0.0, "a": 0.0}, {"others": range(1, 6)}, spread=0.1)
    found = judged(before, after, ["a"])
    assert found.balanced == "a"
    assert not found.better
    assert "no loss beyond the tolerance (dive 1.00, ssv2 1.00 points) on any benchmark" in found.sentences[0]
    assert judged(before, after, ["a"], tolerance=0.0).balanced is None


def test_stars_are_of_one_family() -> None:
    """Holm over every variant and their mean on every benchmark: the smallest p-value is multiplied by all of them."""
    stream = np.random.default_rng(9)
    gains = {"baseline": 0.0, "a": 1.0, "b": 0.0, "c": 0.0}
    before = table(stream, gains, {"others": range(2)})
    found = judged(before, table(stream, gains, {"others": range(2, 7)}), ["a", "b", "c"])
    family = [g.fresh for g in (*found.gains, *found.together.values())]
    assert len(family) == (3 + 1) * len(BENCHMARKS)
    least = min(family, key=lambda d: d.p_value)
    assert least.p_adjusted == pytest.approx(min(1.0, least.p_value * len(family)))


def test_what_failed_is_named() -> None:
    stream = np.random.default_rng(3)
    before = table(stream, {"baseline": 0, "a": 3, "b": 2}, {"others": range(2)})
    after = table(stream, {"baseline": 0, "b": 2}, {"others": range(2, 5)})
    found = judged(before, after, ["a", "b"])
    assert (found.variants, found.missing) == (("b",), ("a",))
    assert "No complete score on fresh seeds: a." in found.notes
    assert found.balanced is None, "b was not named first"
    with pytest.raises(StudyError, match="no score of the baseline on every benchmark yet: go on with --resume"):
        judged(before, table(stream, {"a": 3}, {"others": range(2, 5)}), ["a", "b"])
    with pytest.raises(StudyError, match="no score of any confirmed variant"):
        judged(before, table(stream, {"baseline": 3}, {"others": range(2, 5)}), ["a", "b"])


def test_the_table_shows_search_beside_fresh_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    stream = np.random.default_rng(4)
    gains = {"baseline": 0.0, "a": 3.0, "b": 2.0}
    before = table(stream, gains, {"others": range(2)}, spread=0.2)
    found = judged(before, table(stream, gains, {"others": range(2, 5)}, spread=0.2), ["a", "b"])
    show_confirmation(found, Console(width=100))
    out = capsys.readouterr().out
    gain = found.of("a")["dive"]
    assert f"{gain.search:+.2f} → {gain.fresh.estimate:+.2f} *" in out
    assert "★ a" in out
    assert f"{gain.share:.0%} [" in out
    assert "top 2" in out
    assert "on seeds 2, 3, 4" in out


# ---- what is asked for


def record(home: Home, trials: list[tuple[TrialSettings, float]], name: str = "mine", **more: Any) -> StudyRecord:
    """A study's record as its driver would leave it."""
    tracker = home.tracker()
    parent = tracker.start_study(name, "sweep", {**DEFINITION, "name": name, **more})
    tracker.tag(parent, benchmarks=json.dumps(["mini_dive", "mini_in"]))
    for number, (settings, accuracy) in enumerate(trials):
        run = tracker.start_trial(parent, name, f"t{number:04d}", "search", settings, "0")
        tracker.metrics(run, {"mini_dive": accuracy, "mini_in": accuracy}, 0)
        tracker.end(run, "finished")
    return StudyRecord.open(home, parent)


def test_a_confirmation_asks_for_the_best_with_fresh_seeds(home: Home, make_trial: Make) -> None:
    found = Variant(description="found by search", objectives={"delta": ObjectiveSetting(weight=0.123)})
    mix = make_trial("hw", overrides=("optimisation.steps=5",)).model_copy(
        update={"variant_name": "mix-004", "variant": found}
    )
    trials = [
        *((make_trial("baseline", seed=s), 40.0 + s) for s in (0, 1)),
        (make_trial("random_init"), 90.0),
        (make_trial("hw"), 44.0),
        (mix, 46.0),
        (make_trial("ld", seed=9), 30.0),
    ]
    source = record(home, trials, resources={"workers": 1, "cpus_per_worker": 2.0})
    definition, listed = define(source, "again", top=2, seeds=3)
    assert definition.seeds == definition.control_seeds == (10, 11, 12), "above every seed of the study"
    assert list(definition.mixes) == ["mix-004", "hw"]
    assert definition.resources.cpus_per_worker == 2
    assert (definition.confirms, definition.name, definition.seed) == ("mine", "again", 7)
    keys = [(role, name, s.seed) for role, name, s in listed]
    assert keys == [("control", c, s) for s in (10, 11, 12) for c in ("baseline", "random_init")] + [
        ("confirmation", v, s) for s in (10, 11, 12) for v in ("mix-004", "hw")
    ]
    mine = next(s for _, name, s in listed if name == "mix-004")
    # All that the trial was, not what a preset of this name says today.
    assert mine == mix.model_copy(update={"seed": 10})
    assert mine.preset.optimisation.steps == 5
    assert ConfirmationDefinition.model_validate(definition.model_dump(mode="json")) == definition
    # More than there are: all of them; and never the controls.
    assert list(define(source, "again", top=9, seeds=1)[0].mixes) == ["mix-004", "hw", "ld"]


def test_controls_are_there_also_where_the_study_refused_them(home: Home, make_trial: Make) -> None:
    source = record(home, [(make_trial("baseline", seed=3), 40.0), (make_trial("hw"), 44.0)])
    _, listed = define(source, "again", top=1, seeds=1)
    control = next(s for _, name, s in listed if name == "random_init")
    assert control.variant == load_variant("random_init")
    assert control.variant_name == "random_init"
    assert control.seed == 4


def test_a_second_confirmation_has_seeds_of_its_own(home: Home, make_trial: Make) -> None:
    tracker = home.tracker()
    source = record(home, [(make_trial("baseline"), 40.0), (make_trial("hw"), 44.0)])
    record(home, [(make_trial("baseline", seed=s), 40.0) for s in (1, 2, 3)], "mine-confirmation")
    tracker.tag(source.run_id, **{CONFIRMED_BY: "mine-confirmation"})
    source = StudyRecord.open(home, "mine")
    assert confirmations(source) == ["mine-confirmation"]
    assert define(source, "again", top=1, seeds=2)[0].seeds == (4, 5)


def test_nothing_to_confirm_is_said(home: Home, make_trial: Make) -> None:
    tracker = home.tracker()
    with pytest.raises(TrackingError, match="no finished trial yet"):
        define(record(home, [], "empty"), "again", 1, 1)
    only = record(home, [(make_trial("baseline"), 40.0), (make_trial("random_init"), 30.0)], "controls")
    with pytest.raises(StudyError, match="no finished trained variant besides its controls: nothing to confirm"):
        define(only, "again", 1, 1)
    silent = StudyRecord.open(home, tracker.start_study("silent", "pretrain", {**DEFINITION, "name": "silent"}))
    with pytest.raises(StudyError, match="scores nothing"):
        define(silent, "again", 1, 1)


def test_what_a_confirmation_can_find_is_said_before_it_starts() -> None:
    stream = np.random.default_rng(11)
    before = table(stream, {"baseline": 0.0, "a": 3.0}, {"others": range(1), "baseline": range(5)})
    selection = select(before, draws=0)
    said = forecast(selection, 3, 5, effect=2.0)
    floors = list(selection.noise_floor.values())
    for floor in floors:
        assert floor is not None
        assert f"{power.detectable(floor, 5, 2):.1f}" in said
    needed = max(power.seeds_needed(2.0, floor or 0.0, 2) or 0 for floor in floors)
    assert said.endswith(f"A gain of 2.0 points on every benchmark takes {needed} seeds.")
    one = table(stream, {"baseline": 0.0, "a": 3.0}, {"others": range(1)})
    assert "is not known beforehand" in forecast(select(one, draws=0), 3, 5)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_sweep_that_is_confirmed_at_its_end(home: Home, tiny_data: Path, call: Command, tmp_path: Path) -> None:
    """One command: search on select items, confirmation on fresh seeds and test items, both openings, both encoders."""
    names = ("hard_region", "delta", "temporal_contrast", "latent_dynamics")
    ranges = {name: {"low": 0.1, "high": 1.0} for name in names}
    content = {
        "name": "whole",
        "regime": "miniature",
        "preset": str(tiny_data / "tiny.yaml"),
        "trials": 4,
        "start": ["hw", "delta", "ltc", "ld"],
        "objectives": ranges,
        "confirm": {"top": 1, "seeds": 3},
    }
    space = tmp_path / "space.yaml"
    space.write_text(yaml.safe_dump(content))
    code, out, err = call("sweep", space, "--home", home.root, "--tolerance", 100, "--json")
    assert code == 0, err
    assert "With 1 control seed there may be no noise floor" in err, "before anything is spent"
    found = json.loads(out)
    candidate = found["selection"]["candidate"]["variant"]
    confirmed = found["confirmation"]["confirmation"]
    assert (confirmed["candidate"], confirmed["variants"]) == (candidate, [candidate])
    assert confirmed["parts"] == {"search": "select", "fresh": "test"}
    assert {t["seed"] for t in found["confirmation"]["trials"]} == set(confirmed["fresh_seeds"]) == {1, 2, 3}
    source, again = (StudyRecord.open(home, name) for name in ("whole", "whole-confirmation"))
    for record in (source, again):
        (opening,) = openings_of(record.tracker, record.run_id)
        assert (opening.by, opening.study) == ("confirmation", "whole-confirmation")
        assert set(opening.variants) == {candidate, "baseline", "random_init"}
        assert record.tags["balanced"] == (confirmed["balanced"] or "none")
    # A tolerance of 100 points excludes no loss: balanced, unless seeds that agree to the last item hide the error.
    known = all(gain["low"] is not None for gain in confirmed["gains"])
    assert confirmed["balanced"] == (candidate if known else None)
    if known:
        assert equipoise.load_encoder("models:/whole@balanced", home.uri()) is not None
    else:
        with pytest.raises(TrackingError, match="no model models:/whole@balanced"):
            equipoise.load_encoder("models:/whole@balanced", home.uri())
    assert equipoise.load_encoder("models:/whole@candidate", home.uri()) is not None
    # The same command once more only reads what is there.
    code, out, err = call("sweep", space, "--home", home.root, "--tolerance", 100, "--resume", "--json")
    assert code == 0, err
    assert json.loads(out)["confirmation"]["confirmation"]["gains"] == confirmed["gains"]
