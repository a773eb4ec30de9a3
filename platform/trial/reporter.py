"""Where a training loop reports to and resumes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from equipoise.models.jepa import VideoJEPA
from equipoise.platform.storage import Place, Where
from equipoise.platform.trial import checkpoint as checkpoints
from equipoise.platform.trial.device import default_device


class Reporter(Protocol):
    """Where a loop reports to and resumes from; one implementation per launcher."""

    rank: int
    world: int

    def resume(self) -> checkpoints.Checkpoint | None:
        """Checkpoint to go on from, or None."""

    def report(self, metrics: Mapping[str, float], save: Any | None) -> None:
        """Hand over metrics and, where ``save`` is given, a checkpoint: ``save(folder)`` writes it below a folder."""

    def rung(self, step: int, scores: Mapping[str, float] | None, seconds: float) -> None:
        """Hand over scores taken on the way, None on all workers but the first; a trial that is stopped ends here."""

    def wrap(self, model: VideoJEPA) -> nn.Module:
        """The model as it is called in a step: itself, or wrapped for several workers."""

    def leaving(self) -> bool:
        """Whether this trial's machine was told to go; all workers ask at the same steps and hear the same."""

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum of a tensor over all workers, on each of them, in place; the tensor is on ``device``."""

    def largest(self, tensor: Tensor) -> Tensor:
        """Largest of each element of a tensor over all workers, as :meth:`sum`."""

    @property
    def device(self) -> torch.device:
        """Device to train on."""


@dataclass(frozen=True)
class Rungs:
    """Looks at the encoder on the way; they change nothing in the training, which gives the same bits with and without.

    Attributes:
        steps: after which steps to look.
        score: from the whole model's state to a score of every benchmark.
    """

    steps: tuple[int, ...] = ()
    score: Callable[[Mapping[str, Any]], Mapping[str, float]] = lambda state: {}


class LocalReporter:
    """Reports of a loop that runs in this process.

    Args:
        folder: the trial's folder, a path or a URI; checkpoints go to ``checkpoints/`` below it.
        on_metrics: called with every report's metrics.
        device: device to train on.
        keep: checkpoints to keep.
        leaving: whether this process's machine was told to go.
        on_rung: called with step, scores and seconds of every look on the way.
    """

    rank = 0
    world = 1

    def __init__(
        self,
        folder: Where,
        on_metrics: Any = None,
        device: torch.device | None = None,
        keep: int = 1,
        leaving: Callable[[], bool] = lambda: False,
        on_rung: Callable[[int, Mapping[str, float], float], None] = lambda step, scores, seconds: None,
    ) -> None:
        self.folder = Place.at(folder) / "checkpoints"
        self.on_metrics = on_metrics
        self.keep = keep
        self.leaving = leaving
        self.on_rung = on_rung
        self.device = device or default_device()

    def resume(self) -> checkpoints.Checkpoint | None:
        """The newest checkpoint of the folder that can be read."""
        return checkpoints.load_latest(self.folder)

    def report(self, metrics: Mapping[str, float], save: Any | None) -> None:
        """Write the checkpoint first, so that a metric never speaks of a step that cannot be resumed."""
        if save is not None:
            save(self.folder)
            checkpoints.keep_latest(self.folder, self.keep)
        if self.on_metrics is not None:
            self.on_metrics(dict(metrics))

    def rung(self, step: int, scores: Mapping[str, float] | None, seconds: float) -> None:
        """Pass on what was seen."""
        self.on_rung(step, scores or {}, seconds)

    def wrap(self, model: VideoJEPA) -> nn.Module:
        """The model itself."""
        return model

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    largest = sum
