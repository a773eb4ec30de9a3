"""A confirmation for the record: an artifact in MLflow, its verdict on the runs, and the balanced encoder."""

from __future__ import annotations

from dataclasses import replace

from equipoise.platform.analysis.confirmation import Confirmation, confirmation_of
from equipoise.platform.analysis.spending import spending
from equipoise.platform.errors import StudyError
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.record.registry import BALANCED, withdraw
from equipoise.platform.report.front import register_encoders


def conclude_confirmation(record: StudyRecord, tolerance: float | None = None, *, keep: bool = False) -> Confirmation:
    """Say whether the candidate is balanced, what survives of the search's gains, and what a point of it cost.

    Args:
        record: of the confirmation.
        tolerance: points a balanced variant may lose; None for the noise floor of the study that it confirms.
        keep: log it to the confirmation's parent run and to that of the study, and register the balanced encoder as the
            study's, under the alias ``balanced``; where the candidate is not balanced, the alias is taken back.

    Raises:
        StudyError: the study is no confirmation, or has no scores yet.
    """
    found = confirmation_of(record, tolerance=tolerance)
    if found is None:
        name = record.name
        raise StudyError(f"study {name!r} is no confirmation; make one with equipoise confirm {name}")
    source = StudyRecord.open(record.home, found.confirms)
    price = _price(record, source, found)
    notes = []
    if keep and found.balanced is not None:
        notes = register_encoders(record, {BALANCED: found.balanced}, found.confirms)
    elif keep:
        withdraw(record.tracker, found.confirms, BALANCED)
    found = replace(found, sentences=(*found.sentences, *price), notes=(*found.notes, *notes))
    if keep:
        record.keep(confirmation=found.to_dict())
        for run_id in (record.run_id, source.run_id):
            record.tracker.tag(run_id, balanced=found.balanced or "none")
    return found


def _price(record: StudyRecord, source: StudyRecord, found: Confirmation) -> list[str]:
    """What study and confirmation cost for each point of the smallest gain, where that is a gain."""
    gain = found.smallest[found.balanced][1] if found.balanced is not None else 0.0
    spent = [spending(one.trials, one.definition, one.select()) for one in (source, record)]
    if gain <= 0 or None in spent:
        return []
    total = sum(one.total for one in spent if one is not None)
    measure = next(one.measure for one in spent if one is not None)
    return [
        f"Search and confirmation took {total:.3g} {measure}: {total / gain:.3g} for each point that {found.balanced} "
        f"gains where it gains least."
    ]
