"""The commands that move studies and repeat them: `equipoise bundle`, `unbundle`, `replicate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from equipoise.platform.cli.options import (
    Places,
    StudyOptions,
    emit,
    gathered,
    home_options,
    json_option,
    optuna_storage_option,
    progress_bar,
    say,
    storage_option,
    terminal,
)
from equipoise.platform.cli.running import run, say_failures
from equipoise.platform.errors import EquipoiseError

if TYPE_CHECKING:
    from equipoise.platform.record.home import Home
    from equipoise.platform.study.run import Outcome, RunOptions


@click.command()
@click.argument("study")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The file; default: STUDY.bundle, here.")
@optuna_storage_option
@storage_option
@home_options
@json_option
def bundle(study: str, out: Path | None, places: Places, as_json: bool) -> None:
    """Write a STUDY into one file: definition, trials, curves, outcome of every item, audit; no model weights.

    It may be finished or not: equipoise unbundle makes it a study of another home, where it can go on.
    """
    from equipoise.platform.record.bundle import SUFFIX
    from equipoise.platform.study import bundling

    record = places.study(study)
    path = out or Path(f"{record.name}{SUFFIX}")
    if path.suffix != SUFFIX:
        raise EquipoiseError(f"{path.name} does not end in {SUFFIX}: name it {path.stem}{SUFFIX}")
    found = bundling.bundle(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    found.write(path)
    size = path.stat().st_size
    if as_json:
        emit({**found.about, "file": str(path), "bytes": size})
        return
    said = ", ".join(f"{count} {status}" for status, count in found.about["trials"].items())
    say(f"{path}: {len(found.rows)} trials ({said}), {size / 1e6:.2f} MB")


@click.command()
@click.argument("bundle_", metavar="FILE|NAME")
@click.option("--trust-plugins", is_flag=True, help="Run objectives of others that it carries: read them first.")
@optuna_storage_option
@storage_option
@home_options
@json_option
def unbundle(bundle_: str, trust_plugins: bool, places: Places, as_json: bool) -> None:
    """Make a bundle, a FILE or a reference, a study of this home, as it was; what did not end there goes on here."""
    from equipoise.platform.record.bundle import Bundle
    from equipoise.platform.study import bundling

    home = places.open()
    kept = Bundle.read(bundling.bundle_at(bundle_))
    with progress_bar("Unbundling") as progress:
        found = bundling.unbundle(kept, home, progress, trust_plugins=trust_plugins)
    where = f" --home {shlex.quote(str(places.home))}"
    if as_json:
        emit({"study": found.study, "finished": found.finished, "open": found.open, "resume": found.resume})
        return
    say(f"Study {found.study}: {found.finished} trials are finished, {found.open} are not.")
    say(f"Show it:    equipoise front {found.study}{where}")
    if found.resume is not None:
        say(f"Go on here: equipoise {found.resume}{where}")


@click.command()
@click.argument("reference", metavar="NAME|FILE")
@click.option("--variant", "variants", multiple=True, help="Only this; may be given more than once.")
@click.option("--seeds", type=click.IntRange(2), help="Fresh seeds of each; default: as many as its baseline has.")
@click.option("--name", help="Name of the replication; default: the study's, ending in -replication.")
@click.option("--resume", is_flag=True, help="Go on with the replication of this name.")
@click.option("--concurrent", type=click.IntRange(1), help="Trials at once; default: as in the study.")
@click.option("--address", help="Address of a Ray cluster, or auto; default: start one here.")
@storage_option
@home_options
@json_option
@gathered(StudyOptions, "asked")
def replicate(
    reference: str,
    variants: tuple[str, ...],
    seeds: int | None,
    places: Places,
    asked: StudyOptions,
    as_json: bool,
) -> None:
    """Run the study of a bundle FILE, or one that ships, again on fresh seeds, and compare every difference.

    Of a search its leading three mixes are run, else all that it compares. Everything but the seeds is as it was.
    """
    from equipoise.platform.report.replication import conclude_replication
    from equipoise.platform.report.tables.replication import show_replication
    from equipoise.platform.study.bundling import open_bundle
    from equipoise.platform.study.replicate import replicate as start

    source = open_bundle(reference, places.open().root)

    def runner(home: Home, options: RunOptions) -> Outcome:
        return start(
            source, home, options, variants=variants, seeds=seeds, name=asked.name, concurrent=asked.concurrent
        )

    again = f"replicate {shlex.quote(reference)}" + "".join(f" --variant {shlex.quote(v)}" for v in variants)
    again += "" if seeds is None else f" --seeds {seeds}"
    outcome = run(runner, places, asked, again)
    say_failures(outcome)
    found = conclude_replication(places.study(outcome.name), source, keep=True)
    if as_json:
        emit({**outcome.to_dict(), "replication": found.to_dict()})
    else:
        show_replication(found, terminal())
