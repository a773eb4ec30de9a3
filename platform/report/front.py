"""The end of a study: front, balanced variant and plot, shown and kept in MLflow."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from equipoise.platform.analysis.spending import Spending, spending
from equipoise.platform.errors import StorageError
from equipoise.platform.record.home import Home
from equipoise.platform.record.reading import definition_of
from equipoise.platform.record.registry import BALANCED, BASELINE, MODEL_FOLDER, register
from equipoise.platform.record.tracking import Tracker
from equipoise.platform.report.plots.cost import plot_cost
from equipoise.platform.report.plots.curves import plot_curves
from equipoise.platform.report.plots.front import plot_front
from equipoise.platform.report.plots.style import MOST_CURVES
from equipoise.platform.stats.selection import Selection, select
from equipoise.platform.stats.table import ResultTable
from equipoise.platform.trial import checkpoint as checkpoints


@dataclass(frozen=True)
class Conclusion:
    """A selection and its plot.

    Attributes:
        selection: front, balanced variant and notes.
        plot: the picture.
        weights: weights of every variant by objective, where a study tells them.
        cost: what the study spent, where its record holds that.
        cost_plot: its gains against that.
        notes: what could not be done.
    """

    selection: Selection
    plot: Path
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    cost: Spending | None = None
    cost_plot: Path | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        weights = {k: dict(v) for k, v in self.weights.items()}
        record = self.selection.to_dict()
        record |= {"notes": [*record["notes"], *self.notes], "weights": weights, "plot": str(self.plot)}
        record["cost"] = None if self.cost is None else {**self.cost.to_dict(), "plot": str(self.cost_plot)}
        return record


def conclude_table(table: ResultTable, out: Path, title: str, tolerance: float | None) -> Conclusion:
    """Select from a table and draw the front."""
    selection = select(table, tolerance=tolerance)
    return Conclusion(selection, plot_front(selection, out, title))


def conclude_study(study: str, home: Home, out: Path | None, tolerance: float | None) -> Conclusion:
    """Select from a study's record, draw the front, and log both to the study's parent run.

    The checkpoint of the balanced variant's first seed is logged to its run, where it can be read.
    """
    tracker = home.tracker()
    parent = tracker.study_run(study)
    name = parent.data.tags["equipoise.study"]
    folder = home.folder(name)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        picture = out or (folder if folder.is_dir() else Path.cwd()) / "front.png"
        found = conclude_table(tracker.result_table(study), picture, f"Study {name}", tolerance)
        run_id = parent.info.run_id
        (scratch / "front.json").write_text(json.dumps(found.selection.to_dict(), indent=1))
        tracker.artifacts(run_id, scratch / "front.json")
        tracker.artifacts(run_id, found.plot)
        tracker.metrics(
            run_id, {"hypervolume": found.selection.hypervolume, "front_size": len(found.selection.front)}, 0
        )
        balanced = found.selection.balanced
        tracker.tag(run_id, balanced=balanced.variant if balanced else "none")
        tracker.tag(run_id, **{"mlflow.note.content": _note(found.selection)})
        runs = tracker.trial_runs(run_id)
        found = _against_cost(found, spending(runs, definition_of(tracker, parent), found.selection), f"Study {name}")
        if found.cost_plot is not None:
            tracker.artifacts(run_id, found.cost_plot)
        shown = most_telling(runs, found.selection)
        for metric, label in (("jepa", "JEPA loss"), ("effective_rank", "effective rank of the target")):
            curves = tracker.curves(shown, metric)
            if curves:
                title = f"Study {name}" + ("" if len(shown) == len(runs) else f": {len(shown)} of {len(runs)} trials")
                tracker.artifacts(run_id, plot_curves(curves, scratch / f"{metric}.png", label, title))
    finished = [run for run in runs if run.data.tags.get("status") == "finished"]
    wanted = {BALANCED: balanced.variant if balanced else None, BASELINE: found.selection.baseline}
    _mark(tracker, finished, found.selection)
    notes = _register(tracker, name, finished, wanted)
    return replace(found, weights=tracker.weights(run_id), notes=tuple(notes))


def _against_cost(found: Conclusion, spent: Spending | None, title: str) -> Conclusion:
    """With the picture of gains against cost beside that of the front, where the record holds costs."""
    if spent is None:
        return found
    beside = found.plot.with_name(f"{found.plot.stem}_cost{found.plot.suffix}")
    return replace(found, cost=spent, cost_plot=plot_cost(spent, found.selection, beside, f"{title}: gains and cost"))


def _mark(tracker: Tracker, finished: Sequence[Any], selection: Selection) -> None:
    """Tag the runs on the front and the balanced one; only what changes is written: a study may have a thousand."""
    on_front, balanced = set(selection.front), selection.balanced
    for run in finished:
        variant = run.data.tags.get("variant")
        now = {"front": variant in on_front, "balanced": balanced is not None and variant == balanced.variant}
        changed = {k: str(v).lower() for k, v in now.items() if str(v).lower() != run.data.tags.get(k, "false")}
        tracker.tag(run.info.run_id, **changed)


def _register(tracker: Tracker, study: str, finished: Sequence[Any], wanted: Mapping[str, str | None]) -> list[str]:
    """Register one encoder for each alias, that of its variant's first seed; returns what could not be done."""
    notes: list[str] = []
    for alias, variant in wanted.items():
        runs = [r for r in finished if r.data.tags.get("variant") == variant and r.data.tags.get("checkpoint")]
        if not runs:
            continue
        run = min(runs, key=lambda r: int(r.data.tags["seed"]))
        try:
            if not tracker.has_artifact(run.info.run_id, MODEL_FOLDER):
                with checkpoints.find(run.data.tags["checkpoint"]).fetched() as files:
                    tracker.artifacts(run.info.run_id, files, MODEL_FOLDER)
        except (StorageError, FileNotFoundError) as error:  # a home may have been moved
            notes.append(f"The checkpoint of {variant} is not in the record: {error}.")
            continue
        register(tracker, study, alias, run)
    return notes


def _note(s: Selection) -> str:
    """The result in Markdown: MLflow shows it as the description of the study's run."""
    head = ["variant", "seeds", *(f"{b} %" for b in s.benchmarks)]
    rows = [
        [r.variant, str(len(r.seeds)), *(f"{r.means[b]:.2f} ({r.gains[b]:+.2f})" for b in s.benchmarks)] for r in s.rows
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows[:MOST_CURVES])]
    return "\n".join([s.sentence, "", *lines, "", *(f"- {note}" for note in s.notes)])


def most_telling(runs: Sequence[Any], selection: Selection) -> list[Any]:
    """As many of a study's runs as a picture of curves can tell apart: controls, the front, then by smallest gain."""
    rows = sorted(selection.rows, key=lambda row: (row.control is None, row.rank > 0))  # stable: else as selected
    order = {row.variant: at for at, row in enumerate(rows)}
    return sorted(runs, key=lambda run: order.get(run.data.tags.get("variant"), len(order)))[:MOST_CURVES]
