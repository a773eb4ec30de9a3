"""Every part of the loss is that of the whole batch, however many workers share it: its value and its gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from equipoise.models.jepa import VideoJEPA
from equipoise.models.objectives import list_objectives
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.sharding import shard, whole
from equipoise.platform.trial.trainer import Trainer

pytestmark = pytest.mark.slow
LOSSES = [record.name for record in list_objectives() if record.kind == "loss"]
OTHERS = {"latent_dynamics": {"weighting": "hard", "tau": 0.05}, "kinematic_acceleration": {"on": "target"}}


class Shared(LocalReporter):
    """One of several workers that meet over gloo."""

    def __init__(self, folder: Path, rank: int, world: int, sharded: bool = False) -> None:
        super().__init__(folder, device=torch.device("cpu"))
        self.rank, self.world, self.sharded = rank, world, sharded

    def wrap(self, model: VideoJEPA) -> torch.nn.Module:
        return shard(model, self.device, self.world) if self.sharded else model

    def sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor


def parts_of(trials: list[TrialSettings], paths: Paths, folder: Path, rank: int = 0, world: int = 1) -> list[Any]:
    """Of two steps of every trial: loss, and value and gradient of every part, those averaged over the workers."""
    found = []
    for settings in trials:
        local = LocalReporter(folder, device=torch.device("cpu"))
        trainer = Trainer(settings, paths, local if world == 1 else Shared(folder, rank, world))
        parameters = [p for p in trainer.model.parameters() if p.requires_grad]
        stream = trainer.batches.open()
        for step in range(2):
            groups = trainer.batches.groups(next(stream), step)
            out = trainer.model(groups, dict.fromkeys(trainer.model.objectives, 1.0), 0.5)
            parts = {}
            for name, part in sorted(out.weighted.items()):
                some: tuple[Tensor | None, ...] = (None,) * len(parameters)  # kinematics of the target move nothing
                if part.requires_grad:
                    some = torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True)
                flat = torch.cat(
                    [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, some, strict=True)]
                )
                if world > 1:
                    dist.all_reduce(flat)
                    flat /= world
                parts[name] = out.values[name], flat
            found.append((out.loss.detach(), parts, [group.counts for group in groups]))
        stream.close()
    return found


def steps_of(settings: TrialSettings, paths: Paths, folder: Path, rank: int = 0, world: int = 1) -> list[Any]:
    """Losses of some steps, and the whole model after them."""
    reporter = LocalReporter(folder, device=torch.device("cpu"))
    trainer = Trainer(settings, paths, reporter if world == 1 else Shared(folder, rank, world, sharded=True))
    stream = trainer.batches.open()
    losses = [float(trainer.train_step(next(stream))["loss"]) for trainer.step in range(3)]
    stream.close()
    return [losses, whole(trainer.model.state_dict())]


def one_of(rank: int, world: int, trials: list[str], paths: Paths, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{world}", rank=rank, world_size=world)
    settings = [TrialSettings.model_validate_json(one) for one in trials]
    if settings[0].resources.parallel == "fsdp":
        found = [steps_of(one, paths, folder / "trial", rank, world) for one in settings]
    else:
        found = parts_of(settings, paths, folder / "trial", rank, world)
    torch.save(found, folder / f"{world}-{rank}.pt")
    dist.destroy_process_group()


def test_every_objective_is_that_of_the_whole_batch(make_trial: Any, paths: Paths, tmp_path: Path) -> None:
    trials = []
    for images, own in (("frame", {}), ("repeat", OTHERS)):
        base = make_trial(overrides=("model.frames=8", f"sampling.images={images}")).model_dump()
        mix = {name: {"weight": 1.0, "params": own.get(name, {})} for name in LOSSES}
        trials.append(TrialSettings.model_validate({**base, "variant_name": "all", "variant": {"objectives": mix}}))
    alone = parts_of(trials, paths, tmp_path / "alone")
    assert all(set(parts) == {"jepa", "context", *LOSSES} for _, parts, _ in alone)
    counted = []
    for world in (2, 4):
        given = [one.model_dump_json() for one in trials]
        spawn(one_of, (world, given, paths, tmp_path), nprocs=world)
        for rank in range(world):
            shared = torch.load(tmp_path / f"{world}-{rank}.pt", weights_only=False)
            for (loss, parts, _), (same_loss, same, counts) in zip(alone, shared, strict=True):
                torch.testing.assert_close(same_loss, loss, rtol=1e-4, atol=1e-6)
                assert set(same) == set(parts)
                for name, (value, gradient) in parts.items():
                    torch.testing.assert_close(same[name][0], value, rtol=1e-4, atol=1e-6, msg=f"{world} {name}")
                    error = (same[name][1] - gradient).norm() / gradient.norm().clamp_min(1e-9)
                    assert error < 1e-3, (world, name, error)
                counted += counts
    assert not all(counted), "some worker has no clip of a kind"


def test_encoders_of_others_are_sharded_as_the_one_that_ships(make_trial: Any, paths: Paths, tmp_path: Path) -> None:
    base = make_trial("hw").model_dump()
    encoder = {"name": "timm", "params": {"model": "vit_tiny_patch16_224"}, "width": 192, "heads": 3, "depth": 12}
    preset = {**base["preset"], "model": {**base["preset"]["model"], "encoder": {**encoder, "patch": 16}}}
    settings = TrialSettings.model_validate(
        {**base, "preset": preset, "resources": {**base["resources"], "workers": 2, "parallel": "fsdp"}}
    )
    losses, model = steps_of(settings, paths, tmp_path / "alone")
    spawn(one_of, (2, [settings.model_dump_json()], paths, tmp_path), nprocs=2)
    for rank in range(2):
        ((same_losses, same),) = torch.load(tmp_path / f"2-{rank}.pt", weights_only=False)
        assert same_losses == pytest.approx(losses, rel=1e-3)
        for name, value in model.items():
            if isinstance(value, Tensor):
                torch.testing.assert_close(same[name], value, rtol=0, atol=2e-3, msg=name)
