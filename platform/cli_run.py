"""What the commands that run a study share: run it, say how to go on after an interrupt, conclude it."""

from __future__ import annotations

import shlex
from typing import Any

import click

from equipoise.platform.cli_options import emit, progress_bar, study_home
from equipoise.platform.errors import EquipoiseError


def home_of(options: dict[str, Any]) -> Any:
    """The home folder of a command's options."""
    return study_home(options["home"], options["tracking_uri"], options.get("storage"), options.get("optuna_storage"))


def remembered(file: str, options: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """What the command line changes of a sweep: with ``--resume`` also what it changed before and does not now.

    Args:
        file: the search space as it was named.
        options: of the command.
        changes: what they change.
    """
    from equipoise.platform.ledger import Ledger
    from equipoise.platform.settings import find, load_yaml
    from equipoise.platform.study import GIVEN

    now = {key: value for key, value in changes.items() if value not in (None, ())}
    if not options["resume"]:
        return now
    content = load_yaml(find("spaces", file, "search space"))
    name = options["name"] or (content.get("name") if isinstance(content, dict) else None)
    book = home_of(options).folder(str(name)) / "ledger.db"
    if not book.is_file():
        return now  # there is nothing to resume, which is said where it is looked for
    ledger = Ledger(book)
    try:
        before: dict[str, Any] = ledger.fact(GIVEN) or {}
    finally:
        ledger.close()
    resources = {**before.get("resources", {}), **now.get("resources", {})}
    return before | now | ({"resources": resources} if resources else {})


def run(runner: Any, definition: Any, options: dict[str, Any], again: str) -> Any:
    """Run a study; an interrupted one ends the command with the words that resume it.

    Args:
        runner: called with the definition and the home.
        definition: what it runs.
        options: of the command.
        again: the command's words without its options of place.
    """
    place = home_of(options)
    with progress_bar("Preparing") as progress:
        outcome = runner(
            definition,
            place,
            resume=options["resume"],
            address=options["address"],
            progress=progress,
            given=options.get("given"),
        )
    if not outcome.complete:
        done = outcome.count("finished")
        where = _where(place)
        where += f" --storage {shlex.quote(str(place.place))}" if place.storage else ""
        # Its URL may hold a password, so it is not repeated.
        where += " and the same --optuna-storage" if place.optuna_storage else ""
        click.echo(
            f"Stopped: {done} of {outcome.planned} trials are finished and kept. "
            f"Go on with: equipoise {again} --name {outcome.name} --resume {where}",
            err=True,
        )
        raise SystemExit(130)
    if outcome.note is not None:
        click.echo(outcome.note, err=True)
    return outcome


def _where(place: Any) -> str:
    """Options that name a home's record."""
    where = f"--home {shlex.quote(str(place.root))}"
    return where + (f" --tracking-uri {shlex.quote(place.tracking_uri)}" if place.tracking_uri else "")


def say_failures(outcome: Any) -> None:
    """Name every failed trial.

    Raises:
        EquipoiseError: if no trial finished.
    """
    failed = [r for r in outcome.rows if r.status == "failed"]
    for row in failed:
        click.echo(f"{row.key} {row.name} failed: {row.error}", err=True)
    if len(failed) == len(outcome.rows):
        raise EquipoiseError(f"every trial of study {outcome.name!r} failed; the first: {failed[0].error}")


def run_and_conclude(runner: Any, definition: Any, options: dict[str, Any], as_json: bool, again: str) -> None:
    """Run a study, select from it, and show what a design's factors add."""
    from rich.console import Console

    from equipoise.platform.conclude import conclude_study, show
    from equipoise.platform.selection import SelectionError

    outcome = run(runner, definition, options, again)
    say_failures(outcome)
    content = {**outcome.to_dict(), "selection": None}
    try:
        found = conclude_study(outcome.name, home_of(options), None, options["tolerance"])
    except SelectionError as error:
        # The trials are done and kept: what is missing to select from them is a sentence, not a failure.
        click.echo(f"No selection yet: {error}", err=True)
    else:
        content["selection"] = found.to_dict()
        if not as_json:
            show(found, Console())
    if getattr(definition, "design", None) is not None:
        from equipoise.platform.effects_view import conclude_effects, show_effects

        effects, picture = conclude_effects(outcome.name, home_of(options))
        content["effects"] = {**effects.to_dict(), "plot": picture and str(picture)}
        if not as_json:
            show_effects(effects, picture, Console())
    if as_json:
        emit(content)
    where = f"{outcome.name} {_where(home_of(options))}"
    click.echo(f"One page about it: equipoise report {where}\nIn MLflow: equipoise ui {where}", err=as_json)
