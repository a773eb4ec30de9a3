"""The commands that start or resume a study: sweep, ablate, pretrain, quickstart."""

from __future__ import annotations

import functools
import shlex
from typing import Any

import click

from equipoise.platform.cli.data import build_miniature
from equipoise.platform.cli.design import DesignOptions, ablation_of, design_options
from equipoise.platform.cli.options import (
    Places,
    StudyOptions,
    emit,
    home_options,
    json_option,
    max_loss_option,
    named,
    named_variant,
    optuna_storage_option,
    say,
    study_options,
)
from equipoise.platform.cli.running import conclude, run, say_lacking
from equipoise.platform.errors import EquipoiseError

CHANGED = ("preset", "regime", "set", "reading", "plugins")  # of a file, by the options of one training


@click.command()
@click.argument("space", callback=named("spaces", "search space"))
@click.option("--trials", type=click.IntRange(1), help="Trials of the search, controls not counted.")
@click.option("--seed", type=click.IntRange(0), help="Seed of the search.")
@click.option("--sampler", type=click.Choice(["tpe", "nsga2", "nsga3", "gp", "botorch", "random", "qmc"]))
@click.option("--warm-start", metavar="STUDY", help="Begin with what an earlier study of this record found.")
@click.option("--budget", metavar="HOURS", help="End the search before it takes more than 40gpu-h, or 200cpu-h.")
@click.option("--confirm", is_flag=True, help="Then confirm the candidate on fresh seeds, out of the same budget.")
@max_loss_option
@optuna_storage_option
@study_options
@home_options
@json_option
def sweep(space: str, confirm: bool, places: Places, asked: StudyOptions, as_json: bool, **search: Any) -> None:
    """Search objective weights. SPACE: quickstart, miniature_parameters or full, which are shipped, or a YAML file.

    With --resume, options that changed the search space when the study was started need not be repeated.
    """
    from equipoise.platform.settings.study import load_sweep, name_in_space
    from equipoise.platform.study import run as study
    from equipoise.platform.study.confirm import confirmation_after
    from equipoise.platform.study.resume import remembered

    changes = {k: v for k, v in asked.changes(**search).items() if v not in (None, ())}
    if asked.resume:
        changes = remembered(places.open(), asked.name or name_in_space(space), changes)
    if confirm:
        changes.setdefault("confirm", {})
    definition = load_sweep(space, changes)
    runner = functools.partial(study.sweep, definition)
    again = f"sweep {shlex.quote(space)}"
    say_lacking(definition)
    outcome = run(runner, places, asked, again, changes)
    confirmed = None
    asks = confirmation_after(definition, places.open(), asked.tolerance)
    if asks is not None:
        say(asks.forecast, err=True)
        # After an interrupt of either, the same command goes on with what is left.
        confirmed = run(asks.run, places, asked, again, name=outcome.name)
    conclude(outcome, places, asked, False, as_json, confirmed)


@click.command()
@click.argument("definition", required=False, callback=named("studies", "study"))
@design_options
@click.option(
    "--variant",
    "variants",
    multiple=True,
    callback=named_variant(),
    help="Replace the variants; may be given more than once.",
)
@click.option("--seed", "seeds", type=click.IntRange(0), multiple=True, help="Replace the seeds; once for each.")
@click.option("--seeds", "how_many", type=click.IntRange(1), help="Replace the seeds by so many: 0, 1, 2, ...")
@study_options
@home_options
@json_option
def ablate(
    definition: str | None,
    design: DesignOptions,
    variants: tuple[str, ...],
    seeds: tuple[int, ...],
    how_many: int | None,
    places: Places,
    asked: StudyOptions,
    as_json: bool,
) -> None:
    """Run named variants with several seeds. DEFINITION is a shipped study or a YAML file.

    With --design the variants are combinations of factors, and what each factor adds is estimated at the end; it needs
    no DEFINITION: equipoise ablate --design factorial --factor fwm --factor hw --factor ld
    """
    from equipoise.platform.study import run as study

    if seeds and how_many is not None:
        raise click.UsageError("--seed says which seeds and --seeds how many: give one of them")
    seeds = seeds or tuple(range(how_many or 0))
    changes = asked.changes(variants=variants, seeds=seeds, **({"control_seeds": seeds} if seeds else {}))
    loaded, again = ablation_of(definition, design, changes)
    say_lacking(loaded)
    outcome = run(functools.partial(study.ablate, loaded), places, asked, again)
    conclude(outcome, places, asked, loaded.design is not None, as_json)


@click.command()
@click.argument("target", metavar="VARIANT|FILE", callback=named_variant("spaces", "studies"))
@click.option("--variant", "chosen", help="A variant of the FILE, with the file's preset and regime.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@study_options
@home_options
@json_option
def pretrain(target: str, chosen: str | None, seed: int, places: Places, asked: StudyOptions, as_json: bool) -> None:
    """Pretrain one VARIANT with Ray Train and keep its checkpoint; of a FILE (a study or a space), its --variant."""
    from equipoise.platform.settings.base import parse
    from equipoise.platform.settings.study import AblationDefinition, is_study_file, variant_in
    from equipoise.platform.settings.variant import variants
    from equipoise.platform.study import run as study

    if chosen is None and is_study_file(target):
        raise click.UsageError(f"{target} is a file of several variants: say which with --variant")
    variant, again = chosen or target, f"pretrain {shlex.quote(target)}"
    content: dict[str, Any] = {
        "regime": asked.regime or "miniature",
        "preset": asked.preset or "nano",
        "set": asked.overrides,
        "reading": asked.reading or "as_described",
        "plugins": asked.plugins,
        "variants": [variant],
    }
    if chosen is not None:
        again += f" --variant {shlex.quote(chosen)}"
        changes = {key: value for key, value in asked.changes().items() if key in CHANGED}
        found, mix = variant_in(target, chosen, changes)
        content = {key: getattr(found, key) for key in CHANGED}
        content |= {"variants": [chosen]} if chosen in variants() else {"custom": {chosen: mix}}
    content |= {
        "name": asked.name or f"pretrain-{variant}-s{seed}",
        "seeds": [seed],
        "control_seeds": [],
        "refuse_controls": True,
        "resources": {"launcher": "train", **asked.resources},
        "concurrent": asked.concurrent,
    }
    definition = parse(AblationDefinition, content, f"pretrain {variant}")
    again += f" --seed {seed}"
    outcome = run(functools.partial(study.pretrain, definition), places, asked, again)
    row = outcome.rows[0]
    if row.status == "failed":
        raise EquipoiseError(f"pretraining failed: {row.error}")
    kept = (row.result or {})["checkpoint"]
    if as_json:
        emit({**outcome.to_dict(), "checkpoint": kept})
    elif kept is None:
        say("An untrained variant has no checkpoint: score it with equipoise ablate")
    else:
        where = f" --home {shlex.quote(str(places.home))}"
        say(f"Checkpoint: {kept}\nScore it:   equipoise probe {shlex.quote(kept)}{where}")


@click.command()
@click.option("--trials", type=click.IntRange(1), help="Trials of the search; default: the shipped space's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a preset key.")
@home_options
@json_option
def quickstart(trials: int | None, overrides: tuple[str, ...], places: Places, as_json: bool) -> None:
    """Build the miniature data, run both controls and a small sweep, and show the front."""
    from equipoise.platform.settings.study import load_sweep
    from equipoise.platform.study import run as study

    home = places.open()
    build_miniature(home, seed=0, workers=2, force=False)
    definition = load_sweep("quickstart", {"trials": trials, "set": overrides})
    # A second quickstart goes on with the first, or shows it where it is complete.
    asked = StudyOptions(resume=home.has_book(definition.name))
    outcome = run(functools.partial(study.sweep, definition), places, asked, "sweep quickstart")
    conclude(outcome, places, asked, False, as_json, reference="miniature")
