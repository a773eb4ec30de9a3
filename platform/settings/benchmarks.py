"""Benchmarks by name that plug-ins bring: a regime names one and says nothing more of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from equipoise.platform.settings.names import check_names


@dataclass(frozen=True)
class BenchmarkRecord:
    """A labelled data set with its probe, as a regime's file has it.

    Attributes:
        name: how regimes call it.
        description: one line.
        title: name on plots and tables.
        train: Parquet manifest, relative to the data folder.
        test: the same.
        probe: of a preset's probes, by name.
        select: what everything that chooses is scored on; None: cut from train.
    """

    name: str
    description: str
    title: str
    train: str
    test: str
    probe: str
    select: str | None = None

    def setting(self) -> dict[str, str | None]:
        """What stands in a regime's file."""
        return {key: getattr(self, key) for key in ("train", "select", "test", "probe", "title")}


_known: dict[str, BenchmarkRecord] = {}
BENCHMARKS: Mapping[str, BenchmarkRecord] = MappingProxyType(_known)
"""Every benchmark that a plug-in brought, by name."""


def register_benchmark(record: BenchmarkRecord) -> BenchmarkRecord:
    """Make a benchmark known to regimes; one of the same name is replaced.

    Raises:
        ValueError: its name cannot be one.
    """
    check_names([record.name])
    _known[record.name] = record
    return record
