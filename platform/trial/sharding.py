"""Fully sharded training (FSDP2): shards in memory, whole tensors in checkpoints.

A checkpoint is the same file however many workers wrote it, sharded or not: any number of workers goes on from it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from equipoise.models.jepa import VideoJEPA


def shard(model: VideoJEPA, device: torch.device, world: int) -> VideoJEPA:
    """Shard parameters, gradients and optimiser state over the workers, block by block, in place.

    Context and target encoder are sharded alike, so that the moving average needs no communication.

    Args:
        model: whole on every worker; its optimiser is made afterwards.
        device: this worker's.
        world: number of workers.
    """
    mesh = init_device_mesh(device.type, (world,))
    for part in (model.encoder, model.target_encoder, model.predictor):
        for block in part.blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def whole(state: Any) -> Any:
    """A nested state with every sharded tensor gathered; every worker has to call it."""
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, dict):
        return {k: whole(v) for k, v in state.items()}
    return [whole(v) for v in state] if isinstance(state, list) else state


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a whole optimiser state; where a parameter is sharded, its moments are sharded alike."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    per_parameter = {
        index: {k: _like(v, parameters[index]) for k, v in values.items()} for index, values in state["state"].items()
    }
    optimiser.load_state_dict({**state, "state": per_parameter})


def _like(value: Any, parameter: Tensor) -> Any:
    if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value
