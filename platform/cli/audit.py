"""The command `equipoise audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from equipoise.platform.cli.options import Places, emit, home_options, json_option


@click.command()
@click.argument("target", metavar="VARIANT|SPACE")
@click.option("--preset", help="nano, small, base, or a YAML file; default: nano, or the space's own.")
@click.option(
    "--regime", help="miniature, ucf101, mixed, synthetic, or a YAML file; default: miniature, or the space's."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a preset key.")
@click.option("--reading", type=click.Choice(["as_described", "as_published"]), help="Default: as_described.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Heat map of cosines: .png, .pdf or .svg.")
@home_options
@json_option
def audit(target: str, places: Places, out: Path | None, as_json: bool, **options: Any) -> None:
    """Prove on one real batch that every objective of a VARIANT trains something.

    A SPACE (quickstart, full, or a YAML file) is audited with all its losses on at once, each at the geometric mean of
    its range, and with its mask policies by themselves.
    """
    from rich.console import Console

    from equipoise.platform.report.plots.gradients import heatmap
    from equipoise.platform.report.plots.style import check_suffix
    from equipoise.platform.report.tables.audit import show
    from equipoise.platform.settings.variant import variants
    from equipoise.platform.study.caches import prepare_caches
    from equipoise.platform.trial import audit as audits
    from equipoise.platform.trial.device import compute_threads

    if out is not None:
        check_suffix(out)
    settings = audit_settings(target, **options)
    place, told = places.open(), set[str]()

    def progress(what: str, done: int, total: int) -> None:
        if what not in told:
            told.add(what)
            click.echo(f"Building the clip cache of {what} ({total} items)", err=True)

    prepare_caches(settings, place, probe=False, progress=progress)
    with compute_threads(1):
        result = (audits.audit if target in variants() else audits.audit_apart)(settings, place.paths)
    if out is not None:
        heatmap(result, out)
    if as_json:
        emit({**result.to_dict(), "heatmap": None if out is None else str(out)})
        return
    show(result, Console())
    if out is not None:
        click.echo(f"Heat map: {out}")


def audit_settings(
    target: str,
    preset: str | None = None,
    regime: str | None = None,
    overrides: tuple[str, ...] = (),
    reading: str | None = None,
    seed: int = 0,
) -> Any:
    """Settings of the trial that stands for a variant or a search space.

    Raises:
        SettingsError: for a name that is neither, naming the nearest.
    """
    from equipoise.platform.errors import SettingsError, nearest
    from equipoise.platform.settings.base import parse
    from equipoise.platform.settings.files import shipped
    from equipoise.platform.settings.preset import load_preset
    from equipoise.platform.settings.study import load_sweep, space_settings
    from equipoise.platform.settings.trial import TrialSettings, load_regime
    from equipoise.platform.settings.variant import variants

    known, spaces = variants(), shipped("spaces")
    if target in known:
        content = {
            "variant_name": target,
            "variant": known[target],
            "reading": reading or "as_described",
            "seed": seed,
            "preset": load_preset(preset or "nano", overrides),
            "regime": load_regime(regime or "miniature"),
        }
        return parse(TrialSettings, content, f"audit {target}")
    if target not in spaces and Path(target).suffix not in (".yaml", ".yml"):
        raise SettingsError(f"{target!r} is neither a variant nor a search space; {nearest(target, [*known, *spaces])}")
    changes = {"preset": preset, "regime": regime, "set": overrides, "reading": reading}
    return space_settings(load_sweep(target, changes), seed)
