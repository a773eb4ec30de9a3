"""The command line: `equipoise`."""

from __future__ import annotations

import errno
import os

import click

from equipoise.data.errors import DataError
from equipoise.models.errors import ModelError
from equipoise.platform.cli.audit import audit
from equipoise.platform.cli.bundles import bundle, replicate, unbundle
from equipoise.platform.cli.claims import claims
from equipoise.platform.cli.confirm import confirm
from equipoise.platform.cli.data import data
from equipoise.platform.cli.doctor import doctor
from equipoise.platform.cli.effects import effects
from equipoise.platform.cli.explain import explain
from equipoise.platform.cli.export import export
from equipoise.platform.cli.kept import studies
from equipoise.platform.cli.new import new
from equipoise.platform.cli.paper import table
from equipoise.platform.cli.plain import as_typed, speak_plainly
from equipoise.platform.cli.pool import pool
from equipoise.platform.cli.report import report
from equipoise.platform.cli.results import front, list_, probe, ui
from equipoise.platform.cli.show import show
from equipoise.platform.cli.space import space
from equipoise.platform.cli.studies import ablate, pretrain, quickstart, sweep
from equipoise.platform.errors import EquipoiseError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="equipoise")
def cli() -> None:
    """Find Pareto-balanced training objectives for self-supervised video models."""


STUDIES = (ablate, bundle, confirm, pretrain, quickstart, replicate, sweep, unbundle)
RESULTS = (audit, claims, effects, explain, export, front, pool, probe, report, table, ui)
for command in (*STUDIES, *RESULTS, data, doctor, list_, new, show, space, studies):
    cli.add_command(command)


USER_ERRORS = (EquipoiseError, DataError, ModelError)  # a person's to mend; anything else is a bug and keeps its trace


def main() -> None:
    """Entry point of the console command: one sentence and a non-zero exit for a person's mistake, never a trace."""
    speak_plainly()
    os.environ.pop("MPLBACKEND", None)  # a notebook's, which draws on a page: pictures go to files here
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
        if not isinstance(error, USER_ERRORS):
            raise
        click.echo(as_typed(f"Error: {error}"), err=True)
        raise SystemExit(1) from None
