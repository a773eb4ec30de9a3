"""Studies that travel: into one file, and out of it into another home, where they are shown, confirmed and resumed."""

from __future__ import annotations

import hashlib
import shlex
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from equipoise.data.manifest import Manifest, ManifestError
from equipoise.platform.errors import StudyError, nearest
from equipoise.platform.provenance import git_commit
from equipoise.platform.record.bundle import SUFFIX, Bundle, BundleError, Outcomes, Shelf, about
from equipoise.platform.record.correctness import FOLDER
from equipoise.platform.record.home import BOOK, Home
from equipoise.platform.record.ledger import Ledger, TrialRow
from equipoise.platform.record.openings import OPENINGS
from equipoise.platform.record.reading import DEFINITION, StudyRecord
from equipoise.platform.record.runs import KeptRun, RunData, RunInfo
from equipoise.platform.record.tracking import VERSIONS
from equipoise.platform.search.store import SearchStore
from equipoise.platform.settings.files import shipped
from equipoise.platform.settings.preset import Preset, load_preset
from equipoise.platform.settings.trial import Regime, load_regime
from equipoise.platform.storage import Place
from equipoise.platform.study.caches import CacheProgress, data_identity, manifest_names
from equipoise.platform.study.resume import CHANGED, PLACES, places_of
from equipoise.platform.trial.evaluation import PART

TEXTS = ("scores.json", "error.txt")  # of a trial's folder
# Tags of a run that say nothing elsewhere.
OF_A_MACHINE = ("checkpoint", "mlflow.user", "mlflow.source.name", "mlflow.source.type")
UNDERWAY = "unbundling"  # tag of a study's run while it is being written
GUIDES = {"preset": "presets", "regime": "regimes"}  # keys of a definition that name a file, and where shipped ones are


def bundle(record: StudyRecord) -> Bundle:
    """A study as it stands, of a home that holds its book; a driver may be at work on it.

    Raises:
        StudyError: its book is not in the home.
        TrackingError: its runs cannot be read.
        StorageError: outcomes of a finished trial cannot be read.
    """
    home, name = record.home, record.name
    with home.book(name) as book:
        rows, facts = tuple(_apart(row) for row in book.rows()), book.facts()
    trials = home.trials(name)
    runs = [_kept(record, run) for run in (record.run, *record.trials)]
    finished = [row for row in rows if row.status == "finished" and (row.result or {}).get("accuracies")]
    texts = {
        f"{row.key}/{text}": (trials / row.key / text).read()
        for row in rows
        for text in TEXTS
        if (trials / row.key / text).exists()
    }
    hashes = {run.data.tags["manifest_hash"] for run in record.trials if "manifest_hash" in run.data.tags}
    return Bundle(
        about={
            "study": name,
            "kind": record.tags.get("kind", "study"),
            "part": record.part if record.benchmarks else None,
            "benchmarks": list(record.benchmarks),
            "description": record.definition.get("description", ""),
            "trials": dict(Counter(row.status for row in rows)),
            "bundled": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": {package: version(package) for package in VERSIONS},
            "git_commit": git_commit(),
            "data": sorted(hashes),
            "manifests": _manifests(rows, home, record, hashes),
            "confirms": record.definition.get("confirms"),
        },
        facts=facts,
        rows=rows,
        runs=tuple(runs),
        outcomes=tuple(_outcomes(trials, finished)),
        artifacts=_artifacts(record),
        trial_files=texts,
        journal=SearchStore.of(home, name).export(name) if "sampler" in record.definition else None,
    )


def _artifacts(record: StudyRecord) -> dict[str, bytes]:
    """What was asked for, audited and opened; conclusions are drawn again from the trials."""
    tracker, run_id = record.tracker, record.run_id
    audits = [path for path in tracker.files(run_id, "audit") if path.endswith(".json")]
    paths = [*(path for path in tracker.files(run_id) if path in (DEFINITION, OPENINGS)), *audits]
    with tempfile.TemporaryDirectory() as temporary:
        return {path: tracker.fetch(run_id, path, Path(temporary)).read_bytes() for path in paths}


def _kept(record: StudyRecord, run: Any) -> KeptRun:
    info, data = run.info, run.data
    kept = RunInfo(info.run_id, info.run_name, info.status, info.start_time, info.end_time)
    history = {name: record.tracker.history(info.run_id, name) for name in sorted(data.metrics)}
    tags = {key: value for key, value in data.tags.items() if key not in OF_A_MACHINE}
    return KeptRun(kept, RunData(tags, dict(data.params), dict(data.metrics)), history)


def _manifests(rows: tuple[TrialRow, ...], home: Home, record: StudyRecord, hashes: set[str]) -> dict[str, str]:
    """Hash of each manifest that the trials read; none where the data is not here any more, or is another."""
    settings = next((r.asked for r in rows if r.settings), None)
    if settings is None:
        return {}
    names = manifest_names(settings, record.part if record.benchmarks else None)
    try:
        found = {name: Manifest.read(home.data / name).hash for name in names}
    except ManifestError:
        return {}
    return found if {data_identity(found)} == hashes else {}


def _outcomes(trials: Place, rows: list[TrialRow]) -> Iterator[Outcomes]:
    """Outcomes of trials, those on the same items in the same order together."""
    groups: dict[tuple[str, str, tuple[str, ...], bytes], dict[str, np.ndarray[Any, np.dtype[np.int64]]]] = {}
    for row in rows:
        for benchmark in (row.result or {})["accuracies"]:
            place = trials / row.key / FOLDER / f"{benchmark}.parquet"
            try:
                table = pq.read_table(pa.BufferReader(place.read()))
            except (FileNotFoundError, pa.ArrowInvalid) as error:
                raise StudyError(f"outcomes of trial {row.key} cannot be read from {place}: {error}") from None
            part = (table.schema.metadata or {}).get(PART.encode(), b"test").decode()
            label = table.column("label").to_numpy().astype(np.int64)
            key = benchmark, part, tuple(table.column("path").to_pylist()), label.tobytes()
            groups.setdefault(key, {})[row.key] = table.column("predicted").to_numpy().astype(np.int64)
    for (benchmark, part, path, label), predicted in groups.items():
        yield Outcomes(benchmark, part, path, np.frombuffer(label, np.int64), predicted)


@dataclass(frozen=True)
class Unbundled:
    """A study that came out of a bundle.

    Attributes:
        study: its name.
        finished: trials that are finished, and are not run again.
        open: trials that were asked for and did not end.
        resume: the words after ``equipoise`` that go on with it, less the home; None where nothing does.
    """

    study: str
    finished: int
    open: int
    resume: str | None


def refuse_code(bundle: Bundle, trusted: bool) -> None:
    """Refuse a bundle that carries plug-ins nobody has said are trusted: their text would run.

    Raises:
        BundleError: naming them.
    """
    if bundle.code and not trusted:
        raise BundleError(
            f"the bundle of {bundle.study} carries code that would run here: {', '.join(bundle.code)}. Read it (a "
            "bundle is a zip archive: unzip -p FILE), then trust it: equipoise unbundle FILE --trust-plugins"
        )


def unbundle(
    bundle: Bundle, home: Home, progress: CacheProgress | None = None, *, trust_plugins: bool = False
) -> Unbundled:
    """Make a bundle a study of a home: in its record, with its trials' outcomes, ready to go on.

    What is finished stays finished; what was under way when the study was bundled starts again, because checkpoints do
    not travel. Nothing of it is seen before all of it is there: a second attempt clears what a first one left.

    Args:
        bundle: the study.
        home: where it goes.
        progress: called with what, done and total.
        trust_plugins: run the code that it may carry.

    Raises:
        BundleError: the home has a study of this name, or it carries code that is not trusted.
        TrackingError: the record cannot be written.
        StorageError: outcomes cannot be written.
    """
    refuse_code(bundle, trust_plugins)
    with home.hold(bundle.study):
        return _unbundled(bundle, home, progress)


def _unbundled(bundle: Bundle, home: Home, progress: CacheProgress | None) -> Unbundled:
    name, tracker = bundle.study, home.tracker()
    if home.has_book(name):
        raise BundleError(f"{home.root} has a study {name!r} already: unbundle into another --home")
    for run in tracker.studies(name):
        if run.data.tags.get(UNDERWAY) != "true":
            raise BundleError(f"{tracker.uri} has a study {name!r} already: unbundle into another record")
        tracker.delete(run.info.run_id)
    parent, *children = bundle.runs
    run_id = tracker.restore(parent, **{UNDERWAY: "true"})
    tracker.texts(run_id, bundle.artifacts)
    new = {parent.info.run_id: run_id}
    own = {row.run_id: f"{row.key}/" for row in bundle.rows}
    for count, run in enumerate(children, 1):
        if progress is not None:
            progress("runs", count, len(children))
        made = new[run.info.run_id] = tracker.restore(run, parent=run_id)
        key = own.get(run.info.run_id)
        if key is not None:
            texts = {n.removeprefix(key): c for n, c in bundle.trial_files.items() if n.startswith(key)}
            row = next(r for r in bundle.rows if r.run_id == run.info.run_id)
            tracker.texts(made, {**texts, "settings.json": (row.settings or "").encode()})
    rows = [replace(_settled(row), run_id=new.get(row.run_id or "")) for row in bundle.rows]
    lay(replace(bundle, rows=tuple(rows)), home, run_id)
    tracker.tag(run_id, **{UNDERWAY: "false"})
    finished = sum(row.status == "finished" for row in rows)
    waiting = sum(row.status in ("proposed", "ready", "running", "interrupted") for row in rows)
    return Unbundled(name, finished, waiting, _resume(bundle, home))


def lay(bundle: Bundle, home: Home, run_id: str | None = None) -> None:
    """Write what a study has outside MLflow into a home, its book last.

    Args:
        bundle: of the study.
        home: where it goes.
        run_id: of its parent run there; None for that of the bundle.
    """
    folder, trials = home.folder(bundle.study), home.trials(bundle.study)
    folder.mkdir(parents=True, exist_ok=True)
    for one in bundle.outcomes:
        for key, predicted in one.predicted.items():
            columns = {"path": list(one.path), "label": one.label, "predicted": predicted}
            table = pa.table({**columns, "correct": predicted == one.label}).replace_schema_metadata({PART: one.part})
            buffer = pa.BufferOutputStream()
            pq.write_table(table, buffer)
            (trials / key / FOLDER / f"{one.benchmark}.parquet").write(buffer.getvalue().to_pybytes())
    for name, content in bundle.trial_files.items():
        (trials / name).write(content)
    facts = {**bundle.facts, **_definition(bundle, folder)}
    if run_id is not None:
        facts["parent"] = run_id
    if bundle.journal is not None:
        SearchStore.of(home, bundle.study).restore(bundle.study, bundle.journal, facts["parent"])
    # Where trials wrote, and what a command line changed, was said on another machine.
    facts |= {PLACES: places_of(bundle.study, home, bundle.journal is not None), CHANGED: {}}
    temporary = folder / f"{BOOK}.part"
    temporary.unlink(missing_ok=True)
    with Ledger(temporary) as book:
        for key, value in facts.items():
            book.set_fact(key, value)
        book.restore(bundle.rows)
    temporary.rename(folder / BOOK)


def _apart(row: TrialRow) -> TrialRow:
    """A trial without the place of its checkpoint, which does not travel."""
    return row if row.result is None else replace(row, result={**row.result, "checkpoint": None})


def _settled(row: TrialRow) -> TrialRow:
    """A trial as another machine finds it: interrupted where it was under way."""
    return replace(row, status="interrupted") if row.status in ("ready", "running") else row


def _file(bundle: Bundle, folder: Path) -> Path:
    return folder / f"{bundle.study}.yaml"


def _definition(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Write the definition as a YAML file that resumes the study; returns the fact of the book that it makes.

    A preset or regime that does not ship, or ships with other values now, is written beside it.
    """
    content = dict(bundle.facts.get("definition") or {})
    settings = next((r.asked for r in bundle.rows if r.settings), None)
    if not content or settings is None:
        return {}
    for key, kind in GUIDES.items():
        wanted = getattr(settings, key)
        if content[key] not in shipped(kind) or _now(key, content) != wanted:
            file = folder / f"{key}-{Path(content[key]).stem}.yaml"
            file.write_text(yaml.safe_dump(wanted.model_dump(mode="json"), sort_keys=False))
            content[key] = file.name
    kept = {key: value for key, value in content.items() if value is not None}
    _file(bundle, folder).write_text(yaml.safe_dump(kept, sort_keys=False))
    return {"definition": {**content, **{k: str(folder / content[k]) for k in GUIDES if content[k].endswith(".yaml")}}}


def _now(key: str, content: Mapping[str, Any]) -> Preset | Regime:
    """What ships today under the name that a definition uses."""
    if key == "preset":
        return load_preset(content["preset"], tuple(content.get("set", ())))
    return load_regime(content["regime"])


def _resume(bundle: Bundle, home: Home) -> str | None:
    """The words that go on with a study; None for a single pretraining, whose checkpoint is all that it made."""
    kind, file = bundle.about["kind"], _file(bundle, home.folder(bundle.study))
    if kind == "confirmation":
        return f"confirm {bundle.about['confirms']} --name {bundle.study} --resume"
    command = {"sweep": "sweep", "ablation": "ablate"}.get(kind)
    return f"{command} {shlex.quote(str(file))} --resume" if command else None


def references() -> dict[str, Path]:
    """Bundles of the studies that ship, by name."""
    folder = Path(str(resources.files("equipoise.search_spaces"))) / "reference"
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def bundle_at(name_or_path: str) -> Path:
    """The file of a bundle: one that ships, by name, or a person's own.

    Raises:
        BundleError: a name that none that ships has, with the nearest.
    """
    known = references()
    if name_or_path in known:
        return known[name_or_path]
    if not name_or_path.endswith(SUFFIX):
        raise BundleError(f"there is no reference {name_or_path!r}; {nearest(name_or_path, known)}")
    return Path(name_or_path)


def open_bundle(name_or_path: str, root: Path) -> StudyRecord:
    """The study of a bundle, to be read at once; nothing of it enters the record of a home.

    Args:
        name_or_path: of a study that ships, or of a file. What its study confirms, and what confirms it, is looked for
            beside it.
        root: of the home below whose ``references/`` its tables are laid out.

    Raises:
        BundleError: no such bundle, one that cannot be read, or that carries code.
    """
    path = bundle_at(name_or_path)
    chosen = about(path)
    family = {chosen["study"], chosen["confirms"]}
    beside = [p for p in sorted(path.parent.glob(f"*{SUFFIX}")) if p != path]
    paths = [path, *(p for p in beside if (a := about(p))["study"] in family or a["confirms"] in family - {None})]
    bundles = tuple(Bundle.read(p) for p in paths)
    for one in bundles:
        refuse_code(one, False)
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in paths)).hexdigest()[:12]
    shelf = Shelf(root / "references" / f"{path.stem}-{digest}", bundles=bundles, source=name_or_path)
    for one in bundles:
        if not shelf.has_book(one.study):
            lay(one, shelf)
    return StudyRecord.open(shelf, chosen["study"])
