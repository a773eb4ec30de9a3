"""What driver and trials say to each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from equipoise.platform.errors import EquipoiseError
from equipoise.platform.storage import Place

PHASE = "phase"


def rung_report(step: int, scores: Mapping[str, float] | None, seconds: float) -> dict[str, Any]:
    """What a trial reports at a rung: scores by benchmark in percent, and the seconds that taking them took."""
    return {PHASE: "rung", "step": step, "scores": dict(scores or {}), "seconds": seconds}


class StoppedError(EquipoiseError):
    """A trial on Ray Train is stopped early: its workers end here."""


def decision_at(folder: Place, step: int) -> Place:
    """Where the driver says whether a trial on Ray Train goes on from a rung.

    Tune could end such a trial only by ending its process, and Train then has to find out and free the workers, which
    it cannot always do (with a second Ray on the machine, for one). Workers that end themselves are freed at once.
    """
    return folder / "rungs" / f"{step:08d}.json"


def write_decision(folder: Place, step: int, goes_on: bool) -> None:
    """Tell a trial's workers whether it goes on."""
    decision_at(folder, step).write(json.dumps({"goes_on": goes_on}))


def was_stopped(folder: Place, step: int) -> bool | None:
    """Whether a trial is stopped at a rung; None while that is not decided."""
    place = decision_at(folder, step)
    return not json.loads(place.read())["goes_on"] if place.exists() else None
