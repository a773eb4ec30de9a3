"""A study in one file: what it asked for, its book, its runs with their curves, and the outcome of every item.

The file is a ZIP archive with ``bundle.json``, which says what it is, tables as Parquet, and texts. It holds no
weights of a model and no clip. README, "A study in one file", has the way of one through several machines.
"""

from __future__ import annotations

import functools
import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from equipoise.platform.errors import EquipoiseError
from equipoise.platform.record.client import RESULT_TAG, TrackingError
from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import TrialRow
from equipoise.platform.record.runs import KeptRun, RunData, RunInfo
from equipoise.platform.record.tracking import PARENT, Tracker
from equipoise.platform.stats.collapse import Health

FORMAT = 1
SUFFIX = ".bundle"
ABOUT, BOOK, RUNS, METRICS, JOURNAL = "bundle.json", "book.parquet", "runs.parquet", "metrics.parquet", "optuna.journal"
OUTCOMES, ARTIFACTS, TRIALS = "outcomes/", "artifacts/", "trials/"
IN_JSON = ("result", "rungs", "cost", "health")  # fields of a trial's row that are no text and no number


class BundleError(EquipoiseError):
    """A file that is no bundle, a damaged one, or one that cannot be used here."""


@dataclass(frozen=True)
class Outcomes:
    """What trials predicted for the items of one part of a benchmark.

    Attributes:
        benchmark: its name.
        part: ``select`` or ``test``.
        path: of every item ``[N]``.
        label: int64 ``[N]`` true class.
        predicted: key of a trial to int64 ``[N]``.
    """

    benchmark: str
    part: str
    path: tuple[str, ...]
    label: NDArray[np.int64]
    predicted: Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Bundle:
    """A study, apart from any home.

    Attributes:
        about: name, kind and part of the study, when and with what it was bundled, hashes of the manifests it read.
        facts: of its book.
        rows: trials of its book.
        runs: that of the study first, then those of its trials, oldest first.
        outcomes: of every scored trial.
        artifacts: texts of the study's run by path: definition, openings, audits, conclusions.
        trial_files: texts of trials by ``KEY/NAME``.
        journal: Optuna's journal of the search; None where nothing was searched.
    """

    about: Mapping[str, Any]
    facts: Mapping[str, Any]
    rows: tuple[TrialRow, ...]
    runs: tuple[KeptRun, ...]
    outcomes: tuple[Outcomes, ...]
    artifacts: Mapping[str, bytes]
    trial_files: Mapping[str, bytes]
    journal: bytes | None = None

    @property
    def study(self) -> str:
        """Name of the study."""
        return str(self.about["study"])

    @property
    def code(self) -> tuple[str, ...]:
        """Plug-ins whose text it carries, which runs as soon as its settings are read."""
        asked = [json.loads(row.settings) for row in self.rows if row.settings]
        asked.append(self.facts.get("definition") or {})
        brought = [one for content in asked for one in content.get("plugins", ()) if one.get("source")]
        return tuple(sorted({f"{one['name']} (sha256 {one['sha256'][:12]})" for one in brought}))

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(ABOUT, json.dumps({"format": FORMAT, **self.about, "facts": self.facts}, indent=1))
            for name, table in self._tables():
                archive.writestr(zipfile.ZipInfo(name), _parquet(table))  # Parquet is compressed already
            for folder, texts in ((ARTIFACTS, self.artifacts), (TRIALS, self.trial_files)):
                for name, content in texts.items():
                    archive.writestr(folder + name, content)
            if self.journal is not None:
                archive.writestr(JOURNAL, self.journal)
        temporary = path.with_name(path.name + ".part")
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)

    def _tables(self) -> list[tuple[str, pa.Table]]:
        rows = [asdict(row) for row in self.rows]
        for row in rows:
            row |= {name: json.dumps(row[name]) for name in IN_JSON}
        texts = {f.name: pa.string() for f in fields(TrialRow)}
        numbers = {"number": pa.int64(), "optuna_number": pa.int64(), "attempts": pa.int64()}
        book = pa.Table.from_pylist(rows, pa.schema(list({**texts, **numbers}.items())))
        runs = pa.Table.from_pylist(
            [
                {**asdict(run.info), "tags": json.dumps(run.data.tags), "params": json.dumps(run.data.params)}
                for run in self.runs
            ]
        )
        points = [
            (at, name, step, value)
            for at, run in enumerate(self.runs)
            for name, history in run.history.items()
            for step, value in history
        ]
        columns: Sequence[Sequence[Any]] = [*zip(*points, strict=True)] or [()] * 4
        types = (pa.int32(), pa.string(), pa.int64(), pa.float64())
        metrics = pa.table(
            [pa.array(c, t) for c, t in zip(columns, types, strict=True)], names=["run", "metric", "step", "value"]
        )
        return [(BOOK, book), (RUNS, runs), (METRICS, metrics), *self._outcome_tables()]

    def _outcome_tables(self) -> list[tuple[str, pa.Table]]:
        found = []
        for number, one in enumerate(self.outcomes):
            columns = {"path": list(one.path), "label": one.label.astype(np.int32)}
            columns |= {key: predicted.astype(np.int32) for key, predicted in one.predicted.items()}
            table = pa.table(columns).replace_schema_metadata({"benchmark": one.benchmark, "part": one.part})
            found.append((f"{OUTCOMES}{number:03d}.parquet", table))
        return found

    @classmethod
    def read(cls, path: Path) -> Bundle:
        """Read a file that :meth:`write` wrote.

        Raises:
            BundleError: it is not there, is no bundle, is damaged, or is of a later version.
        """
        with _opened(path) as archive:
            about = _about(path, archive)
            facts = about.pop("facts")
            tables = {n: _table(archive, n) for n in archive.namelist() if n.endswith(".parquet")}
            outcomes = tuple(_outcomes(tables[name]) for name in sorted(tables) if name.startswith(OUTCOMES))
            return cls(
                about=about,
                facts=facts,
                rows=tuple(_row(row) for row in tables[BOOK].to_pylist()),
                runs=_runs(tables[RUNS], tables[METRICS]),
                outcomes=outcomes,
                artifacts=_texts(archive, ARTIFACTS),
                trial_files=_texts(archive, TRIALS),
                journal=archive.read(JOURNAL) if JOURNAL in archive.namelist() else None,
            )


def about(path: Path) -> dict[str, Any]:
    """What a bundle says of itself, without reading the rest.

    Raises:
        BundleError: as :meth:`Bundle.read`.
    """
    with _opened(path) as archive:
        found = _about(path, archive)
    del found["facts"]
    return found


class _opened:  # noqa: N801  a context manager, used like a function
    """The archive of a bundle; whatever is wrong with the file is one sentence."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> zipfile.ZipFile:
        try:
            self.archive = zipfile.ZipFile(self.path)
        except FileNotFoundError:
            raise BundleError(f"{self.path} does not exist; give the file that equipoise bundle wrote") from None
        except OSError as error:
            raise BundleError(f"{self.path} cannot be read: {error.strerror or error}") from None
        except zipfile.BadZipFile:
            raise BundleError(f"{self.path} is no bundle, or cut off: write it again with equipoise bundle") from None
        return self.archive

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.archive.close()
        broken = (zipfile.BadZipFile, pa.ArrowInvalid, KeyError, EOFError, json.JSONDecodeError, UnicodeDecodeError)
        if isinstance(error, (*broken, zipfile.zlib.error)):  # type: ignore[attr-defined]
            raise BundleError(f"{self.path} is damaged ({error}): copy it again, or write it again") from None


def _about(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    if ABOUT not in archive.namelist():
        raise BundleError(f"{path} is a ZIP archive but no bundle: it holds no {ABOUT}")
    found: dict[str, Any] = json.loads(archive.read(ABOUT))
    if found.pop("format") > FORMAT:
        version = found.get("versions", {}).get("equipoise", "a later version")
        raise BundleError(f"{path} was written by Equipoise {version}, in a format this one does not know: update it")
    return found


def _parquet(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", compression_level=9)
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def _table(archive: zipfile.ZipFile, name: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(archive.read(name)))


def _texts(archive: zipfile.ZipFile, folder: str) -> dict[str, bytes]:
    return {n.removeprefix(folder): archive.read(n) for n in archive.namelist() if n.startswith(folder)}


def _row(content: dict[str, Any]) -> TrialRow:
    content |= {name: json.loads(content[name]) for name in IN_JSON}
    content["rungs"] = {int(step): scores for step, scores in content["rungs"].items()}
    content["health"] = {int(step): Health(*one) for step, one in content["health"].items()}
    return TrialRow(**content)


def _runs(runs: pa.Table, metrics: pa.Table) -> tuple[KeptRun, ...]:
    histories: list[dict[str, list[tuple[int, float]]]] = [{} for _ in range(len(runs))]
    columns = (metrics.column(name).to_pylist() for name in ("run", "metric", "step", "value"))
    for run, metric, step, value in zip(*columns, strict=True):
        histories[run].setdefault(metric, []).append((step, value))
    found = []
    for content, history in zip(runs.to_pylist(), histories, strict=True):
        tags, params = (json.loads(content.pop(name)) for name in ("tags", "params"))
        last = {name: points[-1][1] for name, points in history.items()}
        found.append(KeptRun(RunInfo(**content), RunData(tags, params, last), history))
    return tuple(found)


def _outcomes(table: pa.Table) -> Outcomes:
    said = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    columns = {name: table.column(name) for name in table.column_names}
    path, label = columns.pop("path").to_pylist(), columns.pop("label").to_numpy().astype(np.int64)
    predicted = {key: column.to_numpy().astype(np.int64) for key, column in columns.items()}
    return Outcomes(said["benchmark"], said["part"], tuple(path), label, predicted)


class BundledRuns:
    """Runs of studies as their bundles hold them: to be read, see :class:`equipoise.platform.record.runs.Runs`.

    Args:
        bundles: of the studies.
        uri: what sentences call them.
    """

    def __init__(self, bundles: Sequence[Bundle], uri: str) -> None:
        self.bundles, self.uri = tuple(bundles), uri
        self._runs = {run.info.run_id: run for bundle in bundles for run in bundle.runs}

    def studies(self, name: str | None = None) -> list[Any]:
        """Parent runs of the studies of a name, or of all."""
        found = [bundle.runs[0] for bundle in self.bundles]
        return [run for run in found if name is None or run.data.tags[RESULT_TAG] == name]

    def run(self, run_id: str) -> Any:
        """One run; raises TrackingError where there is none."""
        if run_id not in self._runs:
            raise TrackingError(f"there is no run {run_id!r} in {self.uri}")
        return self._runs[run_id]

    def children(self, parent: str) -> list[Any]:
        """Runs of a study's trials, oldest first."""
        return [run for run in self._runs.values() if run.data.tags.get(PARENT) == parent]

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """Every value of a metric with its step."""
        return list(self.run(run_id).history.get(metric, ()))

    def files(self, run_id: str, folder: str | None = None) -> list[str]:
        """Paths of the artifacts in a run, or in a folder of it."""
        prefix = "" if folder is None else f"{folder}/"
        below = [n for n in self._texts(run_id) if n.startswith(prefix)]
        return [n for n in below if "/" not in n.removeprefix(prefix)]

    def fetch(self, run_id: str, name: str, to: Path) -> Path:
        """Write an artifact, or a folder of them, into a folder; raises TrackingError where it is not held."""
        kept = {n: content for n, content in self._texts(run_id).items() if n == name or n.startswith(f"{name}/")}
        if not kept:
            raise TrackingError(f"{name} cannot be read from {self.uri}: it is not there")
        for path, content in kept.items():
            (to / path).parent.mkdir(parents=True, exist_ok=True)
            (to / path).write_bytes(content)
        return to / name

    def _texts(self, run_id: str) -> Mapping[str, bytes]:
        for bundle in self.bundles:
            if bundle.runs[0].info.run_id == run_id:
                return bundle.artifacts
            for row in bundle.rows:
                if row.run_id == run_id:
                    prefix = f"{row.key}/"
                    own = {n.removeprefix(prefix): c for n, c in bundle.trial_files.items() if n.startswith(prefix)}
                    return {"settings.json": (row.settings or "").encode(), **own}
        return {}


@dataclass(frozen=True)
class Shelf(Home):
    """A home whose record is bundles: everything in it can be read, and nothing run.

    Attributes:
        bundles: of the studies.
        source: name or file of the first.
    """

    bundles: tuple[Bundle, ...] = ()
    source: str = ""

    @property
    def bundle(self) -> str | None:
        """Name or file of the first of them."""
        return self.source

    def unrecorded(self) -> str | None:
        """Never: the bundles are its record."""
        return None

    def tracker(self, *, create: bool = False) -> Tracker:
        """Their runs. What only writes is not there: nothing that reads a study asks for it."""
        return cast(Tracker, self._runs)

    @functools.cached_property
    def _runs(self) -> BundledRuns:
        return BundledRuns(self.bundles, f"the bundle of {', '.join(b.study for b in self.bundles)}")
