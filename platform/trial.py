"""One trial, from settings to scores: what runs in a Tune trial's process and, for several workers, in Ray Train."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray._private.state import state as ray_state
from torch import nn

from equipoise.models.encoder import VideoEncoder
from equipoise.models.jepa import VideoJEPA
from equipoise.platform import checkpoint as checkpoints
from equipoise.platform.errors import EquipoiseError, StorageError, UnreachableError
from equipoise.platform.evaluation import frozen_encoder, score, split_features, untrained_encoder
from equipoise.platform.halving_scores import encoder_of, rung_scores
from equipoise.platform.home import Paths
from equipoise.platform.mix import resolve
from equipoise.platform.settings import Resources, TrialSettings
from equipoise.platform.sharding import shard
from equipoise.platform.storage import REASONS, Place
from equipoise.platform.training import LocalReporter, Rungs, Trainer, compute_threads, default_device

PHASE = "phase"
FULL = (errno.ENOSPC, errno.EDQUOT)
VERDICT_EVERY_S = 0.5  # how often a worker of Ray Train asks whether its trial goes on
NOTICE_EVERY_S = 2.0  # how often a trial asks whether its node was told to go


def run_trial(config: Mapping[str, Any]) -> None:
    """Tune trainable: pretrain, then score; every report carries its phase, so that the driver can show it.

    Args:
        config: ``settings`` (JSON), ``folder`` (the trial's, a path or a URI), ``data`` and ``cache``, ``probe``:
            whether to score, and ``rungs``: steps at which early stopping looks at the encoder, with how many
            ``items``, or None.

    The report of a rung returns only if the trial is to go on: one that is stopped ends there, by Tune or, on Ray
    Train, by its workers, which read the verdict in the trial's folder.

    A failure is reported in one sentence, with its trace in ``error.txt``. One that comes from the settings or the data
    ends the trial; anything else is raised again, so that the trial goes on from its last checkpoint.
    """
    folder = Place.at(config["folder"])
    try:
        settings = TrialSettings.model_validate_json(config["settings"])
        paths = Paths(Path(config["data"]), Path(config["cache"]))
        folder.check()  # here, on the trial's own node, before hours of training
        try:
            final = _pretrain(settings, paths, folder, config["rungs"])
        except StoppedError:
            return  # the study's book says so already
        scores = _scores(settings, paths, folder, final) if config["probe"] else {"flags": []}
        tune.report({PHASE: "done", "result": {"checkpoint": None if final is None else str(final), **scores}})
    except Exception as error:
        # Any failure, a bug included, must reach the study's record in words before Tune sees an error.
        sentence = str(error) if isinstance(error, EquipoiseError | ValueError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(StorageError):  # the folder itself may be what is wrong
            (folder / "error.txt").write(traceback.format_exc())
        sentence = sentence.splitlines()[0] if sentence else type(error).__name__
        halt = _stops_all(error)
        tune.report({PHASE: "failed", "error": sentence, "halt": halt})
        if _may_pass(error) and not halt:
            raise  # Tune starts the trial again, from its last checkpoint


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _may_pass(error: BaseException) -> bool:
    """Whether a failure may not happen again: one of storage, or unforeseen; not one of the settings or the data."""
    return not isinstance(error, EquipoiseError | ValueError) or any(isinstance(e, StorageError) for e in _chain(error))


def _stops_all(error: BaseException) -> bool:
    """Whether every other trial would stop there too: a full disk, a used-up quota, a store that is gone."""
    for one in _chain(error):
        if isinstance(one, UnreachableError) or (isinstance(one, OSError) and one.errno in FULL):
            return True
    # Ray Train hands on the words of a worker's error, not the error.
    said = (*(os.strerror(number) for number in FULL), *(words for _, words in REASONS))
    return any(words in str(error) for words in said)


def _pretrain(
    settings: TrialSettings, paths: Paths, folder: Place, rungs: Mapping[str, Any] | None = None
) -> Place | None:
    """Train to the end and return the last checkpoint; None for an untrained variant."""
    if settings.variant.untrained:
        return None
    total = settings.preset.optimisation.steps
    if settings.resources.uses_train:
        return pretrain_on_train(settings, paths, folder, rungs)

    def report(metrics: dict[str, float]) -> None:
        tune.report({PHASE: "pretrain", "total": total, "metrics": metrics})

    def on_rung(step: int, scores: Mapping[str, float], seconds: float) -> None:
        tune.report(rung_report(step, scores, seconds))

    with compute_threads(int(settings.resources.cpus_per_worker)):
        reporter = LocalReporter(folder, report, leaving=_Notice().given, on_rung=on_rung)
        Trainer(settings, paths, reporter, looks(settings, paths, reporter.device, rungs)).run()
    return checkpoints.latest(folder / "checkpoints")


def rung_report(step: int, scores: Mapping[str, float] | None, seconds: float) -> dict[str, Any]:
    """What a trial reports at a rung: scores by benchmark in percent, and the seconds that taking them took."""
    return {PHASE: "rung", "step": step, "scores": dict(scores or {}), "seconds": seconds}


class StoppedError(EquipoiseError):
    """A trial on Ray Train is stopped early: its workers end here."""


def verdict_at(folder: Place, step: int) -> Place:
    """Where the driver says whether a trial on Ray Train goes on from a rung.

    Tune could end such a trial only by ending its process, and Train then has to find out and free the workers, which
    it cannot always do (with a second Ray on the machine, for one). Workers that end themselves are freed at once.
    """
    return folder / "rungs" / f"{step:08d}.json"


def write_verdict(folder: Place, step: int, goes_on: bool) -> None:
    """Tell a trial's workers whether it goes on."""
    verdict_at(folder, step).write(json.dumps({"goes_on": goes_on}))


def _stopped(folder: Place, step: int) -> bool | None:
    """Whether a trial is stopped at a rung; None while that is not decided."""
    place = verdict_at(folder, step)
    return not json.loads(place.read())["goes_on"] if place.exists() else None


def looks(settings: TrialSettings, paths: Paths, device: torch.device, rungs: Mapping[str, Any] | None) -> Rungs | None:
    """The looks that early stopping takes at an encoder on the way, from the trial's configuration."""
    if rungs is None:
        return None

    def look(state: Mapping[str, Any]) -> dict[str, float]:
        return rung_scores(encoder_of(settings, state), settings, paths, device, rungs["items"])

    return Rungs(tuple(rungs["steps"]), look)


class _Notice:
    """Whether the node of this process was told to go: a spot machine that is taken back, a node that is drained."""

    def __init__(self) -> None:
        self._node = ray.get_runtime_context().get_node_id()
        self._asked = time.monotonic()

    def given(self) -> bool:
        """Asks Ray at most every few seconds."""
        now = time.monotonic()
        if now - self._asked < NOTICE_EVERY_S:
            return False
        self._asked = now
        return self._node in ray_state.get_draining_nodes()


def pretrain_on_train(
    settings: TrialSettings, paths: Paths, folder: Place, rungs: Mapping[str, Any] | None = None
) -> Place:
    """Train with Ray Train's worker group inside a Tune trial; a lost worker resumes from the last checkpoint.

    Raises:
        ray.train.TrainingFailedError: after the second failure of the worker group.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from equipoise.platform.process_group import NodeTorchConfig

    # A worker's report waits until the one before it was fetched, which Train does every two seconds by itself:
    # training would go no faster than one report in that time.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    r = settings.resources
    per_worker = {"CPU": r.cpus_per_worker, **({"GPU": r.gpus_per_worker} if r.gpus_per_worker else {})}
    trainer = TorchTrainer(
        train_worker,
        torch_config=NodeTorchConfig(),
        train_loop_config={
            "settings": settings.model_dump_json(),
            "folder": str(folder),
            "data": str(paths.data),
            "cache": str(paths.cache),
            "rungs": rungs,
        },
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
    if any(_stopped(folder, step) for step in (rungs or {"steps": []})["steps"]):
        raise StoppedError("stopped early")
    if result.checkpoint is None:
        raise EquipoiseError(f"Ray Train ended without a checkpoint in {folder}")
    return replace(folder, path=result.checkpoint.path)


def train_worker(config: Mapping[str, Any]) -> None:
    """The loop in one worker of Ray Train."""
    settings = TrialSettings.model_validate_json(config["settings"])
    with compute_threads(int(settings.resources.cpus_per_worker)):
        reporter = TrainReporter(settings, Place.at(config["folder"]))
        reporter.begin()
        paths = Paths(Path(config["data"]), Path(config["cache"]))
        with contextlib.suppress(StoppedError):
            Trainer(settings, paths, reporter, looks(settings, paths, reporter.device, config["rungs"])).run()


class TrainReporter:
    """Reports of a loop that runs in a worker of Ray Train.

    Args:
        settings: the trial.
        folder: the trial's folder, below which Train keeps the checkpoints.
    """

    def __init__(self, settings: TrialSettings, folder: Place) -> None:
        from ray.train import get_context
        from ray.train.torch import get_device

        context = get_context()
        self.rank: int = context.get_world_rank()
        self.world: int = context.get_world_size()
        self.folder = folder
        self.total = settings.preset.optimisation.steps
        self.parallel = settings.resources.parallel
        # Without a GPU in the settings the worker stays on the CPU even where the machine has one.
        self.device: torch.device = get_device() if settings.resources.gpus_per_worker else torch.device("cpu")

    def resume(self) -> Place | None:
        """The newest checkpoint that Train kept of this run."""
        from ray.train import get_checkpoint

        found = get_checkpoint()
        return None if found is None else replace(self.folder, path=found.path)

    def begin(self) -> None:
        """Say that the workers are there: from now on the trial holds what it pays for."""
        from ray.train import report

        report({PHASE: "setup", "count": 0, "total": 1})

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

    def rung(self, step: int, scores: Mapping[str, float] | None, seconds: float) -> None:
        """Report on every rank, Train passes on what rank 0 says; then wait for the verdict.

        Raises:
            StoppedError: on every worker of a trial that is stopped.
        """
        from ray.train import report

        report(rung_report(step, scores, seconds))
        stops = torch.zeros(1, device=self.device)
        if self.rank == 0:
            while (stopped := _stopped(self.folder, step)) is None:
                time.sleep(VERDICT_EVERY_S)
            stops += stopped
        if self.sum(stops).item():
            raise StoppedError("stopped early")

    def leaving(self) -> bool:
        """Whether Train heard that a worker's node was told to go; the workers agree on the answer."""
        from ray.train import get_preemption_info

        return get_preemption_info() is not None

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the workers, in place."""
        if self.world > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def wrap(self, model: VideoJEPA) -> nn.Module:
        """Sharded or data parallel over the workers; a step may leave an embedding or a head without gradient."""
        if self.world == 1:
            return model
        if self.parallel == "fsdp":
            return shard(model, self.device, self.world)
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids, find_unused_parameters=True)


def _scores(settings: TrialSettings, paths: Paths, folder: Place, final: Place | None) -> dict[str, Any]:
    """Score where the trial's resources are: here, or in a task of one worker's size."""
    if not settings.resources.uses_train:

        def progress(what: str, done: int, total: int) -> None:
            # "done" is a word of Tune's own: reporting it would end the trial.
            tune.report({PHASE: what, "count": done, "total": total})

        return score_checkpoint(settings, paths, folder, final, progress)
    r = settings.resources
    tune.report({PHASE: "probes", "count": 0, "total": 1})
    task = _apart(score_checkpoint, r)
    found: dict[str, Any] = ray.get(task.remote(settings, paths, folder, final))
    return found


def _apart(function: Any, resources: Resources) -> Any:
    """A function as a task with one worker's resources, outside the trial's placement group, which holds none."""
    share = {"num_cpus": resources.cpus_per_worker, "num_gpus": resources.gpus_per_worker}
    return ray.remote(**share, scheduling_strategy="DEFAULT")(function)


def score_checkpoint(
    settings: TrialSettings, paths: Paths, folder: Place, final: Place | None, progress: Any = None
) -> dict[str, Any]:
    """Score the trained encoder, or the untrained one, and store every item's outcome below ``correctness/``.

    Returns:
        ``accuracies`` by benchmark in percent, ``summaries`` and ``flags``.
    """
    began = time.monotonic()
    trained = 0.0
    with compute_threads(int(settings.resources.cpus_per_worker)):
        flags: list[str] = []
        if final is None:
            encoder = untrained_encoder(settings)
        else:
            found = checkpoints.load(final)
            encoder = frozen_encoder(found)
            trained = float(found.record["metrics"].get("seconds", 0.0))
            if resolve(found.settings).untrained_allowed:
                flags.append("untrained_encoder")
        spread = _Spread(settings.resources)
        results = score(encoder, settings, paths, default_device(), progress, spread.features)
    for result in results:
        result.write(folder / "correctness")
    summaries = [r.summary() for r in results]
    (folder / "scores.json").write(json.dumps({"benchmarks": summaries, "flags": flags}, indent=1))
    return {
        "accuracies": {r.benchmark: r.accuracy for r in results},
        "summaries": summaries,
        "flags": flags,
        "seconds": {"pretrain": trained, "score": time.monotonic() - began},
    }


class _Spread:
    """Features of a benchmark, a part by each of a trial's workers.

    Args:
        resources: the trial's; with one worker everything happens here.
    """

    def __init__(self, resources: Resources) -> None:
        self.parts = resources.workers
        self.task = _apart(_part, resources)

    def features(
        self,
        encoder: VideoEncoder,
        settings: TrialSettings,
        paths: Paths,
        manifest: str,
        pooled: bool,
        device: torch.device,
        progress: Any = None,
    ) -> torch.Tensor:
        """As :func:`equipoise.platform.evaluation.split_features`; the first part is computed here."""
        mine = (0, self.parts)
        if self.parts == 1:
            return split_features(encoder, settings, paths, manifest, pooled, device, mine, progress)
        shared = ray.put(encoder.cpu())
        others = [
            self.task.remote(shared, settings, paths, manifest, pooled, (part, self.parts))
            for part in range(1, self.parts)
        ]
        found = split_features(encoder, settings, paths, manifest, pooled, device, mine, progress)
        parts = [found, *(torch.from_numpy(part).to(device) for part in ray.get(others))]
        return torch.cat([part for part in parts if len(part)])


def _part(
    encoder: VideoEncoder, settings: TrialSettings, paths: Paths, manifest: str, pooled: bool, part: tuple[int, int]
) -> Any:
    """One part's features as an array, computed with one worker's resources."""
    with compute_threads(int(settings.resources.cpus_per_worker)):
        return split_features(encoder, settings, paths, manifest, pooled, default_device(), part).cpu().numpy()
