"""What driver and trials say to each other: the task of a trial, its reports, and whether it goes on from a rung.

Ray Tune carries plain dictionaries, so every message knows its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise.platform.errors import EquipoiseError
from equipoise.platform.settings.parts import Part
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths, Place

PHASE = "phase"  # key of every report; Tune's own results have none
CALLED_OFF = "called_off.json"  # file in the folder of a trial on Ray Train that is stopped between two rungs


@dataclass(frozen=True)
class RungPlan:
    """When early stopping looks at a trial.

    Attributes:
        steps: after which steps.
        items: select items that each look is taken on, for each benchmark, at most.
    """

    steps: tuple[int, ...]
    items: int


@dataclass(frozen=True)
class TrialTask:
    """What a trial is to do.

    Attributes:
        number: its identity within the study.
        settings: of it.
        folder: where it writes.
        paths: where it reads.
        probe: score it in the end.
        rungs: when early stopping looks at it; None: never.
        part: that it is scored on: ``select`` or ``test``.
        watched: it is stopped if its features collapse.
    """

    number: int
    settings: TrialSettings
    folder: Place
    paths: Paths
    probe: bool
    rungs: RungPlan | None
    part: Part = "select"
    watched: bool = False

    def to_config(self) -> dict[str, Any]:
        """Configuration of a Tune trial."""
        return {
            "number": self.number,
            "settings": self.settings.model_dump_json(),
            "folder": str(self.folder),
            "data": str(self.paths.data),
            "cache": str(self.paths.cache),
            "probe": self.probe,
            "part": self.part,
            "rungs": None if self.rungs is None else {"steps": list(self.rungs.steps), "items": self.rungs.items},
            "watched": self.watched,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TrialTask:
        """The task of a Tune trial.

        Raises:
            StorageError: if its folder is no path or URI of a store.
        """
        rungs = config["rungs"]
        return cls(
            number=config["number"],
            settings=TrialSettings.model_validate_json(config["settings"]),
            folder=Place.at(config["folder"]),
            paths=Paths(Path(config["data"]), Path(config["cache"])),
            probe=config["probe"],
            part=config["part"],
            rungs=None if rungs is None else RungPlan(tuple(rungs["steps"]), rungs["items"]),
            watched=config["watched"],
        )


@dataclass(frozen=True)
class Progress:
    """A phase other than training went on: setting up, extracting features, probing.

    Attributes:
        phase: its name.
        count: parts that are done.
        total: parts of it.
    """

    phase: str
    count: int
    total: int

    def to_dict(self) -> dict[str, Any]:
        """As it is reported."""
        # "done" is a word of Tune's own: reporting it would end the trial.
        return {PHASE: self.phase, "count": self.count, "total": self.total}


@dataclass(frozen=True)
class Trained:
    """Training came to a step.

    Attributes:
        total: steps of the training.
        metrics: what was measured, ``step`` among them.
    """

    total: int
    metrics: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As it is reported."""
        return {PHASE: "pretrain", "total": self.total, "metrics": dict(self.metrics)}


@dataclass(frozen=True)
class RungScores:
    """The encoder was looked at on the way.

    Attributes:
        step: after this step.
        scores: by benchmark, in percent; empty on all workers but the first.
        seconds: that taking them took.
    """

    step: int
    scores: Mapping[str, float]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As it is reported."""
        return {PHASE: "rung", "step": self.step, "scores": dict(self.scores), "seconds": self.seconds}


@dataclass(frozen=True)
class Failed:
    """The trial cannot go on.

    Attributes:
        error: why, in one sentence.
        halt: every other trial would stop there too.
    """

    error: str
    halt: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As it is reported."""
        return {PHASE: "failed", "error": self.error, "halt": self.halt}


@dataclass(frozen=True)
class Done:
    """The trial came to its end.

    Attributes:
        result: its ``checkpoint`` and flags and, where it was scored, accuracies, summaries and seconds.
    """

    result: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As it is reported."""
        return {PHASE: "done", "result": self.result}


Report = Progress | Trained | RungScores | Failed | Done


def parse_report(result: Mapping[str, Any]) -> Report | None:
    """The report in a result of Tune's; None in one that is Tune's own."""
    phase = result.get(PHASE)
    if phase is None:
        return None
    if phase == "pretrain":
        return Trained(int(result["total"]), result["metrics"])
    if phase == "rung":
        return RungScores(int(result["step"]), result["scores"], float(result.get("seconds", 0.0)))
    if phase == "failed":
        return Failed(result["error"], bool(result.get("halt")))
    if phase == "done":
        return Done(result["result"])
    return Progress(str(phase), int(result["count"]), int(result["total"]))


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


def call_off(folder: Place) -> None:
    """Tell the workers of a trial on Ray Train to end themselves at their next report, for the same reason."""
    (folder / CALLED_OFF).write("{}")


def was_called_off(folder: Place) -> bool:
    """Whether a trial's workers were told to end themselves."""
    return (folder / CALLED_OFF).exists()
