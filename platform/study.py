"""Studies from start to finish: a sweep, an ablation, a single pretraining; started, resumed, read back."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise.data.importers import command_for
from equipoise.platform.audit import AuditResult, audit, audit_apart, refuse_dead, space_settings
from equipoise.platform.cache_building import cache_runner
from equipoise.platform.cluster import ray_cluster
from equipoise.platform.definitions import AblationDefinition, StudyBase, SweepDefinition
from equipoise.platform.director import Director
from equipoise.platform.engine import run
from equipoise.platform.errors import StudyError
from equipoise.platform.home import Home
from equipoise.platform.ledger import Ledger, Row
from equipoise.platform.mix import resolve
from equipoise.platform.mlflow_pages import keep_view
from equipoise.platform.progress import StudyDisplay
from equipoise.platform.proposals import OptunaProposer, baseline_of
from equipoise.platform.settings import TrialSettings
from equipoise.platform.storage import Place
from equipoise.platform.tracking import Tracker
from equipoise.platform.training import check_cache_space, compute_threads, open_cache
from equipoise.platform.warm_start import earlier_mixes

CacheProgress = Callable[[str, int, int], None]
AUDIT_CLIPS = 8  # enough for every objective to find tokens, small enough for a head node without a GPU
GIVEN = "given"  # fact of a study's book: what the command line changed of its definition
SPACE = "search space"  # key of a sweep's space among the mixes that are audited; no variant can have that name
# What may change between a study's start and its resumption without changing what its trials are.
MAY_CHANGE = ("trials", "budget", "prices", "concurrent", "retries", "resources", "description")
MAY_END = "early_stopping"  # may be left out from a resumption on: its looks may turn out to tell nothing


@dataclass(frozen=True)
class Outcome:
    """What a study came to.

    Attributes:
        name: the study.
        complete: every trial ended; False after an interrupt.
        planned: trials of the whole study, those of a search that were not proposed yet included.
        rows: all trials of its book.
        parent: MLflow parent run.
        trials: where its trials wrote.
        note: what its budget left undone, in a sentence; None for nothing.
    """

    name: str
    complete: bool
    planned: int
    rows: tuple[Row, ...]
    parent: str
    trials: Place
    note: str | None = None

    def count(self, status: str) -> int:
        """Trials of a status."""
        return sum(r.status == status for r in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        trials = [
            {
                "trial": r.key,
                "variant": r.name,
                "seed": json.loads(r.settings)["seed"] if r.settings else None,
                "role": r.role,
                "status": r.status,
                "accuracies": (r.result or {}).get("accuracies"),
                "checkpoint": (r.result or {}).get("checkpoint"),
                "error": r.error,
                "optuna_number": r.optuna_number,
                "mlflow_run": r.run_id,
                "folder": str(self.trials / r.key),
            }
            for r in self.rows
        ]
        record = {"study": self.name, "complete": self.complete, "note": self.note, "mlflow_run": self.parent}
        return {**record, "trials": trials}


def prepare_caches(
    settings: TrialSettings,
    home: Home,
    probe: bool,
    progress: CacheProgress | None = None,
    address: str | None = None,
) -> str:
    """Read every manifest and build every clip cache a trial will need, before anything starts.

    With the ``address`` of a cluster its nodes build large ones together.

    Returns:
        Sixteen hex digits that identify the content of all the manifests together.

    Raises:
        ValueError: a manifest, decoding or cache error, in one sentence.
    """
    manifests = [s.manifest for s in settings.regime.sources.values()]
    if probe:
        for name in settings.scored:
            manifests += [settings.regime.benchmarks[name].train, settings.regime.benchmarks[name].test]
    for manifest in manifests:
        if not (home.data / manifest).is_file():
            raise StudyError(
                f"the manifest {home.data / manifest} of regime {settings.regime.name!r} does not exist: "
                f"make it by {command_for(manifest)}, or name the home that has it with --home"
            )
    run = cache_runner(address)
    names = dict.fromkeys(manifests)
    check_cache_space(settings, home.paths, names)
    hashes = {m: open_cache(settings, home.paths, m, progress, run).manifest_hash for m in names}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:16]


def run_study(
    definition: StudyBase,
    home: Home,
    *,
    kind: str,
    listed: Sequence[tuple[str, str, TrialSettings]],
    probe: bool = True,
    resume: bool = False,
    address: str | None = None,
    quiet: bool = False,
    progress: CacheProgress | None = None,
    given: Mapping[str, Any] | None = None,
) -> Outcome:
    """Start or resume a study and run it to its end.

    Args:
        definition: what was asked for.
        home: where it is written.
        kind: ``sweep``, ``ablation`` or ``pretrain``.
        listed: role, variant name and settings of the trials that are known beforehand.
        probe: score every trial on the benchmarks.
        resume: go on with a study of this name.
        address: Ray cluster; None starts one on this machine.
        quiet: show no progress.
        progress: called while clip caches are built and objectives audited.
        given: what the command line changed of the definition, kept for a resumption that does not repeat it.

    Raises:
        EquipoiseError: if it cannot start; what was finished before stays as it is.
    """
    example = listed[0][2]
    for _, _, settings in listed:
        resolve(settings)
    home.make()
    folder, trials = home.folder(definition.name), home.trials(definition.name)
    home.search_store(definition.name)
    home.place.check()
    started = (folder / "ledger.db").is_file()
    if started and not resume:
        raise StudyError(
            f"study {definition.name!r} exists in {home.root}: go on with --resume, or choose another --name"
        )
    if resume and not started:
        raise StudyError(
            f"there is no study {definition.name!r} in {home.root} to resume; leave --resume out to start it"
        )
    manifest_hash = prepare_caches(example, home, probe, progress, address)
    audits = [] if started else audit_study(definition, [s for _, _, s in listed], home, progress)
    tracker = home.tracker()
    ledger = Ledger(folder / "ledger.db")
    try:
        _same_places(definition, home, ledger)
        parent = _parent(definition, kind, ledger, tracker, example, probe)
        if given is not None:
            ledger.set_fact(GIVEN, given)
        _log_audits(audits, tracker, parent)
        if ledger.fact("listed") is None:
            for role, name, settings in listed:
                ledger.open_trial(name, role, settings.model_dump_json())
            ledger.set_fact("listed", True)
        display = StudyDisplay(f"{kind} {definition.name}", quiet)
        director = _director(definition, home, ledger, tracker, parent, display, example, probe, manifest_hash)
        display.planned = director.planned()
        with display:
            tracker.on_wait(display.waiting)
            director.reconcile()
            tracker.running(parent)
            complete = False
            try:
                with ray_cluster(address, dashboard=example.resources.uses_train):
                    complete = run(director, definition.retries)
            finally:
                tracker.end(parent, "finished" if complete else "interrupted")
        if director.halted is not None:
            raise StudyError(
                f"study {definition.name!r} stopped: {director.halted}; its {len(ledger.rows('finished'))} finished "
                "trials are kept: mend that, then go on with --resume"
            )
        note = director.budget_note()
        return Outcome(definition.name, complete, director.planned(), tuple(ledger.rows()), parent, trials, note)
    finally:
        ledger.close()


def audit_study(
    definition: StudyBase, listed: Sequence[TrialSettings], home: Home, progress: CacheProgress | None = None
) -> list[AuditResult]:
    """Audit every distinct mix of a study on one small real batch, before anything starts.

    Raises:
        AuditError: if an objective trains nothing, unless the study reads its variants ``as_published``.
    """
    settings = {s.variant_name: s for s in listed if s.variant.objectives}
    if isinstance(definition, SweepDefinition):
        settings[SPACE] = space_settings(definition)
    found: list[AuditResult] = []
    for name, one in settings.items():
        small = one.preset.optimisation.model_copy(update={"batch": min(AUDIT_CLIPS, one.preset.optimisation.batch)})
        alone = one.resources.model_copy(update={"workers": 1, "launcher": "auto"})
        preset = one.preset.model_copy(update={"optimisation": small})
        with compute_threads(1):
            look = audit_apart if name == SPACE else audit
            result = look(one.model_copy(update={"preset": preset, "resources": alone}), home.paths)
        refuse_dead(result)
        found.append(result)
        if progress is not None:
            progress("audit of the objectives", len(found), len(settings))
    return found


def _log_audits(audits: Sequence[AuditResult], tracker: Tracker, parent: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        for result in audits:
            (Path(temporary) / f"{result.variant}.json").write_text(json.dumps(result.to_dict(), indent=1))
            result.write_heatmap(Path(temporary) / f"{result.variant}.png")
        if audits:
            tracker.artifacts(parent, Path(temporary), "audit")


def _director(
    definition: StudyBase,
    home: Home,
    ledger: Ledger,
    tracker: Tracker,
    parent: str,
    display: StudyDisplay,
    example: TrialSettings,
    probe: bool,
    manifest_hash: str,
) -> Director:
    director = Director(
        study=definition.name,
        folder=home.folder(definition.name),
        trials=home.trials(definition.name),
        ledger=ledger,
        tracker=tracker,
        parent=parent,
        paths=home.paths,
        display=display,
        benchmarks=example.scored if probe else (),
        manifest_hash=manifest_hash,
        resources=example.resources,
        concurrent=definition.concurrent,
        prices=definition.prices,
    )
    if isinstance(definition, SweepDefinition):
        preset, regime = example.preset, example.regime
        director.proposer = OptunaProposer(
            definition,
            example.scored,
            home.search_store(definition.name),
            parent,
            baseline=lambda: baseline_of(ledger.rows()),
            earlier=lambda: earlier_mixes(definition, tracker, example, manifest_hash),
        )
        director.make = lambda name, variant, seed: definition.trial(name, variant, seed, preset, regime)
        director.searched = definition.trials
        director.halving, director.seeds = definition.early_stopping, definition.seeds
        director.budget = definition.budget
    return director


def _same_places(definition: StudyBase, home: Home, ledger: Ledger) -> None:
    """A resumed study must find what it wrote where it wrote it."""
    now: dict[str, str | None] = {"storage": None, "optuna_storage": None}
    if home.place != Place.at(home.root / "studies"):
        now["storage"] = str(home.place)
    if home.optuna_storage is not None and isinstance(definition, SweepDefinition):
        now["optuna_storage"] = home.search_store(definition.name).name
    if ledger.fact("definition") is None:
        ledger.set_fact("places", now)
    before = ledger.fact("places") or dict.fromkeys(now)
    for key, place in now.items():
        if place != before[key]:
            option = "--" + key.replace("_", "-")
            was, is_ = (p or "the home folder" for p in (before[key], place))
            raise StudyError(
                f"study {definition.name!r} was started with {option} {was}, now it is {is_}: "
                "resume it where it was, or choose another --name"
            )


def _parent(
    definition: StudyBase, kind: str, ledger: Ledger, tracker: Tracker, example: TrialSettings, probe: bool
) -> str:
    """Parent run of the study; a resumed study must be the one that was started."""
    now = definition.model_dump(mode="json")
    before = ledger.fact("definition")
    if before is not None:
        differs = [k for k in now if k not in MAY_CHANGE and now[k] != before.get(k)]
        changed = [k for k in differs if k != MAY_END or now[k] is not None]
        if changed:
            key = changed[0]
            raise StudyError(
                f"study {definition.name!r} was started with {key} {before.get(key)!r}, now it is {now[key]!r}: "
                "resume it as it was, or choose another --name"
            )
    ledger.set_fact("definition", now)
    parent: str | None = ledger.fact("parent")
    if parent is None:
        parent = tracker.start_study(definition.name, kind, now)
        ledger.set_fact("parent", parent)
        tracker.tag(parent, benchmarks=json.dumps(list(example.scored) if probe else []))
        if probe:
            keep_view(tracker, definition.name, parent, example.scored)
    elif now != before:
        tracker.define(parent, now)  # prices, a budget, trials: what reads the record should see the newest
    return parent


def sweep(definition: SweepDefinition, home: Home, **options: Any) -> Outcome:
    """Run a search over objective weights, controls first."""
    preset, regime = definition.load()
    if definition.early_stopping is not None:
        definition.early_stopping.steps(preset.optimisation.steps)  # before anything starts
    listed = [
        ("control", name, definition.trial(name, variant, seed, preset, regime))
        for name, variant, seed in definition.controls()
    ]
    if not listed:
        raise StudyError("a sweep needs its controls: without them nothing it finds can be called an improvement")
    if definition.warm_start is not None and not options.get("resume"):
        # What is wrong with it is said before anything starts.
        found = earlier_mixes(definition, home.tracker(), listed[0][2])
        if options.get("progress") is not None:
            options["progress"](found.sentence, 1, 1)
    return run_study(definition, home, kind="sweep", listed=listed, **options)


def ablate(definition: AblationDefinition, home: Home, **options: Any) -> Outcome:
    """Run named variants with every seed, controls first."""
    preset, regime = definition.load()
    members = [("control", *c) for c in definition.controls()] + [("ablation", *m) for m in definition.members()]
    listed = [
        (role, name, definition.trial(name, variant, seed, preset, regime)) for role, name, variant, seed in members
    ]
    return run_study(definition, home, kind="ablation", listed=listed, **options)


def pretrain(definition: AblationDefinition, home: Home, **options: Any) -> Outcome:
    """Pretrain one variant with one seed, without scoring it."""
    preset, regime = definition.load()
    listed = [("single", n, definition.trial(n, v, s, preset, regime)) for n, v, s in definition.members()]
    return run_study(definition, home, kind="pretrain", listed=listed, probe=False, **options)
