"""Effects of a design for the eye, and for the record: a table on the terminal, a picture, artifacts in MLflow."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from equipoise.platform.analysis.effects import Effects, effects_of
from equipoise.platform.errors import StudyError
from equipoise.platform.record.home import Home
from equipoise.platform.report.plots.effects import plot_effects

RECORD, PICTURE = "effects.json", "effects.png"


def conclude_effects(
    study: str, home: Home, out: Path | None = None, *, level: float = 0.05, pooled: bool = True
) -> tuple[Effects, Path | None]:
    """Estimate a study's effects, draw them, and log both to its parent run.

    Args:
        study: its name or MLflow run id.
        home: where it was written.
        out: the picture; None for ``effects.png`` in the study's folder, or here where that is on another machine.
        level: 0.05 for intervals of 95 %.
        pooled: as in :func:`equipoise.platform.analysis.effects.estimate`.

    Returns:
        The effects, and the picture; None where too few cells are finished for any effect.

    Raises:
        StudyError: the study has no design.
    """
    found = effects_of(study, home, level=level, pooled=pooled)
    if found is None:
        raise StudyError(
            f"study {study!r} has no design: effects need one, e.g. equipoise ablate --design factorial --factor fwm "
            "--factor hw; equipoise front shows the differences of its variants"
        )
    folder = home.folder(found.study)
    path = out or (folder if folder.is_dir() else Path.cwd()) / PICTURE
    title = f"Study {found.study}: {found.plan.design.kind.replace('_', ' ')}"
    picture = plot_effects(found, path, title) if found.effects else None
    tracker = home.tracker()
    parent = tracker.study_run(study).info.run_id
    with tempfile.TemporaryDirectory() as temporary:
        record = Path(temporary) / RECORD
        record.write_text(json.dumps(found.to_dict(), indent=1))
        tracker.artifacts(parent, record)
    if picture is not None:
        tracker.artifacts(parent, picture)
    return found, picture
