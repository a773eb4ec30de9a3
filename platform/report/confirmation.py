"""A confirmation for the eye, and for the record: a table on the terminal, an artifact in MLflow."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from equipoise.platform.analysis.confirmation import Confirmation, confirmation_of
from equipoise.platform.errors import StudyError
from equipoise.platform.record.home import Home

RECORD = "confirmation.json"


def conclude_confirmation(study: str, home: Home, tolerance: float | None = None) -> Confirmation:
    """Say what survives, and log it to the confirmation's parent run.

    Raises:
        StudyError: the study is no confirmation, or has no scores yet.
    """
    found = confirmation_of(study, home, tolerance=tolerance)
    if found is None:
        raise StudyError(f"study {study!r} is no confirmation; make one with equipoise confirm {study}")
    tracker = home.tracker()
    parent = tracker.study_run(study).info.run_id
    with tempfile.TemporaryDirectory() as temporary:
        record = Path(temporary) / RECORD
        record.write_text(json.dumps(found.to_dict(), indent=1))
        tracker.artifacts(parent, record)
    tracker.tag(parent, balanced=found.balanced or "none")
    return found
