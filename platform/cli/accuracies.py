"""Options of commands that read a CSV of accuracies where they are asked for no study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from equipoise.platform.cli.options import F, gathered

if TYPE_CHECKING:
    from equipoise.platform.stats.table import ResultTable


@dataclass(frozen=True)
class ResultsOptions:
    """A CSV of accuracies that a command was asked to read instead of a study.

    Attributes:
        results: its file.
        published: the paper's own.
        regime: of its rows.
        baseline: whom gains are over.
        benchmarks: those that count, parted by commas.
    """

    results: Path | None = None
    published: bool = False
    regime: str | None = None
    baseline: str | None = None
    benchmarks: str | None = None

    @property
    def over(self) -> str:
        """Whom gains are over."""
        return self.baseline or "baseline"

    def table(self, study: str | None, reference: str | None) -> tuple[ResultTable, str] | None:
        """Accuracies and what they are of, where a CSV is asked for; None where a study is.

        Raises:
            UsageError: not exactly one is asked for, or a study with what goes with a CSV.
            ResultsError: it cannot be read.
        """
        from equipoise.platform.stats.published import published_path, read_csv

        if sum([study is not None, reference is not None, self.results is not None, self.published]) != 1:
            raise click.UsageError("give one of: a STUDY, --reference NAME, --results FILE.csv, or --published")
        if study is not None or reference is not None:
            for option in ("regime", "baseline", "benchmarks"):
                if getattr(self, option) is not None:
                    raise click.UsageError(f"--{option} goes with --results or --published: a study has its own")
            return None
        path = published_path() if self.published else self.results
        assert path is not None
        regime = self.regime or _only_regime(path, self.published)
        named = None if self.benchmarks is None else [n.strip() for n in self.benchmarks.split(",") if n.strip()]
        return read_csv(path, regime, benchmarks=named, baseline=self.over), f"{path.stem}, {regime} regime"


def _only_regime(path: Path, published: bool) -> str:
    """The regime of a CSV that has one; of the published table the mixed one, which the paper is about."""
    from equipoise.platform.stats.published import regimes_in

    there = regimes_in(path)
    if published:
        return "mixed"
    if len(there) != 1:
        raise click.UsageError(f"--regime is missing: {path} has rows of {', '.join(there)}; say which to compare")
    return there[0]


def results_options(command: F) -> F:
    """What names a CSV of accuracies instead of a study, as ``accuracies``."""
    options = [
        click.option("--results", type=click.Path(path_type=Path), help="A CSV of accuracies instead of a study."),
        click.option("--published", is_flag=True, help="The paper's published table instead of a study."),
        click.option("--regime", help="Regime of the CSV's rows: mixed or ucf101 in the published table."),
        click.option("--baseline", help="Variant of the CSV that gains are measured against; default: baseline."),
        click.option(
            "--benchmarks", metavar="A,B,...", help="Benchmarks of the CSV; default: the published ones, or all."
        ),
    ]
    command = gathered(ResultsOptions, "accuracies")(command)
    for option in reversed(options):
        command = option(command)
    return command
