"""The command `equipoise confirm`."""

from __future__ import annotations

import shlex
from typing import Any

import click

from equipoise.platform.cli_options import emit, home_options, json_option, storage_option
from equipoise.platform.cli_run import home_of, run, say_failures

# Heavy modules (torch, ray, mlflow) are imported when the command runs: help answers at once.


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
def confirm(study: str, top: int | None, seeds: int | None, as_json: bool, **options: Any) -> None:
    """Run the top variants of a STUDY and both controls again on fresh seeds, and say how much of its gain survives.

    Everything but the seeds is as in the study's own trials. The seeds are the next numbers that neither the study nor
    an earlier confirmation of it used.
    """
    from rich.console import Console

    from equipoise.platform.conclude import conclude_study
    from equipoise.platform.confirm import confirm as start
    from equipoise.platform.confirmation_view import conclude_confirmation, show_confirmation
    from equipoise.platform.selection import SelectionError

    def runner(name: str, place: Any, **more: Any) -> Any:
        chosen = {"top": top, "seeds": seeds, "name": options["name"], "concurrent": options["concurrent"]}
        return start(name, place, **chosen, **more)

    again = f"confirm {shlex.quote(study)}"
    again += "".join(f" --{k} {v}" for k, v in (("top", top), ("seeds", seeds)) if v is not None)
    outcome = run(runner, study, options, again)
    say_failures(outcome)
    try:
        # Its front, and the checkpoint of what is balanced now, belong to the record.
        selection = conclude_study(outcome.name, home_of(options), None, options["tolerance"]).to_dict()
    except SelectionError as error:
        click.echo(f"No selection yet: {error}", err=True)
        selection = None
    found = conclude_confirmation(outcome.name, home_of(options), options["tolerance"])
    if as_json:
        emit({**outcome.to_dict(), "selection": selection, "confirmation": found.to_dict()})
    else:
        show_confirmation(found, Console())
