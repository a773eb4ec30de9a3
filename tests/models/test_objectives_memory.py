"""No objective makes a tensor as large as the token grid's features on its way to its value."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from equipoise.models.geometry import TokenGrid
from equipoise.models.masking import MaskConfig, MaskSampler
from equipoise.models.objectives import Latents, create, list_objectives

LOSSES = [r.name for r in list_objectives() if r.kind == "loss"]
GRID = TokenGrid(8, 14, 14, patch=16, tubelet=2)
CHANNELS = 512


class Largest(TorchDispatchMode):
    """Bytes of the largest memory that operations take which was not there before."""

    def __init__(self, there: list[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = {t.untyped_storage().data_ptr() for t in there}
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.seen:
                    self.seen.add(storage.data_ptr())
                    self.bytes = max(self.bytes, storage.nbytes())
        return out


def largest(name: str) -> tuple[float, float]:
    """Largest memory taken on the way to the value, and by a second objective's gradient, in grids of features."""
    generator = torch.Generator().manual_seed(0)
    mask = MaskSampler(GRID, MaskConfig()).sample(2, generator)[1]
    z = torch.randn(2, mask.visible.shape[1], CHANNELS)
    student = GRID.scatter(z, mask.visible).requires_grad_()
    latents = Latents(
        student=student,
        visible=GRID.visible(mask.visible),
        target=torch.randn(2, *GRID.shape, CHANNELS),
        predicted=torch.randn(2, mask.masked.shape[1], CHANNELS, requires_grad=True),
        masked=mask.masked,
        clip=torch.randn(2, 3, 16, 224, 224),
    )
    there = [getattr(latents, k) for k in ("student", "visible", "target", "predicted", "masked", "clip")]
    grid = student.numel() * student.element_size()
    latents.tokens  # noqa: B018  shared by all objectives: made once, with one gradient of the grid's size
    objective = create(name, channels=CHANNELS)
    with Largest([*there, latents.tokens]) as forward:
        value = objective(latents)
    assert value is not None
    with Largest([*there, latents.tokens]) as backward:
        wanted = latents.predicted if name == "hard_region" else latents.tokens
        torch.autograd.grad(value, wanted)
    return forward.bytes / grid, backward.bytes / grid


@pytest.mark.parametrize("name", LOSSES)
def test_neither_value_nor_gradient_takes_a_grid(name: str) -> None:
    forward, backward = largest(name)
    # The masked tokens are 0.71 of the grid: what hard_region weighs.
    assert 0 < forward < 0.75
    assert backward < 0.75


def test_a_grid_would_be_seen() -> None:
    there = torch.randn(2, *GRID.shape, 8)
    with Largest([there]) as seen:
        there.diff(dim=1).abs()
    assert seen.bytes == there[:, 1:].numel() * 4
