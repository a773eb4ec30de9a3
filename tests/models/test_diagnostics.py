from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from equipoise.models.diagnostics import effective_rank, gradient_shares, principal_colours, target_spread


def test_effective_rank_equals_the_formula() -> None:
    x = np.random.default_rng(0).normal(size=(40, 9)) * np.linspace(0.1, 3, 9) + 5.0
    s = np.linalg.svd(x - x.mean(0), compute_uv=False)
    p = s / s.sum()
    expected = math.exp(-(p * np.log(p)).sum())
    assert effective_rank(torch.from_numpy(x)).item() == pytest.approx(expected, rel=1e-4)


def test_effective_rank_of_known_cases() -> None:
    g = torch.Generator().manual_seed(0)
    line = torch.randn(50, 1, generator=g) * torch.randn(1, 8, generator=g)
    assert effective_rank(line).item() == pytest.approx(1.0, abs=1e-3)
    # A constant offset says nothing about an item: without centring it would pull the rank of the cloud towards 1.
    assert effective_rank(line + 100.0).item() == pytest.approx(1.0, abs=1e-2)
    cloud = torch.randn(5000, 8, generator=g)
    assert effective_rank(cloud).item() == pytest.approx(8.0, abs=0.05)
    assert effective_rank(cloud + 100.0).item() == pytest.approx(8.0, abs=0.05)
    # Two equal directions of eight.
    assert effective_rank(cloud * torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0])).item() == pytest.approx(2.0, abs=0.05)


def test_effective_rank_of_collapse_is_finite() -> None:
    assert effective_rank(torch.full((20, 4), 3.0)).item() == pytest.approx(1.0)


def test_effective_rank_takes_half_precision_and_leaves_no_graph() -> None:
    x = torch.randn(64, 6, dtype=torch.bfloat16, requires_grad=True)
    rank = effective_rank(x)
    assert rank.dtype == torch.float32
    assert not rank.requires_grad


def test_spread_is_the_mean_standard_deviation() -> None:
    x = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    assert target_spread(x).item() == pytest.approx((2.0 + 0.0) / 2)


def test_gradient_shares_equal_hand_computed_norms() -> None:
    a = torch.tensor([1.0, 2.0], requires_grad=True)
    b = torch.tensor([3.0], requires_grad=True)
    other = torch.tensor(1.0, requires_grad=True)
    parts = {
        "both": (3 * a[0] + 4 * b).sum(),  # norm of (3, 0, 4) over both outputs: 5
        "one": 10 * a[1] + 0 * other,  # norm 10, b unused
        "elsewhere": other * 7,  # nothing arrives at the outputs
        "dead": torch.tensor(2.0),  # no graph at all
    }
    shares = gradient_shares(parts, [a, b])
    assert shares == pytest.approx({"both": 5 / 15, "one": 10 / 15, "elsewhere": 0.0, "dead": 0.0})
    assert sum(shares.values()) == pytest.approx(1.0)
    # The graph is kept: the step's own backward comes after.
    parts["both"].backward()
    assert a.grad is not None
    assert a.grad.tolist() == [3.0, 0.0]


def test_gradient_shares_where_nothing_arrives() -> None:
    a = torch.ones(2, requires_grad=True)
    assert gradient_shares({"dead": torch.tensor(1.0)}, [a]) == {"dead": 0.0}


def test_principal_colours_equal_numpy_svd() -> None:
    stream = np.random.default_rng(1)
    tokens = stream.normal(size=(5, 12, 7)) @ np.diag([5.0, 3, 2, 1, 0.5, 0.2, 0.1]) + 40
    flat = tokens.reshape(60, 7) - tokens.reshape(60, 7).mean(0)
    axes = np.linalg.svd(flat)[2][:3]
    axes *= np.sign(axes[np.arange(3), np.abs(axes).argmax(1)])[:, None]
    along = flat @ axes.T
    low, high = np.quantile(along, [0.01, 0.99], axis=0)
    expected = np.clip((along - low) / (high - low), 0, 1).reshape(5, 12, 3)
    found = principal_colours(torch.from_numpy(tokens))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    # Neither an offset nor a scale of the features is a difference between places.
    np.testing.assert_allclose(principal_colours(torch.from_numpy(7 * tokens - 300)).numpy(), expected, atol=1e-5)


def test_principal_colours_of_too_few_directions_are_grey() -> None:
    g = torch.Generator().manual_seed(0)
    line = torch.randn(3, 8, 1, generator=g) * torch.randn(1, 1, 6, generator=g)
    colours = principal_colours(line)
    assert colours[..., 0].unique().numel() > 3
    assert (colours[..., 1:] == 0.5).all()
    assert (principal_colours(torch.full((2, 4, 6), 3.0)) == 0.5).all()
    assert principal_colours(torch.randn(2, 4, 1, generator=g)).shape == (2, 4, 3)
    with pytest.raises(ValueError, match=r"tokens are \[4, 6\]; expected"):
        principal_colours(torch.zeros(4, 6))
