"""The pretraining loop: the same function in a trial's own process and in every worker of Ray Train."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from equipoise.data.loader import Batch
from equipoise.models.diagnostics import effective_rank, gradient_shares, target_spread
from equipoise.models.jepa import StepOutput
from equipoise.platform.errors import CheckpointError, EquipoiseError
from equipoise.platform.seeds import stream
from equipoise.platform.settings.mix import resolve
from equipoise.platform.settings.preset import Optimisation
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths, Place, Where
from equipoise.platform.trial import checkpoint as checkpoints
from equipoise.platform.trial.batches import Batches
from equipoise.platform.trial.device import enough_memory, has_bfloat16
from equipoise.platform.trial.encoders import build_model
from equipoise.platform.trial.reporter import Reporter, Rungs
from equipoise.platform.trial.sharding import load_optimiser, whole

NOTICE_EVERY = (
    10  # steps between two questions whether the machine was told to go: with Ray Train all workers meet there
)
LESS = "optimisation.batch, model.size or model.frames, or share a trial among more workers"
RANK_ITEMS = 2048  # tokens that enter the effective rank: enough for a stable entropy, a few milliseconds of SVD


class TrainingError(EquipoiseError):
    """Training cannot go on: a loss that is not finite."""


def learning_rate(o: Optimisation, step: int) -> float:
    """Learning rate at a 0-based step: linear warm-up, then constant or a cosine to a hundredth."""
    if step < o.warmup_steps:
        return o.lr_start + (o.lr - o.lr_start) * step / o.warmup_steps
    if o.schedule == "constant":
        return o.lr
    done = (step - o.warmup_steps) / max(1, o.steps - o.warmup_steps)
    return o.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


class Trainer:
    """One trial's training: model, optimiser, data, and their state at a step.

    Args:
        settings: the trial.
        paths: where to read.
        reporter: where to report to.
        rungs: when to look at the encoder on the way, and how.

    Raises:
        EquipoiseError: for settings, data or a checkpoint that cannot be used.
    """

    def __init__(self, settings: TrialSettings, paths: Paths, reporter: Reporter, rungs: Rungs | None = None) -> None:
        self.settings, self.reporter = settings, reporter
        self.rungs = rungs or Rungs()
        self.mix = resolve(settings)
        preset = settings.preset
        self.o = preset.optimisation
        self.device = reporter.device
        self.model = build_model(settings, self.mix).to(self.device)
        self.model.workers = reporter if reporter.world > 1 else None
        self.batches = Batches(settings, self.mix, paths, reporter)
        self.step = 0
        self.spent = 0.0  # seconds of training behind this step, also of the processes it was resumed from
        self.noticed = False
        self.sampler_state: dict[str, Any] | None = None
        self.last_report: dict[str, float] | None = None
        found = self._restore()
        self.wrapped = reporter.wrap(self.model)
        # Made after wrapping, which may replace parameters by shards. Names decide weight decay (none on biases and 1-D
        # parameters); frozen parameters are left out.
        self.optimiser = create_optimizer_v2(
            self.model, opt="adamw", lr=self.o.lr, weight_decay=self.o.weight_decay, filter_bias_and_bn=True
        )
        if found is not None:
            load_optimiser(self.optimiser, found.state["optimiser"])
        self.autocast = self._precision()

    def _precision(self) -> bool:
        wanted = self.o.precision
        able = has_bfloat16(self.device)
        if wanted == "bfloat16" and not able and self.device.type == "cuda":
            raise TrainingError("precision bfloat16: this GPU has none; use precision: auto or float32")
        return wanted == "bfloat16" or (wanted == "auto" and able)

    def _restore(self) -> checkpoints.Checkpoint | None:
        """Continue from the reporter's checkpoint, if there is one; the optimiser is the caller's."""
        found = self.reporter.resume()
        if found is None:
            return None
        path = found.path
        if found.settings.key != self.settings.key:
            raise CheckpointError(
                f"checkpoint {path} belongs to trial {found.settings.key}, not to {self.settings.key}: "
                "give these settings a folder of their own"
            )
        now = self._manifests()
        if found.record["manifests"] != now:
            raise CheckpointError(
                f"checkpoint {path} was trained on other data: {found.record['manifests']}, now {now}"
            )
        checkpoints.load_strictly(self.model, found.state["model"], path)
        self.sampler_state = found.state["sampler"]
        self.last_report = found.record["metrics"]
        self.step = found.step
        self.spent = float(found.record["metrics"].get("seconds", 0.0))
        return found

    def _manifests(self) -> dict[str, str]:
        return {s.name: s.cache.manifest_hash for s in self.batches.sources}

    def run(self) -> None:
        """Train to the last step, reporting and saving on the way; resumes where the reporter says.

        Raises:
            TrainingError: if the loss is not finite; the last checkpoint is from before that.
        """
        preset = self.settings.preset
        stream_ = self.batches.open(self.sampler_state)
        if self.last_report is not None:
            # The checkpoint is written before its report is heard: whoever listened may have died in between.
            self.reporter.report(self.last_report, None)
        self._look()  # as above: the checkpoint of a rung is older than the look at it
        began, waited, since = time.perf_counter(), 0.0, self.step
        with contextlib.closing(stream_):
            while self.step < self.o.steps:
                before = time.perf_counter()
                batch = next(stream_)
                waited += time.perf_counter() - before
                logs = (self.step + 1) % preset.log_every == 0 or self.step + 1 == self.o.steps
                with enough_memory(self.device, f"step {self.step + 1}", LESS):
                    metrics = self.train_step(batch, health=logs)
                self.step += 1
                saves = self.step % preset.checkpoint_every == 0 or self.step == self.o.steps or self._told_to_go()
                if logs or saves:
                    seconds = time.perf_counter() - began
                    found = self._over_workers(metrics)
                    self._check(found["loss"])
                    found |= {
                        "step": self.step,
                        "clips": self.step * self.o.batch,
                        "ms_per_step": 1e3 * seconds / (self.step - since),
                        "data_wait": waited / seconds,
                        "seconds": self.spent + seconds,
                    }
                    self.spent = found["seconds"]
                    save = self._saver(stream_.state_dict(), found) if saves else None
                    self.reporter.report(found, save)
                    began, waited, since = time.perf_counter(), 0.0, self.step
                began += self._look()  # no time of training

    def _look(self) -> float:
        """Score the encoder if a rung is here; every worker has to call it. Returns the seconds that took."""
        if self.step not in self.rungs.steps:
            return 0.0
        began = time.perf_counter()
        state = whole(self.model.state_dict())  # gathering shards takes every worker
        scores = self.rungs.score(state) if self.reporter.rank == 0 else None
        self.reporter.rung(self.step, scores, time.perf_counter() - began)
        return time.perf_counter() - began

    def _told_to_go(self) -> bool:
        """True once, when the machine is about to be taken away: then a checkpoint saves what came after the last."""
        if self.noticed or self.step % NOTICE_EVERY:
            return False
        self.noticed = self.reporter.leaving()
        return self.noticed

    def _over_workers(self, metrics: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Mean of every metric over the workers that have it: a part has no value where none of its tokens qualify."""
        if self.reporter.world == 1:
            return {k: float(v) for k, v in metrics.items()}
        parts = ("jepa", "context", *self.model.objectives)
        names = ["loss", "lr", "gradient_norm", "effective_rank", "target_std", *parts]
        names += [f"gradient_share.{part}" for part in parts]
        values = {k: float(v) for k, v in metrics.items()}
        # A part is nan where no worker has it, the loss where training went wrong.
        has = [k in values and (k == "loss" or not math.isnan(values[k])) for k in names]
        there = torch.tensor([[values[k], 1.0] if h else [0.0, 0.0] for k, h in zip(names, has, strict=True)])
        there = there.double()
        total, count = self.reporter.sum(there.to(self.device)).T.tolist()
        return {k: t / n for k, t, n in zip(names, total, count, strict=True) if n}

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {self.step} (variant {self.settings.variant_name}, "
                f"seed {self.settings.seed}): lower the learning rate or the weights of its objectives"
            )

    def _saver(self, sampler: dict[str, Any], metrics: Mapping[str, float]) -> Any:
        """A function that writes the state of this moment below a folder; every worker makes one, rank 0 calls it."""
        state = {
            # Gathering shards takes every worker.
            "model": whole(self.model.state_dict()),
            "optimiser": whole(self.optimiser.state_dict()),
            "sampler": sampler,
            # Generators restart from (seed, stream, step, rank) at every step: these numbers are their whole state.
            "random": {"seed": self.settings.seed, "step": self.step},
        }

        def save(folder: Where) -> Place:
            return checkpoints.save(folder, self.settings, self.step, state, self._manifests(), metrics)

        return save

    def train_step(self, batch: Batch, health: bool = False) -> dict[str, Tensor | float]:
        """One optimiser step on a batch; ``health`` adds effective rank, target spread and gradient shares."""
        settings = self.settings
        # Dropout, drop-path and random directions of this step; masks and crops have streams of their own.
        torch.manual_seed(stream(settings.seed, "step", self.step, self.reporter.rank))
        groups = self.batches.prepared(batch, self.step)
        weights = self.mix.weights_at(self.step, self.o.steps)
        context = self.mix.context.at(self.step, self.o.steps)
        lr = learning_rate(self.o, self.step)
        for parameters in self.optimiser.param_groups:
            parameters["lr"] = lr
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            out: StepOutput = self.wrapped(groups, weights, context)
        metrics: dict[str, Tensor | float] = {"loss": out.loss.detach(), "lr": lr}
        metrics |= out.values
        if health:
            self._check(float(out.loss.detach()))
            metrics |= self._health(out)
        out.loss.backward()
        if self.o.clip_gradient is not None:
            metrics["gradient_norm"] = nn.utils.clip_grad_norm_(self.model.parameters(), self.o.clip_gradient)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.model.update_target()
        return metrics

    def _health(self, out: StepOutput) -> dict[str, Tensor | float]:
        width = self.mix.model.encoder.width
        deepest = out.target[..., -width:].flatten(0, 1)
        sample = deepest[:: max(1, len(deepest) // RANK_ITEMS)]
        shares = gradient_shares(out.weighted, out.student)
        return {
            "effective_rank": effective_rank(sample),
            "target_std": target_spread(sample),
            **{f"gradient_share.{k}": v for k, v in shares.items()},
        }
