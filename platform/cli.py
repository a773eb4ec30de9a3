"""The command line: `equipoise`."""

from __future__ import annotations

import errno
import json
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from equipoise.platform.errors import EquipoiseError

# Heavy modules (torch, ray, mlflow) are imported by the commands that need them: help answers at once.

F = TypeVar("F", bound=Callable[..., Any])


def _home_options(command: F) -> F:
    home = click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="EQUIPOISE_HOME",
        default=Path("equipoise_home"),
        show_default=True,
        help="Folder with data, caches, studies and the local MLflow store (or EQUIPOISE_HOME).",
    )
    uri = click.option(
        "--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="MLflow server; default: a SQLite file in the home folder."
    )
    return home(uri(command))


def _json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")(command)


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
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _home(home: Path, tracking_uri: str | None) -> Any:
    from equipoise.platform.study import Home

    return Home(home.resolve(), tracking_uri)


def _emit(content: Any) -> None:
    click.echo(json.dumps(content, indent=1))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="equipoise")
def cli() -> None:
    """Find Pareto-balanced training objectives for self-supervised video models."""


# ------------------------------------------------------------------------------------------------ data


@cli.group()
def data() -> None:
    """Build data sets."""


@data.command("build")
@click.argument("name", type=click.Choice(["miniature"]))
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes that render.")
@click.option("--force", is_flag=True, help="Replace a build with other settings.")
@_home_options
@_json_option
def data_build(
    name: str, seed: int, workers: int, force: bool, home: Path, tracking_uri: str | None, as_json: bool
) -> None:
    """Render the miniature regime's four data sets as real video files."""
    place = _home(home, tracking_uri)
    built = _build_miniature(place, seed, workers, force)
    found = [
        {"set": s, "split": split, "items": len(m), "classes": len(m.classes), "hash": m.hash}
        for s, splits in built.items()
        for split, m in splits.items()
    ]
    if as_json:
        _emit({"name": name, "root": str(place.data / name), "sets": found})
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
@_home_options
@_json_option
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

    place = _home(home, tracking_uri)
    place.make()
    folder = place.data / name
    items = read_list(listing)
    train = folder / "train.parquet"
    classes = Manifest.read(train).classes if split != "train" and train.is_file() else None
    with _bar("Reading") as progress:
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
        _emit(found)
    else:
        click.echo(f"{len(manifest)} items, {len(manifest.classes)} classes, {len(report.failures)} unreadable")
        click.echo(f"in {found['manifest']}")


def _build_miniature(place: Any, seed: int, workers: int, force: bool) -> Any:
    from equipoise.data import miniature

    place.make()
    with _bar("Rendering the miniature data sets") as progress:
        return miniature.build(place.data / "miniature", seed=seed, workers=workers, force=force, progress=progress)


def _bar(title: str) -> Any:
    """A progress bar on standard error, fed with (what, done, total)."""
    import contextlib

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    @contextlib.contextmanager
    def opened() -> Any:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        tasks: dict[str, Any] = {}
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:

            def progress(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bar.add_task(f"{title}: {what}", total=total)
                    if not console.is_terminal:
                        console.print(f"{title}: {what} ({total})", highlight=False)
                bar.update(tasks[what], completed=done, total=total)

            yield progress

    return opened()


# ------------------------------------------------------------------------------------------------ studies


@cli.command()
@click.argument("space")
@click.option("--trials", type=click.IntRange(1), help="Trials of the search, controls not counted.")
@click.option("--seed", type=click.IntRange(0), help="Seed of the search.")
@click.option("--sampler", type=click.Choice(["tpe", "nsga2", "random"]))
@_study_options
@_home_options
@_json_option
def sweep(space: str, as_json: bool, **options: Any) -> None:
    """Search objective weights. SPACE is a shipped search space (quickstart, full) or a YAML file."""
    from equipoise.platform import study
    from equipoise.platform.definitions import load_sweep

    changes = _changes(options, "trials", "seed", "sampler")
    _run_and_conclude(study.sweep, load_sweep(space, changes), options, as_json, f"sweep {shlex.quote(space)}")


@cli.command()
@click.argument("definition")
@click.option("--variant", "variants", multiple=True, help="Replace the variants; may be given more than once.")
@click.option("--seed", "seeds", type=click.IntRange(0), multiple=True, help="Replace the seeds.")
@_study_options
@_home_options
@_json_option
def ablate(definition: str, as_json: bool, **options: Any) -> None:
    """Run named variants with several seeds. DEFINITION is a shipped study or a YAML file."""
    from equipoise.platform import study
    from equipoise.platform.definitions import load_ablation

    changes = _changes(options, "variants", "seeds")
    if changes["seeds"]:
        changes["control_seeds"] = changes["seeds"]
    loaded = load_ablation(definition, changes)
    _run_and_conclude(study.ablate, loaded, options, as_json, f"ablate {shlex.quote(definition)}")


@cli.command()
@click.argument("variant")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Ray Train workers.")
@click.option("--cpus-per-worker", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True)
@click.option("--gpus-per-worker", type=click.FloatRange(0), default=0.0, show_default=True)
@_study_options
@_home_options
@_json_option
def pretrain(
    variant: str,
    seed: int,
    workers: int,
    cpus_per_worker: float,
    gpus_per_worker: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Pretrain one VARIANT with Ray Train and keep its checkpoint."""
    from equipoise.platform import study
    from equipoise.platform.definitions import AblationDefinition
    from equipoise.platform.settings import parse

    resources = {
        "workers": workers,
        "cpus_per_worker": cpus_per_worker,
        "gpus_per_worker": gpus_per_worker,
        "launcher": "train",
    }
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
        "resources": resources,
        "concurrent": options["concurrent"],
    }
    definition = parse(AblationDefinition, content, f"pretrain {variant}")
    again = f"pretrain {variant} --seed {seed} --workers {workers}"
    outcome = _run(study.pretrain, definition, options, again)
    row = outcome.rows[0]
    if row.status == "failed":
        raise EquipoiseError(f"pretraining failed: {row.error}")
    kept = (row.result or {})["checkpoint"]
    if as_json:
        _emit({**outcome.to_dict(), "checkpoint": kept})
    elif kept is None:
        click.echo("An untrained variant has no checkpoint: score it with equipoise ablate")
    else:
        where = f" --home {shlex.quote(str(options['home']))}"
        click.echo(f"Checkpoint: {kept}\nScore it:   equipoise probe {shlex.quote(kept)}{where}")


def _changes(options: dict[str, Any], *more: str) -> dict[str, Any]:
    changes = {k: options.pop(k) for k in more}
    changes |= {k: options[k] for k in ("name", "preset", "regime", "reading", "concurrent")}
    changes["set"] = options["overrides"]
    return changes


def _run(runner: Any, definition: Any, options: dict[str, Any], again: str) -> Any:
    """Run a study; an interrupted one ends the command with the words that resume it."""
    place = _home(options["home"], options["tracking_uri"])
    with _bar("Building clip caches") as progress:
        outcome = runner(definition, place, resume=options["resume"], address=options["address"], progress=progress)
    if not outcome.complete:
        done = outcome.count("finished")
        click.echo(
            f"Stopped: {done} of {len(outcome.rows)} trials are finished and kept. "
            f"Go on with: equipoise {again} --name {definition.name} --resume --home {shlex.quote(str(place.root))}",
            err=True,
        )
        raise SystemExit(130)
    return outcome


def _run_and_conclude(runner: Any, definition: Any, options: dict[str, Any], as_json: bool, again: str) -> None:
    from rich.console import Console

    from equipoise.platform.conclude import conclude_study, show
    from equipoise.platform.selection import SelectionError

    outcome = _run(runner, definition, options, again)
    failed = [r for r in outcome.rows if r.status == "failed"]
    for row in failed:
        click.echo(f"{row.key} {row.name} failed: {row.error}", err=True)
    if len(failed) == len(outcome.rows):
        raise EquipoiseError(f"every trial of study {outcome.name!r} failed; the first: {failed[0].error}")
    try:
        found = conclude_study(
            outcome.name, _home(options["home"], options["tracking_uri"]), None, options["tolerance"]
        )
    except SelectionError as error:
        # The trials are done and kept: what is missing to select from them is a sentence, not a failure.
        click.echo(f"No selection yet: {error}", err=True)
        if as_json:
            _emit({**outcome.to_dict(), "selection": None})
        return
    if as_json:
        _emit({**outcome.to_dict(), "selection": found.to_dict()})
    else:
        show(found, Console())


# ------------------------------------------------------------------------------------------------ results


@cli.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--benchmark", "benchmarks", multiple=True, help="Score only this; may be given more than once.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the per-item outcomes; default: beside it.")
@_home_options
@_json_option
def probe(
    checkpoint: Path, benchmarks: tuple[str, ...], out: Path | None, home: Path, tracking_uri: str | None, as_json: bool
) -> None:
    """Score the frozen encoder of a CHECKPOINT (a folder) on its regime's benchmarks."""
    from equipoise.platform import checkpoint as checkpoints
    from equipoise.platform.evaluation import frozen_encoder, score
    from equipoise.platform.settings import TrialSettings, parse
    from equipoise.platform.study import prepare_caches
    from equipoise.platform.training import compute_threads, default_device

    place = _home(home, tracking_uri)
    found = checkpoints.load(checkpoint)
    chosen = {**found.settings.model_dump(mode="json"), "benchmarks": list(benchmarks)}
    settings = parse(TrialSettings, chosen, f"probe {checkpoint}")
    encoder = frozen_encoder(found)
    with _bar("Building clip caches") as progress:
        prepare_caches(settings, place, probe=True, progress=progress)
    with _bar("Scoring") as progress, compute_threads(1):
        results = score(encoder, settings, place.paths, default_device(), progress)
    folder = out or found.path.parent / f"correctness-{found.path.name}"
    for result in results:
        result.write(folder)
    content = {
        "checkpoint": str(found.path),
        "variant": settings.variant_name,
        "seed": settings.seed,
        "step": found.step,
        "correctness": str(folder),
        "benchmarks": [r.summary() for r in results],
    }
    if as_json:
        _emit(content)
        return
    click.echo(f"{settings.variant_name}, seed {settings.seed}, step {found.step}")
    for r in results:
        chosen_text = ", ".join(f"{k} {v:g}" for k, v in r.chosen.items() if k != "holdout_accuracy")
        click.echo(f"{r.benchmark:12} {r.accuracy:6.2f} %  of {r.items} items  (probe: {chosen_text})")
    click.echo(f"per-item outcomes in {folder}")


@cli.command()
@click.argument("study", required=False)
@click.option("--results", type=click.Path(path_type=Path), help="A CSV of accuracies instead of a study.")
@click.option("--published", is_flag=True, help="The paper's published table instead of a study.")
@click.option("--regime", help="Regime of the CSV's rows: mixed or ucf101 in the published table.")
@click.option("--tolerance", type=click.FloatRange(0), help="Points a balanced variant may lose; default: noise floor.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The plot: .png, .pdf or .svg.")
@_home_options
@_json_option
def front(
    study: str | None,
    results: Path | None,
    published: bool,
    regime: str | None,
    tolerance: float | None,
    out: Path | None,
    home: Path,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Show the Pareto front of a STUDY (name or MLflow run id) and select the balanced variant."""
    from rich.console import Console

    from equipoise.platform.conclude import conclude_study, conclude_table, show
    from equipoise.platform.results import published_path, read_csv

    if sum([study is not None, results is not None, published]) != 1:
        raise click.UsageError("give one of: a STUDY, --results FILE.csv, or --published")
    if study is not None:
        if regime is not None:
            raise click.UsageError("--regime goes with --results or --published: a study has one regime")
        found = conclude_study(study, _home(home, tracking_uri), out, tolerance)
    else:
        path = published_path() if published else results
        assert path is not None
        if regime is None:
            raise click.UsageError("--regime is missing: say which regime's rows of the CSV to compare, e.g. mixed")
        table = read_csv(path, regime)
        found = conclude_table(table, out or Path(f"front_{regime}.png"), f"{path.stem}, {regime} regime", tolerance)
    if as_json:
        _emit(found.to_dict())
    else:
        show(found, Console())


@cli.command("list")
@click.argument("what", type=click.Choice(["objectives", "variants", "presets", "regimes", "spaces", "studies"]))
@_json_option
def list_(what: str, as_json: bool) -> None:
    """List what ships: objectives, variants, presets, regimes, search spaces, studies."""
    from equipoise.models.objectives import list_objectives
    from equipoise.platform.mix import variants
    from equipoise.platform.settings import load_yaml, shipped

    if what == "objectives":
        found = {r.name: r.description for r in list_objectives()}
    elif what == "variants":
        found = {name: v.description for name, v in variants().items()}
    else:
        found = {name: load_yaml(path).get("description", "") for name, path in shipped(what).items()}
    if as_json:
        _emit({what: [{"name": k, "description": v} for k, v in found.items()]})
        return
    width = max(len(k) for k in found)
    for name, description in found.items():
        click.echo(f"{name:{width}}  {description}")


@cli.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@_home_options
def ui(port: int, home: Path, tracking_uri: str | None) -> None:
    """Open MLflow's UI on the studies of a home folder, on this machine only."""
    place = _home(home, tracking_uri)
    uri = place.uri()
    if uri.startswith(("http:", "https:")):
        raise EquipoiseError(f"the studies are on a server already: open {uri} in a browser")
    if tracking_uri is None and not (place.root / "mlflow.db").is_file():
        raise EquipoiseError(f"{place.root} holds no studies yet: run equipoise quickstart, sweep or ablate first")
    with socket.socket() as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise EquipoiseError(f"port {port} is in use: choose another with --port") from None
    click.echo(f"MLflow's UI: http://127.0.0.1:{port}  (Ctrl-C ends it)", err=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    raise SystemExit(subprocess.run([*command, "--port", str(port), "--workers", "1"], check=False).returncode)


@cli.command()
@click.option("--trials", type=click.IntRange(1), help="Trials of the search; default: the shipped space's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a preset key.")
@_home_options
@_json_option
def quickstart(
    trials: int | None, overrides: tuple[str, ...], home: Path, tracking_uri: str | None, as_json: bool
) -> None:
    """Build the miniature data, run both controls and a small sweep, and show the front."""
    from equipoise.platform import study
    from equipoise.platform.definitions import load_sweep

    place = _home(home, tracking_uri)
    _build_miniature(place, seed=0, workers=2, force=False)
    definition = load_sweep("quickstart", {"trials": trials, "set": overrides})
    options = {
        "home": home,
        "tracking_uri": tracking_uri,
        # A second quickstart goes on with the first, or shows it where it is complete.
        "resume": (place.folder(definition.name) / "ledger.db").is_file(),
        "address": None,
        "tolerance": None,
    }
    _run_and_conclude(study.sweep, definition, options, as_json, "sweep quickstart")
    click.echo(f"Compare the trials in MLflow: equipoise ui --home {shlex.quote(str(place.root))}", err=as_json)


def _user_errors() -> tuple[type[Exception], ...]:
    """The errors that are a person's to mend; anything else is a bug and keeps its trace."""
    from equipoise.data.cache import CacheError
    from equipoise.data.decode import DecodeBudgetError, DecodeError
    from equipoise.data.manifest import ManifestError
    from equipoise.data.miniature import MiniatureError
    from equipoise.data.mixture import MixtureError

    return (EquipoiseError, CacheError, DecodeBudgetError, DecodeError, ManifestError, MiniatureError, MixtureError)


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
