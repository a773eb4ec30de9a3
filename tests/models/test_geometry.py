from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.models.geometry import TokenGrid, squared_distance_to

sizes = st.integers(1, 4)


def test_raster_order_time_slowest() -> None:
    grid = TokenGrid(2, 3, 4)
    index = torch.arange(grid.count)
    t, y, x = grid.coordinates(index).unbind(-1)
    assert torch.equal(t * 12 + y * 4 + x, index)
    assert grid.coordinates(torch.tensor([[0, 3, 4, 12, 23]])).tolist() == [
        [[0, 0, 0], [0, 0, 3], [0, 1, 0], [1, 0, 0], [1, 2, 3]]
    ]


@settings(max_examples=50, deadline=None)
@given(sizes, sizes, sizes, st.integers(0, 2**31))
def test_scatter_puts_every_token_in_its_place(T: int, H: int, W: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    grid = TokenGrid(T, H, W)
    K = int(torch.randint(0, grid.count + 1, (), generator=g))
    index = torch.stack([torch.randperm(grid.count, generator=g)[:K] for _ in range(2)])
    tokens = torch.randn(2, K, 3, generator=g)
    laid, visible = grid.scatter(tokens, index), grid.visible(index)
    assert laid.shape == (2, T, H, W, 3)
    for b in range(2):
        for k, (t, y, x) in enumerate(grid.coordinates(index[b]).tolist()):
            assert torch.equal(laid[b, t, y, x], tokens[b, k])
            assert visible[b, t, y, x]
    assert int(visible.sum()) == 2 * K
    assert not laid[~visible].any()


def test_scatter_passes_the_gradient() -> None:
    grid = TokenGrid(1, 2, 2)
    tokens = torch.randn(1, 2, 3, requires_grad=True)
    scale = torch.arange(12.0).reshape(1, 1, 2, 2, 3)
    (grid.scatter(tokens, torch.tensor([[3, 1]])) * scale).sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.tolist() == [[[9, 10, 11], [3, 4, 5]]]


@pytest.mark.parametrize("field", ["time", "height", "width", "patch", "tubelet"])
def test_sizes_below_one_are_refused(field: str) -> None:
    sizes = {"time": 1, "height": 1, "width": 1, field: 0}
    with pytest.raises(ValueError, match=f"token grid {field} is 0"):
        TokenGrid(**sizes)


@settings(max_examples=50, deadline=None)
@given(sizes, sizes, sizes, st.integers(0, 2**31))
def test_distance_is_that_of_the_nearest_marked(T: int, H: int, W: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    marked = torch.rand(1, T, H, W, generator=g) < 0.3
    found = squared_distance_to(marked)
    points = [tuple(p[1:]) for p in marked.nonzero().tolist()]
    for t in range(T):
        for y in range(H):
            for x in range(W):
                brute = min((math.dist((t, y, x), p) ** 2 for p in points), default=math.inf)
                assert found[0, t, y, x].item() == pytest.approx(brute)
