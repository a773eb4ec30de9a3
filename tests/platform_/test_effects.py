"""Effects of a design: against ordinary least squares, in studies whose truth is known, and in a real one."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from equipoise.platform.analysis.confirmation import confirmation_of
from equipoise.platform.analysis.effects import Effects, effects_of, estimate
from equipoise.platform.cli.design import DesignOptions, ablation_of
from equipoise.platform.errors import StudyError
from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import Ledger
from equipoise.platform.record.reading import StudyRecord, find_study
from equipoise.platform.report.effects import conclude_effects
from equipoise.platform.report.plots import effects as plot_effects
from equipoise.platform.report.plots.style import PlotError
from equipoise.platform.settings.plan import Plan
from equipoise.platform.settings.study import AblationDefinition
from equipoise.platform.stats.contrasts import block_residual, contrast
from equipoise.platform.stats.uncertainty import Sample, StatisticsError, compare
from equipoise.platform.study.confirm import define

Array = NDArray[np.float64]
Command = Callable[..., tuple[int, str, str]]
FACTORIAL = {"kind": "factorial", "factors": ["fwm", "hw", "ld"]}


def plan(**design: Any) -> Plan:
    content = {"name": "x", "regime": "miniature", "preset": "nano", "design": design}
    found = AblationDefinition.model_validate(content).plan()
    assert found is not None
    return found


def sample(accuracy: Mapping[int, float], name: str = "v", right: Mapping[int, Any] | None = None) -> Sample:
    items = None if right is None else len(next(iter(right.values())))
    return Sample(variant=name, benchmark="b", accuracy=accuracy, items=items, correct=right)


def scores(found: Plan, stream: np.random.Generator, seeds: int, spread: float | Mapping[str, float] = 1.0) -> Any:
    """Accuracies of made-up cells: fwm adds 3 points, hw and ld add 4 together and nothing alone; seeds shift all."""
    shift = 2 * stream.normal(size=seeds)
    samples = {}
    for cell in found.cells:
        mean = 40 + 3 * ("fwm" in cell.on) + 4 * ("hw" in cell.on and "ld" in cell.on)
        own = spread if isinstance(spread, float) else spread[cell.label]
        values = mean + shift + own * stream.normal(size=seeds)
        samples[cell.variant_name, "b"] = sample(dict(enumerate(values.tolist())), cell.variant_name)
    return samples


TRUTH = {"fwm": 3.0, "hw": 2.0, "ld": 2.0, "fwm × hw": 0.0, "fwm × ld": 0.0, "hw × ld": 4.0}


def items(stream: np.random.Generator, seeds: tuple[int, ...], name: str = "v", count: int = 150) -> Sample:
    right = {s: stream.random(count) < 0.4 for s in seeds}
    return sample({s: 100 * float(r.mean()) for s, r in right.items()}, name, right)


@pytest.fixture
def run_at(call: Callable[..., tuple[int, str, str]]) -> Command:
    """Run a command in this process, in a home folder: exit code, output, errors."""
    return lambda home, *words: call(*words, "--home", home)


# ---- contrasts


@pytest.mark.parametrize(("one", "other"), [((0, 1, 2), (0, 1, 2)), ((0, 1), (2, 3, 4)), ((0,), (0, 1)), ((5,), (5,))])
def test_a_contrast_of_two_is_their_difference(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    stream = np.random.default_rng(1)
    for with_items in (True, False):
        a, b = items(stream, one), items(stream, other)
        if not with_items:
            a, b = (Sample(variant="v", benchmark="b", accuracy=x.accuracy, items=x.items) for x in (a, b))
        found, expected = contrast("a - b", [(1.0, a), (-1.0, b)]), compare(a, b)
        assert found.source == expected.source
        np.testing.assert_allclose(
            [found.estimate, found.low, found.high, found.p_value],
            [expected.estimate, expected.low, expected.high, expected.p_value],
            rtol=1e-9,
        )


def test_a_contrast_over_seeds_is_a_t_test_of_its_values_by_seed() -> None:
    stream = np.random.default_rng(2)
    values = stream.normal(40, 2, size=(3, 6))
    parts = [(c, sample(dict(enumerate(v.tolist())))) for c, v in zip((0.5, 0.5, -1.0), values, strict=True)]
    found = contrast("x", parts, draws=40_000)
    by_seed = 0.5 * values[0] + 0.5 * values[1] - values[2]
    half = 2.5706 * by_seed.std(ddof=1) / np.sqrt(6)  # Student's t with 5 degrees of freedom, two-sided 5 %
    assert found.estimate == pytest.approx(by_seed.mean())
    assert found.source == "seeds"
    # The interval of the statistics is a little wider with few seeds, to hold its level where items are random too.
    assert found.high - found.estimate == pytest.approx(half, rel=0.05)


def test_only_seeds_that_all_cells_have_are_used() -> None:
    a, b = sample({0: 40.0, 1: 42.0, 2: 90.0}), sample({0: 30.0, 1: 33.0, 7: 5.0})
    found = contrast("x", [(1.0, a), (-1.0, b)])
    assert found.estimate == pytest.approx(9.5)
    assert found.paired_seeds == 2
    one = contrast("x", [(1.0, a), (-1.0, sample({0: 30.0, 7: 5.0}))])
    assert (one.paired_seeds, one.estimate) == (1, 10.0)
    apart = contrast("x", [(1.0, a), (-1.0, sample({5: 30.0, 7: 5.0}))])
    assert apart.paired_seeds == 0
    assert apart.estimate == pytest.approx((40 + 42 + 90) / 3 - 17.5)


def test_a_contrast_of_two_test_sets_is_refused() -> None:
    stream = np.random.default_rng(0)
    with pytest.raises(StatisticsError, match="different test sets"):
        contrast("x", [(1.0, items(stream, (0, 1))), (-1.0, items(stream, (0, 1), count=99))])
    other = Sample(variant="v", benchmark="c", accuracy={0: 1.0}, items=None)
    with pytest.raises(StatisticsError, match="several benchmarks"):
        contrast("x", [(1.0, items(stream, (0, 1))), (-1.0, other)])


def test_block_residual_is_that_of_the_analysis_of_variance() -> None:
    stream = np.random.default_rng(4)
    y = stream.normal(40, 1, size=(4, 3)) + np.array([0, 5, -5])
    found = block_residual([sample(dict(enumerate(row.tolist()))) for row in y])
    assert found is not None
    columns = [
        np.ones(12),
        *(np.repeat(np.eye(4)[i], 3) for i in (1, 2, 3)),
        *(np.tile(np.eye(3)[i], 4) for i in (1, 2)),
    ]
    fit = sm.OLS(y.ravel(), np.stack(columns, axis=1)).fit()
    assert found.freedom == fit.df_resid == 6
    assert found.variance == pytest.approx(fit.mse_resid)
    assert block_residual([sample({0: 1.0}), sample({0: 2.0})]) is None


def test_scores_that_agree_to_the_last_item_show_no_spread() -> None:
    """Two seeds with the very same difference: no certainty, as an interval of no width would say."""
    right = np.arange(24) < 8
    more = np.arange(24) < 9
    a, b = (
        sample({0: 37.5, 1: 37.5}, "a", {0: more, 1: more}),
        sample({0: 100 / 3, 1: 100 / 3}, "b", {0: right, 1: right}),
    )
    flat = contrast("x", [(1.0, sample({0: 41.0, 1: 42.0})), (-1.0, sample({0: 40.0, 1: 41.0}))])
    same = contrast("x", [(1.0, a), (-1.0, a)])
    for found in (flat, same):
        assert found.source == "none"
        assert not found.distinguishable
    found = contrast("x", [(1.0, a), (-1.0, b)])
    assert found.source == "seeds_and_items"
    assert found.low < 0 < found.high, "one item of 24 is no certainty"


# ---- effects


def least_squares(found: Plan, samples: Any, seeds: int) -> Any:
    """Factors, pairs and seeds in one regression; the triple takes its own column."""
    rows, y = [], []
    for cell in found.cells:
        on = [2.0 * (f in cell.on) - 1 for f in ("fwm", "hw", "ld")]
        pairs = [on[0] * on[1], on[0] * on[2], on[1] * on[2], on[0] * on[1] * on[2]]
        for s in range(seeds):
            rows.append([1.0, *on, *pairs, *(float(s == t) for t in range(1, seeds))])
            y.append(samples[cell.variant_name, "b"].accuracy[s])
    return sm.OLS(np.array(y), np.array(rows)).fit()


def test_effects_are_those_of_ordinary_least_squares() -> None:
    found = plan(**FACTORIAL)
    samples = scores(found, np.random.default_rng(5), 4)
    effects = estimate("x", found, ("b",), samples)
    fit = least_squares(found, samples, 4)
    # On columns of -1 and +1 a main effect counts half, an interaction of two a quarter.
    scale = np.array([2, 2, 2, 4, 4, 4])
    np.testing.assert_allclose([e.estimate for e in effects.effects], scale * fit.params[1:7])
    ends = scale[:, None] * fit.conf_int(0.05)[1:7]
    np.testing.assert_allclose([[e.low, e.high] for e in effects.effects], ends, rtol=0.01)
    np.testing.assert_allclose([e.p_value for e in effects.effects], fit.pvalues[1:7], rtol=0.05, atol=1e-4)
    assert all(e.p_adjusted >= e.p_value for e in effects.effects)


def test_an_interaction_that_is_there_is_found_and_one_that_is_not_is_not() -> None:
    found = plan(**FACTORIAL)
    effects = estimate("x", found, ("b",), scores(found, np.random.default_rng(6), 3))
    clear = {e.name for e in effects.effects if e.distinguishable}
    assert clear == {"fwm", "hw", "ld", "hw × ld"}
    assert {e.name: round(e.estimate) for e in effects.effects if e.kind == "interaction"}["hw × ld"] in (3, 4, 5)


@pytest.mark.parametrize(
    ("pooled", "unequal", "least"), [(True, False, 0.93), (False, False, 0.93), (True, True, 0.90), (False, True, 0.93)]
)
def test_intervals_cover_the_true_effects(pooled: bool, unequal: bool, least: float) -> None:
    """Seeds of 150 studies of 8 cells; unequal: half of the cells vary ten times as much as the others."""
    found = plan(**FACTORIAL)
    stream = np.random.default_rng(7)
    spread: Any = {c.label: (0.3, 3.0)[i % 2] for i, c in enumerate(found.cells)} if unequal else 1.0
    hits = [
        e.low <= TRUTH[e.name] <= e.high
        for _ in range(150)
        for e in estimate("x", found, ("b",), scores(found, stream, 3, spread), draws=200, pooled=pooled).effects
    ]
    assert least <= np.mean(hits) <= 0.985


def test_nothing_is_found_where_nothing_is() -> None:
    found = plan(kind="factorial", factors=["delta", "spectral", "action"][:2])
    stream = np.random.default_rng(8)
    wrong = 0
    for _ in range(150):
        flat = {
            (c.variant_name, "b"): sample(dict(enumerate((40 + stream.normal(size=3)).tolist()))) for c in found.cells
        }
        wrong += any(e.distinguishable for e in estimate("x", found, ("b",), flat, draws=200).effects)
    assert wrong / 150 <= 0.09, "Holm keeps the chance of any false effect of a benchmark near 5 %"


def test_a_fraction_says_what_its_numbers_hold() -> None:
    found = plan(kind="factorial", factors=["fwm", "hw", "ld"], fraction="half")
    means = {"baseline": 40.0, "fwm+hw": 43.0, "fwm+ld": 43.0, "hw+ld": 44.0}
    samples = {(c.variant_name, "b"): sample({0: means[c.label], 1: means[c.label] + 1}) for c in found.cells}
    effects = estimate("x", found, ("b",), samples)
    # 3 of its own minus half of the 4 that hw and ld add together.
    assert {e.name: e.estimate for e in effects.effects}["fwm"] == pytest.approx(3 - 0.5 * 4)
    assert any(
        "resolution 3: each number is a sum that it cannot part: fwm − 0.5 times hw × ld;" in note
        for note in effects.notes
    )
    assert effects.to_dict()["effects"][0]["aliases"] == {"hw × ld": -0.5}


def test_other_designs_are_differences() -> None:
    stream = np.random.default_rng(9)
    found = plan(kind="add_one_in", factors=["fwm", "hw"])
    samples = scores(found, stream, 3)
    effects = estimate("x", found, ("b",), samples)
    expected = compare(samples["fwm", "b"], samples["baseline", "b"])
    assert [(e.name, e.kind) for e in effects.effects] == [("fwm", "added"), ("hw", "added")]
    assert (effects.effects[0].low, effects.effects[0].high) == pytest.approx((expected.low, expected.high))
    found = plan(kind="leave_one_out", factors=["fwm", "hw", "ld"])
    effects = estimate("x", found, ("b",), scores(found, stream, 5, 0.3))
    assert {e.name: round(e.estimate) for e in effects.effects} == {
        "without fwm": -3,
        "without hw": -4,
        "without ld": -4,
    }


def test_the_trend_over_doses_is_the_slope_over_their_logarithm() -> None:
    found = plan(kind="dose_response", objective="delta", weights=[0.1, 1, 10])
    stream = np.random.default_rng(10)
    shift = stream.normal(size=4)
    noise = stream.normal(size=(4, 4)) * 0.2
    by_cell = [
        40 + shift + n + (0 if c.dose is None else 5 + 2 * np.log10(c.dose))
        for c, n in zip(found.cells, noise, strict=True)
    ]
    samples = {
        (c.variant_name, "b"): sample(dict(enumerate(v.tolist()))) for c, v in zip(found.cells, by_cell, strict=True)
    }
    effects = estimate("x", found, ("b",), samples)
    trend = effects.effects[-1]
    slope = np.polyfit([-1, 0, 1], [v.mean() for v in by_cell[1:]], 1)[0]
    assert trend.estimate == pytest.approx(slope)
    assert trend.low < 2 < trend.high
    assert trend.distinguishable
    assert [e.dose for e in effects.effects] == [0.1, 1, 10, None]
    assert effects.effects[1].estimate == pytest.approx(by_cell[2].mean() - by_cell[0].mean())


def test_what_is_missing_is_said() -> None:
    found = plan(kind="add_one_in", factors=["fwm", "hw", "ld"])
    samples = scores(found, np.random.default_rng(11), 3)
    del samples["hw", "b"]
    samples["ld", "b"] = sample({0: 40.0, 2: 41.0})
    effects = estimate("x", found, ("b",), samples)
    assert [e.name for e in effects.effects] == ["fwm", "ld"]
    assert "No finished trial of hw, so there is no estimate of: hw." in effects.notes
    assert "Seed 1 is not in every cell and takes no part in the effects." in effects.notes
    single = {key: sample({0: s.accuracy[0]}) for key, s in samples.items()}
    effects = estimate("x", found, ("b",), single)
    assert {e.source for e in effects.effects} == {"none"}
    assert effects.to_dict()["effects"][0]["p_value"] is None
    json.dumps(effects.to_dict(), allow_nan=False)
    assert not any(e.distinguishable for e in effects.effects)
    with pytest.raises(PlotError, match="no effect to draw"):
        plot_effects.plot_effects(estimate("x", found, ("b",), {}), "x.png", "x")


def test_test_items_widen_the_interval() -> None:
    """Pooled over cells or not: what the items add stays in."""
    found = plan(kind="factorial", factors=["delta", "spectral"])
    stream = np.random.default_rng(12)
    with_items = {(c.variant_name, "b"): items(stream, (0, 1, 2), c.variant_name, 60) for c in found.cells}
    for pooled in (True, False):
        both = estimate("x", found, ("b",), with_items, pooled=pooled)
        assert {e.source for e in both.effects} == {"seeds_and_items"}
        assert all(e.low < e.estimate < e.high for e in both.effects)


# ---- pictures


def made_up(found: Plan) -> Effects:
    one = scores(found, np.random.default_rng(13), 3)
    both = one | {
        (v, "c"): Sample(variant=v, benchmark="c", accuracy=s.accuracy, items=None) for (v, _), s in one.items()
    }
    return estimate("x", found, ("b", "c"), both)


def test_forest_plot(drawn: list[Figure], tmp_path: Path) -> None:
    effects = made_up(plan(**FACTORIAL))
    path = plot_effects.plot_effects(effects, tmp_path / "e.png", "Study x")
    with Image.open(path) as image:
        assert image.size[0] >= 800
    axes = drawn[0].axes
    assert len(axes) == 2
    axes_names = [t.get_text() for t in axes[0].get_yticklabels()]
    assert axes_names == ["fwm", "hw", "ld", "fwm × hw", "fwm × ld", "hw × ld"]
    points = {float(c.lines[0].get_xdata()[0]) for c in axes[0].containers}  # type: ignore[attr-defined]
    assert points == {e.estimate for e in effects.on("b")}
    bottom, top = axes[0].get_ylim()
    assert bottom > top, "the first effect is at the top"
    with pytest.raises(PlotError, match="expected a name ending in"):
        plot_effects.plot_effects(effects, tmp_path / "e.gif", "x")


def test_dose_response_curve(drawn: list[Figure], tmp_path: Path) -> None:
    effects = made_up(plan(kind="dose_response", objective="delta", weights=[0.1, 1, 10]))
    plot_effects.plot_effects(effects, tmp_path / "d.png", "Study x")
    axis = drawn[0].axes[0]
    assert axis.get_xscale() == "log"
    assert [t.get_text() for t in axis.get_xticklabels()] == ["0.1", "1", "10"]
    assert "ten times the weight" in axis.get_title(loc="left")


# ---- the command line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ablate",), "give a DEFINITION (a shipped study or a YAML file), or a design with --design"),
        (("ablate", "--factor", "hw"), "--factor belongs to a design: add --design"),
        (("ablate", "--design", "factorial", "--factor", "hw"), "factors: 1 given"),
        (("ablate", "--design", "factorial", "--factor", "hw", "--factor", "fvm"), "did you mean 'fwm'?"),
        (("ablate", "--design", "dose_response", "--dose", "0.1"), "objective is missing"),
        (("ablate", "--design", "factorial", "--factor", "hw", "--factor", "ld"), "equipoise data build miniature"),
        (("ablate", "factorial_fwm_hw_ld"), "equipoise data build miniature"),
        (("effects", "nostudy"), "no study 'nostudy'"),
        (("confirm", "nostudy"), "no study 'nostudy'"),
    ],
)
def test_mistakes_get_one_sentence(words: tuple[str, ...], expected: str, run_at: Command, tmp_path: Path) -> None:
    code, _, err = run_at(tmp_path / "empty", *words)
    assert code != 0
    lines = [line for line in err.splitlines() if line.startswith("Error")]
    assert len(lines) == 1, err
    assert expected in lines[0]


def test_the_words_that_resume_a_design_without_a_file() -> None:
    design = DesignOptions("factorial", ("fwm", "delta=0.2"), "full")
    changes = {
        "preset": "nano",
        "seeds": (3, 4),
        "control_seeds": (3, 4),
        "set": ("optimisation.steps=5",),
        "name": None,
    }
    found, again = ablation_of(None, design, changes)
    assert again == (
        "ablate --factor fwm --factor delta=0.2 --fraction full --design factorial --preset nano --seed 3 --seed 4 "
        "--set optimisation.steps=5"
    )
    assert found.name == "factorial-fwm-delta-0.2-full"
    assert (found.seeds, found.control_seeds, found.regime) == ((3, 4), (3, 4), "miniature")
    replaced, again = ablation_of("factorial_fwm_hw_ld", dataclasses.replace(design, fraction=None), {"name": "mine"})
    assert again == "ablate factorial_fwm_hw_ld --factor fwm --factor delta=0.2 --design factorial"
    assert replaced.design is not None
    assert [f.name for f in replaced.design.factors] == ["fwm", "delta-0.2"]


# ---- a real study


@pytest.mark.slow
@pytest.mark.cluster
def test_a_real_2x2_and_its_confirmation(home: Home, tiny_data: Path, run_at: Command) -> None:
    command = functools.partial(run_at, home.root)
    preset = tiny_data / "tiny.yaml"
    design = ("--design", "factorial", "--factor", "hw", "--factor", "delta=0.2")
    asked = ("ablate", *design, "--preset", preset, "--seed", 0, "--seed", 1, "--tolerance", 100)
    code, out, err = command(*asked, "--json")
    assert code == 0, err
    found = json.loads(out)
    name = found["study"]
    assert name == "factorial-hw-delta-0.2"
    assert len(found["trials"]) == 2 * (4 + 1)
    assert [e["name"] for e in found["effects"]["effects"][:3]] == ["hw", "delta-0.2", "hw × delta-0.2"]
    assert {e["source"] for e in found["effects"]["effects"]} <= {"seeds_and_items", "seeds", "none"}
    by_cell = {c["cell"]: c["accuracies"] for c in found["effects"]["cells"]}
    for e in found["effects"]["effects"]:
        y = {cell: accuracies[e["benchmark"]] for cell, accuracies in by_cell.items()}
        expected = {
            "hw": (y["hw"] + y["hw+delta-0.2"] - y["baseline"] - y["delta-0.2"]) / 2,
            "delta-0.2": (y["delta-0.2"] + y["hw+delta-0.2"] - y["baseline"] - y["hw"]) / 2,
            "hw × delta-0.2": y["hw+delta-0.2"] - y["delta-0.2"] - y["hw"] + y["baseline"],
        }
        assert e["estimate"] == pytest.approx(expected[e["name"]])
    assert Path(found["effects"]["plot"]).is_file()

    tracker = home.tracker()
    source = find_study(tracker, name)
    logged = {a.path for a in tracker.client.list_artifacts(source.info.run_id)}
    assert {"effects.json", "effects.png", "front.json", "study.json"} <= logged
    again = effects_of(StudyRecord.open(home, name))
    assert again is not None
    assert [e.estimate for e in again.effects] == [e["estimate"] for e in found["effects"]["effects"]]
    code, out, err = command("effects", name)
    assert code == 0, err
    assert "hw × delta-0.2" in out

    code, out, err = command("confirm", name, "--top", 1, "--seeds", 2, "--tolerance", 100, "--json")
    assert code == 0, err
    confirmed = json.loads(out)
    best = next(r for r in found["selection"]["rows"] if r["eligible"])["variant"]
    trials = {(t["variant"], t["seed"], t["role"]) for t in confirmed["trials"]}
    assert trials == {(c, s, "control") for c in ("baseline", "random_init") for s in (2, 3)} | {
        (best, s, "confirmation") for s in (2, 3)
    }
    content = confirmed["confirmation"]
    assert (content["confirms"], content["variants"], content["fresh_seeds"]) == (name, [best], [2, 3])
    fresh = {(t["variant"], t["seed"]): t["accuracies"] for t in confirmed["trials"]}
    for gain in content["gains"]:
        b = gain["benchmark"]
        mean = {v: np.mean([fresh[v, s][b] for s in (2, 3)]) for v in (best, "baseline")}
        assert gain["fresh_gain"] == pytest.approx(mean[best] - mean["baseline"])
        assert gain["search_gain"] == pytest.approx(by_cell_of(by_cell, best, found)[b] - by_cell["baseline"][b])

    # The trials are the study's own but for their seeds.
    def settings(study: str) -> dict[str, dict[str, Any]]:
        ledger = Ledger(home.folder(study) / "ledger.db")
        rows = {r.name: json.loads(r.settings or "") for r in ledger.rows()}
        ledger.close()
        return {v: {k: x for k, x in s.items() if k != "seed"} for v, s in rows.items()}

    mine, theirs = settings(confirmed["study"]), settings(name)
    assert all(mine[v] == theirs[v] for v in mine)
    parent = find_study(tracker, confirmed["study"])
    assert parent.data.tags["kind"] == "confirmation"
    assert parent.data.tags["confirms"] == name
    assert find_study(tracker, name).data.tags["confirmed_by"] == confirmed["study"] == f"{name}-confirmation"
    assert "confirmation.json" in {a.path for a in tracker.client.list_artifacts(parent.info.run_id)}
    assert confirmation_of(StudyRecord.open(home, name)) is None, "the study itself confirms nothing"
    assert effects_of(StudyRecord.open(home, confirmed["study"])) is None

    # Resumed when complete it says the same; asked for something else it refuses.
    code, out, err = command("confirm", name, "--resume", "--tolerance", 100, "--json")
    assert code == 0, err
    assert json.loads(out)["confirmation"] == content
    code, _, err = command("confirm", name, "--resume", "--seeds", 3)
    assert code == 1
    assert "was started with seeds 2, now it is 3" in err
    code, _, err = command("confirm", name)
    assert code == 1
    assert "exists" in err
    with pytest.raises(StudyError, match="has no design"):
        conclude_effects(StudyRecord.open(home, confirmed["study"]))
    # A second confirmation has seeds of its own.
    definition, _ = define(StudyRecord.open(home, name), "second", 1, 2)
    assert definition.seeds == (4, 5)


def by_cell_of(by_cell: dict[str, Any], variant: str, found: dict[str, Any]) -> dict[str, float]:
    """Accuracies of the cell that ran as a variant."""
    label = next(c["cell"] for c in found["effects"]["cells"] if c["variant"] == variant)
    accuracies: dict[str, float] = by_cell[label]
    return accuracies
