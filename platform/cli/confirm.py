"""The command `equipoise confirm`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from equipoise.platform.cli.options import (
    Places,
    StudyOptions,
    emit,
    gathered,
    home_options,
    json_option,
    storage_option,
)
from equipoise.platform.cli.running import run, say_failures

if TYPE_CHECKING:
    from equipoise.platform.record.home import Home
    from equipoise.platform.study.run import Outcome, RunOptions


@click.command()
@click.argument("study")
@click.option("--top", type=click.IntRange(1), help="Variants, in the order of the study's selection; default: 3.")
@click.option("--seeds", type=click.IntRange(1), help="Fresh seeds of each, and of both controls; default: 5.")
@click.option("--name", help="Name of the confirmation; default: the study's, ending in -confirmation.")
@click.option("--resume", is_flag=True, help="Go on with the confirmation of this name.")
@click.option("--concurrent", type=click.IntRange(1), help="Trials at once; default: as in the study.")
@click.option("--address", help="Address of a Ray cluster, or auto; default: start one here.")
@click.option("--tolerance", type=click.FloatRange(0), help="Points a balanced variant may lose anywhere.")
@storage_option
@home_options
@json_option
@gathered(StudyOptions, "asked")
def confirm(study: str, top: int | None, seeds: int | None, places: Places, asked: StudyOptions, as_json: bool) -> None:
    """Run the top variants of a STUDY and both controls again on fresh seeds, and say how much of its gain survives.

    Everything but the seeds is as in the study's own trials. The seeds are the next numbers that neither the study nor
    an earlier confirmation of it used.
    """
    from rich.console import Console

    from equipoise.platform.report.confirmation import conclude_confirmation
    from equipoise.platform.report.front import conclude_study
    from equipoise.platform.report.tables.confirmation import show_confirmation
    from equipoise.platform.stats.pareto import SelectionError
    from equipoise.platform.study.confirm import confirm as start

    def runner(home: Home, options: RunOptions) -> Outcome:
        return start(study, home, options, top=top, seeds=seeds, name=asked.name, concurrent=asked.concurrent)

    again = f"confirm {shlex.quote(study)}"
    again += "".join(f" --{k} {v}" for k, v in (("top", top), ("seeds", seeds)) if v is not None)
    outcome = run(runner, places, asked, again)
    say_failures(outcome)
    record = places.study(outcome.name)
    try:
        # Its front, and the checkpoint of what is balanced now, belong to the record.
        selection = conclude_study(record, None, asked.tolerance, keep=True).to_dict()
    except SelectionError as error:
        click.echo(f"No selection yet: {error}", err=True)
        selection = None
    found = conclude_confirmation(record, asked.tolerance, keep=True)
    if as_json:
        emit({**outcome.to_dict(), "selection": selection, "confirmation": found.to_dict()})
    else:
        show_confirmation(found, Console())
