from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from equipoise.platform.errors import SettingsError, nearest
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.files import apply_override, find, load_yaml, shipped
from equipoise.platform.settings.preset import ContextLoss, Preset, load_preset
from equipoise.platform.settings.trial import Resources, TrialSettings, load_regime
from equipoise.platform.settings.variant import ObjectiveSetting, Variant


def trial(**change: Any) -> TrialSettings:
    data = {
        "variant_name": "hw",
        "variant": Variant(objectives={"hard_region": ObjectiveSetting(weight=0.3)}),
        "preset": load_preset("nano"),
        "regime": load_regime("miniature"),
    }
    return parse(TrialSettings, {**data, **change}, "test")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optimisation.step=3", "unknown key 'optimisation.step'; did you mean 'steps'?"),
        ("model.encoder.widht=3", "unknown key 'model.encoder.widht'; did you mean 'width'?"),
        ("model.teacher.momentun=0.9", "unknown key 'model.teacher.momentun'; did you mean 'momentum'?"),
        ("probes.linear.epoch=3", "unknown key 'probes.linear.epoch'; did you mean 'epochs'?"),
        ("checkpoint_evry=3", "unknown key 'checkpoint_evry'; did you mean 'checkpoint_every'?"),
        ("model.masks.blocks=[{count: 1, arae: 0.5}]", "'model.masks.blocks.0.arae'; did you mean 'area'?"),
        ("optimisation.steps=many", "optimisation.steps is 'many': input should be a valid integer"),
        ("optimisation.lr=-1", "optimisation.lr is -1: input should be greater than 0"),
        ("optimisation.schedule=linear", "optimisation.schedule is 'linear': input should be 'constant' or 'cosine'"),
        ("model.encoder.heads=5", "is not a multiple of heads 5"),
        ("model.size=60", "size is 60 px; expected a multiple of the patch side"),
        ("cache_size=8", "cache_size 8 is below the clip size"),
        ("probes.attentive.heads=7", "probes.attentive.heads 7 does not divide width"),
        ("sampling.scale=[0.5, 2.0]", "scale is [0.5, 2.0]; expected 0 < low <= high <= 1.0"),
        ("context.start=0.5", "context start 0.5 is not before full 0.1"),
        ("probes.linear.lr=[]", "[] given; expected at least one value, none negative"),
        ("probes.linear.lr=[0.1, -0.1]", "[0.1, -0.1] given; expected at least one value, none negative"),
        ("optimisation.steps", "override 'optimisation.steps' has no value; write it as optimisation.steps=200"),
        ("optimisation.steps.more=3", "optimisation.steps is not a group of settings"),
        ("optimisation.steps=[", "override 'optimisation.steps=[': '[' is not a valid YAML value"),
    ],
)
def test_a_wrong_override_is_answered_in_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as found:
        load_preset("nano", [override])
    assert sentence in str(found.value)
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 400


def test_overrides_change_nested_keys_and_nothing_else() -> None:
    plain = load_preset("nano")
    changed = load_preset("nano", ["model.encoder.depth=8", "optimisation.lr=6e-4", "optimisation.clip_gradient=1.5"])
    assert changed.model.encoder.depth == 8
    assert changed.optimisation.lr == 6e-4
    assert changed.optimisation.clip_gradient == 1.5
    back = load_preset("nano", [f"model.encoder.depth={plain.model.encoder.depth}"])
    assert back == plain
    assert load_preset("nano") == plain, "an override does not stick to the shipped preset"


def test_override_makes_groups_that_are_missing() -> None:
    data: dict[str, Any] = {"a": {"b": 1}}
    apply_override(data, "a.c.d=[1, x]")
    assert data == {"a": {"b": 1, "c": {"d": [1, "x"]}}}
    apply_override(data, "a.b=a=b")
    assert data["a"]["b"] == "a=b"


def test_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmodel: {}\noptimisation: {}\nprobes: {}\n")
    with pytest.raises(SettingsError, match="cache_size is missing"):
        load_preset(str(path))


def test_yaml_that_is_no_mapping(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("- 1\n")
    with pytest.raises(SettingsError, match=r"mine\.yaml: the content is \[1\]: input should be a valid dictionary"):
        load_preset(str(path))
    with pytest.raises(SettingsError, match="override 'seed=3': the file is not a group of settings"):
        load_preset(str(path), ["seed=3"])


def test_broken_yaml_is_answered_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("name: x\nmodel: {a: 1\noptimisation: 3\n")
    with pytest.raises(SettingsError, match=r"broken\.yaml is not valid YAML in line 3: "):
        load_yaml(path)
    path.write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(SettingsError, match=r"broken\.yaml cannot be read"):
        load_yaml(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        load_yaml(tmp_path)
    with pytest.raises(SettingsError, match=r"none\.yaml does not exist; give the path of a YAML file"):
        load_yaml(tmp_path / "none.yaml")


def test_find_takes_names_and_paths(tmp_path: Path) -> None:
    assert find("presets", "nano", "preset") == shipped("presets")["nano"]
    own = tmp_path / "own.yaml"
    own.write_text("x: 1\n")
    assert find("presets", str(own), "preset") == own
    with pytest.raises(SettingsError, match=r"unknown preset 'nanno'; did you mean 'nano'\?"):
        find("presets", "nanno", "preset")
    with pytest.raises(SettingsError, match=r"unknown regime 'xyzzy'; known: miniature, miniature_single"):
        load_regime("xyzzy")
    with pytest.raises(SettingsError, match=r"preset file .*gone\.yaml does not exist; shipped: base, nano"):
        find("presets", str(tmp_path / "gone.yaml"), "preset")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"objectives": {"hard_regoin": 0.3}}, "unknown objective 'hard_regoin'; did you mean 'hard_region'?"),
        ({"objectives": {"hard_region": -0.1}}, "objectives.hard_region.weight is -0.1: input should be greater than"),
        ({"objectives": {"hard_region": float("inf")}}, "finite"),
        ({"objectives": {"hard_region": float("nan")}}, "hard_region.weight is nan"),
        ({"objectives": {"delta": "much"}}, "objectives.delta.weight is 'much'"),
        ({"objectives": ["delta"]}, "expected a mapping from objective to weight"),
        (
            {"objectives": {"hard_region": {"weight": 1, "params": {"tua": 2}}}},
            "unknown parameter 'tua' of hard_region; did you mean 'tau'?",
        ),
        ({"objectives": {"hard_region": {"weigth": 1}}}, "'objectives.hard_region.weigth'; did you mean 'weight'?"),
        (
            {"objectives": {"motion_guided": 1.5}},
            "motion_guided is a mask policy: its weight is a share of clips, at most 1; 1.5 given",
        ),
        (
            {"objectives": {"future_predictive": {"weight": 1, "schedule": "cosine_decay"}}},
            "future_predictive is a mask policy: schedule 'cosine_decay' cannot take effect",
        ),
        ({"objectives": {"delta": {"weight": 1, "schedule": "cosine"}}}, "objectives.delta.schedule is 'cosine'"),
        ({"untrained": True, "objectives": {"delta": 1}}, "an untrained variant has no objectives"),
        ({"teacher": "none"}, "teacher is 'none': input should be 'ema' or 'self'"),
        ({"objectivs": {}}, "unknown key 'objectivs'; did you mean 'objectives'?"),
    ],
)
def test_a_wrong_variant_is_answered_in_one_sentence(data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as found:
        parse(Variant, data, "mine.yaml")
    assert str(found.value).startswith("mine.yaml: ")
    assert sentence in str(found.value)


def test_short_and_long_form_of_a_weight_are_one() -> None:
    short = parse(Variant, {"objectives": {"delta": 0.5}}, "x")
    assert short == parse(Variant, {"objectives": {"delta": {"weight": 0.5}}}, "x")
    assert short.objectives["delta"].schedule == "constant"


def test_context_loss_rises_between_its_ends() -> None:
    context = ContextLoss(weight=0.5, start=0.5, full=1.0)
    assert [context.at(s, 100) for s in (0, 50, 75, 99, 100)] == pytest.approx([0.0, 0.0, 0.25, 0.49, 0.5])


KEY_CHANGES: dict[str, dict[str, Any]] = {
    "variant_name": {"variant_name": "other"},
    "variant": {"variant": Variant(objectives={"hard_region": ObjectiveSetting(weight=0.31)})},
    "params": {"variant": Variant(objectives={"hard_region": ObjectiveSetting(weight=0.3, params={"tau": 2.0})})},
    "reading": {"reading": "as_published"},
    "seed": {"seed": 1},
    "steps": {"preset": load_preset("nano", ["optimisation.steps=601"])},
    "momentum": {"preset": load_preset("nano", ["model.teacher.momentum=0.98"])},
    "masks": {"preset": load_preset("nano", ["model.masks.cut=tail"])},
    "probe": {"preset": load_preset("nano", ["probes.linear.epochs=7"])},
    "regime": {"regime": load_regime("miniature").model_copy(update={"name": "mine"})},
}


def test_key_holds_for_everything_that_changes_the_result() -> None:
    key = trial().key
    assert len(key) == 16
    assert trial().key == key
    assert trial(resources=Resources(workers=2, cpus_per_worker=2, gpus_per_worker=1)).key == key
    keys = {name: trial(**change).key for name, change in KEY_CHANGES.items()}
    assert key not in keys.values()
    assert len(set(keys.values())) == len(keys)


def test_settings_survive_json() -> None:
    settings = trial(**KEY_CHANGES["params"], resources=Resources(workers=2))
    again = TrialSettings.model_validate_json(settings.model_dump_json())
    assert again == settings
    assert again.key == settings.key
    assert type(again.preset.model) is type(settings.preset.model)


def test_scored_benchmarks() -> None:
    assert trial().scored == ("mini_dive", "mini_ssv2", "mini_in")
    assert trial(benchmarks=["mini_in"]).scored == ("mini_in",)
    with pytest.raises(
        SettingsError, match=r"unknown benchmark 'mini_im' of regime miniature; did you mean 'mini_in'\?"
    ):
        trial(benchmarks=["mini_im"])


def test_settings_that_cannot_run_together_are_refused() -> None:
    with pytest.raises(SettingsError, match="batch 32 does not divide among 3 workers"):
        trial(resources={"workers": 3})
    preset = load_preset("nano").model_dump()
    del preset["probes"]["linear"]
    with pytest.raises(SettingsError, match="mini_in is scored by the probe 'linear', which preset nano does not"):
        trial(preset=parse(Preset, preset, "x"))
    with pytest.raises(SettingsError, match=r"launcher 'process' runs one worker; 2 given"):
        trial(resources={"launcher": "process", "workers": 2})
    with pytest.raises(SettingsError, match="seed is -1"):
        trial(seed=-1)


@pytest.mark.parametrize(
    ("resources", "train"),
    [
        ({}, False),
        ({"workers": 2}, True),
        ({"launcher": "train"}, True),
        ({"launcher": "process"}, False),
    ],
)
def test_launcher_follows_the_workers(resources: dict[str, Any], train: bool) -> None:
    assert parse(Resources, resources, "x").uses_train is train


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        trial().seed = 3  # type: ignore[misc]


def test_nearest_names_one_word_or_all() -> None:
    assert nearest("wieght", ["weight", "height"]) == "did you mean 'weight'?"
    assert nearest("zzz", ["b", "a"]) == "known: a, b"
