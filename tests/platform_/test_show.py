"""Files of one's own: what they inherit, how they are shown and checked, and what is said of a near miss."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from equipoise.platform.cli.options import Places, home_options, terminal
from equipoise.platform.cli.show import KINDS
from equipoise.platform.errors import SettingsError
from equipoise.platform.settings.files import load_yaml, shipped
from equipoise.platform.settings.preset import Preset, load_preset

Call = Callable[..., tuple[int, str, str]]
FOLDERS = {"preset": "presets", "regime": "regimes", "space": "spaces", "study": "studies"}


def write(path: Path, content: Any) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_a_preset_says_what_differs_from_its_base(tmp_path: Path) -> None:
    nano = load_preset("nano")
    changed = {"optimisation": {"steps": 7}, "model": {"encoder": {"depth": 8}}}
    own = write(tmp_path / "own.yaml", {"base": "nano", "name": "own", **changed})
    found = load_preset(str(own))
    whole = nano.model_dump(mode="json")
    whole["name"] = "own"
    whole["optimisation"]["steps"] = 7
    whole["model"]["encoder"]["depth"] = 8
    # What is inherited is no setting: the trial's key is that of the whole file.
    assert found == Preset.model_validate(whole)
    assert found.optimisation.lr == nano.optimisation.lr
    heir = write(tmp_path / "heir.yaml", {"base": "own.yaml", "name": "heir", "probes": {"linear": {"epochs": 3}}})
    inherited = load_preset(str(heir), ["optimisation.batch=64"])
    assert (inherited.optimisation.steps, inherited.optimisation.batch) == (7, 64)
    assert inherited.probes["linear"].epochs == 3
    assert inherited.probes["linear"].lr == nano.probes["linear"].lr


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ("nan", "unknown preset 'nan'; did you mean 'nano'?"),
        ("gone.yaml", "gone.yaml does not exist"),
        (["nano"], "base is ['nano']; expected the name or the file of a preset"),
        ("other.yaml", "is based on itself"),
    ],
)
def test_a_base_that_cannot_be_is_answered_in_one_sentence(base: Any, sentence: str, tmp_path: Path) -> None:
    own = write(tmp_path / "own.yaml", {"base": base, "name": "own"})
    write(tmp_path / "other.yaml", {"base": "own.yaml", "name": "other"})
    with pytest.raises(SettingsError) as raised:
        load_preset(str(own))
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_shown_is_a_file_of_the_same_content(call: Call, tmp_path: Path) -> None:
    for name in shipped("presets"):
        code, out, err = call("show", "preset", name, "--set", "optimisation.steps=9")
        assert code == 0, err
        assert load_preset(str(write(tmp_path / "shown.yaml", yaml.safe_load(out)))) == load_preset(
            name, ["optimisation.steps=9"]
        )
    for kind, folder in FOLDERS.items():
        for name in shipped(folder):
            code, out, err = call("show", kind, name)
            assert code == 0, err
            again = write(tmp_path / "again.yaml", yaml.safe_load(out))
            assert call("show", kind, again)[1] == out
    assert yaml.safe_load(call("show", "variant", "hw")[1])["objectives"]


def test_the_schema_takes_what_ships_and_refuses_what_does_not_fit(call: Call) -> None:
    for kind in KINDS:
        schema = yaml.safe_load(call("show", kind, "--schema")[1])
        jsonschema.Draft202012Validator.check_schema(schema)
        for file in shipped(FOLDERS.get(kind, "none")).values():
            jsonschema.validate(load_yaml(file), schema)
        with pytest.raises(jsonschema.ValidationError, match="stepz"):
            jsonschema.validate({"base": "nano", "name": "own", "stepz": 3}, schema)
    preset = yaml.safe_load(call("show", "preset", "--schema")[1])
    jsonschema.validate({"base": "nano", "name": "own", "optimisation": {"steps": 3}}, preset)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "own", "optimisation": {"steps": 3}}, preset)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("show", "preset"), "give a NAME or FILE of a preset"),
        (("show", "preset", "nano", "--schema"), "give a NAME or FILE of a preset"),
        (("show", "regime", "mixed", "--set", "a=1"), "--set overrides keys of a preset, not of a regime"),
        (("show", "variant", "hww"), "unknown variant 'hww'; did you mean 'hw'?"),
        (("ablate", "quickstart"), "'quickstart' is a search space: equipoise sweep quickstart runs it"),
        (("sweep", "miniature_ablation"), "'miniature_ablation' is a study, of named variants: equipoise ablate"),
        (("sweep", "study.yaml"), "study.yaml has variants and no objectives to search: equipoise ablate study.yaml"),
        (("ablate", "space.yaml"), "space.yaml is a search space, of objectives: equipoise sweep space.yaml runs it"),
        (("ablate", "miniature_ablation", "--seed", 1, "--seeds", 2), "--seed says which seeds and --seeds how many"),
        (("sweep", "quickstart", "--set", "steps=20"), "unknown key 'steps'; did you mean 'optimisation.steps'?"),
        (("sweep", "quickstart", "--set", "width=8"), "mean 'model.encoder.width' or 'model.predictor.width'?"),
        (("sweep", "quickstart", "--set", "optimisation.stepz=20"), "did you mean 'steps'?"),
    ],
)
def test_a_near_miss_is_answered_by_what_was_meant(
    call: Call, words: tuple[object, ...], sentence: str, tmp_path: Path
) -> None:
    write(tmp_path / "study.yaml", load_yaml(shipped("studies")["miniature_ablation"]))
    write(tmp_path / "space.yaml", load_yaml(shipped("spaces")["quickstart"]))
    code, out, err = call(*words)
    assert code != 0
    assert out == ""
    assert sentence in " ".join(err.split())
    assert not (tmp_path / "equipoise_home").exists(), "refused before anything was made"


@pytest.mark.parametrize(
    "words",
    [
        ("list", "presets"),
        ("sweep", "quikstart"),
        ("sweep", "full", "--preset", "nan"),
        ("pretrain", "hww"),
        ("ablate", "miniature_ablation", "--variant", "hww"),
        ("audit", "hww"),
        ("show", "preset", "nan"),
        ("show", "variant", "hww"),
    ],
)
def test_names_are_read_without_what_takes_seconds_to_load(words: tuple[str, ...]) -> None:
    asked = f"import sys; from equipoise.platform.cli import main; sys.argv = ['equipoise', *{words!r}]\n"
    asked += "try: main.main()\nexcept SystemExit: pass\n"
    asked += "print(sorted({'torch', 'timm', 'ray', 'mlflow', 'optuna', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_printed_commands_can_be_copied_where_the_path_does_not_lead_to_them(tmp_path: Path) -> None:
    poor = {**os.environ, "PATH": "/usr/bin:/bin"}
    words = [sys.executable, "-m", "equipoise", "ablate", "quickstart"]
    done = subprocess.run(words, capture_output=True, text=True, env=poor, cwd=tmp_path, check=False)
    command = re.search(r"search space: (.*) runs it", done.stderr)
    assert command is not None, done.stderr
    assert command[1].endswith("equipoise sweep quickstart")
    again = subprocess.run(f"{command[1]} --help", shell=True, capture_output=True, text=True, env=poor, check=False)
    assert again.returncode == 0, again.stderr
    assert "Search objective weights" in again.stdout


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Not confirmed: equipoise confirm mine.", "Not confirmed: equipoise confirm mine --home {}."),
        (
            "equipoise unbundle a, then equipoise confirm 'a b'.",
            "equipoise unbundle a --home {}, then equipoise confirm 'a b' --home {}.",
        ),
        ("equipoise confirm a --home x", "equipoise confirm a --home x"),
        ("run equipoise sweep or ablate", "run equipoise sweep or ablate"),
    ],
)
def test_a_command_that_is_printed_names_the_home_that_was_typed(said: str, shown: str, tmp_path: Path) -> None:
    @click.command()
    @home_options
    def speak(places: Places) -> None:
        terminal().print(said, soft_wrap=True)

    typed = CliRunner().invoke(speak, ["--home", str(tmp_path)], catch_exceptions=False)
    assert typed.stdout == shown.replace("{}", str(tmp_path)) + "\n"
    default = CliRunner().invoke(speak, [], env={"EQUIPOISE_HOME": str(tmp_path)}, catch_exceptions=False)
    assert default.stdout == said + "\n"
