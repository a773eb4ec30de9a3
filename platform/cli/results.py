"""The commands that read results: `equipoise probe`, `front`, `list`, `ui`."""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from equipoise.platform.cli.accuracies import ResultsOptions, results_options
from equipoise.platform.cli.options import (
    Places,
    emit,
    home_options,
    json_option,
    plugin_option,
    preset_option,
    progress_bar,
    reference_option,
    regime_option,
    terminal,
)
from equipoise.platform.errors import EquipoiseError

if TYPE_CHECKING:
    from equipoise.models.encoders import Encoder
    from equipoise.platform.record.home import Home
    from equipoise.platform.record.reading import StudyRecord
    from equipoise.platform.settings.trial import TrialSettings
    from equipoise.platform.storage import Place

FILES = (".pt", ".pth", ".bin", ".safetensors")  # endings of other people's checkpoints
BROUGHT = ("objectives", "encoders", "probes", "benchmarks", "importers")
LISTED = (*BROUGHT, "variants", "presets", "regimes", "spaces", "studies", "references")


@click.command()
@click.argument("checkpoint")
@click.option("--benchmark", "benchmarks", multiple=True, help="Score only this; may be given more than once.")
@click.option(
    "--part", type=click.Choice(["select", "test"]), default="select", show_default=True, help="Part to score."
)
@click.option("--out", help="Folder or URI for the per-item outcomes; default: beside it.")
@click.option("--encoder", metavar="NAME[:MODEL]", help="Of other people's file: its encoder (see list encoders).")
@preset_option("Of other people's file: sizes, clips and probes (nano, small, base, or a YAML file).")
@regime_option("Of other people's file: the benchmarks to score.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the preset.")
@click.option("--seed", type=click.IntRange(0), help="Of other people's file: of the probes; default: 0.")
@plugin_option
@home_options
@json_option
def probe(
    checkpoint: str,
    benchmarks: tuple[str, ...],
    part: Literal["select", "test"],
    out: str | None,
    places: Places,
    as_json: bool,
    **foreign: Any,
) -> None:
    """Score the frozen encoder of a CHECKPOINT on the benchmarks of its regime.

    A checkpoint is a folder that Equipoise wrote, here or at an s3: or gs: URI. Other people's is a file of a state
    dict; it needs to be said which encoder it is of, and how it is scored:
    equipoise probe vit.safetensors --encoder timm:vit_small_patch16_224 --preset small --regime mixed

    A choice among checkpoints is made on select items; what is chosen is scored on test items once.
    """
    from equipoise.platform.settings.base import parse
    from equipoise.platform.settings.trial import TrialSettings
    from equipoise.platform.storage import Place
    from equipoise.platform.study.caches import prepare_caches
    from equipoise.platform.trial.device import compute_threads, default_device
    from equipoise.platform.trial.evaluation import score

    place = places.open()
    path, encoder, kept, step = _encoder_of(checkpoint, foreign)
    chosen = {**kept.model_dump(mode="json"), "benchmarks": list(benchmarks)}
    settings = parse(TrialSettings, chosen, f"probe {checkpoint}")
    with progress_bar("Building clip caches") as progress:
        prepare_caches(settings, place, part, progress=progress)
    with progress_bar("Scoring") as progress, compute_threads(1):
        results = score(encoder, settings, place.paths, default_device(), progress, part=part)
    folder = Place.at(out) if out else path.parent / f"correctness-{path.name}"
    for result in results:
        result.write(folder)
    content = {
        "checkpoint": str(path),
        "variant": settings.variant_name,
        "seed": settings.seed,
        "step": step,
        "part": part,
        "correctness": str(folder),
        "benchmarks": [r.summary() for r in results],
    }
    if part == "test":
        _keep_opening(place, str(path), settings)
    if as_json:
        emit(content)
        return
    click.echo(f"{settings.variant_name}, seed {settings.seed}, step {step}")
    for r in results:
        chosen_text = ", ".join(f"{k} {v:g}" for k, v in r.chosen.items() if k != "select_accuracy")
        click.echo(f"{r.benchmark:12} {r.accuracy:6.2f} %  of {r.items} {r.part} items  (probe: {chosen_text})")
    click.echo(f"per-item outcomes in {folder}")


def _encoder_of(checkpoint: str, foreign: Mapping[str, Any]) -> tuple[Place, Encoder, TrialSettings, int]:
    """Where a checkpoint is, its encoder, the settings that score it, and how many steps it was trained here."""
    from equipoise.platform.settings.plugins import plugin_of
    from equipoise.platform.storage import Place
    from equipoise.platform.trial import checkpoint as checkpoints
    from equipoise.platform.trial.encoders import foreign_encoder, frozen_encoder

    for file in foreign["plugins"]:
        plugin_of(file)
    path, suffix = Place.at(checkpoint), Path(checkpoint).suffix
    given = [key for key in ("encoder", "preset", "regime", "overrides", "seed") if foreign[key] not in (None, ())]
    if foreign["encoder"] is None and suffix not in FILES:
        if given:
            option = "--set" if given[0] == "overrides" else f"--{given[0]}"
            raise click.UsageError(f"{option} goes with other people's file; {checkpoint} has its own settings")
        found = checkpoints.load(checkpoint)
        return found.path, frozen_encoder(found), found.settings, found.step
    if foreign["encoder"] is None:
        raise click.UsageError(f"which encoder is {checkpoint} of? say it with --encoder (equipoise list encoders)")
    encoder, settings = foreign_encoder(
        path,
        foreign["encoder"],
        foreign["preset"] or "nano",
        foreign["regime"] or "miniature",
        foreign["overrides"],
        foreign["seed"] or 0,
    )
    return path, encoder, settings, 0


def _keep_opening(home: Home, checkpoint: str, settings: TrialSettings) -> None:
    """Write down, in the study that a checkpoint is of, that its test part was opened."""
    from equipoise.platform.record.openings import Opening, keep_opening
    from equipoise.platform.record.reading import StudyRecord

    within = re.search(r"/([^/]+)/trials/t\d+/checkpoints/", f"{checkpoint}/")
    if within is None or not home.has_book(within[1]):
        click.echo(
            f"{checkpoint} is of no study in {home.root}: that its test part is opened is not written down", err=True
        )
        return
    record = StudyRecord.open(home, within[1])
    opening = Opening.now("probe", record.name, [settings.variant_name], settings.scored)
    keep_opening(record.tracker, record.run_id, opening)


@click.command()
@click.argument("study", required=False)
@reference_option
@results_options
@click.option("--tolerance", type=click.FloatRange(0), help="Points a candidate may lose; default: noise floor.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The plot: .png, .pdf or .svg.")
@home_options
@json_option
def front(
    study: str | None,
    reference: str | None,
    accuracies: ResultsOptions,
    tolerance: float | None,
    out: Path | None,
    places: Places,
    as_json: bool,
) -> None:
    """Show the Pareto front of a STUDY (name or MLflow run id) and its leading candidate."""
    from equipoise.platform.report.front import conclude_study, conclude_table
    from equipoise.platform.report.tables.front import show

    given = accuracies.table(study, reference)
    if given is None:
        found = conclude_study(places.read(study, reference), out, tolerance)
    else:
        found = conclude_table(*given, out, tolerance, accuracies.over)
    if as_json:
        emit(found.to_dict())
    else:
        show(found, terminal())


@click.command("list")
@click.argument("what", type=click.Choice(LISTED))
@plugin_option
@json_option
def list_(what: str, plugins: tuple[str, ...], as_json: bool) -> None:
    """List what there is: objectives, encoders, probes, importers, plug-ins' too; variants, presets and so on."""
    from equipoise.platform.settings.files import load_yaml, shipped

    if plugins and what not in BROUGHT:
        raise click.UsageError(f"--plugin brings {', '.join(BROUGHT)}, not {what}")
    if what in BROUGHT:
        from equipoise.platform.cli.data import bring_importers
        from equipoise.platform.settings.plugins import described, failures, plugin_of

        bring_importers()
        for file in plugins:
            plugin_of(file)
        found = described(what)
        for plugin, why in failures().items():
            click.echo(f"Plug-in {plugin}: {why}", err=True)
    elif what == "variants":
        from equipoise.platform.settings.variant import variants

        found = {name: v.description for name, v in variants().items()}
    elif what == "references":
        from equipoise.platform.record.bundle import about
        from equipoise.platform.study.bundling import references

        found = {name: about(path)["description"] for name, path in references().items()}
    else:
        found = {name: load_yaml(path).get("description", "") for name, path in shipped(what).items()}
    if as_json:
        emit({what: [{"name": k, "description": v} for k, v in found.items()]})
        return
    if not found:
        click.echo(f"No {what}: those that ship are in regimes (list regimes), a plug-in can bring others.")
    width = max(map(len, found), default=0)
    for name, description in found.items():
        click.echo(f"{name:{width}}  {description}")


@click.command()
@click.argument("study", required=False)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@home_options
def ui(study: str | None, port: int, places: Places) -> None:
    """Open MLflow's UI on a STUDY (default: the newest one): its runs with their accuracies, its variants compared.

    It is served on this machine only; where the studies are on a server already, only the addresses are printed.
    """
    place = places.open()
    uri = place.uri()
    on_server = uri.startswith(("http:", "https:"))
    place.tracker(create=False)  # says what is wrong with the record before the port is looked at
    if not on_server:
        _must_be_free(port)
    server = uri.rstrip("/") if on_server else f"http://127.0.0.1:{port}"
    for what, address in _pages(places.study(study)):
        click.echo(f"{what}: {server}{address}")
    if on_server:
        return
    click.echo(f"MLflow's UI: {server}  (Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # its background jobs serve nothing here
    # In place of this process: signals then reach the server itself, and ending it leaves nothing behind.
    sys.stdout.flush()
    os.execv(sys.executable, [*command, "--port", str(port), "--workers", "1"])


def _must_be_free(port: int) -> None:
    with socket.socket() as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise EquipoiseError(f"port {port} is in use: choose another with --port") from None


def _pages(record: StudyRecord) -> list[tuple[str, str]]:
    """What of a study to look at, and where behind the server's address."""
    from equipoise.platform.record.mlflow_pages import runs_page

    return [
        (f"Trials of {record.name}", runs_page(record.tracker, record.name)),
        ("Accuracies against each other", runs_page(record.tracker, record.name, charts=True)),
    ]
