from __future__ import annotations

import math

import pytest
import torch

from equipoise.models.geometry import TokenGrid
from equipoise.models.losses import context_loss, prediction_loss
from equipoise.models.masking import MaskSampler


def test_context_loss_weights_a_token_by_its_distance() -> None:
    grid = TokenGrid(2, 1, 3)
    # Token 0 is masked; 1 lies 1 away, 2 lies 2 away, 4 (one slot later, one to the right) sqrt(2) away.
    visible, masked = torch.tensor([[1, 2, 4]]), torch.tensor([[0]])
    target = torch.zeros(1, 2, 1, 3, 5)
    predicted = torch.tensor([3.0, 5.0, 7.0]).reshape(1, 3, 1).expand(1, 3, 5)
    expected = (3.0 + 5.0 / math.sqrt(2) + 7.0 / math.sqrt(math.sqrt(2))) / 3
    assert context_loss(predicted, target, visible, masked, grid).item() == pytest.approx(expected)
    assert context_loss(predicted, target, visible, masked, grid, weighted=False).item() == pytest.approx(5.0)


def test_prediction_loss_is_a_mean_in_full_precision() -> None:
    g = torch.Generator().manual_seed(1)
    predicted, target = (torch.randn(3, 50, 7, generator=g) for _ in range(2))
    for power in (1.0, 2.0, 1.5):
        wanted = float(((predicted - target).double().abs() ** power / power).mean())
        assert prediction_loss(predicted, target, power).item() == pytest.approx(wanted, rel=1e-6)
    # Halves of which the difference has no half: 1024 and 1024 and a half are one number there, and their mean another.
    a, b = torch.full((1, 4, 4), 1000.0, dtype=torch.bfloat16), torch.full((1, 4, 4), 1.25, dtype=torch.bfloat16)
    found = prediction_loss(a, b)
    assert found.dtype == torch.float32
    assert found.item() == 998.75


def test_losses_are_zero_at_equality_and_finite_on_drawn_masks() -> None:
    g = torch.Generator().manual_seed(0)
    grid = TokenGrid(4, 6, 6)
    for mask in MaskSampler(grid).sample(4, g):
        h = torch.randn(4, grid.count, 3, generator=g)
        at = h.gather(1, mask.visible.unsqueeze(-1).expand(-1, -1, 3))
        args = (h.reshape(4, 4, 6, 6, 3), mask.visible, mask.masked, grid)
        assert context_loss(at, *args).item() == 0.0
        # No visible token is nearer than 1, so no weight exceeds 1.
        assert 0 < context_loss(at + 1, *args).item() <= 1.0
    assert prediction_loss(h, h).item() == 0.0
    assert prediction_loss(h + 2, h, power=2.0).item() == pytest.approx(2.0, rel=1e-5)
