"""The commands `equipoise space ...`."""

from __future__ import annotations

import click

from equipoise.platform.cli_options import emit, json_option

# Heavy modules (torch, optuna) are imported when the command runs: help answers at once.


@click.group()
def space() -> None:
    """Explain search spaces."""


@space.command("show")
@click.argument("name", metavar="SPACE")
@json_option
def space_show(name: str, as_json: bool) -> None:
    """Show the axes of a search space: SPACE is a shipped one (quickstart, full) or a YAML file."""
    from rich.console import Console

    from equipoise.platform.definitions import load_sweep
    from equipoise.platform.space_view import show_space, space_record

    definition = load_sweep(name, {})
    if as_json:
        emit(space_record(definition))
    else:
        show_space(definition, Console())
