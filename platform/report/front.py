"""The end of a study: front, leading candidate and plot, shown and kept in MLflow."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from equipoise.platform.analysis.spending import Spending, spending
from equipoise.platform.errors import StorageError, StudyError
from equipoise.platform.record.bundle import Shelf
from equipoise.platform.record.ledger import OPEN, TrialRow
from equipoise.platform.record.openings import openings_of
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.record.registry import CANDIDATE, MODEL_FOLDER, register
from equipoise.platform.report.plots.cost import plot_cost
from equipoise.platform.report.plots.curves import plot_curves
from equipoise.platform.report.plots.front import plot_front
from equipoise.platform.report.plots.style import MOST_CURVES
from equipoise.platform.settings.variant import BASELINE
from equipoise.platform.stats.selection import Selection, select
from equipoise.platform.stats.table import ResultTable
from equipoise.platform.trial import checkpoint as checkpoints

PICTURE = "front.png"


@dataclass(frozen=True)
class Conclusion:
    """A selection and its plot.

    Attributes:
        selection: front, leading candidate and notes.
        plot: the picture; None where none was asked for.
        weights: weights of every variant by objective, where a study tells them.
        cost: what the study spent, where its record holds that.
        cost_plot: its gains against that.
        notes: what could not be done.
        openings: when the test part was opened, by what and for whom, one sentence each; empty for a table.
    """

    selection: Selection
    plot: Path | None
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    cost: Spending | None = None
    cost_plot: Path | None = None
    notes: tuple[str, ...] = ()
    openings: tuple[str, ...] = ()

    def _repr_markdown_(self) -> str:
        """What a notebook shows: the sentence, the table of variants, the notes."""
        return _note(self.selection)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        weights = {k: dict(v) for k, v in self.weights.items()}
        record = self.selection.to_dict()
        record |= {"notes": [*record["notes"], *self.notes], "weights": weights, "plot": self.plot and str(self.plot)}
        record["openings"] = list(self.openings)
        record["cost"] = None if self.cost is None else {**self.cost.to_dict(), "plot": str(self.cost_plot)}
        return record


def conclude_table(
    table: ResultTable, title: str, out: Path | None, tolerance: float | None, baseline: str = BASELINE
) -> Conclusion:
    """Select from a table, and draw the front where a picture is asked for."""
    found = select(table, tolerance=tolerance, baseline=baseline).with_notes(table.notes)
    return Conclusion(found, None if out is None else plot_front(found, out, title))


def conclude_study(
    record: StudyRecord, out: Path | None = None, tolerance: float | None = None, *, keep: bool = False
) -> Conclusion:
    """Select from a study's record, and draw the front and what was gained against what it cost.

    Args:
        record: of the study.
        out: the picture; None for ``front.png`` in the study's folder, or here where that is on another machine.
        tolerance: points a candidate may lose; None for the noise floor.
        keep: log all of it to the study's parent run, and register the candidate's and the baseline's encoder.

    Raises:
        TrackingError: no trial is finished.
        SelectionError: there is no baseline.
    """
    title = f"Study {record.name}"
    selection = record.select(tolerance)
    found = Conclusion(selection, plot_front(selection, record.picture(out, PICTURE), title))
    found = _against_cost(found, spending(record.trials, record.definition, found.selection), title)
    # A study that is read from a bundle keeps nothing.
    notes = _keep(record, found) if keep and record.home.bundle is None else []
    notes += _under_way(record)
    return replace(found, weights=record.weights, notes=tuple(notes), openings=opened(record))


def _under_way(record: StudyRecord) -> list[str]:
    """That trials of a study have not ended, from its book where that is at hand."""
    home, name, rows = record.home, record.name, list[TrialRow]()
    if isinstance(home, Shelf):
        rows = [row for one in home.bundles if one.study == name for row in one.rows]
    elif home.has_book(name):
        with contextlib.suppress(StudyError), home.book(name) as book:
            rows = book.rows()
    else:
        return []
    ended = [row for row in rows if row.status not in OPEN]
    if len(ended) == len(rows):
        return []
    return [f"{len(ended)} of {len(rows)} trials have ended; what rests on the others is not in the table yet."]


def opened(record: StudyRecord) -> tuple[str, ...]:
    """When a study's test part was opened, by what and for whom, one sentence each."""
    found = openings_of(record.tracker, record.run_id)
    if not found and record.part == "select":
        return ("The test part was never opened.",)
    return tuple(one.sentence for one in found)


def _keep(record: StudyRecord, found: Conclusion) -> list[str]:
    """Log a conclusion to the study's parent run, and register its encoders; returns what could not be done."""
    tracker, run_id, selection = record.tracker, record.run_id, found.selection
    record.keep(found.plot, found.cost_plot, front=selection.to_dict())
    tracker.metrics(run_id, {"hypervolume": selection.hypervolume, "front_size": len(selection.front)}, 0)
    candidate = selection.candidate.variant if selection.candidate else None
    tracker.tag(run_id, **{"candidate": candidate or "none", "mlflow.note.content": _note(selection)})
    shown = most_telling(record.trials, selection)
    part = "" if len(shown) == len(record.trials) else f": {len(shown)} of {len(record.trials)} trials"
    with tempfile.TemporaryDirectory() as scratch:
        for metric, label in (("jepa", "JEPA loss"), ("effective_rank", "effective rank of the target")):
            curves = record.curves(metric, shown)
            if curves:
                record.keep(plot_curves(curves, Path(scratch) / f"{metric}.png", label, f"Study {record.name}{part}"))
    _mark(record, selection)
    return register_encoders(record, {CANDIDATE: candidate, BASELINE: selection.baseline})


def _against_cost(found: Conclusion, spent: Spending | None, title: str) -> Conclusion:
    """With the picture of gains against cost beside that of the front, where the record holds costs."""
    if spent is None or found.plot is None:
        return replace(found, cost=spent)
    beside = found.plot.with_name(f"{found.plot.stem}_cost{found.plot.suffix}")
    return replace(found, cost=spent, cost_plot=plot_cost(spent, found.selection, beside, f"{title}: gains and cost"))


def _mark(record: StudyRecord, selection: Selection) -> None:
    """Tag the runs on the front and the candidate's; only what changes is written: a study may have a thousand."""
    on_front, candidate = set(selection.front), selection.candidate
    for run in record.finished:
        variant = run.data.tags.get("variant")
        now = {"front": variant in on_front, "candidate": candidate is not None and variant == candidate.variant}
        changed = {k: str(v).lower() for k, v in now.items() if str(v).lower() != run.data.tags.get(k, "false")}
        record.tracker.tag(run.info.run_id, **changed)


def register_encoders(record: StudyRecord, wanted: Mapping[str, str | None], study: str | None = None) -> list[str]:
    """Register one encoder for each alias, that of its variant's first seed; returns what could not be done.

    Args:
        record: whose runs hold the encoders.
        wanted: alias to variant; None: there is none.
        study: whose model they become; None: the record's own.
    """
    notes: list[str] = []
    for alias, variant in wanted.items():
        runs = [r for r in record.finished if r.data.tags.get("variant") == variant and r.data.tags.get("checkpoint")]
        if not runs:
            continue
        run = min(runs, key=lambda r: int(r.data.tags["seed"]))
        try:
            if not record.tracker.files(run.info.run_id, MODEL_FOLDER):
                with checkpoints.find(record.checkpoint(run) or "").fetched() as files:
                    record.tracker.artifacts(run.info.run_id, files, MODEL_FOLDER)
        except (StorageError, FileNotFoundError) as error:  # a home may have been moved
            notes.append(f"The checkpoint of {variant} is not in the record: {error}.")
            continue
        register(record.tracker, study or record.name, alias, run)
    return notes


def _note(s: Selection) -> str:
    """The result in Markdown: MLflow shows it as the description of the study's run."""
    head = ["variant", "seeds", *(f"{b} {s.part} %" for b in s.benchmarks)]
    rows = [
        [r.variant, str(len(r.seeds)), *(f"{r.means[b]:.2f} ({r.gains[b]:+.2f})" for b in s.benchmarks)] for r in s.rows
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows[:MOST_CURVES])]
    more = [] if len(rows) <= MOST_CURVES else ["", f"and {len(rows) - MOST_CURVES} more variants, which follow them"]
    return "\n".join([s.sentence, "", *lines, *more, "", *(f"- {note}" for note in s.notes)])


def most_telling(runs: Sequence[Any], selection: Selection) -> list[Any]:
    """As many of a study's runs as a picture of curves can tell apart: controls, the front, then by smallest gain."""
    rows = sorted(selection.rows, key=lambda row: (row.control is None, row.rank > 0))  # stable: else as selected
    order = {row.variant: at for at, row in enumerate(rows)}
    return sorted(runs, key=lambda run: order.get(run.data.tags.get("variant"), len(order)))[:MOST_CURVES]
