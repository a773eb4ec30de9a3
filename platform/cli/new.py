"""The commands `equipoise new ...`: skeletons of what a person can bring."""

from __future__ import annotations

import re
import string
from importlib import resources
from pathlib import Path

import click

from equipoise.platform.cli.options import say
from equipoise.platform.errors import EquipoiseError


@click.group()
def new() -> None:
    """Begin something of your own."""


@new.command("objective")
@click.argument("name")
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Default: this folder.")
def new_objective(name: str, into: Path) -> None:
    """Write an objective that works and its test: NAME.py and test_NAME.py. Put your formula in the place of theirs.

    NAME is how settings call it: small letters, digits and _.
    """
    _write("objective", name, into, f"then {name} among its objectives")


@new.command("encoder")
@click.argument("name")
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Default: this folder.")
def new_encoder(name: str, into: Path) -> None:
    """Write an encoder that works and its test: NAME.py and test_NAME.py. Put your network in the place of theirs.

    NAME is how settings call it: small letters, digits and _.
    """
    _write("encoder", name, into, f"model.encoder.name: {name} in its preset")


def _write(kind: str, name: str, into: Path, used: str) -> None:
    """Write a skeleton and its test, and say what to do with them; ``used`` is how a study does."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
        raise click.BadParameter(f"{name!r} given; expected small letters, digits and _, a letter first")
    words = name.split("_")
    named = {"name": name, "title": " ".join(words).capitalize(), "class_name": "".join(w.capitalize() for w in words)}
    files = {into / f"{name}.py": kind, into / f"test_{name}.py": f"test_{kind}"}
    for file in files:
        if file.exists():
            raise EquipoiseError(f"{file} exists: choose another name, or move it away")
    into.mkdir(parents=True, exist_ok=True)
    folder = resources.files("equipoise.platform.cli") / "templates"
    for file, template in files.items():
        file.write_text(string.Template((folder / f"{template}.py.txt").read_text()).substitute(named))
    source, test = files
    say(
        f"Written:      {source} and {test}\n"
        f"Try it:       python -m pytest {test}\n"
        f"See it:       equipoise list {kind}s --plugin {source}\n"
        f"In a study:   plugins: [{source.name}] in its YAML file, {used}"
    )
