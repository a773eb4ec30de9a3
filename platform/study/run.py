"""Studies from start to finish: a sweep, an ablation, a single pretraining; started, resumed, read back."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from equipoise.platform.errors import StudyError
from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import Ledger, TrialRow, baseline_of
from equipoise.platform.record.openings import Opening, keep_opening
from equipoise.platform.record.reading import find_study
from equipoise.platform.record.tracking import Tracker
from equipoise.platform.search.proposer import OptunaProposer
from equipoise.platform.search.store import SearchStore
from equipoise.platform.search.warm_start import earlier_mixes
from equipoise.platform.settings.mix import resolve
from equipoise.platform.settings.parts import Part
from equipoise.platform.settings.study import AblationDefinition, ConfirmationDefinition, StudyBase, SweepDefinition
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Place
from equipoise.platform.study.audit_gate import audit_study, log_audits
from equipoise.platform.study.caches import CacheProgress, prepare_caches
from equipoise.platform.study.cluster import capacity, check_start, ray_cluster
from equipoise.platform.study.director import Director
from equipoise.platform.study.plan import SearchPlan, StudyPlan
from equipoise.platform.study.progress import StudyDisplay
from equipoise.platform.study.ray_tune import run
from equipoise.platform.study.resume import (
    CHANGED,
    check_search,
    parent_run,
    refuse_other_data,
    refuse_other_part,
    refuse_other_places,
)


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
        part: of the benchmarks that its trials were scored on; None: on nothing.
    """

    name: str
    complete: bool
    planned: int
    rows: tuple[TrialRow, ...]
    parent: str
    trials: Place
    note: str | None = None
    part: Part | None = None

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
        record["part"] = self.part
        return {**record, "trials": trials}


@dataclass(frozen=True)
class RunOptions:
    """How a study is run; nothing of it changes what its trials are.

    Attributes:
        resume: go on with the study of this name.
        address: Ray cluster; None starts one on this machine.
        quiet: show no progress.
        progress: called while clip caches are built and objectives audited, with what, done and total.
        given: what the command line changed of the definition, kept for a resumption that does not repeat it.
        ready: called when all is prepared and the first trial may start: two live displays on one screen would fight.
    """

    resume: bool = False
    address: str | None = None
    quiet: bool = False
    progress: CacheProgress | None = None
    given: Mapping[str, Any] | None = None
    ready: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Asked:
    """A study as it was asked for.

    Attributes:
        definition: of it.
        kind: ``sweep``, ``ablation``, ``pretrain`` or ``confirmation``.
        listed: role, variant name and settings of the trials that are known beforehand.
        part: of the benchmarks that every trial is scored on; None: it is not scored. A sweep has no choice: what
            chooses never sees a test item.
    """

    definition: StudyBase
    kind: str
    listed: Sequence[tuple[str, str, TrialSettings]]
    part: Part | None = "test"

    @property
    def example(self) -> TrialSettings:
        """Settings of one trial; all have its preset, regime and resources."""
        return self.listed[0][2]

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """What trials are scored on; empty for none."""
        return self.example.scored if self.part is not None else ()


def run_study(asked: Asked, home: Home, options: RunOptions) -> Outcome:
    """Start or resume a study and run it to its end.

    Args:
        asked: the study.
        home: where it is written.
        options: how to run it.

    Raises:
        EquipoiseError: if it cannot start; what was finished before stays as it is.
    """
    name, address = asked.definition.name, options.address
    _refuse_wrong_start(asked, home, options)
    with home.hold(name), contextlib.ExitStack() as stays:
        started = home.has_book(name)
        _refuse_wrong_name(name, home, started, options.resume)
        manifest_hash = prepare_caches(asked.example, home, asked.part, options.progress, address)
        audits = [] if started else audit_study(asked.definition, [s for *_, s in asked.listed], home, options.progress)
        tracker = home.tracker(create=not started)  # one that is gone is not begun anew without a word
        _say(options, check_search(asked.definition, home, started))
        resources = asked.example.resources
        stays.enter_context(ray_cluster(address, dashboard=resources.uses_train))
        if not started:
            capacity(resources, asked.definition.concurrent)
        # All that a study needs is there: from here on it exists.
        book = stays.enter_context(home.book(name, create=True))
        refuse_other_data(name, manifest_hash, book)
        parent = _open(asked, home, book, tracker, options.given)
        log_audits(audits, tracker, parent)
        display = StudyDisplay(f"{asked.kind} {name}", options.quiet)
        director = _director(asked, home, book, tracker, parent, display, manifest_hash)
        options.ready()
        complete = _direct(director, asked)
        return _close(director, asked, home, book, complete)


def _say(options: RunOptions, sentence: str | None) -> None:
    """Tell the person, before anything starts."""
    if sentence is not None and options.progress is not None:
        options.progress(sentence, 1, 1)


def _refuse_wrong_start(asked: Asked, home: Home, options: RunOptions) -> None:
    """What can be wrong before anything is read or written."""
    for *_, settings in asked.listed:
        resolve(settings)
    home.make()
    SearchStore.of(home, asked.definition.name)
    home.place.check()
    check_start(options.address)


def _refuse_wrong_name(name: str, home: Home, started: bool, resume: bool) -> None:
    if started and not resume:
        raise StudyError(f"study {name!r} exists in {home.root}: go on with --resume, or choose another --name")
    if resume and not started:
        raise StudyError(f"there is no study {name!r} in {home.root} to resume; leave --resume out to start it")


def _open(asked: Asked, home: Home, book: Ledger, tracker: Tracker, given: Mapping[str, Any] | None) -> str:
    """Write down what was asked for, or see that it is what was; returns the parent run."""
    refuse_other_places(asked.definition, home, book)
    refuse_other_part(asked.definition.name, asked.part, book)
    parent = parent_run(asked.definition, asked.kind, book, tracker, asked.benchmarks, asked.part)
    if given is not None:
        book.set_fact(CHANGED, given)
    if book.fact("listed") is None:
        for role, name, settings in asked.listed:
            book.open_trial(name, role, settings.model_dump_json())
        book.set_fact("listed", True)
    if asked.part == "test":
        record_opening(asked, tracker, parent)
    return parent


def record_opening(asked: Asked, tracker: Tracker, parent: str) -> None:
    """Write down that the test part is opened, before it is: in the study, and in the one that it confirms."""
    definition = asked.definition
    opening = Opening.now(asked.kind, definition.name, [name for _, name, _ in asked.listed], asked.benchmarks)
    keep_opening(tracker, parent, opening)
    if isinstance(definition, ConfirmationDefinition):
        keep_opening(tracker, find_study(tracker, definition.confirms).info.run_id, opening)


def _direct(director: Director, asked: Asked) -> bool:
    """Run every trial; returns False after an interrupt."""
    display, tracker, parent = director.display, director.bookkeeper.tracker, director.plan.parent
    display.planned = director.planned()
    with display:
        tracker.on_wait(display.waiting)
        director.bookkeeper.reconcile()
        tracker.running(parent)
        complete = False
        try:
            complete = run(director, asked.definition.retries)
        finally:
            tracker.end(parent, "finished" if complete else "interrupted")
    return complete


def _close(director: Director, asked: Asked, home: Home, book: Ledger, complete: bool) -> Outcome:
    """What the study came to."""
    name = asked.definition.name
    if director.bookkeeper.halted is not None:
        raise StudyError(
            f"study {name!r} stopped: {director.bookkeeper.halted}; its {len(book.rows('finished'))} finished "
            "trials are kept: mend that, then go on with --resume"
        )
    return Outcome(
        name,
        complete,
        director.planned(),
        tuple(_here(row, home, name) for row in book.rows()),
        director.plan.parent,
        home.trials(name),
        director.budget_note(),
        asked.part,
    )


def _here(row: TrialRow, home: Home, study: str) -> TrialRow:
    """A trial with its checkpoint where it is now: its home may have been moved since."""
    if row.result is None:
        return row
    checkpoint = home.checkpoint(study, row.key, row.result["checkpoint"])
    return replace(row, result={**row.result, "checkpoint": checkpoint})


def _director(
    asked: Asked, home: Home, ledger: Ledger, tracker: Tracker, parent: str, display: StudyDisplay, manifest_hash: str
) -> Director:
    definition, example = asked.definition, asked.example
    search = None
    if isinstance(definition, SweepDefinition):
        preset, regime = example.preset, example.regime
        search = SearchPlan(
            proposer=OptunaProposer(
                definition,
                example.scored,
                SearchStore.of(home, definition.name),
                parent,
                baseline=lambda: baseline_of(ledger.rows()),
                earlier=lambda: earlier_mixes(definition, home, example, manifest_hash),
            ),
            make=lambda name, variant, seed: definition.trial(name, variant, seed, preset, regime),
            trials=definition.trials,
            early_stopping=definition.early_stopping,
            seeds=definition.seeds,
            budget=definition.budget,
            reserve=0 if definition.confirm is None else definition.confirm.trials,
        )
    plan = StudyPlan(
        study=definition.name,
        folder=home.folder(definition.name),
        trials=home.trials(definition.name),
        parent=parent,
        paths=home.paths,
        benchmarks=asked.benchmarks,
        part=asked.part or "select",
        manifest_hash=manifest_hash,
        resources=example.resources,
        concurrent=definition.concurrent,
        prices=definition.prices,
        search=search,
    )
    return Director(plan, ledger, tracker, display)


def sweep(definition: SweepDefinition, home: Home, options: RunOptions = RunOptions()) -> Outcome:
    """Run a search over objective weights, controls first.

    Raises:
        EquipoiseError: if it cannot start; what was finished before stays as it is.
    """
    preset, regime = definition.load()
    if definition.early_stopping is not None:
        definition.early_stopping.steps(preset.optimisation.steps)  # before anything starts
    listed = [
        ("control", name, definition.trial(name, variant, seed, preset, regime))
        for name, variant, seed in definition.controls()
    ]
    if not listed:
        raise StudyError("a sweep needs its controls: without them nothing it finds can be called an improvement")
    if definition.warm_start is not None and not options.resume:
        # What is wrong with it is said before anything starts.
        found = earlier_mixes(definition, home, listed[0][2])
        _say(options, found.sentence)
    return run_study(Asked(definition, "sweep", listed, part="select"), home, options)


def ablate(definition: AblationDefinition, home: Home, options: RunOptions = RunOptions()) -> Outcome:
    """Run named variants with every seed, controls first.

    Raises:
        EquipoiseError: if it cannot start; what was finished before stays as it is.
    """
    preset, regime = definition.load()
    members = [("control", *c) for c in definition.controls()] + [("ablation", *m) for m in definition.members()]
    listed = [
        (role, name, definition.trial(name, variant, seed, preset, regime)) for role, name, variant, seed in members
    ]
    return run_study(Asked(definition, "ablation", listed), home, options)


def pretrain(definition: AblationDefinition, home: Home, options: RunOptions = RunOptions()) -> Outcome:
    """Pretrain one variant with one seed, without scoring it.

    Raises:
        EquipoiseError: if it cannot start; what was finished before stays as it is.
    """
    preset, regime = definition.load()
    listed = [("single", n, definition.trial(n, v, s, preset, regime)) for n, v, s in definition.members()]
    return run_study(Asked(definition, "pretrain", listed, part=None), home, options)
