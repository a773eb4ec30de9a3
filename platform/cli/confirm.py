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
    say,
    storage_option,
)
from equipoise.platform.cli.running import conclude_confirmed, run

if TYPE_CHECKING:
    from equipoise.platform.record.home import Home
    from equipoise.platform.study.run import Outcome, RunOptions


@click.command()
@click.argument("study")
@click.option("--top", type=click.IntRange(1), help="Variants, in the order of the study's selection; default: 3.")
@click.option("--seeds", type=click.IntRange(2), help="Fresh seeds of each, and of both controls; default: 5.")
@click.option(
    "--effect",
    type=click.FloatRange(0, min_open=True),
    help="Points of a gain that should be found: says how many seeds that takes.",
)
@click.option("--name", help="Name of the confirmation; default: the study's, ending in -confirmation.")
@click.option("--resume", is_flag=True, help="Go on with the confirmation of this name.")
@click.option("--concurrent", type=click.IntRange(1), help="Trials at once; default: as in the study.")
@click.option("--address", help="Address of a Ray cluster, or auto; default: start one here.")
@click.option("--tolerance", type=click.FloatRange(0), help="Points a candidate may lose anywhere.")
@storage_option
@home_options
@json_option
@gathered(StudyOptions, "asked")
def confirm(
    study: str,
    top: int | None,
    seeds: int | None,
    effect: float | None,
    places: Places,
    asked: StudyOptions,
    as_json: bool,
) -> None:
    """Run the candidate of a STUDY, the next in its order and both controls again on fresh seeds, on test items.

    The candidate is balanced where no loss beyond the tolerance is left possible on any benchmark. Everything but the
    seeds is as in the study's own trials. The seeds are the next numbers that neither the study nor an earlier
    confirmation of it used.
    """
    from equipoise.platform.study.confirm import SEEDS, TOP, forecast
    from equipoise.platform.study.confirm import confirm as start

    if not asked.resume:
        say(forecast(places.study(study).select(asked.tolerance), top or TOP, seeds or SEEDS, effect), err=True)

    def runner(home: Home, options: RunOptions) -> Outcome:
        return start(
            study,
            home,
            options,
            top=top,
            seeds=seeds,
            name=asked.name,
            concurrent=asked.concurrent,
            tolerance=asked.tolerance,
        )

    again = f"confirm {shlex.quote(study)}"
    again += "".join(f" --{k} {v}" for k, v in (("top", top), ("seeds", seeds)) if v is not None)
    outcome = run(runner, places, asked, again)
    content = conclude_confirmed(outcome, places, asked, not as_json)
    if as_json:
        emit(content)
