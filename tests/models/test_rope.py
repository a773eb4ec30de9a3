from __future__ import annotations

import math

import pytest
import torch
from timm.models.eva import EvaBlock
from torch import Tensor, nn

from equipoise.models.geometry import TokenGrid
from equipoise.models.rope import RotaryBlock, gather_rope, rope_table

GRID = TokenGrid(3, 4, 5)
HEAD = 14  # 7 pairs: two for each axis and one that is left over


def test_table_holds_the_angles_of_the_formula() -> None:
    table = rope_table(GRID, HEAD, theta=100.0)
    assert table.shape == (GRID.count, HEAD // 2, 2)
    assert table.dtype == torch.float32
    for t, y, x in ((0, 0, 0), (2, 3, 4), (1, 0, 3)):
        row = table[t * 20 + y * 5 + x]
        for axis, position in enumerate((t, y, x)):
            for k in range(2):
                angle = position * 100.0 ** (-k / 2)
                assert row[2 * axis + k].tolist() == pytest.approx([math.cos(angle), math.sin(angle)], abs=1e-6)
        # What the division by three leaves over is not rotated.
        assert row[6].tolist() == [1.0, 0.0]


def test_scores_depend_on_relative_position_alone() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, HEAD // 2, generator=g, dtype=torch.complex128)
    table = torch.view_as_complex(rope_table(GRID, HEAD, theta=100.0))

    def score(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
        at = [p[0] * 20 + p[1] * 5 + p[2] for p in (a, b)]
        turned = [v * table[i] for v, i in zip((q, k), at, strict=True)]
        return float((turned[0] * turned[1].conj()).sum().real)

    reference = score((0, 0, 0), (1, 2, 3))
    assert score((1, 1, 1), (2, 3, 4)) == pytest.approx(reference, abs=1e-5)
    assert score((0, 1, 0), (1, 3, 3)) == pytest.approx(reference, abs=1e-5)
    for other in ((0, 2, 3), (1, 1, 3), (1, 2, 2)):
        assert abs(score((0, 0, 0), other) - reference) > 1e-3, "every axis must count"


def test_first_slot_serves_an_image() -> None:
    image = rope_table(TokenGrid(1, 4, 5), HEAD, theta=50.0)
    torch.testing.assert_close(rope_table(GRID, HEAD, theta=50.0)[:20], image, rtol=0, atol=0)


def test_gather_picks_rows_per_clip() -> None:
    table = rope_table(GRID, HEAD, theta=50.0)
    index = torch.tensor([[3, 0, 59], [7, 7, 1]])
    picked = gather_rope(table, index)
    assert picked.shape == (2, 1, 3, HEAD // 2, 2)
    assert torch.equal(picked[0, 0, 2], table[59])
    assert torch.equal(picked[1, 0, 0], table[7])


@pytest.mark.parametrize("picked", [False, True], ids=["all tokens", "tokens picked per clip"])
def test_a_block_computes_what_timms_does(picked: bool) -> None:
    """Forward and backward, from the same weights; timm reads sines and cosines, each twice."""
    g = torch.Generator().manual_seed(0)
    index = torch.stack([torch.randperm(GRID.count, generator=g)[:24] for _ in range(3)])
    table = rope_table(GRID, HEAD, theta=100.0)
    rows = gather_rope(table, index) if picked else table
    cosines, sines = rows.repeat_interleave(2, dim=-2).unbind(-1)
    ours = RotaryBlock(2 * HEAD, 2, 4.0)
    timms = EvaBlock(2 * HEAD, 2, attn_type="rope", num_prefix_tokens=0)
    timms.load_state_dict(ours.state_dict())
    x = torch.randn(3, 24 if picked else GRID.count, 2 * HEAD, generator=g)

    def through(block: nn.Module, rope: Tensor) -> list[Tensor]:
        block.zero_grad()
        entered = x.clone().requires_grad_()
        left = block(entered, rope=rope)
        left.square().sum().backward()
        return [left.detach(), *(p.grad for p in (entered, *block.parameters()) if p.grad is not None)]

    found, expected = through(ours, rows), through(timms, torch.cat([sines, cosines], dim=-1))
    assert len(found) == len(expected) == 2 + len(list(ours.parameters()))
    # Equal to the last bit where a head is a multiple of the processor's vectors, which this one is not.
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * float(b.abs().max()))


@pytest.mark.parametrize("head", [4, 7, 15])
def test_too_narrow_or_odd_heads_are_refused(head: int) -> None:
    with pytest.raises(ValueError, match=f"head_dim is {head}.*at least 6"):
        rope_table(GRID, head, theta=100.0)


def test_theta_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"theta is 0\.5; expected at least 1"):
        rope_table(GRID, HEAD, theta=0.5)
