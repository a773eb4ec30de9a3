from __future__ import annotations

import pytest
import torch

from equipoise.models.geometry import TokenGrid
from equipoise.models.predictor import Predictor, PredictorConfig

GRID = TokenGrid(2, 3, 4)
D, K, M = 10, 5, 7


def build(policies: int = 2) -> Predictor:
    torch.manual_seed(0)
    predictor = Predictor(PredictorConfig(width=24, depth=2, heads=2, rope_theta=20.0), D, GRID, policies).eval()
    with torch.no_grad():
        for p in predictor.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return predictor


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    index = torch.stack([torch.randperm(24, generator=g)[: K + M] for _ in range(2)])
    return torch.randn(2, K, D, generator=g), index[:, :K], index[:, K:]


@torch.no_grad()
def test_predicts_masked_and_visible_positions_in_order() -> None:
    predictor, (z, visible, masked) = build(), inputs()
    at_masked, at_visible = predictor(z, visible, masked, 0)
    assert at_masked.shape == (2, M, D)
    assert at_visible.shape == (2, K, D)
    order = torch.randperm(M)
    swapped = torch.randperm(K)
    again = predictor(z[:, swapped], visible[:, swapped], masked[:, order], 0)
    torch.testing.assert_close(again[0], at_masked[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again[1], at_visible[:, swapped], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_each_policy_has_its_own_mask_token() -> None:
    predictor, (z, visible, masked) = build(), inputs()
    first, second = predictor(z, visible, masked, 0)[0], predictor(z, visible, masked, 1)[0]
    assert not torch.allclose(first, second)
    predictor.mask_token[1] += 1.0
    torch.testing.assert_close(predictor(z, visible, masked, 0)[0], first, rtol=0, atol=0)
    assert not torch.allclose(predictor(z, visible, masked, 1)[0], second)


@torch.no_grad()
def test_a_prediction_knows_its_position() -> None:
    predictor, (z, visible, masked) = build(), inputs()
    out = predictor(z, visible, masked, 0)[0]
    assert not torch.allclose(out[:, 0], out[:, 1]), "the mask tokens are equal: only their place tells them apart"
    # Moving everything by one row changes nothing: positions are relative.
    low = torch.tensor([[0, 1, 2, 3, 12]]), torch.tensor([[13, 14, 15, 4, 5, 6, 7]])
    moved = [i + 4 for i in low]
    here, there = predictor(z[:1], *low, 0), predictor(z[:1], *moved, 0)
    torch.testing.assert_close(there[0], here[0], rtol=1e-4, atol=1e-5)


def test_gradient_reaches_every_parameter_of_its_policy() -> None:
    predictor, (z, visible, masked) = build(), inputs()
    z.requires_grad_()
    a, b = predictor(z, visible, masked, 1)
    (a.square().sum() + b.square().sum()).backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0
    for name, p in predictor.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name
    grad = predictor.mask_token.grad
    assert grad is not None
    assert grad[0].abs().sum() == 0
    assert grad[1].abs().sum() > 0


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="width 30 is not a multiple of heads 4"):
        PredictorConfig(width=30, heads=4)
    with pytest.raises(ValueError, match="depth is 0; expected at least 1"):
        PredictorConfig(depth=0)
