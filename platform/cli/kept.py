"""The commands about the studies of a home: `equipoise studies list`, `equipoise studies delete`."""

from __future__ import annotations

import click

from equipoise.platform.cli.options import (
    Places,
    emit,
    home_options,
    json_option,
    optuna_storage_option,
    storage_option,
)


@click.group()
def studies() -> None:
    """List the studies of a home, or delete one."""


@studies.command("list")
@home_options
@json_option
def list_studies(places: Places, as_json: bool) -> None:
    """List the studies of the home, how many of their trials ended, and who runs them now."""
    from equipoise.platform.study.removal import kept_studies

    found = kept_studies(places.open())
    if as_json:
        emit([one.to_dict() for one in found])
        return
    if not found:
        click.echo(f"{places.home} holds no study yet: run equipoise quickstart, sweep or ablate", err=True)
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        said = ", ".join(f"{count} {status}" for status, count in one.trials.items()) or "no trial yet"
        said = one.damage or said + (f"; run by {one.holder}" if one.holder else "")
        click.echo(f"{one.name:{width}}  {said}")


@studies.command()
@click.argument("study")
@click.option("--yes", is_flag=True, help="Do not ask.")
@optuna_storage_option
@storage_option
@home_options
def delete(study: str, yes: bool, places: Places) -> None:
    """Delete a STUDY for good: its folder, what its trials wrote, its search and its runs in MLflow.

    Its name is free afterwards. Files that MLflow keeps of its runs go with: mlflow gc --backend-store-uri URI
    """
    from equipoise.platform.study.removal import delete_study

    home = places.open()
    if not yes and home.folder(study).is_dir():
        typed = click.prompt(
            f"All of study {study} in {home.root} is deleted for good. Type its name to go on", err=True
        )
        if typed != study:
            raise click.UsageError(f"{typed!r} is not its name: nothing was deleted")
    delete_study(home, study)
    click.echo(f"Study {study} is deleted.")
