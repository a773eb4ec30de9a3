"""One trial, from settings to scores: what runs in a Tune trial's process and, for several workers, in Ray Train."""

from __future__ import annotations

import contextlib
import json
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from torch import nn

from equipoise.models.jepa import VideoJEPA
from equipoise.platform import checkpoint as checkpoints
from equipoise.platform.errors import EquipoiseError
from equipoise.platform.evaluation import frozen_encoder, score, untrained_encoder
from equipoise.platform.mix import resolve
from equipoise.platform.settings import TrialSettings
from equipoise.platform.training import LocalReporter, Paths, Trainer, compute_threads, default_device

PHASE = "phase"


def run_trial(config: Mapping[str, Any]) -> None:
    """Tune trainable: pretrain, then score; every report carries its phase, so that the driver can show it.

    Args:
        config: ``settings`` (JSON), ``folder`` (the trial's), ``data`` and ``cache``, and ``probe``: whether to score.

    Raises:
        Exception: whatever stopped the trial, after its message was reported and its trace written to ``error.txt``.
    """
    folder = Path(config["folder"])
    try:
        settings = TrialSettings.model_validate_json(config["settings"])
        paths = Paths(Path(config["data"]), Path(config["cache"]))
        folder.mkdir(parents=True, exist_ok=True)
        final = _pretrain(settings, paths, folder)
        scores = _scores(settings, paths, folder, final) if config["probe"] else {"flags": []}
        tune.report({PHASE: "done", "result": {"checkpoint": None if final is None else str(final), **scores}})
    except Exception as error:
        # Any failure, a bug included, must reach the study's record in words before Tune sees an error.
        sentence = str(error) if isinstance(error, EquipoiseError | ValueError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):  # the folder itself may be what is wrong
            (folder / "error.txt").write_text(traceback.format_exc())
        tune.report({PHASE: "failed", "error": sentence.splitlines()[0] if sentence else type(error).__name__})
        raise


def _pretrain(settings: TrialSettings, paths: Paths, folder: Path) -> Path | None:
    """Train to the end and return the last checkpoint; None for an untrained variant."""
    if settings.variant.untrained:
        return None
    total = settings.preset.optimisation.steps
    if settings.resources.uses_train:
        return pretrain_on_train(settings, paths, folder)

    def report(metrics: dict[str, float]) -> None:
        tune.report({PHASE: "pretrain", "total": total, "metrics": metrics})

    with compute_threads(int(settings.resources.cpus_per_worker)):
        Trainer(settings, paths, LocalReporter(folder, report)).run()
    return checkpoints.latest(folder / "checkpoints")


def pretrain_on_train(settings: TrialSettings, paths: Paths, folder: Path) -> Path:
    """Train with Ray Train's worker group inside a Tune trial; a lost worker resumes from the last checkpoint.

    Raises:
        ray.train.TrainingFailedError: after the second failure of the worker group.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    r = settings.resources
    per_worker = {"CPU": r.cpus_per_worker, **({"GPU": r.gpus_per_worker} if r.gpus_per_worker else {})}
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"settings": settings.model_dump_json(), "data": str(paths.data), "cache": str(paths.cache)},
        scaling_config=ScalingConfig(
            num_workers=r.workers, use_gpu=r.gpus_per_worker > 0, resources_per_worker=per_worker
        ),
        run_config=RunConfig(
            # The same name and folder again make Train go on from the checkpoints it finds there.
            name="train",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=2),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=[TuneReportCallback()],
        ),
    )
    result = trainer.fit()
    if result.checkpoint is None:
        raise EquipoiseError(f"Ray Train ended without a checkpoint in {folder}")
    return Path(result.checkpoint.path)


def train_worker(config: Mapping[str, Any]) -> None:
    """The loop in one worker of Ray Train."""
    settings = TrialSettings.model_validate_json(config["settings"])
    with compute_threads(int(settings.resources.cpus_per_worker)):
        Trainer(settings, Paths(Path(config["data"]), Path(config["cache"])), TrainReporter(settings)).run()


class TrainReporter:
    """Reports of a loop that runs in a worker of Ray Train.

    Args:
        settings: the trial.
    """

    def __init__(self, settings: TrialSettings) -> None:
        from ray.train import get_context
        from ray.train.torch import get_device

        context = get_context()
        self.rank: int = context.get_world_rank()
        self.world: int = context.get_world_size()
        self.total = settings.preset.optimisation.steps
        # Without a GPU in the settings the worker stays on the CPU even where the machine has one.
        self.device: torch.device = get_device() if settings.resources.gpus_per_worker else torch.device("cpu")

    def resume(self) -> Path | None:
        """The newest checkpoint that Train kept of this run."""
        from ray.train import get_checkpoint

        found = get_checkpoint()
        return None if found is None else Path(found.path)

    def report(self, metrics: Mapping[str, float], save: Any | None) -> None:
        """Report on every rank (Train waits for all); rank 0 brings the checkpoint."""
        from ray.train import Checkpoint, report

        content = {PHASE: "pretrain", "total": self.total, "metrics": dict(metrics)}
        if save is None or self.rank != 0:
            report(content)
            return
        with tempfile.TemporaryDirectory() as temporary:
            save(Path(temporary))
            report(content, checkpoint=Checkpoint.from_directory(temporary))

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the workers, in place."""
        if self.world > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def wrap(self, model: VideoJEPA) -> nn.Module:
        """Distributed data parallel over the workers; a step may leave an embedding or a head without gradient."""
        if self.world == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids, find_unused_parameters=True)


def _scores(settings: TrialSettings, paths: Paths, folder: Path, final: Path | None) -> dict[str, Any]:
    """Score where the trial's resources are: here, or in a task of one worker's size."""
    if not settings.resources.uses_train:

        def progress(what: str, done: int, total: int) -> None:
            # "done" is a word of Tune's own: reporting it would end the trial.
            tune.report({PHASE: what, "count": done, "total": total})

        return score_checkpoint(settings, paths, folder, final, progress)
    r = settings.resources
    tune.report({PHASE: "probes", "count": 0, "total": 1})
    task = ray.remote(num_cpus=r.cpus_per_worker, num_gpus=r.gpus_per_worker)(score_checkpoint)
    found: dict[str, Any] = ray.get(task.remote(settings, paths, folder, final))
    return found


def score_checkpoint(
    settings: TrialSettings, paths: Paths, folder: Path, final: Path | None, progress: Any = None
) -> dict[str, Any]:
    """Score the trained encoder, or the untrained one, and store every item's outcome below ``correctness/``.

    Returns:
        ``accuracies`` by benchmark in percent, ``summaries`` and ``flags``.
    """
    with compute_threads(int(settings.resources.cpus_per_worker)):
        flags: list[str] = []
        if final is None:
            encoder = untrained_encoder(settings)
        else:
            found = checkpoints.load(final)
            encoder = frozen_encoder(found)
            if resolve(found.settings).untrained_allowed:
                flags.append("untrained_encoder")
        results = score(encoder, settings, paths, default_device(), progress)
    for result in results:
        result.write(folder / "correctness")
    summaries = [r.summary() for r in results]
    (folder / "scores.json").write_text(json.dumps({"benchmarks": summaries, "flags": flags}, indent=1))
    return {"accuracies": {r.benchmark: r.accuracy for r in results}, "summaries": summaries, "flags": flags}
