"""A confirmation for the record: an artifact in MLflow, and the balanced variant on its run."""

from __future__ import annotations

from equipoise.platform.analysis.confirmation import Confirmation, confirmation_of
from equipoise.platform.errors import StudyError
from equipoise.platform.record.reading import StudyRecord


def conclude_confirmation(record: StudyRecord, tolerance: float | None = None, *, keep: bool = False) -> Confirmation:
    """Say what survives.

    Args:
        record: of the confirmation.
        tolerance: points a balanced variant may lose; None for each study's noise floor.
        keep: log it to the confirmation's parent run.

    Raises:
        StudyError: the study is no confirmation, or has no scores yet.
    """
    found = confirmation_of(record, tolerance=tolerance)
    if found is None:
        name = record.name
        raise StudyError(f"study {name!r} is no confirmation; make one with equipoise confirm {name}")
    if keep:
        record.keep(confirmation=found.to_dict())
        record.tracker.tag(record.run_id, balanced=found.balanced or "none")
    return found
