"""The README is true: its commands parse, its YAML is valid, its links lead somewhere, its make targets exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from equipoise.platform.cli.main import cli
from equipoise.platform.settings.files import shipped
from equipoise.platform.settings.study import AblationDefinition, SweepDefinition
from equipoise.platform.settings.variant import load_variant

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = sorted(
    {
        line.split("#")[0].strip().removeprefix(".venv/bin/")
        for kind, block in BLOCKS
        if kind == "sh"
        for line in block.splitlines()
        if line.startswith(".venv/bin/equipoise")
    }
    | {c for c in re.findall(r"`(equipoise [^`]+)`", TEXT) if "CHECKPOINT" not in c}
)


def parse(words: list[str]) -> None:
    """Parse a command line down to its last option, without running it."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None, name
        command, context = found, click.Context(found, parent=context, info_name=name)
    if words:
        command.make_context(command.name, words, parent=context, resilient_parsing=False)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_exist(line: str, tmp_path: Path) -> None:
    filled = re.sub(r"\w*FOLDER", str(tmp_path), re.sub(r"\bSPACE\b", "quickstart", line))
    words = shlex.split(filled)[1:]
    parse(words)


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 12


def test_yaml_examples_are_valid() -> None:
    examples = [yaml.safe_load(block) for kind, block in BLOCKS if kind == "yaml"]
    assert len(examples) == 2
    SweepDefinition.model_validate(examples[0])
    AblationDefinition.model_validate(examples[1])


def test_links_and_pictures_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", TEXT):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_names_the_readme_uses_are_shipped() -> None:
    written = re.sub(r"<!-- (.*?) -->.*?<!-- end -->", "", TEXT, flags=re.DOTALL)  # tables of the study of record
    assert set(re.findall(r"^\| `(\w+)` \|", written, flags=re.MULTILINE)) == set(shipped("presets"))
    assert "quickstart" in shipped("spaces")
    assert "miniature_ablation" in shipped("studies")
    for variant in ("fwm_hw_ld", "hw", "fwm"):
        load_variant(variant)
    assert "@@" not in TEXT
