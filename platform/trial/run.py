"""One trial, from settings to scores: what runs in a Tune trial's process and, for several workers, in Ray Train."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import ray
import torch
from ray import tune
from ray._private.state import state as ray_state

from equipoise.models.encoders import Encoder
from equipoise.platform.errors import EquipoiseError, StorageError, UnreachableError
from equipoise.platform.settings.mix import resolve
from equipoise.platform.settings.parts import Part
from equipoise.platform.settings.trial import Resources, TrialSettings
from equipoise.platform.storage import REASONS, Paths, Place
from equipoise.platform.trial import checkpoint as checkpoints
from equipoise.platform.trial.device import compute_threads, device_of
from equipoise.platform.trial.encoders import frozen_encoder, untrained_encoder
from equipoise.platform.trial.evaluation import score
from equipoise.platform.trial.features import Split, split_features
from equipoise.platform.trial.messages import Done, Failed, Progress, RungScores, StoppedError, Trained, TrialTask
from equipoise.platform.trial.ray_train import looks, pretrain_on_train
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer

FULL = (errno.ENOSPC, errno.EDQUOT)

NOTICE_EVERY_S = 2.0  # how often a trial asks whether its node was told to go


def run_trial(config: Mapping[str, Any]) -> None:
    """Tune trainable: pretrain, then score; every report carries its phase, so that the driver can show it.

    Args:
        config: as :meth:`equipoise.platform.trial.messages.TrialTask.to_config` gives it.

    A report returns only if the trial is to go on: one that is stopped ends there, by Tune or, on Ray Train, by its
    workers, which read the verdict in the trial's folder, at a rung at once and else one report later.

    A failure is reported in one sentence, with its trace in ``error.txt``. One that comes from the settings or the data
    ends the trial; anything else is raised again, so that the trial goes on from its last checkpoint.
    """
    folder = Place.at(config["folder"])
    try:
        task = TrialTask.from_config(config)
        folder.check()  # here, on the trial's own node, before hours of training
        try:
            final = _pretrain(task)
        except StoppedError:
            return  # the study's book says so already
        scores = _scores(task, final) if task.probe else {"flags": []}
        tune.report(Done({"checkpoint": None if final is None else str(final), **scores}).to_dict())
    except Exception as error:
        # Any failure, a bug included, must reach the study's record in words before Tune sees an error.
        sentence = str(error) if isinstance(error, EquipoiseError | ValueError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(StorageError):  # the folder itself may be what is wrong
            (folder / "error.txt").write(traceback.format_exc())
        sentence = sentence.splitlines()[0] if sentence else type(error).__name__
        halt = _stops_all(error)
        tune.report(Failed(sentence, halt).to_dict())
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


def _pretrain(task: TrialTask) -> Place | None:
    """Train to the end and return the last checkpoint; None for an untrained variant."""
    settings, paths, folder = task.settings, task.paths, task.folder
    if settings.variant.untrained:
        return None
    total = settings.preset.optimisation.steps
    if settings.resources.uses_train:
        return pretrain_on_train(task)

    def report(metrics: dict[str, float]) -> None:
        tune.report(Trained(total, metrics).to_dict())

    def on_rung(step: int, scores: Mapping[str, float], seconds: float) -> None:
        tune.report(RungScores(step, scores, seconds).to_dict())

    with compute_threads(int(settings.resources.cpus_per_worker)):
        device = device_of(settings.resources)
        reporter = LocalReporter(folder, report, device, leaving=_Notice().given, on_rung=on_rung)
        Trainer(settings, paths, reporter, looks(task, reporter.device)).run()
    return checkpoints.latest(folder / "checkpoints")


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


def _scores(task: TrialTask, final: Place | None) -> dict[str, Any]:
    """Score where the trial's resources are: here, or in a task of one worker's size."""
    settings = task.settings
    if not settings.resources.uses_train:

        def progress(what: str, done: int, total: int) -> None:
            tune.report(Progress(what, done, total).to_dict())

        return score_checkpoint(settings, task.paths, task.folder, final, progress, part=task.part)
    r = settings.resources
    tune.report(Progress("probes", 0, 1).to_dict())
    apart = _apart(score_checkpoint, r)
    found: dict[str, Any] = ray.get(apart.remote(settings, task.paths, task.folder, final, part=task.part))
    return found


def _apart(function: Any, resources: Resources) -> Any:
    """A function as a task with one worker's resources, outside the trial's placement group, which holds none."""
    share = {"num_cpus": resources.cpus_per_worker, "num_gpus": resources.gpus_per_worker}
    return ray.remote(**share, scheduling_strategy="DEFAULT")(function)


def score_checkpoint(
    settings: TrialSettings,
    paths: Paths,
    folder: Place,
    final: Place | None,
    progress: Any = None,
    *,
    part: Part = "select",
) -> dict[str, Any]:
    """Score the trained encoder, or the untrained one, and store every item's outcome below ``correctness/``.

    Returns:
        ``accuracies`` by benchmark in percent, the ``part`` they are of, ``summaries``, ``flags``, ``seconds``, and
        ``health``: effective rank and spread of the features at the training's end, empty for an untrained encoder.
    """
    began = time.monotonic()
    trained, health = 0.0, dict[str, float]()
    with compute_threads(int(settings.resources.cpus_per_worker)):
        flags: list[str] = []
        if final is None:
            encoder = untrained_encoder(settings)
        else:
            found = checkpoints.load(final)
            encoder = frozen_encoder(found)
            trained = float(found.record["metrics"].get("seconds", 0.0))
            health = {k: v for k, v in found.record["metrics"].items() if k in ("effective_rank", "target_std")}
            if resolve(found.settings).untrained_allowed:
                flags.append("untrained_encoder")
        spread = _Spread(settings.resources)
        results = score(encoder, settings, paths, device_of(settings.resources), progress, spread.features, part=part)
    for result in results:
        result.write(folder / "correctness")
    summaries = [r.summary() for r in results]
    kept = {"part": part, "benchmarks": summaries, "flags": flags, "health": health}
    (folder / "scores.json").write(json.dumps(kept, indent=1))
    return {
        "accuracies": {r.benchmark: r.accuracy for r in results},
        "part": part,
        "summaries": summaries,
        "flags": flags,
        "health": health,
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
        encoder: Encoder,
        split: Split,
        device: torch.device,
        progress: Any = None,
    ) -> torch.Tensor:
        """As :func:`equipoise.platform.trial.features.split_features`; the first part is computed here."""
        mine = (0, self.parts)
        if self.parts == 1:
            return split_features(encoder, split, device, mine, progress)
        shared = ray.put(encoder.cpu())
        others = [self.task.remote(shared, split, (part, self.parts)) for part in range(1, self.parts)]
        found = split_features(encoder, split, device, mine, progress)
        parts = [found, *(torch.from_numpy(part).to(device) for part in ray.get(others))]
        return torch.cat([part for part in parts if len(part)])


def _part(encoder: Encoder, split: Split, part: tuple[int, int]) -> Any:
    """One part's features as an array, computed with one worker's resources."""
    with compute_threads(int(split.settings.resources.cpus_per_worker)):
        return split_features(encoder, split, device_of(split.settings.resources), part).cpu().numpy()
