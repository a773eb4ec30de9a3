"""The commands `equipoise data ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from equipoise.platform.cli_options import emit, home_options, json_option, progress_bar, study_home


@click.group()
def data() -> None:
    """Build data sets."""


@data.command("build")
@click.argument("name", type=click.Choice(["miniature"]))
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes that render.")
@click.option("--force", is_flag=True, help="Replace a build with other settings.")
@home_options
@json_option
def data_build(
    name: str, seed: int, workers: int, force: bool, home: Path, tracking_uri: str | None, as_json: bool
) -> None:
    """Render the miniature regime's four data sets as real video files."""
    place = study_home(home, tracking_uri)
    built = build_miniature(place, seed, workers, force)
    found = [
        {"set": s, "split": split, "items": len(m), "classes": len(m.classes), "hash": m.hash}
        for s, splits in built.items()
        for split, m in splits.items()
    ]
    if as_json:
        emit({"name": name, "root": str(place.data / name), "sets": found})
        return
    for entry in found:
        click.echo(f"{entry['set']:10} {entry['split']:5} {entry['items']:5} items  {entry['classes']:3} classes")
    click.echo(f"in {place.data / name}")


@data.command("manifest")
@click.argument("name")
@click.argument("split")
@click.option("--list", "listing", type=click.Path(path_type=Path), required=True, help="CSV with columns path,label.")
@click.option("--root", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes that read.")
@click.option("--budget", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="Share that may fail.")
@home_options
@json_option
def data_manifest(
    name: str,
    split: str,
    listing: Path,
    root: Path,
    workers: int,
    budget: float,
    home: Path,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Describe your own files: NAME and SPLIT as regimes name them, e.g. ssv2 train.

    A split takes the classes of the data set's train split, where there is one, so that labels agree.
    """
    from equipoise.data.listing import manifest_of_list, read_list
    from equipoise.data.manifest import Manifest

    place = study_home(home, tracking_uri)
    place.make()
    folder = place.data / name
    items = read_list(listing)
    train = folder / "train.parquet"
    classes = Manifest.read(train).classes if split != "train" and train.is_file() else None
    with progress_bar("Reading") as progress:
        manifest, report = manifest_of_list(
            name, split, root.resolve(), items, classes=classes, workers=workers, progress=progress
        )
    folder.mkdir(parents=True, exist_ok=True)
    report.write(folder / f"{split}.report.json")
    report.check(budget)
    manifest.write(folder / f"{split}.parquet")
    found = {"manifest": str(folder / f"{split}.parquet"), "items": len(manifest), "classes": len(manifest.classes)}
    found |= {"unreadable": len(report.failures), "hash": manifest.hash}
    if as_json:
        emit(found)
    else:
        click.echo(f"{len(manifest)} items, {len(manifest.classes)} classes, {len(report.failures)} unreadable")
        click.echo(f"in {found['manifest']}")


def build_miniature(place: Any, seed: int, workers: int, force: bool) -> Any:
    """Build the miniature data sets below a home's data folder, with a progress bar."""
    from equipoise.data import miniature

    place.make()
    with progress_bar("Rendering the miniature data sets") as progress:
        return miniature.build(place.data / "miniature", seed=seed, workers=workers, force=force, progress=progress)
