from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from equipoise.platform.errors import SettingsError
from equipoise.platform.settings.axes import Range
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.files import shipped
from equipoise.platform.settings.study import AblationDefinition, SweepDefinition, load_ablation, load_sweep, variant_in
from equipoise.platform.settings.trial import Resources
from equipoise.platform.settings.variant import Variant, load_variant

SWEEP: dict[str, Any] = {
    "name": "mine",
    "regime": "miniature",
    "preset": "nano",
    "trials": 4,
    "objectives": {"hard_region": {"low": 0.1, "high": 2.0}, "delta": {"low": 0.1, "high": 1.0}},
}
ABLATION: dict[str, Any] = {
    "name": "mine",
    "regime": "miniature",
    "preset": "nano",
    "variants": ["hw"],
    "seeds": [3, 4],
}


def sweep(**change: Any) -> SweepDefinition:
    return parse(SweepDefinition, {**SWEEP, **change}, "test")


def ablation(**change: Any) -> AblationDefinition:
    return parse(AblationDefinition, {**ABLATION, **change}, "test")


def objectives(**change: Any) -> dict[str, Any]:
    return {"hard_region": {"low": 0.1, "high": 2.0}, **change}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"objectives": {"hard_region": {"low": 2.0, "high": 2.0}}}, "low 2.0 is not below high 2.0"),
        ({"objectives": {"hard_region": {"low": 0.0, "high": 2.0}}}, "low is 0.0: input should be greater than 0"),
        ({"objectives": {"hard_region": {"low": 0.1, "high": 1.0, "off_probability": 1}}}, "less than 1"),
        ({"objectives": {"hard_region": {"low": 0.1, "hihg": 1.0}}}, "hard_region.hihg'; did you mean 'high'?"),
        (
            {"objectives": objectives(detla={"low": 0.1, "high": 1})},
            "unknown objective 'detla'; did you mean 'delta'?",
        ),
        ({"objectives": {}}, "objectives is {}"),
        (
            {"objectives": objectives(motion_guided={"low": 0.1, "high": 1.5})},
            "motion_guided is a mask policy: its weight is a share of clips; high is 1.5, expected at most 1",
        ),
        (
            {"objectives": {"hard_region": {"low": 0.1, "high": 1, "params": {"tua": 1}}}},
            "unknown parameter 'tua' of hard_region; did you mean 'tau'?",
        ),
        ({"start": ["fwm"]}, "start variant 'fwm' uses static_appearance, which the search space does not name"),
        ({"start": ["hw", "hww"]}, "unknown variant 'hww'; did you mean 'hw'?"),
        ({"trials": 0}, "trials is 0"),
        (
            {"sampler": "cma"},
            "sampler is 'cma': input should be 'tpe', 'nsga2', 'nsga3', 'gp', 'botorch', 'random' or 'qmc'",
        ),
        ({"control_seeds": []}, "no control_seeds: a study without controls cannot be read; to insist, set refuse"),
        ({"control_seeds": [1, 1]}, "[1, 1] given; expected different seeds, none negative"),
        ({"name": "my/study"}, "name: 'my/study' cannot be a name"),
        ({"name": "../up"}, "name: '../up' cannot be a name"),
        ({"trails": 3}, "unknown key 'trails'; did you mean 'trials'?"),
        ({"budget": 40}, "budget: 40 given; expected hours of GPUs or CPUs, as in 40gpu-h or 200cpu-h"),
        (
            {"early_stopping": True},
            "early_stopping is True: expected a mapping with keys of rungs, reduction_factor, warmup, tie_break, items",
        ),
        ({"seeds": 3}, "seeds is 3: expected a mapping with keys of most, share"),
        (
            {"objectives": {"hard_region": {"low": 0.1, "high": 2, "off_probability": 0.999}}},
            "off_probability is 0.999: on a log axis from 0.1 to 2 so much cannot be off; give less, or leave",
        ),
        (
            {"objectives": {"hard_region": {"low": 0.1, "high": 2, "params": {"tau": -5}}}},
            "hard_region: params {'tau': -5} are refused: tau is -5; expected a number above 0.0",
        ),
        (
            {"sampler": "random", "constraints": {"max_loss": 1}},
            "constraints: sampler random looks at no result and cannot keep to them: choose tpe, nsga2",
        ),
    ],
)
def test_a_wrong_sweep_is_answered_in_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as found:
        sweep(**change)
    assert sentence in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"variants": []}, "no variants: name at least one, e.g. variants: [hw, fwm]"),
        ({"variants": ["fmw"]}, "unknown variant 'fmw'; did you mean 'fwm'?"),
        ({"custom": {"hw": {"objectives": {"delta": 1}}}}, "variant 'hw' is shipped already: give yours another name"),
        ({"custom": {"baseline": {}}}, "variant 'baseline' is shipped already"),
        ({"custom": {"a": {"objectives": {"delat": 1}}}}, "unknown objective 'delat'; did you mean 'delta'?"),
        ({"seeds": []}, "seeds is []"),
    ],
)
def test_a_wrong_ablation_is_answered_in_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as found:
        ablation(**change)
    assert sentence in str(found.value)


@pytest.mark.parametrize("off", [0.0, 0.5, 0.7, 0.95])
def test_floor_leaves_the_share_of_the_axis_that_means_off(off: float) -> None:
    r = Range(low=0.1, high=2.0, off_probability=off)
    below = math.log(r.low / r.floor) / math.log(r.high / r.floor)
    assert below == pytest.approx(off, abs=1e-9)


def test_a_point_becomes_a_variant() -> None:
    space = sweep(objectives={
        "hard_region": {"low": 0.1, "high": 2.0, "params": {"tau": 0.5}, "schedule": "cosine_decay"},
        "delta": {"low": 0.1, "high": 1.0},
    })  # fmt: skip
    variant = space.variant({"hard_region": 0.1, "delta": 0.0999})
    assert list(variant.objectives) == ["hard_region"]
    setting = variant.objectives["hard_region"]
    assert (setting.weight, setting.schedule, setting.params) == (0.1, "cosine_decay", {"tau": 0.5})
    assert space.variant({"hard_region": 0.01, "delta": 0.01}).objectives == {}


def test_a_variant_becomes_a_point_and_comes_back() -> None:
    space = sweep(objectives={name: {"low": 0.01, "high": 2.0} for name in ("hard_region", "delta", "latent_dynamics")})
    for name in ("hw", "delta", "ld", "hw_ld", "baseline"):
        variant = load_variant(name)
        point = space.point(variant)
        assert set(point) == set(space.objectives)
        assert all(space.objectives[k].floor <= w <= space.objectives[k].high for k, w in point.items())
        assert space.variant(point).objectives == variant.objectives, name


@pytest.mark.parametrize(("share", "place"), [(0.8, 0.7), (0.5, 0.25), (0.2, 0.1), (0.0, 0.0)])
def test_all_that_is_off_is_one_place_near_the_low_end(share: float, place: float) -> None:
    """From 0 to 1 on the log axis: weights come last, off lies half their width below, or in the middle of its part."""
    r = Range(low=0.1, high=2.0, off_probability=share)
    assert math.log(r.off / r.floor) / math.log(r.high / r.floor) == pytest.approx(place, abs=1e-9)
    space = sweep(objectives={"delta": r.model_dump(), "hard_region": {"low": 0.1, "high": 1.0}})
    drawn = {"delta": 0.099, "hard_region": 0.3}
    assert space.merged(drawn) == ({"delta": r.off, "hard_region": 0.3} if share else {**drawn, "delta": 0.1})
    assert space.variant(space.merged({"delta": 0.7, "hard_region": 0.01})).objectives.keys() == {"delta"}


def test_point_off_lies_inside_the_off_part() -> None:
    point = sweep().point(Variant())
    for name, r in sweep().objectives.items():
        assert r.floor < point[name] < r.low


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"objectives": {"motion_guided": {"low": 0.1, "high": 1.0}}, "start": ["amg"]}, "amg"),
        ({"objectives": {"kinematic_velocity": {"low": 0.01, "high": 1.0}}, "start": ["kinematic_anneal"]},
         "kinematic_anneal"),
        ({"objectives": {"sigreg": {"low": 0.01, "high": 1.0}}, "start": ["sigreg_no_ema"]}, "sigreg_no_ema"),
        ({"objectives": {"hard_region": {"low": 0.5, "high": 1.0}}, "start": ["hw"]}, "hw"),
        ({"objectives": {"hard_region": {"low": 0.1, "high": 1.0},
                         "delta": {"low": 0.1, "high": 1.0, "off_probability": 0}}, "start": ["hw"]}, "hw"),
        ({"start": ["random_init"]}, "random_init"),
    ],
)  # fmt: skip
def test_a_start_variant_the_space_cannot_hold_is_refused(change: dict[str, Any], name: str) -> None:
    """It would run under the variant's name with other weights, parameters or teacher."""
    with pytest.raises(SettingsError, match=f"start variant '{name}' .*the search space"):
        sweep(**change)


def test_controls_come_with_every_study() -> None:
    study = sweep(control_seeds=[5, 6])
    assert [(n, s) for n, _, s in study.controls()] == [(c, s) for s in (5, 6) for c in ("baseline", "random_init")]
    assert sweep(refuse_controls=True, control_seeds=[]).controls() == []
    # An ablation's controls share its seeds, unless it says otherwise.
    assert {s for _, _, s in ablation().controls()} == {3, 4}
    assert {s for _, _, s in ablation(control_seeds=[9]).controls()} == {9}


def test_members_are_variants_by_seed_without_controls() -> None:
    study = ablation(variants=["baseline", "hw", "fwm"], custom={"mine": {"objectives": {"delta": 0.2}}})
    assert [(n, s) for n, _, s in study.members()] == [(n, s) for s in (3, 4) for n in ("hw", "fwm", "mine")]
    assert study.members()[2][1].objectives["delta"].weight == 0.2
    alone = ablation(variants=["baseline", "hw"], refuse_controls=True)
    assert [n for n, _, _ in alone.members()] == ["baseline", "hw"] * 2


def test_a_trial_of_a_study_carries_its_settings() -> None:
    study = sweep(reading="as_published", set=["optimisation.steps=7"], resources={"workers": 2})
    preset, regime = study.load()
    settings = study.trial("hw", load_variant("hw"), 11, preset, regime)
    assert (settings.variant_name, settings.seed, settings.reading) == ("hw", 11, "as_published")
    assert settings.preset.optimisation.steps == 7
    assert settings.resources == Resources(workers=2)
    odd = sweep(resources={"workers": 5})
    with pytest.raises(SettingsError, match="study mine, variant hw: batch 32 does not divide among 5 workers"):
        odd.trial("hw", load_variant("hw"), 0, *odd.load())


def test_files_and_command_line_changes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, "set": ["optimisation.steps=5"]}))
    plain = load_sweep(str(path), {"trials": None, "set": ()})
    assert (plain.trials, plain.set) == (4, ("optimisation.steps=5",))
    changed = load_sweep(str(path), {"trials": 9, "set": ("optimisation.batch=8",)})
    assert (changed.trials, changed.set) == (9, ("optimisation.steps=5", "optimisation.batch=8"))
    path.write_text("[1, 2]")
    with pytest.raises(SettingsError, match=r"mine\.yaml holds list; expected a mapping of settings"):
        load_sweep(str(path), {})
    with pytest.raises(SettingsError, match=r"unknown search space 'quikstart'; did you mean 'quickstart'\?"):
        load_sweep("quikstart", {})
    with pytest.raises(SettingsError, match=r"unknown study 'miniature_ablaton'; did you mean 'miniature_ablation'\?"):
        load_ablation("miniature_ablaton", {})
    assert load_ablation("miniature_ablation", {"seeds": (7,)}).control_seeds == (7,)


# ---- files beside a file, and variants in it


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study and its own preset and regime in one folder; the command runs in another."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for what, name in (("presets", "nano"), ("regimes", "miniature")):
        shutil.copy(shipped(what)[name], folder / f"{what}.yaml")
    content = {"name": "s", "regime": "regimes.yaml", "preset": "presets.yaml", "set": ["optimisation.steps=7"]}
    custom = {"gentle": {"objectives": {"delta": 0.25}}}
    (folder / "study.yaml").write_text(yaml.safe_dump({**content, "variants": ["hw"], "custom": custom}))
    space = {**content, "trials": 2, "control_seeds": [0], "objectives": {"delta": {"low": 0.1, "high": 1.0}}}
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


def test_paths_in_a_file_are_relative_to_it(elsewhere: Path, tmp_path: Path) -> None:
    loaded = load_ablation("../mine/study.yaml", {})
    assert loaded.preset == str(elsewhere / "presets.yaml")
    preset, regime = loaded.load()
    assert (preset.optimisation.steps, regime.name) == (7, "miniature")
    assert load_sweep("../mine/space.yaml", {}).load()[1] == regime
    # What the command line names is relative to where it runs, and a shipped name is no path.
    shutil.copy(shipped("presets")["small"], tmp_path / "here" / "other.yaml")
    assert load_ablation("../mine/study.yaml", {"preset": "other.yaml"}).load()[0].name == "small"
    assert load_ablation("miniature_ablation", {}).preset == "nano"
    (elsewhere / "bad.yaml").write_text((elsewhere / "study.yaml").read_text().replace("presets", "gone"))
    with pytest.raises(SettingsError, match=r"preset file .*mine/gone.yaml does not exist"):
        load_ablation("../mine/bad.yaml", {}).load()


def test_a_variant_of_a_file_is_found_by_name(elsewhere: Path) -> None:
    file = str(elsewhere / "study.yaml")
    found, mix = variant_in(file, "gentle", {})
    assert mix.objectives["delta"].weight == 0.25
    assert found.trial("gentle", mix, 3, *found.load()).preset.optimisation.steps == 7
    assert variant_in(file, "hw", {"preset": "small"})[0].load()[0].name == "small"
    space, mix = variant_in(str(elsewhere / "space.yaml"), "hw", {})
    assert (space.load()[0].optimisation.steps, mix) == (7, load_variant("hw"))
    assert variant_in("factorial_fwm_hw_ld", "fwm+hw", {})[1].objectives
    with pytest.raises(SettingsError, match=r"study.yaml has no variant 'gentl'; .*gentle"):
        variant_in(file, "gentl", {})
