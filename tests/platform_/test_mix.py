from __future__ import annotations

from typing import Any

import pytest

from equipoise.platform.errors import SettingsError
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.mix import Mix, resolve
from equipoise.platform.settings.preset import load_preset
from equipoise.platform.settings.trial import TrialSettings, load_regime
from equipoise.platform.settings.variant import CONTROLS, Variant, load_variant, variants

# Pinned where a test reads the number, so that tuning the preset changes no test.
PRESET = load_preset("nano", ["sampling.images=frame", "context.weight=0.5", "model.masks.cut=random"])
REGIME = load_regime("miniature")


def mix(variant: str | dict[str, Any], reading: str = "as_described", **preset: Any) -> Mix:
    chosen = load_variant(variant) if isinstance(variant, str) else parse(Variant, {"objectives": variant}, "test")
    data = {
        "variant_name": "x",
        "variant": chosen,
        "reading": reading,
        "preset": PRESET.model_copy(update=preset),
        "regime": REGIME,
    }
    return resolve(parse(TrialSettings, data, "test"))


def params(m: Mix, name: str) -> dict[str, Any]:
    return dict(next(t.params for t in m.terms if t.name == name))


def test_unknown_variant_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"unknown variant 'fwm_hw_ldd'; did you mean 'fwm_hw_ld'\?"):
        load_variant("fwm_hw_ldd")


def test_aliases_are_the_same_variant() -> None:
    assert load_variant("aggressive_motion_guided") is load_variant("amg")
    assert load_variant("hard_region") is load_variant("hw")
    assert variants() is variants()


def test_controls_are_shipped() -> None:
    baseline, random_init, unchanged = (load_variant(c) for c in CONTROLS)
    assert not baseline.objectives
    assert (baseline.untrained, random_init.untrained, unchanged.untrained) == (False, True, True)
    assert unchanged.unchanged
    assert not random_init.unchanged


@pytest.mark.parametrize("reading", ["as_described", "as_published"])
@pytest.mark.parametrize(
    ("variant", "weighting", "subspace"),
    [
        ("ld", "none", "all"),
        ("hw_ld", "hard", "all"),
        ("fwm_ld", "none", "dynamics"),
        ("fwm_hw_ld", "hard", "dynamics"),
    ],
)
def test_latent_dynamics_follows_its_company(variant: str, weighting: str, subspace: str, reading: str) -> None:
    found = params(mix(variant, reading), "latent_dynamics")
    assert (found["weighting"], found["subspace"]) == (weighting, subspace)


def test_one_factorising_term_is_enough_and_weight_zero_is_none() -> None:
    assert params(mix({"latent_dynamics": 1, "cross_covariance": 0.01}), "latent_dynamics")["subspace"] == "dynamics"
    alone = mix({"latent_dynamics": 1, "cross_covariance": 0.0, "hard_region": 0})
    assert [t.name for t in alone.terms] == ["latent_dynamics"]
    assert dict(alone.weights).keys() == {"latent_dynamics"}
    found = params(alone, "latent_dynamics")
    assert (found["weighting"], found["subspace"]) == ("none", "all")


def test_given_parameters_win_over_couplings_and_readings() -> None:
    long = {"weight": 1, "params": {"weighting": "none", "subspace": "all", "split": "levels", "hidden": 8}}
    given = mix({"latent_dynamics": long, "hard_region": 1, "static_appearance": 1})
    found = params(given, "latent_dynamics")
    assert (found["weighting"], found["subspace"], found["split"], found["hidden"]) == ("none", "all", "levels", 8)
    assert params(mix({"sigreg": {"weight": 1, "params": {"per_token": True}}}, "as_published"), "sigreg")["per_token"]


def test_published_reading_reproduces_the_published_code() -> None:
    described, published = mix("fwm_hw_ld"), mix("fwm_hw_ld", "as_published")
    # Dead loss: summed without gradient beside hard_region, and only there.
    assert {t.name: t.detached for t in published.terms} == {
        "static_appearance": False,
        "cross_covariance": False,
        "hard_region": False,
        "latent_dynamics": True,
    }
    assert not any(t.detached for m in (described, mix("ld", "as_published"), mix("fwm_ld", "as_published"))
                   for t in m.terms)  # fmt: skip
    # Halves of the concatenated levels against halves of every level.
    assert params(published, "static_appearance")["split"] == "levels"
    assert params(described, "static_appearance")["split"] == "channels"
    assert (published.motion_scale, described.motion_scale) == ("published", "clip")
    assert (published.model.masks.cut, described.model.masks.cut) == ("tail", "random")
    assert (published.images, described.images) == ("repeat", "frame")
    assert (published.leave_out_still, described.leave_out_still) == (False, True)
    steps = 100
    assert [published.context.at(s, steps) for s in (0, 50, 75, 100)] == pytest.approx([0, 0, 0.25, 0.5])
    assert described.context == PRESET.context
    assert params(mix("sigreg", "as_published"), "sigreg")["per_token"] is False
    assert params(mix("sigreg"), "sigreg")["per_token"] is True


def test_published_context_keeps_the_weight_of_the_preset() -> None:
    preset = load_preset("nano", ["context.weight=0.2"])
    data = {"variant_name": "b", "variant": Variant(), "reading": "as_published", "preset": preset, "regime": REGIME}
    assert resolve(parse(TrialSettings, data, "x")).context.weight == 0.2


@pytest.mark.parametrize("variant", ["kinematic", "kinematic_huber", "kinematic_accel", "kinematic_split"])
def test_published_kinematic_rows_score_an_untrained_encoder(variant: str) -> None:
    published, described = mix(variant, "as_published"), mix(variant)
    assert (published.model.teacher.mode, published.model.teacher.stop_gradient) == ("self", False)
    assert (published.evaluated, published.untrained_allowed) == ("target", True)
    assert [t.params["on"] for t in published.terms] == ["target"]
    assert (described.model.teacher.mode, described.model.teacher.stop_gradient) == ("ema", True)
    assert (described.evaluated, described.untrained_allowed) == ("target", False)
    assert [t.params["on"] for t in described.terms] == ["student"]


def test_teacher_self_is_evaluated_where_it_was_trained() -> None:
    described, published = mix("sigreg_no_ema"), mix("sigreg_no_ema", "as_published")
    assert (described.model.teacher.mode, described.model.teacher.stop_gradient) == ("self", True)
    assert (described.evaluated, described.untrained_allowed) == ("context", False)
    assert (published.model.teacher.stop_gradient, published.evaluated) == (False, "target")
    assert published.untrained_allowed


def test_controls_resolve() -> None:
    assert mix("random_init").untrained_allowed
    baseline = mix("baseline")
    assert baseline.terms == ()
    assert not baseline.untrained_allowed
    assert baseline.weights_at(0, 10) == {}
    assert baseline.model.teacher.momentum == PRESET.model.teacher.momentum


def test_mask_policies_are_shares_of_clips() -> None:
    m = mix("motion_future")
    assert m.terms == ()
    assert m.shares == {"motion_guided": 1.0, "future_predictive": 1.0}
    assert m.motion_guided is not None
    assert (m.motion_guided.strength, m.motion_guided.random_rate) == (2.0, 0.1)
    assert m.future_predictive is not None
    assert m.future_predictive.keep == 0.5
    aggressive = mix("amg").motion_guided
    assert aggressive is not None
    assert (aggressive.strength, aggressive.random_rate) == (5.0, 0.0)
    half = mix({"motion_guided": 0.5, "delta": 0.5})
    assert half.shares == {"motion_guided": 0.5}
    assert half.future_predictive is None
    assert [t.name for t in half.terms] == ["delta"]


def test_weights_follow_their_schedules() -> None:
    m = mix({
        "delta": 0.5,
        "spectral": {"weight": 2.0, "schedule": "cosine_decay"},
        "action": {"weight": 1.0, "schedule": "linear_warmup"},
    })  # fmt: skip
    assert m.weights_at(0, 100) == pytest.approx({"delta": 0.5, "spectral": 2.0, "action": 0.0})
    assert m.weights_at(50, 100) == pytest.approx({"delta": 0.5, "spectral": 1.0, "action": 1.0})
    assert m.weights_at(100, 100)["spectral"] == pytest.approx(0.0)
    assert set(m.weights_at(0, 100)) == {t.name for t in m.terms}


def test_levels_come_from_the_encoder() -> None:
    preset = load_preset("nano", ["model.encoder.levels=2"])
    m = mix("fwm", model=preset.model)
    assert params(m, "static_appearance")["levels"] == 2


@pytest.mark.parametrize(
    ("objectives", "sentence"),
    [
        ({"hard_region": {"weight": 1, "params": {"tau": 0}}}, "hard_region: tau is 0; expected a number above 0"),
        ({"motion_guided": {"weight": 1, "params": {"strength": -1}}}, "motion_guided: strength is -1"),
        ({"future_predictive": {"weight": 1, "params": {"keep": 1.0}}}, "future_predictive: keep is 1"),
        ({"latent_dynamics": {"weight": 1, "params": {"subspace": "dyn"}}}, "latent_dynamics: subspace is 'dyn'"),
        ({"static_appearance": {"weight": 1, "params": {"levels": 5}}}, "static_appearance: .* into 5 levels"),
    ],
)
def test_a_parameter_out_of_range_is_named_before_anything_starts(objectives: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        mix(objectives)
