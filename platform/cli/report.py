"""The command `equipoise report`."""

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
    storage_option,
)


@click.command()
@click.argument("study", required=False)
@reference_option
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The page; default: the study's folder.")
@click.option("--tolerance", type=click.FloatRange(0), help="Points a candidate may lose; default: noise floor.")
@optuna_storage_option
@storage_option
@home_options
@json_option
def report(
    study: str | None,
    reference: str | None,
    out: Path | None,
    tolerance: float | None,
    places: Places,
    as_json: bool,
) -> None:
    """Write one HTML page about a STUDY (name or MLflow run id): what was asked, found, and how to repeat it.

    The page needs nothing but a browser; it is also logged to the study's MLflow run.
    """
    from equipoise.platform.report.html.content import ReportError
    from equipoise.platform.report.html.page import write_report

    if study is not None and Path(study).suffix.lower() == ".csv":
        raise ReportError(
            f"{study} is a table, which has no trials to report on: name a study, or show the table's front with "
            "equipoise front --results"
        )
    written = write_report(places.read(study, reference), out, tolerance)
    if as_json:
        emit(written.to_dict())
    else:
        click.echo(str(written.path))
