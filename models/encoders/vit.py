"""The encoder that ships: a video vision transformer with 3-D patches, 3-D RoPE and intermediate levels.

Shapes: B clips, N tokens of the grid, K tokens seen, P values in a patch.
"""

from __future__ import annotations

import torch
from timm.layers import LayerNorm, trunc_normal_
from torch import Tensor, nn

from equipoise.models.encoders.base import Encoder, EncoderConfig, Kind
from equipoise.models.geometry import TokenGrid
from equipoise.models.rope import RotaryBlock, gather_rope, rope_table


class VideoEncoder(Encoder):
    """Vision transformer over the visible tokens of a clip or of a still image.

    Patches are embedded by a linear map of the flattened patch, which equals a strided 3-D convolution and lets hidden
    patches be dropped before any arithmetic. An image is a clip of one frame with its own tubelet-1 embedding. Both
    kinds carry a learned modality embedding.

    Args:
        config: sizes.
        grid: token grid of a video clip; a still image uses its first time slot.
    """

    rope: Tensor
    blocks: nn.ModuleList

    def __init__(self, config: EncoderConfig, grid: TokenGrid) -> None:
        super().__init__(config, grid)
        area = 3 * config.patch**2
        self.embed = nn.ModuleDict(
            {"video": nn.Linear(area * config.tubelet, config.width), "image": nn.Linear(area, config.width)}
        )
        self.modality = nn.ParameterDict({kind: nn.Parameter(torch.zeros(config.width)) for kind in ("video", "image")})
        self.blocks = nn.ModuleList(
            RotaryBlock(config.width, config.heads, config.mlp_ratio, config.drop_path) for _ in range(config.depth)
        )
        self.norms = nn.ModuleList(LayerNorm(config.width) for _ in range(config.levels))
        table = rope_table(
            grid,
            config.width // config.heads,
            config.rope_theta,
            tiled=config.rope_frequencies == "tiled",
            side=config.rope_side,
        )
        self.register_buffer("rope", table, persistent=False)
        self.apply(init_linear)
        rescale_residuals(self.blocks)

    def forward(self, patches: Tensor, kind: Kind, index: Tensor | None = None, last_only: bool = False) -> Tensor:
        """Encode the tokens at ``index``, every level through its own LayerNorm; see :class:`Encoder`."""
        if index is None:
            rope = self.rope[: patches.shape[1]]
        else:
            patches = patches.gather(1, index.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
            rope = gather_rope(self.rope, index)
        x = self.embed[kind](patches) + self.modality[kind]
        every = self.config.depth // self.config.levels
        levels: list[Tensor] = []
        for i, block in enumerate(self.blocks, start=1):
            x = block(x, rope)
            if i % every == 0 and not last_only:
                levels.append(self.norms[i // every - 1](x))
        return self.norms[-1](x) if last_only else torch.cat(levels, dim=-1)


def init_linear(module: nn.Module) -> None:
    """Initialise a linear layer: with the deviation 0.02, or a smaller one by its width."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02 if module.in_features >= 512 else module.in_features**-0.5 * 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def rescale_residuals(blocks: nn.ModuleList) -> None:
    """Scale each block's two output projections by depth, as V-JEPA does, so that the residual stream starts even."""
    with torch.no_grad():
        for depth in range(1, len(blocks) + 1):
            for name in ("attn.proj", "mlp.fc2"):
                blocks.get_parameter(f"{depth - 1}.{name}.weight").div_((2.0 * depth) ** 0.5)
