"""The public face of Equipoise: studies from Python, the same that the command line runs and shows."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise.models.encoders import Encoder
from equipoise.platform.analysis.confirmation import Confirmation, confirmation_of
from equipoise.platform.analysis.effects import Effects, effects_of
from equipoise.platform.analysis.explanation import Explanation, explain
from equipoise.platform.errors import StudyError
from equipoise.platform.record.client import TrackingError
from equipoise.platform.record.home import Home
from equipoise.platform.record.openings import Opening, openings_of
from equipoise.platform.record.reading import StudyRecord, accuracies_of
from equipoise.platform.record.registry import CANDIDATE, fetch_model
from equipoise.platform.report.confirmation import conclude_confirmation
from equipoise.platform.report.front import Conclusion, conclude_study
from equipoise.platform.report.html.page import write_report
from equipoise.platform.settings import study as definitions
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.parts import Part
from equipoise.platform.settings.study import (
    AblationDefinition,
    ConfirmationDefinition,
    ReplicationDefinition,
    StudyBase,
    SweepDefinition,
)
from equipoise.platform.stats.published import published_path, read_csv
from equipoise.platform.stats.selection import Selection
from equipoise.platform.stats.selection import select as select_from
from equipoise.platform.stats.table import ResultTable
from equipoise.platform.study import run
from equipoise.platform.study.bundling import bundle, open_bundle
from equipoise.platform.study.confirm import confirmation_after, confirmations
from equipoise.platform.trial import checkpoint as checkpoints
from equipoise.platform.trial.encoders import frozen_encoder

HomeLike = str | Path | Home
HOME = "equipoise_home"


@dataclass(frozen=True, kw_only=True)
class StudyTrial:
    """One trial of a study.

    Attributes:
        key: its name within the study, ``t0007``.
        variant: its variant.
        seed: seed it was trained with.
        role: ``control``, ``search``, ``repeat``, ``ablation``, ``confirmation`` or ``single``.
        status: ``finished``, ``stopped`` early, ``failed``, ``interrupted`` or still under way.
        accuracies: top-1 accuracy in percent by benchmark, on the study's part; empty for one that is not finished.
        checkpoint: where its last checkpoint was written; None for an untrained one.
        error: one sentence where it failed, or was stopped because its features collapsed.
        run_id: its MLflow run.
    """

    key: str
    variant: str
    seed: int
    role: str
    status: str
    accuracies: dict[str, float]
    checkpoint: str | None
    error: str | None
    run_id: str


class Study:
    """One study, read from its record; nothing is read before it is asked for, and nothing is read twice.

    Open it again (:func:`open_study`) to see what happened since.

    Args:
        record: of it.
    """

    def __init__(self, record: StudyRecord) -> None:
        self._record = record

    def __repr__(self) -> str:
        return f"<Study {self.name!r}: {len(self._record.finished)} of {len(self._record.trials)} trials finished>"

    @property
    def name(self) -> str:
        """Name of the study."""
        return self._record.name

    @property
    def definition(self) -> StudyBase:
        """What was asked for: a sweep, an ablation, a confirmation or a replication.

        Raises:
            TrackingError: if the record does not hold it.
        """
        content = self._record.definition
        kind: type[StudyBase] = AblationDefinition
        if "confirms" in content:
            kind = ConfirmationDefinition
        elif "replicates" in content:
            kind = ReplicationDefinition
        elif "sampler" in content:
            kind = SweepDefinition
        return parse(kind, content, f"the definition of study {self.name}")

    @property
    def part(self) -> Part:
        """Which part of its benchmarks it is scored on: a search on ``select``, anything else on ``test``."""
        return self._record.part

    @property
    def openings(self) -> tuple[Opening, ...]:
        """When the test part of its benchmarks was opened, by what and for which variants; oldest first."""
        return openings_of(self._record.tracker, self._record.run_id)

    @property
    def table(self) -> ResultTable:
        """Accuracies in percent of every finished trial; ``table.to_pandas()`` has one row for each.

        Raises:
            TrackingError: if no trial is finished.
        """
        return self._record.table

    @property
    def trials(self) -> tuple[StudyTrial, ...]:
        """Every trial, oldest first."""
        benchmarks, part = self._record.benchmarks, self._record.part
        return tuple(
            StudyTrial(
                key=tags["trial"],
                variant=tags["variant"],
                seed=int(tags["seed"]),
                role=tags.get("role", ""),
                status=tags.get("status", ""),
                accuracies=accuracies_of(run, benchmarks, part),
                checkpoint=self._record.checkpoint(run),
                error=tags.get("error") or tags.get("stopped_because"),
                run_id=run.info.run_id,
            )
            for run in self._record.trials
            for tags in (run.data.tags,)
        )

    @property
    def weights(self) -> dict[str, dict[str, float]]:
        """Weights of every variant: variant to objective to weight, of the objectives that are on."""
        return self._record.weights

    def curves(self, metric: str) -> dict[str, list[tuple[int, float]]]:
        """What training reported: trial (``hw s0``) to (step, value) pairs by step.

        Args:
            metric: ``loss``, ``jepa``, ``effective_rank``, an objective's name, or another below ``train/`` in MLflow.

        Returns:
            Trials that reported it; empty where none did.
        """
        return self._record.curves(metric)

    def front(self, tolerance: float | None = None, keep: bool = False) -> Conclusion:
        """The Pareto front and the leading candidate, with the picture of both.

        Args:
            tolerance: points of accuracy that a candidate may lose on a benchmark; None for the noise floor.
            keep: log them to the study's MLflow run, and register the candidate's and the baseline's encoder.

        Raises:
            TrackingError: if no trial is finished.
            SelectionError: there is no baseline.
        """
        return conclude_study(self._record, None, tolerance, keep=keep)

    def effects(self) -> Effects:
        """What the factors of its design add, in points of accuracy, with intervals.

        Raises:
            StudyError: the study has no design.
            TrackingError: if no trial is finished.
        """
        found = effects_of(self._record)
        if found is None:
            raise StudyError(f"study {self.name!r} has no design: its front shows the differences of its variants")
        return found

    def explain(self) -> Explanation:
        """What its search taught: which objectives matter, which pairs do not add up, what it would try next.

        Raises:
            StudyError: it searched nothing, or Optuna's record of it is not at hand.
        """
        return explain(self._record)

    def confirmation(self) -> Confirmation:
        """What became of its gains on fresh seeds; of a study that was confirmed several times, by the newest.

        Raises:
            StudyError: it was not confirmed, or its confirmation has no scores yet.
        """
        names = confirmations(self._record)
        record = StudyRecord.open(self._record.home, names[-1]) if names else self._record
        found = confirmation_of(record)
        if found is None:
            raise StudyError(f"study {self.name!r} was not confirmed yet: run equipoise confirm {self.name}")
        return found

    def report(self, out: str | Path | None = None) -> Path:
        """Write one HTML page about it, and log it to its MLflow run.

        Args:
            out: the file, ending in .html; None for the study's folder.

        Returns:
            The file.

        Raises:
            ReportError: a study without scores, or an ``out`` that is no .html.
        """
        return write_report(self._record, None if out is None else Path(out)).path

    def bundle(self, path: str | Path) -> Path:
        """Write it into one file, which :func:`reference` reads and ``equipoise unbundle`` makes a study again.

        Args:
            path: the file, ending in ``.bundle``.

        Raises:
            StudyError: its book is in another home.
            StorageError: outcomes of its trials cannot be read.
        """
        file = Path(path)
        bundle(self._record).write(file)
        return file

    def encoder(self, alias: str = CANDIDATE) -> Encoder:
        """The frozen encoder that the study ends with, as :func:`load_encoder` loads it.

        Args:
            alias: ``candidate``, ``balanced`` (after a confirmation) or ``baseline``.

        Raises:
            TrackingError: none is registered: the study is not complete, or nothing leads it or was confirmed.
            CheckpointError: its files are damaged, or it still equals its initialisation.
        """
        return load_encoder(f"models:/{self.name}@{alias}", self._record.tracker.uri)


def open_study(name: str | None = None, home: HomeLike = HOME, tracking_uri: str | None = None) -> Study:
    """A study that was started.

    Args:
        name: its name or MLflow run id; None for the newest.
        home: the folder with everything that studies write.
        tracking_uri: MLflow store; None for the SQLite file in the home folder.

    Raises:
        TrackingError: no such study, naming those there are; or the store cannot be reached.
    """
    return Study(StudyRecord.open(_home(home, tracking_uri), name))


def reference(name_or_path: str | Path, home: HomeLike = HOME) -> Study:
    """A finished study that ships with Equipoise, or one in a bundle's file; to be read, not written to.

    Args:
        name_or_path: ``miniature`` (``equipoise list references``), or a file of ``equipoise bundle``.
        home: the folder below whose ``references/`` its tables are laid out.

    Raises:
        BundleError: no such reference, or a file that cannot be read.
    """
    return Study(open_bundle(str(name_or_path), _home(home, None).root))


def load_sweep(name_or_path: str | Path, **changes: Any) -> SweepDefinition:
    """A search by the name of a shipped space (``quickstart``, ``full``) or the path of a YAML file.

    Args:
        name_or_path: which.
        changes: keys to replace: ``trials=20``, ``name="mine"``; ``set=["optimisation.steps=200"]`` changes the preset.

    Raises:
        SettingsError: an unknown name or key, or a value that cannot be, in one sentence.
    """
    return definitions.load_sweep(str(name_or_path), changes)


def load_ablation(name_or_path: str | Path, **changes: Any) -> AblationDefinition:
    """An ablation by the name of a shipped study or the path of a YAML file; otherwise as :func:`load_sweep`.

    Raises:
        SettingsError: an unknown name or key, or a value that cannot be, in one sentence.
    """
    return definitions.load_ablation(str(name_or_path), changes)


def sweep(
    definition: SweepDefinition, home: HomeLike = HOME, *, resume: bool = False, address: str | None = None,
    quiet: bool = False,
) -> Study:  # fmt: skip
    """Run a search over objective weights, controls first, to its end; then select from it, keep that, and confirm it.

    Args:
        definition: of the search.
        home: the folder with everything that studies write.
        resume: go on with a study of this name that was interrupted; a complete one is only read.
        address: of a Ray cluster, or ``auto``; None starts one on this machine.
        quiet: show no progress.

    Returns:
        The study; after an interrupt with fewer trials finished than planned.

    Raises:
        EquipoiseError: if it cannot start; what was finished before stays as it is.
    """
    where, options = _home(home), run.RunOptions(resume, address, quiet)
    outcome = run.sweep(definition, where, options)
    found = _concluded(outcome, where)
    asks = confirmation_after(definition, where) if outcome.complete else None
    if asks is not None and (confirmed := asks.run(where, options)).complete:
        conclude_confirmation(StudyRecord.open(where, confirmed.name), keep=True)
    return found


def ablate(
    definition: AblationDefinition, home: HomeLike = HOME, *, resume: bool = False, address: str | None = None,
    quiet: bool = False,
) -> Study:  # fmt: skip
    """Run named variants with every seed, controls first, to the end; otherwise as :func:`sweep`.

    Raises:
        EquipoiseError: if it cannot start; what was finished before stays as it is.
    """
    where = _home(home)
    return _concluded(run.ablate(definition, where, run.RunOptions(resume, address, quiet)), where)


def published(regime: str) -> ResultTable:
    """The published table of the paper.

    Args:
        regime: ``mixed`` or ``ucf101``.

    Raises:
        ResultsError: for another regime.
    """
    return read_csv(published_path(), regime)


def read_results(path: str | Path, regime: str) -> ResultTable:
    """A CSV of accuracies in the layout of the published table.

    Args:
        path: the file.
        regime: whose rows are read.

    Raises:
        ResultsError: a file that cannot be read, or has no such rows.
    """
    return read_csv(Path(path), regime)


def select(table: ResultTable, tolerance: float | None = None) -> Selection:
    """The Pareto front of a table and its leading candidate.

    Args:
        table: accuracies in percent.
        tolerance: points that a candidate may lose on a benchmark; None for the noise floor.

    Raises:
        SelectionError: there is no baseline.
    """
    return select_from(table, tolerance=tolerance)


def load_encoder(model: str, tracking_uri: str | None = None) -> Encoder:
    """The frozen encoder of a registered model, ready to compute features.

    ``encoder(encoder.patches(clip, kind), kind, last_only=True)`` maps clips ``[B, 3, T, H, W]`` (float32, standardised
    as :mod:`equipoise.data.transforms` does) to tokens ``[B, N, width]``; ``kind`` is ``video``, or ``image`` with
    T = 1.

    Args:
        model: ``models:/STUDY@ALIAS``, the alias being ``candidate``, ``balanced`` or ``baseline``, or
            ``models:/STUDY/VERSION``.
        tracking_uri: MLflow store; None: MLflow's own setting (``MLFLOW_TRACKING_URI``).

    Returns:
        In evaluation mode, without gradient, on the CPU.

    Raises:
        TrackingError: no such model, or no such alias.
        CheckpointError: its files are damaged, or the encoder still equals its initialisation.
    """
    with tempfile.TemporaryDirectory() as temporary:
        return frozen_encoder(checkpoints.load(fetch_model(model, tracking_uri, Path(temporary))))


def _home(home: HomeLike, tracking_uri: str | None = None) -> Home:
    if isinstance(home, Home):
        return home
    return Home(Path(home).resolve(), tracking_uri)


def _concluded(outcome: run.Outcome, home: Home) -> Study:
    """The study, with its selection kept where it is complete and there is something to select from."""
    from equipoise.platform.stats.pareto import SelectionError

    record = StudyRecord.open(home, outcome.parent)
    if outcome.complete:
        try:
            conclude_study(record, keep=True)
        except (SelectionError, TrackingError):
            return Study(record)  # its trials are kept; front() says what is missing
    return Study(StudyRecord.open(home, outcome.parent))
