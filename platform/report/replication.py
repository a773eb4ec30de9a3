"""A replication for the record: an artifact in MLflow."""

from __future__ import annotations

from equipoise.platform.analysis.replication import Replication, replication_of
from equipoise.platform.record.reading import StudyRecord


def conclude_replication(
    record: StudyRecord, source: StudyRecord, *, level: float = 0.05, keep: bool = False
) -> Replication:
    """Compare a replication with the study that it repeats.

    Args:
        record: of the replication.
        source: of the study.
        level: 0.05 for intervals of 95 %.
        keep: log it to the replication's parent run.

    Raises:
        StudyError: the one is no replication of the other, or they share no scored variant.
    """
    found = replication_of(record, source, level=level)
    if keep:
        record.keep(replication=found.to_dict())
    return found
