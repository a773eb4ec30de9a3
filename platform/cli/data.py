"""The commands `equipoise data ...`."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from equipoise.platform.cli.options import Places, emit, home_options, json_option, plugin_option, progress_bar

F = TypeVar("F", bound=Callable[..., Any])

IMPORT = """Import an official release, exactly as it was unpacked.

\b
ucf101       UCF-101/CLASS/*.avi, ucfTrainTestlist/*.txt
ssv2         20bn-something-something-v2/*.webm, labels/{labels,train,validation}.json
imagenet100  train.X1 ... train.X4, val.X, Labels.json (Kaggle), or train/CLASS, val/CLASS
diving48     rgb/*.mp4, Diving48_V2_{train,test}.json, Diving48_vocab.json

Nothing is copied: the manifests name the files where they lie. The numbers of clips are compared with the official
ones, every file is opened, and duplicates are named.
"""
# As many clips, of the same size, as the two video sets that the miniature regime is trained on.
MINIATURE = {"train_clips": 3000, "test_clips": 500, "pixels": 64}
NAMED = 5  # files named on the terminal; the reports name all


def _cpus() -> int:
    """CPUs this process may use; less than there are where a container or a batch job has a quota."""
    from joblib import cpu_count

    found: int = cpu_count()
    return found


def _reading_options(command: F) -> F:
    return click.option(
        "--workers", type=click.IntRange(1), default=_cpus, show_default="all CPUs", help="Processes that read."
    )(command)


@click.group()
def data() -> None:
    """Build, import and check data sets."""


@data.command("build")
@click.argument("name", type=click.Choice(["miniature", "synthetic", "miniature_synthetic"]))
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--train-clips",
    type=int,
    help="Clips for training, of each set; default: 1500, 8000, 3000.",
)
@click.option("--test-clips", type=int, help="Clips for testing, of each set; default: 500, 1000, 500.")
@click.option("--select-clips", type=int, help="miniature: clips of the select part, of each set; default: 500.")
@click.option("--pixels", type=int, help="Side of a frame; default: 64, 128, 64.")
@click.option("--frames", type=int, help="Frames of a clip; default: 16.")
@click.option("--fps", type=int, help="Frames per second; default: 12.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes that render.")
@click.option("--force", is_flag=True, help="Replace a build with other settings.")
@home_options
@json_option
def data_build(
    name: str,
    seed: int,
    workers: int,
    force: bool,
    places: Places,
    as_json: bool,
    **sizes: int | None,
) -> None:
    """Render data sets as real video files.

    NAME is miniature (the four sets of the miniature regime), synthetic (eight motions of rendered shapes) or
    miniature_synthetic (the same motions at the miniature sets' size); defaults are given in this order.
    """
    place = places.open()
    if name != "miniature" and sizes["select_clips"] is not None:
        raise click.UsageError(
            "--select-clips goes with miniature: the synthetic set is trained on, and scores nothing"
        )
    build = build_miniature if name == "miniature" else functools.partial(_build_synthetic, name)
    built = build(place, seed, workers, force, {key: value for key, value in sizes.items() if value is not None})
    found = [
        {"set": s, "split": split, "items": len(m), "classes": len(m.classes), "hash": m.hash}
        for s, splits in built.items()
        for split, m in splits.items()
    ]
    if as_json:
        emit({"name": name, "root": str(place.data / name), "sets": found})
        return
    for entry in found:
        click.echo(f"{entry['set']:19} {entry['split']:6} {entry['items']:5} items  {entry['classes']:3} classes")
    click.echo(f"in {place.data / name}")


@data.command("import", help=IMPORT)
@click.argument("name")
@click.option(
    "--root", type=click.Path(path_type=Path), required=True, help="The folder the official release was unpacked in."
)
@click.option("--split", type=click.IntRange(1, 3), help="ucf101: which of its three splits; default: 1.")
@click.option(
    "--classes",
    type=click.Path(path_type=Path),
    help="imagenet100: file with the class folders, one a line, or Labels.json; default: the one in the root, or all.",
)
@click.option("--allow-incomplete", is_flag=True, help="Write manifests although a number is not the release's.")
@_reading_options
@plugin_option
@home_options
@json_option
def data_import(
    name: str,
    root: Path,
    split: int | None,
    classes: Path | None,
    allow_incomplete: bool,
    workers: int,
    plugins: tuple[str, ...],
    places: Places,
    as_json: bool,
) -> None:
    """Import an official release, exactly as it was unpacked."""
    from equipoise.data.importers import RELEASES, import_release
    from equipoise.platform.settings.plugins import installed, plugin_of

    bring_importers()
    installed()
    for file in plugins:
        plugin_of(file)
    if name not in RELEASES:
        raise click.BadParameter(
            f"{name!r} is not one of {', '.join(map(repr, RELEASES))}; data of your own: equipoise data manifest",
            param_hint="NAME",
        )
    for option, value in (("split", split), ("classes", classes)):
        if value is not None and option not in RELEASES[name].choices:
            raise click.UsageError(f"--{option} cannot take effect with {name}; leave it out.")
    place = places.open()
    place.make()
    with progress_bar("Reading") as progress:
        found = import_release(
            name,
            root,
            place.data / name,
            split=split or 1,
            classes=classes,
            workers=workers,
            progress=progress,
            allow_incomplete=allow_incomplete,
        )
    if as_json:
        emit(found.to_dict())
    else:
        _show_import(found, place.data / name)


def bring_importers() -> None:
    """Let plug-ins bring importers."""
    from equipoise.data._lists import Release
    from equipoise.data.importers_layouts import RELEASES, register_importer
    from equipoise.platform.settings.plugins import Kind, bring

    kind = Kind(RELEASES, Release, register_importer, lambda one: one.read, lambda one: f"{one.title}: {one.layout}")
    bring("importers", kind)


def _show_import(found: Any, folder: Path) -> None:
    click.echo(f"{found.release.title} in {found.root}")
    click.echo(" split   official     listed     usable    missing unreadable")
    for split, count in found.counts.items():
        numbers = (count.expected, count.listed, count.usable, count.missing, count.unreadable)
        click.echo(f" {split:5}" + "".join(f"{number:11,}" for number in numbers))
    click.echo(f"{len(found.classes)} classes, such as {', '.join(map(repr, found.classes[:3]))}")
    for difference in found.differences:
        what = "Note" if difference == found.release.advice else "Not the official release"
        click.secho(f"{what}: {difference}", fg="yellow")
    _name("file", "cannot be used", [f"{path}: {why}" for failed in found.failures.values() for path, why in failed])
    _name("file", "set aside", [f"{path}: {why}" for path, why in found.set_aside])
    groups = [
        " = ".join(group[:NAMED]) + (f" = {len(group) - NAMED} more" if len(group) > NAMED else "")
        for group in found.duplicates
    ]
    _name("group", "of files with the same content", groups)
    if found.across:
        click.secho(f"In both splits, so tested on what was trained on: {len(found.across)} of them", fg="yellow")
    click.echo(f"Manifests: {', '.join(str(folder / f'{split}.parquet') for split in found.manifests)}")
    click.echo(f"Report:    {folder / 'import.json'}")


def _name(of: str, what: str, lines: list[str]) -> None:
    """The first few of many lines below a heading, nothing where there are none."""
    if not lines:
        return
    click.echo(f"{len(lines):,} {of}{'s' if len(lines) > 1 else ''} {what}:")
    for line in lines[:NAMED]:
        click.echo(f"  {line}")
    if len(lines) > NAMED:
        click.echo(f"  ... and {len(lines) - NAMED} more, see the report")


@data.command("check", short_help="Decode every file of a MANIFEST.")
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--budget", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="Share that may fail.")
@click.option("--report", "to", type=click.Path(path_type=Path, dir_okay=False), help="Default: beside the manifest.")
@_reading_options
@home_options
@json_option
def data_check(
    manifest: Path,
    budget: float,
    to: Path | None,
    workers: int,
    places: Places,
    as_json: bool,
) -> None:
    """Decode every frame of every file of a MANIFEST and write a report.

    MANIFEST is a Parquet file, or named as regimes name it: ssv2/train.parquet. Files that are missing, changed, cannot
    be decoded or have other frames than the manifest says are counted and named. The exit code is 1 where more than the
    budget fail.
    """
    from equipoise.data.check import check_manifest
    from equipoise.data.decode import decoder_name
    from equipoise.data.manifest import Manifest

    place = places.open()
    try:
        decoder_name()
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    path = manifest if manifest.is_file() else place.data / manifest
    if not path.is_file():
        raise click.BadParameter(_no_manifest(manifest, place.data), param_hint="MANIFEST")
    to = to or path.with_suffix(".check.json")
    with progress_bar("Decoding") as progress:
        report = check_manifest(Manifest.read(path), workers=workers, progress=progress)
    report.write(to)
    if as_json:
        emit({**report.to_dict(), "report": str(to)})
    else:
        found = report.to_dict()
        click.echo(
            f"{found['manifest']}: {found['decoded']:,} of {report.total:,} files are as the manifest says, "
            f"{report.frames:,} frames"
        )
        rate = f"{found['clips_per_second']:,.1f} clips/s, {found['frames_per_second']:,.1f} frames/s"
        click.echo(f"{rate}, {report.size / 1e6 / max(report.seconds, 1e-9):,.1f} MB/s with {workers} processes")
        if report.unhashed:
            click.secho(f"{report.unhashed:,} have no sha256 in the manifest: a change would not be seen", fg="yellow")
        _name("file", _faults(report.faults), [f"{file}: {reason}" for file, reason in report.failures])
        click.echo(f"Report: {to}")
    report.check(budget)


def _no_manifest(given: Path, folder: Path) -> str:
    """That there is no such manifest, and which there are."""
    there = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*.parquet"))]
    inside = [name for name in there if name.startswith(f"{given.as_posix()}/")]
    known = inside or difflib.get_close_matches(given.as_posix(), there, n=3, cutoff=0.6) or there
    listed = f"there are {', '.join(known[:NAMED])}" if known else "there is none yet: import or build a data set first"
    return f"there is no manifest {given}, neither here nor in {folder}; {listed}."


def _faults(faults: dict[str, int]) -> str:
    """What failed, in words."""
    words = {"undecodable": "not decodable", "different": "with other frames than the manifest says"}
    return f"failed ({', '.join(f'{count} {words.get(fault, fault)}' for fault, count in faults.items())})"


@data.command("manifest", short_help="Describe your own files: NAME and SPLIT.")
@click.argument("name")
@click.argument("split")
@click.option(
    "--list",
    "listing",
    type=click.Path(path_type=Path),
    help="CSV with columns path,label; V-JEPA's lines PATH LABEL; Kinetics' CSV. Default: what the folder holds.",
)
@click.option("--root", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes that read.")
@click.option("--budget", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="Share that may fail.")
@home_options
@json_option
def data_manifest(
    name: str,
    split: str,
    listing: Path | None,
    root: Path,
    workers: int,
    budget: float,
    places: Places,
    as_json: bool,
) -> None:
    """Describe your own files: NAME and SPLIT as regimes name them, e.g. ssv2 train.

    Without a list the --root is a folder with one for each class, or with WebDataset's tar shards, or one that Hugging
    Face's datasets saved. What lies in tar shards and Arrow files is read in place, not unpacked.

    A split takes the classes of the data set's train split, where there is one, so that labels agree. Files that
    another split holds too, by path or by content, are counted and named: they would be tested on what was trained on.
    """
    from equipoise.data.listing import list_root, manifest_of_list, read_list
    from equipoise.data.manifest import Manifest, ManifestError

    for what, word in (("NAME", name), ("SPLIT", split)):
        if not re.fullmatch(r"\w[\w.-]*", word):
            raise click.BadParameter(
                f"{word!r} becomes part of a path: use letters, digits, '_', '-' and '.' only.", param_hint=what
            )
    place = places.open()
    place.make()
    folder = place.data / name
    listed = list_root(root) if listing is None else read_list(listing, root)
    train = folder / "train.parquet"
    classes = Manifest.read(train).classes if split != "train" and train.is_file() else listed.classes
    others = [Manifest.read(path) for path in sorted(folder.glob("*.parquet")) if path.stem != split]
    try:
        with progress_bar("Reading") as progress:
            manifest, report = manifest_of_list(
                name, split, root.resolve(), listed.items, classes=classes, workers=workers, progress=progress
            )
    except ManifestError as error:
        raise ManifestError(f"{error} {listed.read_as}".rstrip()) from error
    folder.mkdir(parents=True, exist_ok=True)
    report.write(folder / f"{split}.report.json")
    report.check(budget)
    manifest.write(folder / f"{split}.parquet")
    shared = {other.split: both for other in others if (both := manifest.shared(other))}
    found = {"manifest": str(folder / f"{split}.parquet"), "items": len(manifest), "classes": len(manifest.classes)}
    found |= {"unreadable": len(report.failures), "hash": manifest.hash, "shared": shared}
    if as_json:
        emit(found)
    else:
        click.echo(f"{len(manifest)} items, {len(manifest.classes)} classes, {len(report.failures)} unreadable")
        click.echo(f"in {found['manifest']}")
        for file, reason in report.failures[:NAMED]:
            click.secho(f"unreadable: {file}: {reason}", fg="yellow")
        if len(report.failures) > NAMED:
            click.secho(
                f"and {len(report.failures) - NAMED} more, named in {folder / f'{split}.report.json'}", fg="yellow"
            )
        for other, both in shared.items():
            what = f"{len(both):,} of {len(manifest):,} are in {name}/{other} too: not to be told from learnt by heart"
            click.secho(f"{what}: {', '.join(both[:NAMED])}" + (", ..." if len(both) > NAMED else ""), fg="yellow")


def build_miniature(
    place: Any, seed: int, workers: int, force: bool, sizes: dict[str, int] | None = None
) -> dict[str, Any]:
    """Build the miniature data sets below a home's data folder, with a progress bar."""
    from equipoise.data import miniature

    chosen = miniature.Sizes(**sizes or {})
    place.make()
    with progress_bar("Rendering the miniature data sets") as progress:
        root = place.data / "miniature"
        return miniature.build(root, seed=seed, workers=workers, force=force, sizes=chosen, progress=progress)


def _build_synthetic(
    name: str, place: Any, seed: int, workers: int, force: bool, sizes: dict[str, int]
) -> dict[str, Any]:
    """Build a synthetic data set below a home's data folder, with a progress bar."""
    from equipoise.data import synthetic

    chosen = synthetic.Sizes(**({**MINIATURE, **sizes} if name == "miniature_synthetic" else sizes))
    place.make()
    with progress_bar("Rendering") as progress:
        root = place.data / name
        built = synthetic.build(root, seed=seed, workers=workers, force=force, sizes=chosen, progress=progress)
    return {name: built}
