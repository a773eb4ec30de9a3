"""The command `equipoise explain`."""

from __future__ import annotations

from pathlib import Path

import click

from equipoise.platform.cli.options import (
    Places,
    emit,
    home_options,
    json_option,
    optuna_storage_option,
    reference_option,
    terminal,
)


@click.command()
@click.argument("study", required=False)
@reference_option
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The plot: .png, .pdf or .svg.")
@optuna_storage_option
@home_options
@json_option
def explain(study: str | None, reference: str | None, out: Path | None, places: Places, as_json: bool) -> None:
    """Explain the search of a STUDY: which objectives matter, which pairs do not add up, and what it would try next.

    Nothing is started, and nothing is booked: what comes next is asked of a copy.
    """
    from equipoise.platform.report.explanation import explain_search
    from equipoise.platform.report.tables.explanation import show_explanation

    found = explain_search(places.read(study, reference), out, keep=True)
    if as_json:
        emit(found.to_dict())
    else:
        show_explanation(found, terminal())
