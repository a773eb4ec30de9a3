"""What can be asked of the runs of studies, wherever they are kept: in MLflow, or in bundles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class RunInfo:
    """What MLflow calls a run's info; times in milliseconds since 1970."""

    run_id: str
    run_name: str
    status: str
    start_time: int
    end_time: int | None


@dataclass(frozen=True)
class RunData:
    """What MLflow calls a run's data; of a metric its last value."""

    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class KeptRun:
    """A run as it was in MLflow.

    Attributes:
        info: of it.
        data: of it.
        history: every value of each metric with its step, in the order of steps.
    """

    info: RunInfo
    data: RunData
    history: Mapping[str, Sequence[tuple[int, float]]] = field(repr=False)


class Runs(Protocol):
    """Runs of studies and of their trials, as MLflow shows them: ``info``, and ``data`` with tags, params and metrics.

    Attributes:
        uri: where they are, for sentences.
    """

    @property
    def uri(self) -> str:
        """Where they are, for sentences."""

    def studies(self, name: str | None = None) -> list[Any]:
        """Parent runs of the studies of a name, or of all; newest first."""

    def run(self, run_id: str) -> Any:
        """One run.

        Raises:
            TrackingError: there is none.
        """

    def children(self, parent: str) -> list[Any]:
        """Runs of a study's trials, oldest first."""

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """Every value of a metric with its step, in the order of steps."""

    def files(self, run_id: str, folder: str | None = None) -> list[str]:
        """Paths of the artifacts in a run, or in a folder of it, those in folders below left out."""

    def fetch(self, run_id: str, name: str, to: Path) -> Path:
        """Copy an artifact, or a folder of them, into a folder; returns where it is.

        Raises:
            TrackingError: the run does not hold it, or it cannot be fetched.
        """
