"""Three-dimensional rotary position embedding, and the transformer block that rotates with it."""

from __future__ import annotations

import torch
from timm.layers import DropPath, LayerNorm, Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from equipoise.models.errors import ModelError
from equipoise.models.geometry import TokenGrid


def rope_table(grid: TokenGrid, head_dim: int, theta: float, *, tiled: bool = False, side: int | None = None) -> Tensor:
    """Cosine and sine of every token's rotation, for :class:`RotaryBlock`.

    The ``head_dim // 2`` channel pairs of a head are dealt in equal parts to time, height and width; pairs left over
    by the division by three are not rotated. Frequencies fall geometrically from 1 to ``1 / theta`` along each part
    (RoFormer, Su et al. 2021, eq. 15, once per axis as in V-JEPA 2).

    Rows are in raster order with time slowest, so the first ``height * width`` rows serve a one-slot grid too.

    Args:
        grid: the token grid; positions are token indices along each axis.
        head_dim: channels of one attention head, even and at least 6.
        theta: ratio of the highest to the lowest frequency, at least 1.
        tiled: the frequencies of an axis come twice in a row over its channels, as V-JEPA 2 has them, so that the two
            channels of a pair turn by different angles. That is no rotation; its checkpoints were trained with it.
        side: rows and columns lie evenly between 0 and ``side - 1``, whatever their number, as V-JEPA 2.1 places
            them (its own grid has 16); None: at their token indices.

    Returns:
        float32 ``[grid.count, head_dim // 2, 2]``: of each channel pair the cosine, then the sine; where ``tiled``,
        ``[grid.count, head_dim, 2]``: the same of each channel.

    Raises:
        ValueError: if ``head_dim`` is odd or below 6, or ``theta`` is below 1.
    """
    if head_dim < 6 or head_dim % 2:
        raise ModelError(
            f"head_dim is {head_dim}; three rotated axes need an even number of at least 6 channels a head"
        )
    if theta < 1:
        raise ModelError(f"rope theta is {theta}; expected at least 1 (100 suits small grids, 10000 is V-JEPA's)")
    pairs = head_dim // 2 // 3
    frequency = theta ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    places = [torch.arange(n, dtype=torch.float64) for n in grid.shape]
    if side is not None:
        places[1:] = [place * ((side - 1) / max(len(place) - 1, 1)) for place in places[1:]]
    axes = torch.meshgrid(*places, indexing="ij")
    if tiled:
        frequency = frequency.repeat(2)
    angles = torch.cat([axis.reshape(-1, 1) * frequency for axis in axes], dim=1)
    angles = F.pad(angles, (0, head_dim // (1 if tiled else 2) - angles.shape[1]))
    return torch.stack([angles.cos(), angles.sin()], dim=2).float()


def gather_rope(table: Tensor, index: Tensor) -> Tensor:
    """Pick rows of a :func:`rope_table` per clip.

    Args:
        table: ``[N, head_dim // 2, 2]``, or ``[N, head_dim, 2]`` of a tiled one.
        index: int64 ``[B, K]`` flat grid indices.

    Returns:
        ``[B, 1, K, head_dim // 2, 2]``, or with ``head_dim`` where the table is tiled; the 1 broadcasts over heads.
    """
    return table[index].unsqueeze(1)


class RotaryAttention(nn.Module):
    """Self-attention whose queries and keys are rotated by position, as complex numbers.

    Adjacent channels are the parts of a complex number, and a rotation is one multiplication: the products and sums of
    timm's ``AttentionRope``, in one pass over memory and not in ten. With a narrow encoder those took a fifth of the
    time on a processor (bench/data.md).

    Args:
        width: channels of a token.
        heads: attention heads; divides ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """Attend over all K tokens.

        Args:
            x: ``[B, K, width]``.
            rope: rows of a :func:`rope_table`, or of :func:`gather_rope`.

        Returns:
            ``[B, K, width]``.
        """
        qkv: Tensor = self.qkv(x)
        qkv = qkv.unflatten(-1, (3, self.heads, -1, 2)).permute(2, 0, 3, 1, 4, 5)  # [3, B, heads, K, head_dim / 2, 2]
        # Under autocast too in float32: there is no complex bfloat16.
        paired = qkv[:2].float()
        if rope.shape[-2] == paired.shape[-2]:
            turned = torch.view_as_real(torch.view_as_complex(paired) * torch.view_as_complex(rope)).flatten(-2)
        else:  # tiled: the channels of a pair turn by different angles, which no complex product expresses
            across = torch.stack([-paired[..., 1], paired[..., 0]], dim=-1)
            turned = paired.flatten(-2) * rope[..., 0] + across.flatten(-2) * rope[..., 1]
        q, k = turned.type_as(qkv)
        mixed: Tensor = self.proj(F.scaled_dot_product_attention(q, k, qkv[2].flatten(-2)).transpose(1, 2).flatten(2))
        return mixed


class RotaryBlock(nn.Module):
    """A pre-norm transformer block with :class:`RotaryAttention`; its parameters are named as those of a timm ViT's.

    Args:
        width: channels of a token.
        heads: attention heads; divides ``width``.
        mlp_ratio: hidden width of the MLP over ``width``.
        drop_path: stochastic-depth rate.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = RotaryAttention(width, heads)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """Attend, then transform every token.

        Args:
            x: ``[B, K, width]``.
            rope: as for :class:`RotaryAttention`.

        Returns:
            ``[B, K, width]``.
        """
        x = x + self.drop_path(self.attn(self.norm1(x), rope))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out
