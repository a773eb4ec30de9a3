"""What the commands that run a study share: run it, say how to go on after an interrupt, conclude it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from equipoise.platform.cli.options import Places, StudyOptions, emit, progress_bar, say, terminal
from equipoise.platform.errors import EquipoiseError

if TYPE_CHECKING:
    from equipoise.platform.record.home import Home
    from equipoise.platform.settings.study import StudyBase
    from equipoise.platform.study.run import Outcome, RunOptions

Runner = Callable[["Home", "RunOptions"], "Outcome"]


def say_lacking(definition: StudyBase) -> None:
    """Before anything is spent: what the result will not be able to say."""
    lacking = definition.lacking()
    if lacking is not None:
        say(lacking, err=True)


def run(
    runner: Runner,
    places: Places,
    asked: StudyOptions,
    again: str,
    given: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Outcome:
    """Run a study; an interrupted one ends the command with the words that resume it.

    Args:
        runner: called with the home and how to run.
        places: where.
        asked: how.
        again: the command's words without its options of place.
        given: what the command line changes of the definition, kept for a resumption.
        name: of the study in those words; None: its own.
    """
    from equipoise.platform.study.run import RunOptions

    home = places.open()
    with progress_bar("Preparing") as progress:
        how = RunOptions(asked.resume, asked.address, progress=progress, given=given, ready=progress.close)
        outcome = runner(home, how)
    if not outcome.complete:
        done = outcome.count("finished")
        where = places.record
        where += f" --storage {shlex.quote(str(home.place))}" if home.storage else ""
        # Its URL may hold a password, so it is not repeated.
        where += " and the same --optuna-storage" if home.optuna_storage else ""
        say(
            f"Stopped: {done} of {outcome.planned} trials are finished and kept. "
            f"Go on with: equipoise {again} --name {name or outcome.name} --resume {where}",
            err=True,
        )
        raise SystemExit(130)
    if outcome.note is not None:
        say(outcome.note, err=True)
    return outcome


def say_failures(outcome: Outcome) -> None:
    """Name every failed trial.

    Raises:
        EquipoiseError: if no trial finished.
    """
    failed = [r for r in outcome.rows if r.status == "failed"]
    for row in failed:
        say(f"{row.key} {row.name} failed: {row.error}", err=True)
    if len(failed) == len(outcome.rows):
        raise EquipoiseError(f"every trial of study {outcome.name!r} failed; the first: {failed[0].error}")


def conclude_confirmed(outcome: Outcome, places: Places, asked: StudyOptions, show: bool) -> dict[str, Any]:
    """Say what a confirmation that ran came to, and keep that; returns its record."""
    from equipoise.platform.report.confirmation import conclude_confirmation
    from equipoise.platform.report.front import conclude_study
    from equipoise.platform.report.tables.confirmation import show_confirmation

    say_failures(outcome)
    record = places.study(outcome.name)
    found = conclude_confirmation(record, asked.tolerance, keep=True)
    selection = conclude_study(record, None, asked.tolerance, keep=True)
    if show:
        show_confirmation(found, terminal())
    return {**outcome.to_dict(), "selection": selection.to_dict(), "confirmation": found.to_dict()}


def conclude(
    outcome: Outcome,
    places: Places,
    asked: StudyOptions,
    design: bool,
    as_json: bool,
    confirmed: Outcome | None = None,
    reference: str | None = None,
) -> None:
    """Select from a study that ran, show what a design's factors add, and what its confirmation came to.

    Args:
        outcome: of the study.
        places: where it is.
        asked: how it was run.
        design: its variants are cells of a design.
        as_json: print JSON and nothing else.
        confirmed: of its confirmation, where one ran.
        reference: a study that ships, beside which it is placed.
    """
    from equipoise.platform.report.front import conclude_study
    from equipoise.platform.report.tables.front import show, show_accuracies
    from equipoise.platform.stats.pareto import SelectionError

    say_failures(outcome)
    record = places.study(outcome.name)
    content = {**outcome.to_dict(), "selection": None}
    try:
        found = conclude_study(record, None, asked.tolerance, keep=True)
    except SelectionError as error:
        # The trials are done and kept: what is missing to select from them is a sentence, not a failure.
        say(f"No selection: {error}", err=True)
        if not as_json:
            show_accuracies(record.table, terminal())
    else:
        content["selection"] = found.to_dict()
        if not as_json:
            show(found, terminal())
    if design:
        from equipoise.platform.report.effects import conclude_effects
        from equipoise.platform.report.tables.effects import show_effects

        effects, picture = conclude_effects(record, keep=True)
        content["effects"] = {**effects.to_dict(), "plot": picture and str(picture)}
        if not as_json:
            show_effects(effects, picture, terminal())
    if confirmed is not None:
        content["confirmation"] = conclude_confirmed(confirmed, places, asked, not as_json)
    if reference is not None:
        from equipoise.platform.analysis.beside import beside
        from equipoise.platform.report.tables.beside import show_beside
        from equipoise.platform.study.bundling import open_bundle

        placed = beside(record, open_bundle(reference, places.open().root))
        content["beside"] = placed and placed.to_dict()
        if placed is not None and not as_json:
            show_beside(placed, terminal())
    if as_json:
        emit(content)
    where = f"{outcome.name} {places.record}"
    say(f"One page about it: equipoise report {where}\nIn MLflow: equipoise ui {where}", err=as_json)
