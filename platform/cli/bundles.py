"""The commands that move studies: `equipoise bundle`, `unbundle`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from equipoise.platform.cli.options import (
    Places,
    emit,
    home_options,
    json_option,
    optuna_storage_option,
    progress_bar,
    storage_option,
)
from equipoise.platform.errors import EquipoiseError


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
    click.echo(f"{path}: {len(found.rows)} trials ({said}), {size / 1e6:.2f} MB")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@optuna_storage_option
@storage_option
@home_options
@json_option
def unbundle(file: Path, places: Places, as_json: bool) -> None:
    """Make a bundle FILE a study of this home, as it was where it was bundled; what did not end there goes on here."""
    from equipoise.platform.record.bundle import Bundle
    from equipoise.platform.study import bundling

    home = places.open()
    kept = Bundle.read(file)
    with progress_bar("Unbundling") as progress:
        found = bundling.unbundle(kept, home, progress)
    where = f" --home {shlex.quote(str(places.home))}"
    if as_json:
        emit({"study": found.study, "finished": found.finished, "open": found.open, "resume": found.resume})
        return
    click.echo(f"Study {found.study}: {found.finished} trials are finished, {found.open} are not.")
    click.echo(f"Show it:    equipoise front {found.study}{where}")
    if found.resume is not None:
        click.echo(f"Go on here: equipoise {found.resume}{where}")
