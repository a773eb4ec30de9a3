"""The command `equipoise doctor`."""

from __future__ import annotations

import click

from equipoise.platform.cli.options import Places, emit, home_options, json_option, storage_option

MARKS = {"ok": "  ", "note": "- ", "fails": "! "}


@click.command()
@click.option("--address", help="Of a Ray cluster that studies would join; default: one is started here.")
@storage_option
@home_options
@json_option
def doctor(address: str | None, places: Places, as_json: bool) -> None:
    """Say in a line each what a study would meet here: versions, devices, limits, disk, Ray, MLflow, data.

    A line with ! says why a study could not run; then the command ends with 1.
    """
    from equipoise.platform.study.doctor import examine

    found = []
    for one in examine(places.open(), address):
        found.append(one)
        if not as_json:
            click.echo(f"{MARKS[one.state]}{one.about:16} {one.said}")
    if as_json:
        emit([one.to_dict() for one in found])
    if any(one.state == "fails" for one in found):
        raise SystemExit(1)
