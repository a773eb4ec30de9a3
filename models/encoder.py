"""The context encoder: a video vision transformer with 3-D patches, 3-D RoPE and four intermediate levels.

Shapes: B clips, F frames, N tokens of the grid, K tokens seen, P values in a patch, W width, L levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from timm.layers import LayerNorm, trunc_normal_
from torch import Tensor, nn

from equipoise.models.errors import ModelError
from equipoise.models.geometry import TokenGrid
from equipoise.models.rope import RotaryBlock, gather_rope, rope_table

Kind = Literal["video", "image"]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Size of the encoder; the defaults are the published ViT-B at 16 frames of 224 pixels.

    Attributes:
        width: channels of a token.
        depth: transformer blocks; a multiple of ``levels``.
        heads: attention heads; divides ``width``.
        mlp_ratio: hidden width of a block's MLP over ``width``.
        patch: side of a patch in pixels.
        tubelet: frames in a patch.
        levels: intermediate levels the objectives see, at equal spacing in depth.
        drop_path: stochastic-depth rate, the same in every block.
        rope_theta: ratio of the highest to the lowest rotary frequency.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    patch: int = 16
    tubelet: int = 2
    levels: int = 4
    drop_path: float = 0.0
    rope_theta: float = 10_000.0

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  read by the settings layer, which owns the checks of types

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "patch", "tubelet", "levels"):
            if getattr(self, name) < 1:
                raise ModelError(f"encoder {name} is {getattr(self, name)}; expected at least 1")
        if self.width % self.heads:
            raise ModelError(f"encoder width {self.width} is not a multiple of heads {self.heads}")
        if self.depth % self.levels:
            raise ModelError(f"encoder depth {self.depth} is not a multiple of levels {self.levels}")
        if not 0 <= self.drop_path < 1:
            raise ModelError(f"encoder drop_path is {self.drop_path}; expected 0 <= drop_path < 1")

    @property
    def channels(self) -> int:
        """Channels of the concatenated levels: what the objectives see."""
        return self.levels * self.width


def patchify(clip: Tensor, patch: int, tubelet: int) -> Tensor:
    """Cut clips into flattened 3-D patches in raster order.

    Args:
        clip: ``[B, C, F, H, W]``; F a multiple of ``tubelet``, H and W of ``patch``.
        patch: side of a patch in pixels.
        tubelet: frames in a patch.

    Returns:
        ``[B, N, C * tubelet * patch * patch]`` with N ordered time, height, width.

    Raises:
        ValueError: if the clip does not divide into whole patches.
    """
    B, C, F, H, W = clip.shape
    if F % tubelet or H % patch or W % patch:
        raise ModelError(
            f"a clip of {F} frames of {H}x{W} px does not divide into patches of {tubelet}x{patch}x{patch}"
        )
    cut = clip.reshape(B, C, F // tubelet, tubelet, H // patch, patch, W // patch, patch)
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


class VideoEncoder(nn.Module):
    """Vision transformer over the visible tokens of a clip or of a still image.

    Patches are embedded by a linear map of the flattened patch, which equals a strided 3-D convolution and lets hidden
    patches be dropped before any arithmetic. An image is a clip of one frame with its own tubelet-1 embedding. Both
    kinds carry a learned modality embedding.

    Args:
        config: sizes.
        grid: token grid of a video clip; a still image uses its first time slot.
    """

    rope: Tensor

    def __init__(self, config: EncoderConfig, grid: TokenGrid) -> None:
        super().__init__()
        self.config = config
        self.grid = grid
        area = 3 * config.patch**2
        self.embed = nn.ModuleDict(
            {"video": nn.Linear(area * config.tubelet, config.width), "image": nn.Linear(area, config.width)}
        )
        self.modality = nn.ParameterDict({kind: nn.Parameter(torch.zeros(config.width)) for kind in ("video", "image")})
        self.blocks = nn.ModuleList(
            RotaryBlock(config.width, config.heads, config.mlp_ratio, config.drop_path) for _ in range(config.depth)
        )
        self.norms = nn.ModuleList(LayerNorm(config.width) for _ in range(config.levels))
        self.register_buffer(
            "rope", rope_table(grid, config.width // config.heads, config.rope_theta), persistent=False
        )
        self.apply(_init_linear)
        _rescale_residuals(self.blocks)

    def patches(self, clip: Tensor) -> tuple[Tensor, Kind]:
        """Patches of ``clip`` and its kind: one frame is an image, anything longer a video.

        Args:
            clip: ``[B, 3, F, H, W]``, ImageNet-normalised.

        Returns:
            ``[B, N, P]`` and ``"video"`` or ``"image"``.

        Raises:
            ValueError: if the clip does not fit the encoder's grid.
        """
        kind: Kind = "image" if clip.shape[2] == 1 else "video"
        tubelet = 1 if kind == "image" else self.config.tubelet
        patches = patchify(clip, self.config.patch, tubelet)
        expected = self.grid.count if kind == "video" else self.grid.height * self.grid.width
        if patches.shape[1] != expected:
            side = f"{self.grid.height * self.config.patch}x{self.grid.width * self.config.patch} px"
            frames = self.grid.time * self.config.tubelet
            raise ModelError(
                f"a {kind} of shape {tuple(clip.shape)} gives {patches.shape[1]} tokens; "
                f"this encoder takes {frames} frames (or 1) of {side}, {expected} tokens"
            )
        return patches, kind

    def forward(self, patches: Tensor, kind: Kind, index: Tensor | None = None, last_only: bool = False) -> Tensor:
        """Encode the tokens at ``index`` (all of them where it is None).

        Args:
            patches: ``[B, N, P]`` from :meth:`patches`.
            kind: which patch embedding to use.
            index: int64 ``[B, K]`` visible tokens.
            last_only: return the deepest level alone: what frozen evaluation reads.

        Returns:
            ``[B, K, levels * width]``, or ``[B, K, width]`` with ``last_only``; every level through its own LayerNorm.
        """
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


def inflate_timm_vit(encoder: VideoEncoder, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Initialise an encoder from a timm image ViT of the same width and depth.

    The 2-D patch embedding goes to the image embedding as it is, and to the video embedding repeated over the tubelet
    and divided by its length, so that a still clip gives the same tokens as the image. Position embeddings and the
    class token have no counterpart (positions are rotary); the ViT's final norm initialises every level's norm.

    Args:
        encoder: changed in place.
        state: the state dict of a timm ``VisionTransformer``.

    Returns:
        Names of the entries of ``state`` that have no counterpart here.

    Raises:
        ValueError: if the ViT's width, depth or patch differs, naming both.
    """
    c = encoder.config
    weight = state.get("patch_embed.proj.weight")
    if weight is None:
        raise ModelError("the checkpoint has no patch_embed.proj.weight; expected the state dict of a timm ViT")
    if tuple(weight.shape) != (c.width, 3, c.patch, c.patch):
        raise ModelError(
            f"the ViT's patch embedding is {tuple(weight.shape)}; expected {(c.width, 3, c.patch, c.patch)}"
        )
    wanted = {k: v for k, v in encoder.state_dict().items() if k.startswith("blocks.")}
    missing = [k for k in wanted if k not in state]
    extra = [k for k in state if k.startswith("blocks.") and k not in wanted]
    if missing or extra:
        raise ModelError(f"the ViT's blocks differ from this encoder's {c.depth} blocks: {(missing + extra)[:3]} ...")
    wrong = [k for k in wanted if state[k].shape != wanted[k].shape]
    if wrong:
        raise ModelError(f"{wrong[0]} is {tuple(state[wrong[0]].shape)}; expected {tuple(wanted[wrong[0]].shape)}")
    new = {k: state[k] for k in wanted}
    bias = state.get("patch_embed.proj.bias", torch.zeros(c.width))
    new["embed.image.weight"] = weight.flatten(1)
    new["embed.video.weight"] = weight.unsqueeze(2).expand(-1, -1, c.tubelet, -1, -1).flatten(1) / c.tubelet
    new["embed.image.bias"] = new["embed.video.bias"] = bias
    used = {*wanted, "patch_embed.proj.weight", "patch_embed.proj.bias"}
    if "norm.weight" in state:
        used |= {"norm.weight", "norm.bias"}
        for i in range(c.levels):
            new[f"norms.{i}.weight"], new[f"norms.{i}.bias"] = state["norm.weight"], state["norm.bias"]
    encoder.load_state_dict(new, strict=False)
    return tuple(k for k in state if k not in used)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02 if module.in_features >= 512 else module.in_features**-0.5 * 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _rescale_residuals(blocks: nn.ModuleList) -> None:
    """Scale each block's two output projections by depth, as V-JEPA does, so that the residual stream starts even."""
    with torch.no_grad():
        for depth in range(1, len(blocks) + 1):
            for name in ("attn.proj", "mlp.fc2"):
                blocks.get_parameter(f"{depth - 1}.{name}.weight").div_((2.0 * depth) ** 0.5)
