"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def json_option(command: F) -> F:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")(command)


def emit(content: Any) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(content, indent=1))
