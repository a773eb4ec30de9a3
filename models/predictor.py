"""The predictor: a narrow vision transformer from visible features to target features.

Shapes: B clips, K visible tokens, M masked tokens, D channels of the concatenated levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.layers import LayerNorm, trunc_normal_
from torch import Tensor, nn

from equipoise.models.encoders.vit import init_linear, rescale_residuals
from equipoise.models.errors import ModelError
from equipoise.models.geometry import TokenGrid
from equipoise.models.rope import RotaryBlock, gather_rope, rope_table


@dataclass(frozen=True, kw_only=True)
class PredictorConfig:
    """Size of the predictor; the defaults are the published ones.

    Attributes:
        width: channels of a token inside the predictor.
        depth: transformer blocks.
        heads: attention heads; divides ``width``.
        mlp_ratio: hidden width of a block's MLP over ``width``.
        rope_theta: ratio of the highest to the lowest rotary frequency.
    """

    width: int = 256
    depth: int = 8
    heads: int = 8
    mlp_ratio: float = 4.0
    rope_theta: float = 10_000.0

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  read by the settings layer, which owns the checks of types

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ModelError(f"predictor {name} is {getattr(self, name)}; expected at least 1")
        if self.width % self.heads:
            raise ModelError(f"predictor width {self.width} is not a multiple of heads {self.heads}")


class Predictor(nn.Module):
    """Predicts target features at masked and at visible positions.

    Args:
        config: sizes.
        channels: D, channels of the features going in and coming out.
        grid: token grid of a video clip; a still image uses its first time slot.
        mask_policies: masks drawn per clip; each has its own learned mask token.
    """

    rope: Tensor

    def __init__(self, config: PredictorConfig, channels: int, grid: TokenGrid, mask_policies: int) -> None:
        super().__init__()
        self.enter = nn.Linear(channels, config.width)
        self.mask_token = nn.Parameter(torch.zeros(mask_policies, config.width))
        self.blocks = nn.ModuleList(
            RotaryBlock(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = LayerNorm(config.width)
        self.leave = nn.Linear(config.width, channels)
        self.register_buffer(
            "rope", rope_table(grid, config.width // config.heads, config.rope_theta), persistent=False
        )
        self.apply(init_linear)
        trunc_normal_(self.mask_token, std=0.02)
        rescale_residuals(self.blocks)

    def forward(self, student: Tensor, visible: Tensor, masked: Tensor, policy: int) -> tuple[Tensor, Tensor]:
        """Predict from the visible tokens of one mask.

        Args:
            student: ``[B, K, D]`` encoder features of the visible tokens.
            visible: int64 ``[B, K]`` their grid indices.
            masked: int64 ``[B, M]`` grid indices to predict.
            policy: which mask of the step this is.

        Returns:
            Predictions at the masked tokens ``[B, M, D]`` and at the visible ones ``[B, K, D]``.
        """
        K = visible.shape[1]
        queries = self.mask_token[policy].expand(masked.shape[0], masked.shape[1], -1)
        entered = self.enter(student)
        x = torch.cat([entered, queries.to(entered.dtype)], dim=1)
        rope = gather_rope(self.rope, torch.cat([visible, masked], dim=1))
        for block in self.blocks:
            x = block(x, rope)
        x = self.leave(self.norm(x))
        return x[:, K:], x[:, :K]
