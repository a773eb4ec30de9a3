"""The commands `equipoise space ...`."""

from __future__ import annotations

import click

from equipoise.platform.cli.options import emit, json_option, terminal


@click.group()
def space() -> None:
    """Explain search spaces."""


@space.command("show")
@click.argument("name", metavar="SPACE")
@json_option
def space_show(name: str, as_json: bool) -> None:
    """Show the axes of a search space: SPACE is a shipped one (quickstart, full) or a YAML file."""
    from equipoise.platform.report.tables.space import show_space, space_record
    from equipoise.platform.settings.study import load_sweep

    definition = load_sweep(name, {})
    if as_json:
        emit(space_record(definition))
    else:
        show_space(definition, terminal())
