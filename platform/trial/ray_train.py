"""Pretraining by several workers of Ray Train, inside one trial of Ray Tune."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from equipoise.models.jepa import VideoJEPA
from equipoise.platform.errors import EquipoiseError
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Place
from equipoise.platform.trial import checkpoint as checkpoints
from equipoise.platform.trial.device import compute_threads
from equipoise.platform.trial.early_scores import rung_scores
from equipoise.platform.trial.encoders import encoder_of
from equipoise.platform.trial.messages import (
    Progress,
    RungScores,
    StoppedError,
    Trained,
    TrialTask,
    was_called_off,
    was_stopped,
)
from equipoise.platform.trial.reporter import Rungs
from equipoise.platform.trial.sharding import shard
from equipoise.platform.trial.trainer import Trainer

DECISION_EVERY_S = 0.5  # how often a worker of Ray Train asks whether its trial goes on


def looks(task: TrialTask, device: torch.device) -> Rungs | None:
    """The looks that early stopping takes at an encoder on the way, from the trial's configuration."""
    rungs, settings = task.rungs, task.settings
    if rungs is None:
        return None

    def look(state: Mapping[str, Any]) -> dict[str, float]:
        return rung_scores(encoder_of(settings, state), settings, task.paths, device, rungs.items)

    return Rungs(rungs.steps, look)


def pretrain_on_train(task: TrialTask) -> Place:
    """Train with Ray Train's worker group inside a Tune trial; a lost worker resumes from the last checkpoint.

    Raises:
        ray.train.TrainingFailedError: after the second failure of the worker group.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from equipoise.platform.trial.process_group import NodeTorchConfig

    # A worker's report waits until the one before it was fetched, which Train does every two seconds by itself:
    # training would go no faster than one report in that time.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    folder, r = task.folder, task.settings.resources
    per_worker = {"CPU": r.cpus_per_worker, **({"GPU": r.gpus_per_worker} if r.gpus_per_worker else {})}
    trainer = TorchTrainer(
        train_worker,
        torch_config=NodeTorchConfig(),
        train_loop_config=task.to_config(),
        scaling_config=ScalingConfig(
            num_workers=r.workers,
            use_gpu=r.gpus_per_worker > 0,
            resources_per_worker=per_worker,
            placement_strategy=r.placement,
        ),
        run_config=RunConfig(
            # The same name and folder again make Train go on from the checkpoints it finds there.
            name="train",
            storage_path=folder.path,
            storage_filesystem=folder.filesystem,
            failure_config=FailureConfig(max_failures=2),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=[TuneReportCallback()],
        ),
    )
    result = trainer.fit()
    stopped = any(was_stopped(folder, step) for step in (task.rungs.steps if task.rungs else ()))
    if stopped or (task.watched and was_called_off(folder)):
        raise StoppedError("stopped early")
    if result.checkpoint is None:
        raise EquipoiseError(f"Ray Train ended without a checkpoint in {folder}")
    return replace(folder, path=result.checkpoint.path)


def train_worker(config: Mapping[str, Any]) -> None:
    """The loop in one worker of Ray Train."""
    task = TrialTask.from_config(config)
    with compute_threads(int(task.settings.resources.cpus_per_worker)):
        reporter = TrainReporter(task.settings, task.folder, task.watched)
        reporter.begin()
        with contextlib.suppress(StoppedError):
            Trainer(task.settings, task.paths, reporter, looks(task, reporter.device)).run()


class TrainReporter:
    """Reports of a loop that runs in a worker of Ray Train.

    Args:
        settings: the trial.
        folder: the trial's folder, below which Train keeps the checkpoints.
        watched: the driver may stop it at any report of its health.
    """

    def __init__(self, settings: TrialSettings, folder: Place, watched: bool = False) -> None:
        from ray.train import get_context
        from ray.train.torch import get_device

        context = get_context()
        self.rank: int = context.get_world_rank()
        self.world: int = context.get_world_size()
        self.folder = folder
        self.watched = watched
        self.total = settings.preset.optimisation.steps
        self.parallel = settings.resources.parallel
        # Without a GPU in the settings the worker stays on the CPU even where the machine has one.
        self.device: torch.device = get_device() if settings.resources.gpus_per_worker else torch.device("cpu")

    def resume(self) -> checkpoints.Checkpoint | None:
        """The newest checkpoint that Train kept of this run: every worker has to take the same."""
        from ray.train import get_checkpoint

        found = get_checkpoint()
        return None if found is None else checkpoints.load(replace(self.folder, path=found.path))

    def begin(self) -> None:
        """Say that the workers are there: from now on the trial holds what it pays for."""
        from ray.train import report

        report(Progress("setup", 0, 1).to_dict())

    def report(self, metrics: Mapping[str, float], save: Any | None) -> None:
        """Report on every rank (Train waits for all); rank 0 brings the checkpoint.

        Nobody waits for the driver's answer: a trial that it stops ends at the report after the one that told.

        Raises:
            StoppedError: on every worker of a trial that is stopped.
        """
        from ray.train import Checkpoint, report

        if self.watched and "effective_rank" in metrics:
            self._end_if(self.rank == 0 and was_called_off(self.folder))

        content = Trained(self.total, metrics).to_dict()
        if save is None or self.rank != 0:
            report(content)
            return
        with tempfile.TemporaryDirectory() as temporary:
            save(Path(temporary))
            report(content, checkpoint=Checkpoint.from_directory(temporary))

    def rung(self, step: int, scores: Mapping[str, float] | None, seconds: float) -> None:
        """Report on every rank, Train passes on what rank 0 says; then wait for the verdict.

        Raises:
            StoppedError: on every worker of a trial that is stopped.
        """
        from ray.train import report

        report(RungScores(step, scores or {}, seconds).to_dict())
        stopped: bool | None = False
        if self.rank == 0:
            while (stopped := was_stopped(self.folder, step)) is None:
                time.sleep(DECISION_EVERY_S)
        self._end_if(bool(stopped))

    def _end_if(self, stopped: bool) -> None:
        """End on every worker if one of them, the first, knows that the trial is stopped."""
        if self.sum(torch.full((1,), float(stopped), device=self.device)).item():
            raise StoppedError("stopped early")

    def leaving(self) -> bool:
        """Whether Train heard that a worker's node was told to go; the workers agree on the answer."""
        from ray.train import get_preemption_info

        return get_preemption_info() is not None

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the workers, in place."""
        return self._over_workers(tensor, torch.distributed.ReduceOp.SUM)

    def largest(self, tensor: torch.Tensor) -> torch.Tensor:
        """Largest of each element over the workers, in place."""
        return self._over_workers(tensor, torch.distributed.ReduceOp.MAX)

    def _over_workers(self, tensor: torch.Tensor, how: torch.distributed.ReduceOp.RedOpType) -> torch.Tensor:
        if self.world > 1:
            torch.distributed.all_reduce(tensor, how)
        return tensor

    def wrap(self, model: VideoJEPA) -> nn.Module:
        """Sharded or data parallel over the workers; a step may leave an embedding or a head without gradient."""
        if self.world == 1:
            return model
        if self.parallel == "fsdp":
            return shard(model, self.device, self.world)
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            model,
            device_ids=ids,
            find_unused_parameters=True,
            broadcast_buffers=False,  # they are constants
            gradient_as_bucket_view=True,  # one copy of the gradients and not two
        )
