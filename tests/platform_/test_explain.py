"""What is said of a search: interactions, expectations, the next trial, and the picture of slices."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from click.testing import CliRunner
from PIL import Image
from rich.console import Console
from sklearn.gaussian_process import GaussianProcessRegressor
from statsmodels.stats.multitest import multipletests

from equipoise.platform.analysis import explanation as explain_view
from equipoise.platform.analysis.importance import search_importance
from equipoise.platform.analysis.interactions import FEWEST, TOGETHER, Finished, doses, finished_of, interactions, looks
from equipoise.platform.analysis.next_trial import Surrogate, next_trial
from equipoise.platform.cli.main import cli
from equipoise.platform.errors import StudyError
from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import Ledger
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.report.explanation import explain_search
from equipoise.platform.report.plots.slices import MOST_SLICES, plot_slices
from equipoise.platform.report.plots.style import PlotError
from equipoise.platform.report.tables.explanation import show_explanation
from equipoise.platform.search.proposer import OptunaProposer
from equipoise.platform.search.store import SearchStore, Snapshot
from equipoise.platform.search.warm_start import Earlier, EarlierMix
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.settings.variant import ObjectiveSetting, Variant, load_variant

BENCHMARKS = ("mini_dive", "mini_ssv2", "mini_in")
SPACE: dict[str, Any] = {
    "hard_region": {"low": 0.1, "high": 2.0, "off_probability": 0.5},
    "delta": {"low": 0.1, "high": 1.0, "off_probability": 0.5, "params": {}},
    "spectral": {"low": 0.1, "high": 1.0, "off_probability": 0.0},
    "latent_dynamics": {
        "low": 0.1,
        "high": 1.0,
        "off_probability": 0.5,
        "params": {"hidden": {"low": 32, "high": 64}},
    },
}


def definition(**change: Any) -> SweepDefinition:
    data = {"name": "mine", "regime": "miniature", "preset": "nano", "trials": 40, "objectives": SPACE}
    return parse(SweepDefinition, {**data, **change}, "test")


def truth(variant: Variant) -> dict[str, float]:
    """Spectral helps; a hard region and a delta ruin each other on one benchmark."""
    h, d, s, _ = doses(definition(), variant)
    return {"mini_dive": 30 + 4 * s, "mini_ssv2": 60 + h + d - 8 * h * d, "mini_in": 10 + 2 * h}


def searched(
    folder: Path, trials: int, noise: float = 0.3, benchmarks: tuple[str, ...] = BENCHMARKS, **change: Any
) -> OptunaProposer:
    stream = np.random.default_rng(1)
    p = OptunaProposer(definition(**change), benchmarks, SearchStore(str(folder / "optuna.journal")), "parent")
    for trial in range(trials):
        asked = p.ask(trial)
        assert asked.optuna_number is not None
        p.tell(asked.optuna_number, {b: v + noise * stream.normal() for b, v in truth(asked.variant).items()})
    return p


def made_up(n: int, p: int, seed: int, effect: float = 0.0) -> Finished:
    """Trials with half of the objectives on; the first two objectives interact."""
    stream = np.random.default_rng(seed)
    on = stream.random((n, p)) < 0.5
    found = np.where(on, stream.uniform(0.5, 1.0, (n, p)), 0.0)
    values = found @ np.linspace(-1, 1, p) + effect * found[:, 0] * found[:, 1] + stream.normal(size=n)
    names = tuple(f"o{i}" for i in range(p))
    return Finished(
        tuple(f"t{i}" for i in range(n)),
        (Variant(),) * n,
        found,
        values[:, None],
        np.ones(n, dtype=bool),
        names,
        ("b",),
    )


# ---- doses


def test_a_dose_is_the_place_in_the_range() -> None:
    space = definition()
    mix = Variant(objectives={
        "hard_region": ObjectiveSetting(weight=0.1),
        "delta": ObjectiveSetting(weight=1.0),
        "spectral": ObjectiveSetting(weight=0.1),
    })  # fmt: skip
    # The lowest weight is half a dose where off is none, and none where the objective is never off.
    assert doses(space, mix).tolist() == [0.5, 1.0, 0.0, 0.0]
    middle = doses(space, space.middle())
    assert middle == pytest.approx([0.75, 0.75, 0.5, 0.75])


# ---- interactions


def test_interactions_are_those_of_a_full_regression() -> None:
    """One fit for each pair, by statsmodels: coefficient, interval, p-value, and Holm over the pairs."""
    found = made_up(60, 4, 4, effect=5.0)
    ours = {(one.first, one.second): one for one in interactions(found)}
    assert len(ours) == 6
    chances = {}
    for (first, second), one in ours.items():
        i, j = int(first[1:]), int(second[1:])
        design = np.column_stack([np.ones(60), found.doses, found.doses[:, i] * found.doses[:, j]])
        fit = sm.OLS(found.values[:, 0], design).fit()
        assert one.estimate == pytest.approx(fit.params[-1])
        assert (one.low, one.high) == pytest.approx(tuple(fit.conf_int()[-1]))
        chances[first, second] = fit.pvalues[-1]
        assert one.together == int(((found.doses[:, i] > 0) & (found.doses[:, j] > 0)).sum())
    adjusted = multipletests(list(chances.values()), method="holm")[1]
    assert [ours[pair].p_adjusted for pair in chances] == pytest.approx(list(adjusted))
    top = interactions(found)[0]
    assert (top.first, top.second, top.clear) == ("o0", "o1", True)
    assert top.low < 5.0 < top.high


def test_pairs_that_add_up_are_called_interacting_by_chance_alone() -> None:
    called = sum(any(one.clear for one in interactions(made_up(35, 4, seed))) for seed in range(100))
    assert called <= 12, "five in a hundred searches, by Holm's level"


def test_interactions_that_cannot_be_told_are_not_asked_for() -> None:
    assert interactions(made_up(10, 4, 0)) == []
    few = made_up(40, 4, 0)
    apart = few.doses.copy()
    apart[:, 1] = np.where(apart[:, 0] > 0, 0.0, 0.7)
    alone = Finished(few.names, few.variants, apart, few.values, few.own, few.objectives, few.benchmarks)
    assert ("o0", "o1") not in {(one.first, one.second) for one in interactions(alone)}
    assert all(one.together >= TOGETHER for one in interactions(alone))
    # Two that are always on together with one strength: their product is nothing new.
    apart[:, 0] = np.where(few.doses[:, 2] > 0, 1.0, 0.0)
    apart[:, 1] = apart[:, 0]
    twins = Finished(few.names, few.variants, apart, few.values, few.own, few.objectives, few.benchmarks)
    assert ("o0", "o1") not in {(one.first, one.second) for one in interactions(twins)}


# ---- the model


def test_left_out_trials_are_foretold_as_by_fits_without_them() -> None:
    stream = np.random.default_rng(0)
    at = stream.random((14, 3))
    values = 40 + 3 * at[:, 0] + 0.3 * stream.normal(size=14)
    model = Surrogate(at, values)
    kernel = model._model.kernel_
    centred = (values - values.mean()) / values.std()
    errors, plain = [], []
    for i in range(14):
        rest = np.arange(14) != i
        one = GaussianProcessRegressor(kernel, optimizer=None).fit(at[rest], centred[rest])
        errors.append(centred[i] - one.predict(at[i : i + 1])[0])
        plain.append(centred[i] - centred[rest].mean())
    assert model.explained == pytest.approx(1 - np.square(errors).sum() / np.square(plain).sum())
    assert model.explained > 0.5
    noise = Surrogate(at, stream.normal(size=14))
    assert noise.explained < 0.3


def test_one_run_lands_in_its_interval_as_often_as_said() -> None:
    inside = total = 0
    for seed in range(8):
        stream = np.random.default_rng(seed)
        at = stream.random((30, 2))
        model = Surrogate(at[:20], 40 + 5 * np.sin(3 * at[:20, 0]) + stream.normal(size=20))
        fresh = 40 + 5 * np.sin(3 * at[20:, 0]) + stream.normal(size=10)
        for place, value in zip(at[20:], fresh, strict=True):
            mean, spread = model.expects(place)
            inside += abs(value - mean) < 1.96 * spread
            total += 1
    assert 0.85 <= inside / total <= 1.0


# ---- early looks


def test_looks_are_correlated_with_the_end(tmp_path: Path) -> None:
    stream = np.random.default_rng(3)
    p = searched(tmp_path, 0)
    early, final = [], []
    for trial in range(FEWEST + 3):
        asked = p.ask(trial)
        assert asked.optuna_number is not None
        seen, end = stream.normal(size=(2, 3))
        end[0] += 2 * seen[0]
        seen[2] = 5.0
        rungs = {30: dict(zip(BENCHMARKS, map(float, seen), strict=True))}
        if trial in (2, 5):
            p.prune(asked.optuna_number, {30: dict.fromkeys(BENCHMARKS, -99.0)})
            continue
        # One only of them passed the second rung.
        more = {90: rungs[30]} if trial == 3 else {}
        p.tell(asked.optuna_number, dict(zip(BENCHMARKS, map(float, end), strict=True)), rungs | more)
        early.append(seen[:2])
        final.append(end[:2])
    found = looks(p.study, BENCHMARKS)
    assert [(one.step, one.benchmark, one.trials) for one in found] == [(30, b, FEWEST + 1) for b in BENCHMARKS]
    for k, one in enumerate(found[:2]):
        x, y = np.array(early)[:, k], np.array(final)[:, k]
        r = np.corrcoef(x, y)[0, 1]
        assert one.correlation == pytest.approx(r)
        reach = 1.959964 / np.sqrt(len(x) - 3)  # Fisher's z
        assert (one.low, one.high) == pytest.approx((np.tanh(np.arctanh(r) - reach), np.tanh(np.arctanh(r) + reach)))
    assert found[0].correlation is not None
    assert found[0].correlation > 0.5
    assert (found[2].correlation, found[2].low) == (None, None)


# ---- what comes next


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "qmc", "random"])
def test_what_is_said_to_come_next_comes_next(tmp_path: Path, sampler: str) -> None:
    """And nothing is written by asking."""
    p = searched(tmp_path, 23 if sampler == "nsga2" else 12, sampler=sampler)
    under_way = p.ask(99)
    journal = (tmp_path / "optuna.journal").read_bytes()
    said = next_trial(
        p.definition, BENCHMARKS, p.store, "parent", {"mini_dive": 31.0, "mini_ssv2": 60.0, "mini_in": 10.0}
    )
    assert (tmp_path / "optuna.journal").read_bytes() == journal
    comes = p.ask(100)
    assert (said.name, said.variant) == (comes.name, comes.variant)
    assert said.drawn_by == {"tpe": "model", "nsga2": "model"}.get(sampler, "chance")
    text = " ".join(said.why)
    if said.drawn_by == "model":
        assert "finished or stopped trials, with 1 trial under way." in text
    else:
        assert f"Drawn by {sampler}, which looks at no result." in text
    assert {name for name in comes.variant.objectives if name in text} == set(comes.variant.objectives)
    assert [e.benchmark for e in said.expected] == list(BENCHMARKS)
    dive = said.expected[0]
    assert dive.gain == pytest.approx(dive.accuracy - 31.0)
    assert dive.low < dive.accuracy < dive.high
    assert dive.explained > 0.5, "spectral is all that moves it"
    assert dive.low < truth(comes.variant)["mini_dive"] < dive.high
    away = [distance for _, distance, _ in said.nearest]
    assert away == sorted(away)
    known = finished_of(p.study, p.definition, BENCHMARKS)
    assert away[0] == pytest.approx(np.linalg.norm(known.doses - doses(p.definition, comes.variant), axis=1).min())
    assert under_way.name not in {name for name, _, _ in said.nearest}


def test_what_comes_next_before_there_is_a_model(tmp_path: Path) -> None:
    p = searched(tmp_path, 1, start=["hw"], objectives={"hard_region": {"low": 0.1, "high": 2.0}})
    said = next_trial(p.definition, BENCHMARKS, p.store, "parent", None)
    assert (said.drawn_by, said.expected) == ("chance", ())
    assert said.why == ("Drawn at random: tpe goes by results from 5 trials on, and has 1.",)
    assert [name for name, _, _ in said.nearest] == ["hw"]
    fresh = searched(tmp_path / "b", 0, start=["hw"], objectives={"hard_region": {"low": 0.1, "high": 2.0}})
    first = next_trial(fresh.definition, BENCHMARKS, fresh.store, "parent", None)
    assert (first.name, first.drawn_by, first.nearest) == ("hw", "start", ())


def test_a_broken_constraint_is_expected(tmp_path: Path) -> None:
    p = searched(tmp_path, FEWEST, constraints={"max_loss": {"mini_in": 0.5}})
    said = next_trial(p.definition, BENCHMARKS, p.store, "parent", dict.fromkeys(BENCHMARKS, 40.0))
    assert "The model expects it to break the constraint on mini_in." in said.why
    assert not any("constraint on mini_dive" in sentence for sentence in said.why)


def test_a_search_that_is_not_in_the_store_is_said(tmp_path: Path) -> None:
    searched(tmp_path, 1)
    with pytest.raises(StudyError, match=r"holds no search 'other': name the right one with --optuna-storage"):
        Snapshot(SearchStore(str(tmp_path / "optuna.journal")), "other")


# ---- the picture


def test_slices_are_drawn_for_every_benchmark(tmp_path: Path) -> None:
    earlier = Earlier("before", done=(
        EarlierMix("before/m", "before.m", Variant(objectives={"spectral": ObjectiveSetting(weight=0.5)}),
                   dict.fromkeys(BENCHMARKS, 20.0)),
    ))  # fmt: skip
    store = SearchStore(str(tmp_path / "optuna.journal"))
    p = OptunaProposer(definition(warm_start="before"), BENCHMARKS, store, "parent", earlier=lambda: earlier)
    for trial in range(6):
        asked = p.ask(trial)
        assert asked.optuna_number is not None
        p.tell(asked.optuna_number, truth(asked.variant))
    found = finished_of(p.study, p.definition, BENCHMARKS)
    assert found.own.tolist() == [False] + [True] * 6
    assert len(found.only_own().names) == 6
    assert found.names[0] == "before/m"
    for suffix in ("png", "svg"):
        path = plot_slices(
            found,
            p.definition.objectives,
            tmp_path / f"a.{suffix}",
            "Slices",
            part="select",
            baseline={"mini_dive": 31.0},
        )
        assert path.stat().st_size > 5000
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 1000
        assert len(set(picture.convert("L").tobytes())) > 20
    text = (tmp_path / "a.svg").read_text()
    for words in (
        "hard_region",
        "mini_ssv2 select %",
        "from an earlier study",
        "on the search's front",
        "baseline",
        "off",
    ):
        assert f"<!-- {words} -->" in text
    chosen = plot_slices(
        found, p.definition.objectives, tmp_path / "b.svg", "S", part="select", objectives=["delta"]
    ).read_text()
    assert "<!-- delta -->" in chosen
    assert "<!-- hard_region -->" not in chosen
    with pytest.raises(PlotError, match="expected a name ending in"):
        plot_slices(found, p.definition.objectives, tmp_path / "a.gif", "Slices", part="select")
    nothing = finished_of(searched(tmp_path / "none", 0).study, definition(), BENCHMARKS)
    with pytest.raises(PlotError, match="there is no finished trial to draw"):
        plot_slices(nothing, p.definition.objectives, tmp_path / "c.png", "Slices", part="select")
    assert MOST_SLICES >= 4


# ---- the command


def test_a_recorded_search_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain_view, "search_importance", partial(search_importance, shuffles=1))
    home = Home(tmp_path)
    tracker = home.tracker()
    d = definition()
    parent = tracker.start_study("mine", "sweep", d.model_dump(mode="json"))
    tracker.tag(parent, benchmarks=json.dumps(list(BENCHMARKS)))
    preset, regime = d.load()
    baseline = d.trial("baseline", load_variant("baseline"), 0, preset, regime)
    run = tracker.start_trial(parent, "mine", "t0001", "control", baseline, "data0")
    tracker.metrics(run, {"mini_dive": 31.0, "mini_ssv2": 60.0, "mini_in": 10.5}, 0)
    tracker.end(run, "finished")
    folder = home.folder("mine")
    folder.mkdir(parents=True)
    p = OptunaProposer(d, BENCHMARKS, SearchStore.of(home, "mine"), parent)
    stream = np.random.default_rng(0)
    for trial in range(30):
        asked = p.ask(trial)
        assert asked.optuna_number is not None
        p.tell(asked.optuna_number, {b: v + 0.2 * stream.normal() for b, v in truth(asked.variant).items()})
    explain_search(StudyRecord.open(home, "mine"))
    assert {one.path for one in tracker.client.list_artifacts(parent)} == {"study.json"}, "looking writes nothing"
    found = explain_search(StudyRecord.open(home, "mine"), keep=True)
    assert found.content.looks == ()
    assert not any("repeated" in note for note in found.notes)
    console = Console(record=True, width=120, file=io.StringIO())
    show_explanation(found, console)
    output = console.export_text()
    for words in (
        "Search mine: 30 finished trials",
        "mini_dive test (fANOVA): spectral",
        "above chance: spectral",
        "hard_region, delta",
        "Next: mix-030",
        "against the baseline",
        "near it: mix-0",
        f"Plot: {folder / 'slices.png'}",
    ):
        assert words in output
    answer = json.loads(json.dumps(found.to_dict()))
    assert answer["finished"] == {"own": 30, "earlier": 0}
    pair = answer["interactions"][0]
    assert (pair["first"], pair["second"], pair["benchmark"], pair["clear"]) == (
        "hard_region", "delta", "mini_ssv2", True,
    )  # fmt: skip
    assert pair["low"] < -8 < pair["high"]
    assert answer["next"]["name"] == p.ask(30).name
    kept = {one.path for one in tracker.client.list_artifacts(parent)}
    assert {"slices.png", "explain.json"} <= kept


def test_repeats_and_looks_are_part_of_the_explanation(tmp_path: Path, make_trial: Callable[..., Any]) -> None:
    home = Home(tmp_path)
    tracker = home.tracker()
    d = definition(seeds={"most": 3, "share": 0.9}, early_stopping={})
    parent = tracker.start_study("mine", "sweep", d.model_dump(mode="json"))
    tracker.tag(parent, benchmarks=json.dumps(list(BENCHMARKS)))
    p = OptunaProposer(d, BENCHMARKS, SearchStore.of(home, "mine"), parent)
    silent = "Nothing on early looks: whether they tell the end shows from 8 finished trials on."
    for trial in range(FEWEST):
        if trial in (1, FEWEST - 1):
            assert silent in explain_search(StudyRecord.open(home, "mine")).notes
        asked = p.ask(trial)
        assert asked.optuna_number is not None
        p.tell(asked.optuna_number, truth(asked.variant), {4: {b: v - 1 for b, v in truth(asked.variant).items()}})
    away = explain_search(StudyRecord.open(home, "mine")).notes
    assert any(
        "A variant on the front may be repeated first: the study's book, which tells, is not in" in n for n in away
    )
    ledger = Ledger(home.folder("mine") / "ledger.db")
    for name, value in (("hw", 30.0), ("delta", 20.0)):
        row = ledger.open_trial(name, "search", make_trial().model_dump_json())
        ledger.update(row.number, status="finished", result={"accuracies": dict.fromkeys(BENCHMARKS, value)})
    ledger.close()
    found = explain_search(StudyRecord.open(home, "mine"))
    assert silent not in found.notes
    assert "Before that hw is repeated with seed 1: it is on the front." in found.notes
    assert [one["correlation"] for one in found.to_dict()["looks"]] == [pytest.approx(1.0)] * 3
    console = Console(record=True, width=120, file=io.StringIO())
    show_explanation(found, console)
    assert "Early looks against the end" in console.export_text()


def test_what_cannot_be_explained_is_said(tmp_path: Path) -> None:
    home = Home(tmp_path)
    tracker = home.tracker()
    for name, asked in (("ablated", {"name": "ablated"}), ("elsewhere", definition().model_dump(mode="json"))):
        tracker.tag(tracker.start_study(name, "any", asked), benchmarks=json.dumps(list(BENCHMARKS)))
    with pytest.raises(StudyError, match="study 'ablated' compares named mixes and searched nothing to explain"):
        CliRunner().invoke(cli, ["explain", "ablated", "--home", str(tmp_path)], catch_exceptions=False)
    with pytest.raises(StudyError, match=r"the record of the search 'elsewhere'.*name it with --optuna-storage"):
        CliRunner().invoke(cli, ["explain", "elsewhere", "--home", str(tmp_path)], catch_exceptions=False)
