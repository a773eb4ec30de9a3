"""The command `equipoise table`."""

from __future__ import annotations

from pathlib import Path

import click

from equipoise.platform.cli.accuracies import ResultsOptions, results_options
from equipoise.platform.cli.options import (
    Places,
    emit,
    home_options,
    json_option,
    reference_option,
    say,
)


@click.command("table")
@click.argument("study", required=False)
@reference_option
@results_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["latex", "markdown", "csv", "html", "typst"]),
    default="markdown",
    show_default=True,
)
@click.option("--variant", "only", multiple=True, metavar="NAME", help="Show only these; repeatable. All are tested.")
@click.option("--digits", type=click.IntRange(0, 6), default=1, show_default=True, help="After the point; csv has all.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write it there; default: print it.")
@home_options
@json_option
def table(
    study: str | None,
    reference: str | None,
    accuracies: ResultsOptions,
    form: str,
    only: tuple[str, ...],
    digits: int,
    out: Path | None,
    places: Places,
    as_json: bool,
) -> None:
    """Print the results of a STUDY as a paper has them: means, gains, intervals, what is more than chance."""
    from equipoise.platform.analysis.differences import noise_of
    from equipoise.platform.analysis.paper_table import paper_table
    from equipoise.platform.report.tables.paper import FORMATS
    from equipoise.platform.settings.variant import BASELINE
    from equipoise.platform.stats.noise import study_noise
    from equipoise.platform.stats.uncertainty import samples

    given = accuracies.table(study, reference)
    if given is None:
        record = places.read(study, reference)
        title = f"Study {record.name}"
        found = paper_table(record.table, record.samples, noise_of(record), title, baseline=BASELINE, only=only)
    else:
        rows, title = given
        found = paper_table(rows, samples(rows), study_noise(rows), title, baseline=accuracies.over, only=only)
    if as_json:
        emit(found.to_dict())
        return
    text = FORMATS[form](found, digits)
    if out is None:
        click.echo(text, nl=False)
        return
    out.write_text(text, encoding="utf-8")
    say(f"{len(found.rows)} variants in {out}")
