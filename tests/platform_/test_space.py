from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.platform.cli.main import cli
from equipoise.platform.errors import SettingsError
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.mix import resolve
from equipoise.platform.settings.space import SearchSpace
from equipoise.platform.settings.study import SweepDefinition, load_sweep
from equipoise.platform.settings.variant import ObjectiveSetting, Variant, load_variant, variants

R = {"low": 0.1, "high": 2.0}
TAU = {"low": 0.3, "high": 3.0, "log": True}
SWEEP: dict[str, Any] = {"name": "mine", "regime": "miniature", "preset": "nano", "trials": 40}


def space(objectives: dict[str, Any], **more: Any) -> SearchSpace:
    return parse(SearchSpace, {"objectives": objectives, **more}, "test")


def sweep(objectives: dict[str, Any] | None = None, **more: Any) -> SweepDefinition:
    return parse(SweepDefinition, {**SWEEP, "objectives": objectives or {"hard_region": R}, **more}, "test")


def mix(**weights: float) -> Variant:
    return Variant(objectives={name: ObjectiveSetting(weight=w) for name, w in weights.items()})


# ---- conditional parameters


@pytest.mark.parametrize(
    ("objective", "change", "sentence"),
    [
        ("hard_region", {"params": {"tau": {"low": 0.3, "hihg": 3}}}, "unknown key 'hihg'; did you mean 'high'?"),
        ("hard_region", {"params": {"tau": {"low": 3, "high": 3}}}, "tau: low 3 is not below high 3"),
        (
            "hard_region",
            {"params": {"tau": {"low": 0, "high": 3, "log": True}}},
            "low is 0, and log: true needs it above",
        ),
        (
            "hard_region",
            {"params": {"tau": {"choices": [1.0]}}},
            "choices is [1.0]: tuple should have at least 2 items",
        ),
        ("hard_region", {"params": {"tau": {"choices": [1.0, 1.0]}}}, "[1.0, 1.0] given; expected different values"),
        ("hard_region", {"params": {"tua": TAU}}, "unknown parameter 'tua' of hard_region; did you mean 'tau'?"),
        (
            "hard_region",
            {"params": {"tau": {"low": -1.0, "high": 3.0}}},
            "hard_region: tau -1.0 of -1 to 3 is refused: ",
        ),
        ("hard_region", {"schedule": "cosine"}, "unknown schedule 'cosine'; did you mean 'cosine_decay'?"),
        ("hard_region", {"schedule": {"choices": ["constant", "cosine"]}}, "unknown schedule 'cosine'; did you mean"),
        ("hard_region", {"schedule": {"low": 0, "high": 1}}, "schedule"),
        (
            "latent_dynamics",
            {"params": {"weighting": {"choices": ["none", "hrad"]}}},
            "latent_dynamics: weighting 'hrad' of one of none, hrad is refused: ",
        ),
        (
            "future_predictive",
            {"high": 1.0, "schedule": {"choices": ["constant", "cosine_decay"]}},
            "future_predictive is a mask policy: schedule one of constant, cosine_decay cannot take effect",
        ),
    ],
)
def test_a_wrong_axis_is_answered_in_one_sentence(objective: str, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as found:
        space({objective: {**R, **change}})
    assert sentence in str(found.value)
    assert "\n" not in str(found.value)


def test_a_point_carries_its_parameters_into_the_variant_and_back() -> None:
    s = space({
        "hard_region": {**R, "params": {"tau": TAU}},
        "latent_dynamics": {**R, "params": {"hidden": {"low": 32, "high": 256}, "weighting": "none"},
                            "schedule": {"choices": ["constant", "cosine_decay"]}},
        "sigreg": {**R, "params": {"per_token": {"choices": [True, False]}}},
    })  # fmt: skip
    assert [d.name for d in s.dimensions] == [
        "hard_region", "latent_dynamics", "sigreg",
        "hard_region.tau", "latent_dynamics.hidden", "latent_dynamics.schedule", "sigreg.per_token",
    ]  # fmt: skip
    point = {
        "hard_region": 0.5,
        "hard_region.tau": 2.5,
        "latent_dynamics": 1.5,
        "latent_dynamics.hidden": 77,
        "latent_dynamics.schedule": "cosine_decay",
        "sigreg": 0.09,  # off: its parameter is not there
    }
    variant = s.variant(point)
    assert {k: (v.weight, v.schedule, v.params) for k, v in variant.objectives.items()} == {
        "hard_region": (0.5, "constant", {"tau": 2.5}),
        "latent_dynamics": (1.5, "cosine_decay", {"hidden": 77, "weighting": "none"}),
    }
    back = s.point(variant)
    assert {k: v for k, v in back.items() if k != "sigreg"} == {k: v for k, v in point.items() if k != "sigreg"}
    assert s.lacks(variant) is None
    outside = Variant(objectives={"hard_region": ObjectiveSetting(weight=0.5, params={"tau": 9.0})})
    assert "differs from the search space in hard_region" in str(s.lacks(outside))


def test_a_variant_that_leaves_a_parameter_out_means_its_default() -> None:
    """hw has no tau and its default is 1; a space where tau is 1, or that searches tau around 1, holds hw."""
    for tau, held in ((1.0, True), (TAU, True), (2.0, False), ({"low": 1.5, "high": 3.0}, False)):
        s = space({"hard_region": {**R, "params": {"tau": tau}}})
        assert (s.lacks(load_variant("hw")) is None) == held, tau
    # What latent_dynamics.weighting comes to depends on the other objectives of a mix: it has no default to take.
    s = space({"latent_dynamics": {**R, "params": {"weighting": {"choices": ["none", "hard"]}}}})
    assert s.lacks(load_variant("ld")) is not None


def test_an_objective_that_is_never_off_keeps_mixes_without_it_out() -> None:
    s = space(
        {
            "hard_region": R,
            "delta": {**R, "off_probability": 0.0, "schedule": {"choices": ["constant", "cosine_decay"]}},
        }
    )
    assert str(s.lacks(load_variant("hw"))).startswith("differs from the search space in delta")
    assert s.lacks(load_variant("delta")) is None


def test_a_definition_survives_the_record() -> None:
    """A study's definition is kept as JSON and compared with what it is resumed with."""
    one = sweep(
        {"hard_region": {**R, "params": {"tau": TAU}, "schedule": {"choices": ["constant", "cosine_decay"]}}},
        start="published",
        constraints={"max_loss": 1},
        max_total_weight=1.5,
    )
    dumped = json.loads(json.dumps(one.model_dump(mode="json")))
    again = parse(SweepDefinition, dumped, "again")
    assert again == one
    assert again.model_dump(mode="json") == dumped


# ---- bounded total weight

THREE = ("hard_region", "delta", "spectral")


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.floats(0.1, 2.0), min_size=3, max_size=3),
    share=st.floats(0.25, 1.0),
    most=st.floats(0.31, 6.0),
)
def test_a_bounded_total_holds_and_moves_no_weight_more_than_it_must(
    weights: list[float], share: float, most: float
) -> None:
    s = space({**dict.fromkeys(THREE, R), "motion_guided": {"low": 0.25, "high": 1.0}}, max_total_weight=most)
    point = {**dict(zip(THREE, weights, strict=True)), "motion_guided": share}
    variant = s.variant(point)
    found = {name: setting.weight for name, setting in variant.objectives.items()}
    assert set(found) == {*THREE, "motion_guided"}, "nothing is switched off by the bound"
    assert found.pop("motion_guided") == share, "a share of clips is no weight of a loss"
    assert all(0.1 <= w <= 2.0 for w in found.values())
    assert math.fsum(found.values()) <= most * (1 + 1e-8)
    if math.fsum(weights) <= most:
        assert list(found.values()) == weights
    else:
        assert math.fsum(found.values()) == pytest.approx(most)
        # One factor for all, but for those that it would take below their low end: they stay there.
        factors = {found[n] / w for n, w in zip(THREE, weights, strict=True) if found[n] > 0.1 * (1 + 1e-9)}
        assert not factors or max(factors) == pytest.approx(min(factors))
        scale = min(factors, default=0.0)
        for n, w in zip(THREE, weights, strict=True):
            assert found[n] >= w * scale * (1 - 1e-9)
    assert s.lacks(variant) is None, "a mix of the space is a point of the space"
    assert s.variant(s.point(variant)).objectives == variant.objectives


def test_a_bound_that_cannot_hold_is_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"max_total_weight is 0\.25, and all objectives on at their lowest weights sum"
    ):
        space(dict.fromkeys(THREE, R), max_total_weight=0.25)
    with pytest.raises(
        SettingsError, match="start variant 'hw_ld' has weights that sum to 2, above the search space's"
    ):
        sweep({"hard_region": R, "latent_dynamics": R}, max_total_weight=1.9, start=["hw_ld"])


# ---- starting points, constraints, warm start


def test_published_stands_for_every_published_variant_that_lies_in_the_space() -> None:
    full = load_sweep("full", {"start": ("published",)})
    for name in full.starts:
        assert full.variant(full.point(load_variant(name))).objectives == load_variant(name).objectives
    assert {"hw", "fwm_hw_ld", "fac", "motion_future", "hamiltonian"} <= set(full.starts)
    # Other parameters, schedule or teacher than the space has; controls; and no mix twice under its other name.
    outside = {
        "amg",
        "combo",
        "kinematic",
        "kinematic_anneal",
        "sigreg_no_ema",
        "baseline",
        "random_init",
        "hard_region",
    }
    assert not outside & set(full.starts)
    wide = {"motion_guided": {"low": 0.2, "high": 1.0, "params": {
        "strength": {"low": 1.0, "high": 6.0}, "random_rate": {"low": 0.0, "high": 0.5}}}}  # fmt: skip
    assert sweep(wide, start="published").starts == ("motion_guided", "amg")
    assert sweep({"hard_region": R, "delta": R}, start=["delta", "published"]).starts == ("delta", "hw")
    assert sweep({"hard_region": R, "delta": R}, start="published", trials=1).starts == ("hw",)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"constraints": {"max_loss": -1}}, "-1 given; expected points of accuracy, not negative"),
        ({"constraints": {"max_loss": {}}}, "{} given; expected points of accuracy"),
        ({"constraints": {"max_los": 1}}, "unknown key 'constraints.max_los'; did you mean 'max_loss'?"),
        ({"constraints": {"max_loss": {"mini_div": 1}}}, "unknown benchmark 'mini_div' of regime miniature; did you"),
        (
            {"constraints": {"max_loss": 1}, "refuse_controls": True, "control_seeds": []},
            "constraints are measured against the baseline: leave refuse_controls out",
        ),
        ({"warm_start": "mine"}, "warm_start names the study itself, 'mine': name an earlier one"),
        ({"warm_start": ""}, "warm_start is ''"),
        ({"max_total_weight": 0}, "max_total_weight is 0"),
    ],
)
def test_a_wrong_sweep_is_answered_in_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as found:
        sweep(**change)
    assert sentence in str(found.value)
    assert "\n" not in str(found.value)


def test_constraints_are_points_below_the_baseline() -> None:
    baseline = {"mini_dive": 30.0, "mini_ssv2": 60.0, "mini_in": 10.0}
    everywhere = sweep(constraints={"max_loss": 1.5}).constraints
    assert everywhere is not None
    assert everywhere.lowest(baseline) == {"mini_dive": 28.5, "mini_ssv2": 58.5, "mini_in": 8.5}
    some = sweep(constraints={"max_loss": {"mini_in": 0, "mini_ssv2": 2}}).constraints
    assert some is not None
    assert some.lowest(baseline) == {"mini_in": 10.0, "mini_ssv2": 58.0}


def test_what_is_drawn_can_be_trained() -> None:
    """Every draw of a space with conditional parameters builds under the preset, in both readings."""
    for reading in ("as_described", "as_published"):
        s = sweep(
            {
                "hard_region": {**R, "params": {"tau": TAU}},
                "motion_guided": {"low": 0.25, "high": 1.0, "params": {"strength": {"low": 1.0, "high": 6.0}}},
                "latent_dynamics": {**R, "params": {"hidden": {"low": 32, "high": 256}}},
                "temporal_contrast": {**R, "params": {"margin": {"low": 0.1, "high": 1.0}}},
            },
            reading=reading,
        )
        preset, regime = s.load()
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        drawn = [s.variant(s.suggest(study.ask())) for _ in range(10)]
        assert {name for v in drawn for name in v.objectives} == set(s.objectives)
        for variant in [*drawn, s.middle()]:
            resolve(s.trial("drawn", variant, 0, preset, regime))
        assert set(s.middle().objectives) == set(s.objectives)


# ---- the command


def test_space_show_explains_a_space(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({
        **SWEEP,
        "objectives": {
            "hard_region": {**R, "off_probability": 0.5, "params": {"tau": TAU}},
            "delta": {**R, "schedule": "cosine_decay"},
            "motion_guided": {"low": 0.25, "high": 1.0},
        },
        "start": ["hw", "motion_guided"],
        "max_total_weight": 2.5,
        "constraints": {"max_loss": {"mini_in": 1.5}},
        "warm_start": "before",
        "early_stopping": {"rungs": 2},
        "seeds": {},
        "budget": "2cpu-h",
    }))  # fmt: skip
    ran = CliRunner().invoke(cli, ["space", "show", str(path)], catch_exceptions=False)
    assert ran.exit_code == 0
    for words in (
        "4 dimensions: 3 weights and 1 that exist while their objective is on",
        "off 50%, or weight 0.1 to 2, log",
        "tau: 0.3 to 3, log",
        "schedule: always cosine_decay",
        "mask policies",
        "A random mix has 1.1 of 3 objectives on.",
        "24% of random mixes have none on and train the baseline with one more seed",
        "sum to at most 2.5",
        "lose more than 1.5 on mini_in",
        "Tried first: hw, motion_guided.",
        "Warm start from study before: its finished trials count; from another regime, its best mixes are tried first.",
        "Stopped early at 1/9, 1/3 of the training: all but the best one in 3 there.",
        "Mixes on the front earn up to 3 seeds, in at most 25% of the trials.",
        "Stops at 2cpu-h.",
        "2 of 27 published variants lie in the space.",
        "not fwm: it uses static_appearance, which the search space does not name",
    ):
        assert words in ran.output
    answer = json.loads(CliRunner().invoke(cli, ["space", "show", str(path), "--json"]).output)
    assert answer["dimensions"] == {"all": 4, "weights": 3, "conditional": 1}
    assert answer["published_inside"] == ["motion_guided", "hw"]
    assert len(answer["published_outside"]) == 25
    known = {name for name, v in variants().items() if v.regimes}
    assert set(answer["published_outside"]) <= known
    assert answer["objectives"]["hard_region"]["conditional"] == {"tau": TAU}


def test_the_shipped_spaces_are_explained() -> None:
    answer = json.loads(CliRunner().invoke(cli, ["space", "show", "full", "--json"]).output)
    assert answer["dimensions"]["weights"] == 18
    assert answer["early_stopping"]["rungs"] == 1
    assert answer["all_off"] == pytest.approx(0.8**18)
    assert "train the baseline" not in CliRunner().invoke(cli, ["space", "show", "full"]).output
    with pytest.raises(SettingsError, match=r"unknown search space 'fulll'; did you mean 'full'\?"):
        CliRunner().invoke(cli, ["space", "show", "fulll"], catch_exceptions=False)
