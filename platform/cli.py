"""The command line: `equipoise`."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from equipoise.platform.cli_audit import audit
from equipoise.platform.cli_claims import claims
from equipoise.platform.cli_confirm import confirm
from equipoise.platform.cli_data import build_miniature, data
from equipoise.platform.cli_design import ablation_of, design_options
from equipoise.platform.cli_effects import effects
from equipoise.platform.cli_explain import explain
from equipoise.platform.cli_options import (
    emit,
    home_options,
    json_option,
    max_loss_option,
    optuna_storage_option,
    storage_option,
    study_home,
)
from equipoise.platform.cli_report import report
from equipoise.platform.cli_results import front, list_, probe, ui
from equipoise.platform.cli_run import remembered, run, run_and_conclude
from equipoise.platform.cli_space import space
from equipoise.platform.errors import EquipoiseError

# Heavy modules (torch, ray, mlflow) are imported by the commands that need them: help answers at once.

F = TypeVar("F", bound=Callable[..., Any])


def _study_options(command: F) -> F:
    options = [
        click.option("--name", help="Name of the study; default: the file's."),
        click.option("--resume", is_flag=True, help="Go on with the study of this name."),
        click.option("--preset", help="nano, small, base, or a YAML file."),
        click.option("--regime", help="miniature, ucf101, mixed, synthetic, or a YAML file."),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a preset key."),
        click.option("--reading", type=click.Choice(["as_described", "as_published"])),
        click.option("--concurrent", type=click.IntRange(1), help="Trials at once; default: as many as fit."),
        click.option("--address", help="Address of a Ray cluster, or auto; default: start one here."),
        click.option("--tolerance", type=click.FloatRange(0), help="Points a balanced variant may lose anywhere."),
        click.option("--workers", type=click.IntRange(1), help="Ray Train workers of a trial."),
        click.option("--cpus-per-worker", type=click.FloatRange(0, min_open=True)),
        click.option("--gpus-per-worker", type=click.FloatRange(0, 1), help="Below 1, trials share a GPU."),
        click.option("--placement", type=click.Choice(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"])),
        click.option("--parallel", type=click.Choice(["ddp", "fsdp"]), help="How several workers share the model."),
    ]
    for option in reversed(options):
        command = option(command)
    return storage_option(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="equipoise")
def cli() -> None:
    """Find Pareto-balanced training objectives for self-supervised video models."""


for _command in (audit, claims, confirm, data, effects, explain, probe, front, report, list_, space, ui):
    cli.add_command(_command)


@cli.command()
@click.argument("space")
@click.option("--trials", type=click.IntRange(1), help="Trials of the search, controls not counted.")
@click.option("--seed", type=click.IntRange(0), help="Seed of the search.")
@click.option("--sampler", type=click.Choice(["tpe", "nsga2", "nsga3", "gp", "botorch", "random", "qmc"]))
@click.option("--warm-start", metavar="STUDY", help="Begin with what an earlier study of this record found.")
@click.option("--budget", metavar="HOURS", help="End the search before it takes more than 40gpu-h, or 200cpu-h.")
@max_loss_option
@optuna_storage_option
@_study_options
@home_options
@json_option
def sweep(space: str, as_json: bool, **options: Any) -> None:
    """Search objective weights. SPACE: quickstart, miniature_parameters or full, which are shipped, or a YAML file.

    With --resume, options that changed the search space when the study was started need not be repeated.
    """
    from equipoise.platform import study
    from equipoise.platform.definitions import load_sweep

    changes = _changes(options, "trials", "seed", "sampler", "warm_start", "budget", "constraints")
    changes = options["given"] = remembered(space, options, changes)
    run_and_conclude(study.sweep, load_sweep(space, changes), options, as_json, f"sweep {shlex.quote(space)}")


@cli.command()
@click.argument("definition", required=False)
@design_options
@click.option("--variant", "variants", multiple=True, help="Replace the variants; may be given more than once.")
@click.option("--seed", "seeds", type=click.IntRange(0), multiple=True, help="Replace the seeds.")
@_study_options
@home_options
@json_option
def ablate(definition: str | None, as_json: bool, **options: Any) -> None:
    """Run named variants with several seeds. DEFINITION is a shipped study or a YAML file.

    With --design the variants are combinations of factors, and what each factor adds is estimated at the end; it needs
    no DEFINITION: equipoise ablate --design factorial --factor fwm --factor hw --factor ld
    """
    from equipoise.platform import study

    changes = _changes(options, "variants", "seeds")
    if changes["seeds"]:
        changes["control_seeds"] = changes["seeds"]
    loaded, again = ablation_of(definition, options, changes)
    run_and_conclude(study.ablate, loaded, options, as_json, again)


@cli.command()
@click.argument("variant")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@_study_options
@home_options
@json_option
def pretrain(variant: str, seed: int, as_json: bool, **options: Any) -> None:
    """Pretrain one VARIANT with Ray Train and keep its checkpoint."""
    from equipoise.platform import study
    from equipoise.platform.definitions import AblationDefinition
    from equipoise.platform.settings import parse

    content = {
        "name": options["name"] or f"pretrain-{variant}-s{seed}",
        "regime": options["regime"] or "miniature",
        "preset": options["preset"] or "nano",
        "set": options["overrides"],
        "reading": options["reading"] or "as_described",
        "variants": [variant],
        "seeds": [seed],
        "control_seeds": [],
        "refuse_controls": True,
        "resources": {"launcher": "train", **_resources(options)},
        "concurrent": options["concurrent"],
    }
    definition = parse(AblationDefinition, content, f"pretrain {variant}")
    again = f"pretrain {variant} --seed {seed}"
    outcome = run(study.pretrain, definition, options, again)
    row = outcome.rows[0]
    if row.status == "failed":
        raise EquipoiseError(f"pretraining failed: {row.error}")
    kept = (row.result or {})["checkpoint"]
    if as_json:
        emit({**outcome.to_dict(), "checkpoint": kept})
    elif kept is None:
        click.echo("An untrained variant has no checkpoint: score it with equipoise ablate")
    else:
        where = f" --home {shlex.quote(str(options['home']))}"
        click.echo(f"Checkpoint: {kept}\nScore it:   equipoise probe {shlex.quote(kept)}{where}")


def _changes(options: dict[str, Any], *more: str) -> dict[str, Any]:
    changes = {k: options.pop(k) for k in more}
    changes |= {k: options[k] for k in ("name", "preset", "regime", "reading", "concurrent")}
    changes["set"] = options["overrides"]
    changes["resources"] = _resources(options) or None
    return changes


def _resources(options: dict[str, Any]) -> dict[str, Any]:
    """Resources of a trial that were given on the command line."""
    keys = ("workers", "cpus_per_worker", "gpus_per_worker", "placement", "parallel")
    return {k: options[k] for k in keys if options[k] is not None}


@cli.command()
@click.option("--trials", type=click.IntRange(1), help="Trials of the search; default: the shipped space's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a preset key.")
@home_options
@json_option
def quickstart(
    trials: int | None, overrides: tuple[str, ...], home: Path, tracking_uri: str | None, as_json: bool
) -> None:
    """Build the miniature data, run both controls and a small sweep, and show the front."""
    from equipoise.platform import study
    from equipoise.platform.definitions import load_sweep

    place = study_home(home, tracking_uri)
    build_miniature(place, seed=0, workers=2, force=False)
    definition = load_sweep("quickstart", {"trials": trials, "set": overrides})
    options = {
        "home": home,
        "tracking_uri": tracking_uri,
        # A second quickstart goes on with the first, or shows it where it is complete.
        "resume": (place.folder(definition.name) / "ledger.db").is_file(),
        "address": None,
        "tolerance": None,
    }
    run_and_conclude(study.sweep, definition, options, as_json, "sweep quickstart")


def _user_errors() -> tuple[type[Exception], ...]:
    """The errors that are a person's to mend; anything else is a bug and keeps its trace."""
    from equipoise.data._files import WorkerError
    from equipoise.data._rendering import BuildError
    from equipoise.data.cache import CacheError
    from equipoise.data.decode import DecodeBudgetError, DecodeError
    from equipoise.data.manifest import ManifestError
    from equipoise.data.mixture import MixtureError

    data = (BuildError, CacheError, DecodeBudgetError, DecodeError, ManifestError, MixtureError, WorkerError)
    return (EquipoiseError, *data)


def main() -> None:
    """Entry point of the console command: one sentence and a non-zero exit for a person's mistake, never a trace."""
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, click.Abort):
        click.echo("Stopped.", err=True)
        raise SystemExit(130) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise
        click.echo(f"Error: {error.strerror}: {error.filename or 'no space left'}", err=True)
        raise SystemExit(1) from None
    except Exception as error:
        if not isinstance(error, _user_errors()):
            raise
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
