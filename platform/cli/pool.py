"""The command `equipoise pool`."""

from __future__ import annotations

from pathlib import Path

import click

from equipoise.platform.cli.options import Places, emit, home_options, json_option, terminal


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="NAME|FILE...")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="A forest plot: .png, .pdf or .svg.")
@click.option("--level", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05, show_default=True)
@home_options
@json_option
def pool(bundles: tuple[str, ...], out: Path | None, level: float, places: Places, as_json: bool) -> None:
    """Say which mixes help what over several studies: bundles, or references that ship.

    Studies may differ in what they were pretrained on and in their laboratory: a random-effects meta-analysis allows
    for that and says how much they do. Accuracies of unlike protocols are never pooled.
    """
    from equipoise.platform.analysis.pooling import pooling_of
    from equipoise.platform.report.tables.pooling import show_pooling
    from equipoise.platform.study.bundling import open_bundle

    root = places.open().root
    found = pooling_of([open_bundle(one, root) for one in bundles], level)
    picture = None
    if out is not None:
        from equipoise.platform.report.plots.forest import plot_forest

        picture = plot_forest(found, out, f"{len(found.studies)} studies together")
    if as_json:
        emit({**found.to_dict(), "plot": picture and str(picture)})
        return
    show_pooling(found, terminal())
    if picture is not None:
        click.echo(f"Plot: {picture}")
