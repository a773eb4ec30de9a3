"""A search explained for the eye, and for the record: a picture of its slices, and artifacts in MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise.platform.analysis.explanation import Explanation, explain
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.report.plots.slices import MOST_SLICES, plot_slices

PICTURE = "slices.png"


@dataclass(frozen=True)
class DrawnExplanation:
    """An explanation and its picture.

    Attributes:
        content: what the search taught.
        picture: weights against accuracies; None with no finished trial.
    """

    content: Explanation
    picture: Path | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be said or drawn, and why."""
        count = len(self.content.finished.objectives)
        left_out = self.picture is not None and count > MOST_SLICES
        more = (f"The picture has {MOST_SLICES} of {count} objectives.",) if left_out else ()
        return (*self.content.notes, *more)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        record = {**self.content.to_dict(), "slices": None if self.picture is None else str(self.picture)}
        return {**record, "notes": list(self.notes)}


def explain_search(record: StudyRecord, out: Path | None = None, *, keep: bool = False) -> DrawnExplanation:
    """Explain a search and draw its slices.

    Args:
        record: of the study.
        out: the picture; None for ``slices.png`` in the study's folder, or here where that is on another machine.
        keep: log both to the study's parent run.

    Raises:
        StudyError: it is no search, or Optuna's record of it is not at hand.
    """
    found = explain(record)
    picture = None
    if found.finished.names:
        picture = plot_slices(
            found.finished,
            found.space,
            record.picture(out, PICTURE),
            f"Study {found.study}: weights against {found.part} accuracies",
            part=found.part,
            objectives=found.telling,
            baseline=found.baseline,
        )
    drawn = DrawnExplanation(found, picture)
    if keep:
        record.keep(picture, explain=drawn.to_dict())
    return drawn
