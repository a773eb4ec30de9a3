"""Options that several commands share."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def home_options(command: F) -> F:
    """``--home`` and ``--tracking-uri``."""
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


def storage_option(command: F) -> F:
    """``--storage``."""
    return click.option(
        "--storage",
        envvar="EQUIPOISE_STORAGE",
        metavar="PLACE",
        help="Where trials write: a folder all nodes share, s3://bucket/folder or gs://bucket/folder "
        "(or EQUIPOISE_STORAGE); default: the home folder.",
    )(command)


def optuna_storage_option(command: F) -> F:
    """``--optuna-storage``."""
    return click.option(
        "--optuna-storage",
        envvar="EQUIPOISE_OPTUNA_STORAGE",
        metavar="URL",
        help="Where Optuna keeps the search: postgresql://user@host/database (password from PGPASSWORD or .pgpass) or "
        "the path of a journal file (or EQUIPOISE_OPTUNA_STORAGE); default: a journal in the home folder.",
    )(command)


def max_loss_option(command: F) -> F:
    """``--max-loss``: the constraints of a search."""
    return click.option(
        "--max-loss",
        "constraints",
        metavar="POINTS",
        multiple=True,
        callback=_constraints,
        help="Points below the baseline that a mix may lose, on every benchmark, or BENCHMARK=POINTS, once for each; "
        "the sampler avoids mixes that lose more.",
    )(command)


def _constraints(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any] | None:
    found: dict[str, float] = {}
    for text in values:
        benchmark, _, points = text.rpartition("=")  # nothing before it: every benchmark
        try:
            value = float(points)
        except ValueError:
            raise click.BadParameter(
                f"{text!r} given; expected points of accuracy, as in 2.0, or mini_dive=2.0"
            ) from None
        if benchmark in found:
            raise click.BadParameter(f"{text!r} comes after another one for {benchmark or 'every benchmark'}: give one")
        found[benchmark] = value
    if "" in found and len(found) > 1:
        raise click.BadParameter("give one number for every benchmark, or BENCHMARK=POINTS for each, not both")
    return {"max_loss": found.get("", found)} if found else None


def json_option(command: F) -> F:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")(command)


def emit(content: Any) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(content, indent=1))


def study_home(
    home: Path, tracking_uri: str | None, storage: str | None = None, optuna_storage: str | None = None
) -> Any:
    """The home folder of a command's options."""
    from equipoise.platform.home import Home

    return Home(home.resolve(), tracking_uri, storage, optuna_storage)


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on standard error, fed with (what, done, total); plain lines where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

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
