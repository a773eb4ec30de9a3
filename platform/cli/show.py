"""The command `equipoise show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from equipoise.platform.cli.options import emit, json_option, named, named_variant

if TYPE_CHECKING:
    from equipoise.platform.settings.base import Settings

FOLDERS = {
    "preset": ("presets", "preset"),
    "regime": ("regimes", "regime"),
    "space": ("spaces", "search space"),
    "study": ("studies", "study"),
}
KINDS = ("preset", "regime", "variant", "space", "study")


def _named(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """See that a name is one of its kind before what takes seconds to load."""
    kind = context.params["kind"]
    check = named_variant() if kind == "variant" else named(*FOLDERS[kind])
    return None if value is None else check(context, parameter, value)


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name", metavar="NAME|FILE", required=False, callback=_named)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of a preset.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of such files instead, for an editor to check by.")
@json_option
def show(kind: str, name: str | None, overrides: tuple[str, ...], schema: bool, as_json: bool) -> None:
    """Print a preset, regime, variant, search space or study whole: with what it inherits, and every default.

    What is printed is YAML that a file of your own can begin with. An editor that knows YAML checks it by the schema:
    equipoise show preset --schema > preset.schema.json
    """
    if schema == (name is not None):
        raise click.UsageError(f"give a NAME or FILE of a {kind} (equipoise list), or --schema")
    if overrides and kind != "preset":
        raise click.UsageError(f"--set overrides keys of a preset, not of a {kind}")
    if name is None:
        emit(_schema(kind))
        return
    content = _content(kind, name, overrides)
    if as_json:
        emit(content)
        return
    import yaml

    click.echo(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120), nl=False)


def _content(kind: str, name: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    from equipoise.platform.settings.preset import load_preset
    from equipoise.platform.settings.study import load_ablation, load_sweep
    from equipoise.platform.settings.trial import load_regime
    from equipoise.platform.settings.variant import load_variant

    load: dict[str, Any] = {
        "preset": lambda: load_preset(name, overrides),
        "regime": lambda: load_regime(name),
        "variant": lambda: load_variant(name),
        "space": lambda: load_sweep(name, {}),
        "study": lambda: load_ablation(name, {}),
    }
    found: Settings = load[kind]()
    return found.model_dump(mode="json")


def _schema(kind: str) -> dict[str, Any]:
    from equipoise.platform.settings.preset import Preset
    from equipoise.platform.settings.study import AblationDefinition, SweepDefinition
    from equipoise.platform.settings.trial import Regime
    from equipoise.platform.settings.variant import Variant

    records: dict[str, type[Settings]] = {
        "preset": Preset,
        "regime": Regime,
        "variant": Variant,
        "space": SweepDefinition,
        "study": AblationDefinition,
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **records[kind].file_schema()}
