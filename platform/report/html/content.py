"""What a report says: everything about one study, gathered from its record, before any of it is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equipoise.platform.analysis.confirmation import Confirmation, confirmation_of
from equipoise.platform.analysis.differences import against
from equipoise.platform.analysis.effects import Effects, effects_of
from equipoise.platform.analysis.importance import Importance, ImportanceError, search_importance
from equipoise.platform.analysis.spending import Measure, Spending, spending
from equipoise.platform.errors import EquipoiseError, StorageError
from equipoise.platform.record.client import TRAIN
from equipoise.platform.record.cost import Cost
from equipoise.platform.record.reading import SETTINGS, StudyRecord, read_json
from equipoise.platform.report.front import most_telling, opened
from equipoise.platform.search.store import SearchStore
from equipoise.platform.stats.mixes import UNCHANGED
from equipoise.platform.stats.noise import SeedNoise, study_noise
from equipoise.platform.stats.selection import RankedVariant, Selection
from equipoise.platform.stats.table import ResultTable
from equipoise.platform.stats.uncertainty import Difference, Sample, StatisticsError, interval, samples

SINGLE = "one seed: test items only"
UNKNOWN = "not known"
UNCLEAR = "not distinguishable"
ALONE = "clear alone, not among all"  # its interval leaves out 0, and Holm's correction does not let it pass
Curves = dict[str, list[tuple[int, float]]]


class ReportError(EquipoiseError):
    """A report that cannot be made of what was named; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial for the table of costs.

    Attributes:
        key: its name within the study.
        variant: its variant.
        seed: seed it was trained with.
        role: ``control``, ``search``, ``ablation``.
        status: ``finished``, ``failed``, ``interrupted`` or still under way.
        error: one sentence where it failed.
        pretrain: seconds of pretraining over all attempts, as far as they were reported; None where unknown.
        score: seconds of scoring, None where unknown.
        wall: seconds between the run's start and its end, pauses included; used where both others are unknown.
        devices: CPUs or GPUs it occupied meanwhile.
        booked: device hours that it held its resources, by the study's book; None where the record does not have them.
        lost: seconds of training that were done twice.
        price: of those hours, None for a study without prices.
    """

    key: str
    variant: str
    seed: int
    role: str
    status: str
    error: str | None
    pretrain: float | None
    score: float | None
    wall: float | None
    devices: float
    booked: float | None = None
    lost: float = 0.0
    price: float | None = None

    @property
    def measured(self) -> bool:
        """Whether the trial's own clock is known."""
        return self.booked is not None or self.pretrain is not None or self.score is not None

    @property
    def hours(self) -> float | None:
        """Device hours: as booked, or from its own clock where there is one."""
        if self.booked is not None:
            return self.booked
        seconds = (self.pretrain or 0.0) + (self.score or 0.0) if self.measured else self.wall
        return None if seconds is None else seconds * self.devices / 3600


@dataclass(frozen=True, kw_only=True)
class Content:
    """Everything a report says, but for its pictures of features.

    Attributes:
        study: name of the study.
        kind: ``sweep``, ``ablation`` or ``confirmation``.
        parent: its MLflow run.
        definition: what was asked for.
        began: milliseconds since 1970.
        tags: tags of the MLflow run.
        table: accuracies.
        selection: front, leading candidate, notes.
        means: (variant, benchmark) to the interval of the mean accuracy; nan where it is unknown.
        differences: (variant, against, benchmark) to the difference, Holm-adjusted over all variants and benchmarks
            that are compared with the same control.
        weights: weights of every variant by objective.
        importance: of a search's objectives.
        effects: of a design's factors, None for a study without a design.
        confirmation: what became of a search's gains on fresh seeds, None for a study of another kind.
        audits: one per mix audited, as :meth:`equipoise.platform.trial.audit.AuditResult.to_dict` gives it.
        curves: metric to curves by trial name.
        trials: every trial.
        spending: what they cost in the order in which they ended, None where the record does not say.
        unit: ``CPU`` or ``GPU``.
        settings: settings of one trial as stored.
        manifest_hash: of all manifests together.
        openings: when the test part was opened, by what and for whom, one sentence each.
        notes: section to sentences on what is not there, and why.
    """

    study: str
    kind: str
    parent: str
    definition: Mapping[str, Any]
    began: int
    tags: Mapping[str, str]
    table: ResultTable
    selection: Selection
    means: Mapping[tuple[str, str], tuple[float, float]]
    differences: Mapping[tuple[str, str, str], Difference]
    weights: Mapping[str, Mapping[str, float]]
    importance: Sequence[Importance]
    effects: Effects | None
    confirmation: Confirmation | None
    audits: Sequence[Mapping[str, Any]]
    curves: Mapping[str, Curves]
    trials: Sequence[Trial]
    spending: Spending | None
    unit: str
    settings: Mapping[str, Any]
    manifest_hash: str
    openings: Sequence[str]
    notes: Mapping[str, Sequence[str]]

    @property
    def candidate(self) -> RankedVariant | None:
        """Row of the leading candidate."""
        found = self.selection.candidate
        return None if found is None else self.selection.row(found.variant)

    @property
    def single_seed(self) -> tuple[str, ...]:
        """Variants with one seed."""
        return tuple(row.variant for row in self.selection.rows if len(row.seeds) == 1)

    def name_of(self, trial: Trial) -> str:
        """The name a trial's curve goes by."""
        return f"{trial.variant} s{trial.seed}"


def difference_in_words(difference: Difference) -> str:
    """``better``, ``worse``, ``not distinguishable``, or clear alone; what few seeds or nothing can say is said so."""
    if math.isnan(difference.low):
        return UNKNOWN
    if difference.source == "items":
        return SINGLE
    if difference.untestable is not None:
        return difference.untestable
    if not difference.distinguishable:
        return ALONE if difference.p_value < difference.level else UNCLEAR
    return "better" if difference.estimate > 0 else "worse"


def gather(record: StudyRecord, tolerance: float | None = None) -> Content:
    """Read everything about a study.

    Raises:
        ReportError: the study has no scores.
        TrackingError: no finished trial.
        SelectionError: there is no baseline.
    """
    if not record.benchmarks:
        raise ReportError(
            f"study {record.name!r} was pretrained without being scored, so there is nothing to compare: "
            "run its variant with equipoise ablate"
        )
    runs, definition = record.trials, record.definition
    selection = record.select(tolerance)
    notes: dict[str, list[str]] = {}
    found = _samples(record, notes)
    trials, unit = _trials(runs, definition, notes)
    effects = confirmation = None
    try:
        effects = effects_of(record)
        confirmation = confirmation_of(record, tolerance=tolerance)
    except EquipoiseError as error:
        notes.setdefault("importance" if "design" in definition else "candidate", []).append(f"Missing here: {error}.")
    audits = record.artifacts("audit")
    if not audits:
        notes.setdefault("conflict", []).append("The study's record holds no audit of its objectives.")
    example = [read_json(record.tracker, run.info.run_id, SETTINGS, "the settings of a trial") for run in runs[:1]]
    return Content(
        study=record.name,
        kind=record.tags.get("kind", "study"),
        parent=record.run_id,
        definition=definition,
        began=record.run.info.start_time,
        tags=dict(record.tags),
        table=record.table,
        selection=selection,
        means={key: interval(sample) for key, sample in found.items()},
        differences=compare_all(
            found, selection, study_noise(record.table, leave_out=(selection.random_init, UNCHANGED))
        ),
        weights=record.weights,
        importance=_importance(record, notes),
        effects=effects,
        confirmation=confirmation,
        audits=audits,
        curves={m: record.curves(m, most_telling(runs, selection)) for m in ("jepa", "effective_rank")},
        trials=trials,
        spending=spending(runs, definition, selection),
        unit=unit,
        settings=example[0] if example else {},
        manifest_hash=next((r.data.tags["manifest_hash"] for r in runs if "manifest_hash" in r.data.tags), ""),
        openings=opened(record),
        notes=notes,
    )


def compare_all(
    found: Mapping[tuple[str, str], Sample], selection: Selection, noise: SeedNoise
) -> dict[tuple[str, str, str], Difference]:
    """Every complete variant against both controls on every benchmark; what meets one control is one Holm family."""
    differences: dict[tuple[str, str, str], Difference] = {}
    rows = {row.variant for row in selection.rows}
    for control in (selection.baseline, selection.random_init):
        if control not in rows:
            continue
        # The baseline against the untrained encoder is asked once, on the side where a gain means that it learned.
        others = [r.variant for r in selection.rows if r.variant not in (control, selection.random_init)]
        family = against(control, others, selection.benchmarks, found, noise)
        differences |= {(d.variant, d.against, d.benchmark): d for d in family.values()}
    return differences


def _samples(record: StudyRecord, notes: dict[str, list[str]]) -> dict[tuple[str, str], Sample]:
    """Samples with the outcome of every test item where the trials' folder is at hand."""
    why = f"the study's folder is not in {record.home.root.name}"
    try:
        if record.correctness is not None:
            return record.samples
    except (StatisticsError, StorageError) as error:
        why = str(error)
    notes.setdefault("table", []).append(
        f"Which test items were right is not at hand ({why}): differences rest on accuracies alone, and with several "
        "seeds they hold for this test set only."
    )
    return samples(record.table)


def _trials(runs: Sequence[Any], definition: Mapping[str, Any], notes: dict[str, list[str]]) -> tuple[list[Trial], str]:
    asked = definition.get("resources", {})
    gpus, cpus = float(asked.get("gpus_per_worker", 0)), float(asked.get("cpus_per_worker", 1))
    devices = float(asked.get("workers", 1)) * (gpus or cpus)
    measure = Measure.of(definition)
    trials = []
    for run in runs:
        tags, metrics, info = run.data.tags, run.data.metrics, run.info
        cost = Cost.recorded(metrics)
        trials.append(
            Trial(
                key=tags["trial"],
                variant=tags["variant"],
                seed=int(tags["seed"]),
                role=tags.get("role", ""),
                status=tags.get("status", ""),
                error=tags.get("error") or tags.get("stopped_because"),
                pretrain=metrics.get(f"{TRAIN}seconds"),
                score=metrics.get("score_seconds"),
                wall=(info.end_time - info.start_time) / 1000 if info.end_time else None,
                devices=devices,
                booked=None if cost is None else cost.hours(measure.unit),
                lost=0.0 if cost is None else cost.lost,
                price=None if cost is None or measure.prices is None else cost.price(measure.prices),
            )
        )
    guessed = [t.key for t in trials if not t.measured]
    if guessed:
        notes.setdefault("cost", []).append(
            f"No clock of their own: {', '.join(guessed)}. Their time runs from the run's start to its end in MLflow, "
            "waiting and pauses between attempts included."
        )
    return trials, "GPU" if gpus else "CPU"


def _importance(record: StudyRecord, notes: dict[str, list[str]]) -> list[Importance]:
    """Importances of a sweep; for anything else, and where they cannot be had, a sentence."""
    said = notes.setdefault("importance", [])
    if record.definition.get("design") is not None:
        return []  # the effects of its factors say more
    if "sampler" not in record.definition:
        said.append(
            "This study compares named mixes and did not search weights, so there is no search to ask how much each "
            "objective's weight matters. The table of variants shows what each mix does."
        )
        return []
    store = SearchStore.of(record.home, record.name)
    if store.missing:
        said.append("The record of the search (Optuna's storage) is not at hand: name it with --optuna-storage.")
        return []
    try:
        with store.errors_in_words():
            return search_importance(store.search(record.name), record.benchmarks)
    except (ImportanceError, StorageError, KeyError) as error:
        reason = f"{store.name} holds no search {record.name!r}" if isinstance(error, KeyError) else str(error)
        said.append(f"No importances: {reason}.")
    return []
