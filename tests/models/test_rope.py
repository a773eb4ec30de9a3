from __future__ import annotations

import math

import pytest
import torch
from timm.layers import apply_rot_embed_cat

from equipoise.models.geometry import TokenGrid
from equipoise.models.rope import gather_rope, rope_table

GRID = TokenGrid(3, 4, 5)
HEAD = 14  # 7 pairs: two for each axis and one that is left over


def test_table_holds_the_angles_of_the_formula() -> None:
    table = rope_table(GRID, HEAD, theta=100.0)
    assert table.shape == (GRID.count, 2 * HEAD)
    assert table.dtype == torch.float32
    for t, y, x in ((0, 0, 0), (2, 3, 4), (1, 0, 3)):
        row = table[t * 20 + y * 5 + x]
        for axis, position in enumerate((t, y, x)):
            for k in range(2):
                angle = position * 100.0 ** (-k / 2)
                pair = 2 * (2 * axis + k)
                assert row[pair].item() == row[pair + 1].item() == pytest.approx(math.sin(angle), abs=1e-6)
                assert (
                    row[HEAD + pair].item() == row[HEAD + pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)
                )
        # What the division by three leaves over is not rotated.
        assert row[12:14].tolist() == [0.0, 0.0]
        assert row[HEAD + 12 :].tolist() == [1.0, 1.0]


def test_scores_depend_on_relative_position_alone() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, HEAD, generator=g, dtype=torch.float64)
    table = rope_table(GRID, HEAD, theta=100.0).double()

    def score(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
        at = [p[0] * 20 + p[1] * 5 + p[2] for p in (a, b)]
        turned = [apply_rot_embed_cat(v[None], table[i][None]) for v, i in zip((q, k), at, strict=True)]
        return float((turned[0] * turned[1]).sum())

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
    assert picked.shape == (2, 1, 3, 2 * HEAD)
    assert torch.equal(picked[0, 0, 2], table[59])
    assert torch.equal(picked[1, 0, 0], table[7])


@pytest.mark.parametrize("head", [4, 7, 15])
def test_too_narrow_or_odd_heads_are_refused(head: int) -> None:
    with pytest.raises(ValueError, match=f"head_dim is {head}.*at least 6"):
        rope_table(GRID, head, theta=100.0)


def test_theta_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"theta is 0\.5; expected at least 1"):
        rope_table(GRID, HEAD, theta=0.5)
