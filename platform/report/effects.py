"""Effects of a design for the eye, and for the record: a picture, and artifacts in MLflow."""

from __future__ import annotations

from pathlib import Path

from equipoise.platform.analysis.effects import Effects, effects_of
from equipoise.platform.errors import StudyError
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.report.plots.effects import plot_effects

PICTURE = "effects.png"


def conclude_effects(
    record: StudyRecord, out: Path | None = None, *, level: float = 0.05, pooled: bool = True, keep: bool = False
) -> tuple[Effects, Path | None]:
    """Estimate a study's effects and draw them.

    Args:
        record: of the study.
        out: the picture; None for ``effects.png`` in the study's folder, or here where that is on another machine.
        level: 0.05 for intervals of 95 %.
        pooled: as in :func:`equipoise.platform.analysis.effects.estimate`.
        keep: log both to the study's parent run.

    Returns:
        The effects, and the picture; None where too few cells are finished for any effect.

    Raises:
        StudyError: the study has no design.
    """
    found = effects_of(record, level=level, pooled=pooled)
    if found is None:
        raise StudyError(
            f"study {record.name!r} has no design: effects need one, e.g. equipoise ablate --design factorial --factor "
            "fwm --factor hw; equipoise front shows the differences of its variants"
        )
    title = f"Study {found.study}: {found.plan.design.kind.replace('_', ' ')}"
    picture = plot_effects(found, record.picture(out, PICTURE), title) if found.effects else None
    if keep:
        record.keep(picture, effects=found.to_dict())
    return found, picture
