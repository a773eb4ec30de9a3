"""The command `equipoise explain`."""

from __future__ import annotations

from pathlib import Path

import click

from equipoise.platform.cli_options import (
    emit,
    home_options,
    json_option,
    optuna_storage_option,
    study_home,
)

# Heavy modules (torch, mlflow, optuna) are imported when the command runs: help answers at once.


@click.command()
@click.argument("study")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The plot: .png, .pdf or .svg.")
@optuna_storage_option
@home_options
@json_option
def explain(
    study: str, out: Path | None, optuna_storage: str | None, home: Path, tracking_uri: str | None, as_json: bool
) -> None:
    """Explain the search of a STUDY: which objectives matter, which pairs do not add up, and what it would try next.

    Nothing is started, and nothing is booked: what comes next is asked of a copy.
    """
    from rich.console import Console

    from equipoise.platform.explain_view import explain_search, show_explanation

    found = explain_search(study, study_home(home, tracking_uri, None, optuna_storage), out)
    if as_json:
        emit(found.to_dict())
    else:
        show_explanation(found, Console())
