"""The command `equipoise audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from equipoise.platform.cli.options import (
    Places,
    emit,
    home_options,
    json_option,
    named_variant,
    plugin_option,
    preset_option,
    regime_option,
    terminal,
)


@click.command()
@click.argument("target", metavar="VARIANT|SPACE|FILE", callback=named_variant("spaces", "studies"))
@click.option("--variant", "chosen", help="A variant of the FILE, with the file's preset and regime.")
@preset_option("nano, small, base, or a YAML file; default: nano, or the space's own.")
@regime_option("miniature, ucf101, mixed, synthetic, or a YAML file; default: miniature, or the space's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a preset key.")
@click.option("--reading", type=click.Choice(["as_described", "as_published"]), help="Default: as_described.")
@plugin_option
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--strict", is_flag=True, help="Exit with status 1 where an objective is dead.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Heat map of cosines: .png, .pdf or .svg.")
@home_options
@json_option
def audit(
    target: str, chosen: str | None, strict: bool, places: Places, out: Path | None, as_json: bool, **options: Any
) -> None:
    """Prove on one real batch that every objective of a VARIANT trains something.

    A SPACE (quickstart, full, or a YAML file) is audited with all its losses on at once, each at the geometric mean of
    its range, and with its mask policies by themselves. A FILE (a study or a space) with --variant audits that
    variant of it, a custom one too.
    """
    from equipoise.platform.report.plots.gradients import heatmap
    from equipoise.platform.report.plots.style import check_suffix
    from equipoise.platform.report.tables.audit import show
    from equipoise.platform.settings.variant import variants
    from equipoise.platform.study.caches import prepare_caches
    from equipoise.platform.trial import audit as audits
    from equipoise.platform.trial.device import compute_threads

    if out is not None:
        check_suffix(out)
    settings = audit_settings(target, chosen, **options)
    place, announced = places.open(), set[str]()

    def progress(what: str, done: int, total: int) -> None:
        if what not in announced:
            announced.add(what)
            click.echo(f"Building the clip cache of {what} ({total} items)", err=True)

    prepare_caches(settings, place, None, progress=progress)
    with compute_threads(1):
        whole = chosen is not None or target in variants()
        result = (audits.audit if whole else audits.audit_apart)(settings, place.paths)
    if out is not None:
        heatmap(result, out)
    if as_json:
        emit({**result.to_dict(), "heatmap": None if out is None else str(out)})
    else:
        show(result, terminal())
        if out is not None:
            click.echo(f"Heat map: {out}")
    if strict and result.dead:
        raise SystemExit(1)


def audit_settings(
    target: str,
    chosen: str | None = None,
    preset: str | None = None,
    regime: str | None = None,
    overrides: tuple[str, ...] = (),
    reading: str | None = None,
    seed: int = 0,
    plugins: tuple[str, ...] = (),
) -> Any:
    """Settings of the trial that stands for a variant, a search space, or the variant ``chosen`` of a file.

    Raises:
        SettingsError: for a name that is neither, naming the nearest.
    """
    from equipoise.platform.errors import SettingsError, nearest
    from equipoise.platform.settings.base import parse
    from equipoise.platform.settings.files import shipped
    from equipoise.platform.settings.plugins import plugin_of
    from equipoise.platform.settings.preset import load_preset
    from equipoise.platform.settings.study import load_sweep, space_settings, variant_in
    from equipoise.platform.settings.trial import TrialSettings, load_regime
    from equipoise.platform.settings.variant import variants

    for file in plugins:
        plugin_of(file)
    known, spaces = variants(), shipped("spaces")
    changes = {"preset": preset, "regime": regime, "set": overrides, "reading": reading, "plugins": plugins}
    if chosen is not None:
        definition, variant = variant_in(target, chosen, changes)
        return definition.trial(chosen, variant, seed, *definition.load())
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
    return space_settings(load_sweep(target, changes), seed)
