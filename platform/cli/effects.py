"""The command `equipoise effects`."""

from __future__ import annotations

from pathlib import Path

import click

from equipoise.platform.cli.options import (
    Places,
    emit,
    home_options,
    json_option,
    reference_option,
    storage_option,
    terminal,
)


@click.command()
@click.argument("study", required=False)
@reference_option
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The plot: .png, .pdf or .svg.")
@click.option("--level", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05, show_default=True)
@click.option(
    "--own-spread",
    is_flag=True,
    help="Judge every effect of a factorial by its own spread over seeds alone: wider intervals, right also where "
    "some seeds favour a factor.",
)
@home_options
@storage_option
@json_option
def effects(
    study: str | None,
    reference: str | None,
    out: Path | None,
    level: float,
    own_spread: bool,
    places: Places,
    as_json: bool,
) -> None:
    """Show what the factors of an ablation STUDY with a design add, alone and together."""
    from equipoise.platform.report.effects import conclude_effects
    from equipoise.platform.report.tables.effects import show_effects

    found, picture = conclude_effects(places.read(study, reference), out, level=level, pooled=not own_spread, keep=True)
    if as_json:
        emit({**found.to_dict(), "plot": picture and str(picture)})
    else:
        show_effects(found, picture, terminal())
