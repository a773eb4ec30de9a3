"""Three-dimensional rotary position embedding in the layout that timm's attention reads."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.models.geometry import TokenGrid


def rope_table(grid: TokenGrid, head_dim: int, theta: float) -> Tensor:
    """Sine and cosine of every token's rotation, for ``timm.layers.apply_rot_embed_cat``.

    The ``head_dim // 2`` channel pairs of a head are dealt in equal parts to time, height and width; pairs left over
    by the division by three are not rotated. Frequencies fall geometrically from 1 to ``1 / theta`` along each part
    (RoFormer, Su et al. 2021, eq. 15, once per axis as in V-JEPA 2).

    Rows are in raster order with time slowest, so the first ``height * width`` rows serve a one-slot grid too.

    Args:
        grid: the token grid; positions are token indices along each axis.
        head_dim: channels of one attention head, even and at least 6.
        theta: ratio of the highest to the lowest frequency, at least 1.

    Returns:
        float32 ``[grid.count, 2 * head_dim]``: sines, then cosines, each repeated for both channels of its pair.

    Raises:
        ValueError: if ``head_dim`` is odd or below 6, or ``theta`` is below 1.
    """
    if head_dim < 6 or head_dim % 2:
        raise ValueError(
            f"head_dim is {head_dim}; three rotated axes need an even number of at least 6 channels a head"
        )
    if theta < 1:
        raise ValueError(f"rope theta is {theta}; expected at least 1 (100 suits small grids, 10000 is V-JEPA's)")
    pairs = head_dim // 2 // 3
    frequency = theta ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid.shape), indexing="ij")
    angles = torch.cat([axis.reshape(-1, 1) * frequency for axis in axes], dim=1)
    angles = torch.nn.functional.pad(angles, (0, head_dim // 2 - 3 * pairs))
    angles = angles.repeat_interleave(2, dim=1)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def gather_rope(table: Tensor, index: Tensor) -> Tensor:
    """Pick rows of a :func:`rope_table` per clip.

    Args:
        table: ``[N, 2 * head_dim]``.
        index: int64 ``[B, K]`` flat grid indices.

    Returns:
        ``[B, 1, K, 2 * head_dim]``; the 1 broadcasts over heads.
    """
    return table[index].unsqueeze(1)
