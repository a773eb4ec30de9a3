"""Image transformers of timm and torchvision as video encoders.

The whole of such a network is kept, under ``vit``: class and register tokens, position embeddings, layer scale. What an
image transformer lacks is added: an embedding of tubelets, which starts as the image's over equal frames, and positions
in time. All visible tokens of a clip attend to each other.

Shapes: B clips, K tokens seen, P prefix tokens, N tokens of an image, T time slots, W width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import timm
import torch
import torchvision
from timm.layers import LayerNorm, trunc_normal_
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionTransformer
from torchvision.models.vision_transformer import interpolate_embeddings

from equipoise.models.encoders.base import Encoder, EncoderConfig, EncoderRecord, Kind
from equipoise.models.encoders.names import NO_COUNTERPART, timm_names
from equipoise.models.errors import ModelError
from equipoise.models.geometry import TokenGrid


class ImageBackbone(Encoder):
    """An image transformer over the visible tokens of a clip.

    Args:
        config: sizes; those of ``vit``.
        grid: token grid of a video clip.
        vit: the network.
        conv: its patch embedding.
    """

    def __init__(self, config: EncoderConfig, grid: TokenGrid, vit: nn.Module, conv: nn.Conv2d) -> None:
        super().__init__(config, grid)
        self.vit = vit
        self.video_embed = nn.Linear(conv.weight[0].numel() * config.tubelet, config.width)
        self.time = nn.Parameter(torch.zeros(grid.time, config.width))
        self.norms = nn.ModuleList(LayerNorm(config.width) for _ in range(config.levels - 1))
        trunc_normal_(self.time, std=0.02)
        self.inflate()

    def inflate(self) -> None:
        """Let the embedding of tubelets begin as the image's: equal frames then give the tokens of the image."""
        conv, tubelet = self.conv(), self.config.tubelet
        with torch.no_grad():
            repeated = conv.weight.unsqueeze(2).expand(-1, -1, tubelet, -1, -1)
            self.video_embed.weight.copy_(repeated.flatten(1) / tubelet)
            self.video_embed.bias.copy_(torch.zeros(self.config.width) if conv.bias is None else conv.bias)

    @abstractmethod
    def conv(self) -> nn.Conv2d:
        """The patch embedding."""

    @abstractmethod
    def prefix(self) -> Tensor:
        """Tokens before those of patches ``[P, W]``, with their positions."""

    @abstractmethod
    def positions(self) -> Tensor:
        """Position embeddings of an image's tokens ``[N, W]``."""

    @abstractmethod
    def enter(self, x: Tensor) -> Tensor:
        """What happens to all tokens before the first block."""

    @abstractmethod
    def leave(self, x: Tensor) -> Tensor:
        """The final norm."""

    @abstractmethod
    def load(self, state: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Take the parameters of such a network; returns the names of those of its classifier, which is not kept.

        Raises:
            ValueError: they are of another network.
        """

    def forward(self, patches: Tensor, kind: Kind, index: Tensor | None = None, last_only: bool = False) -> Tensor:
        """Encode the tokens at ``index``; see :class:`Encoder`."""
        spatial, slots = self.positions(), self.time if kind == "video" else self.time[:1] * 0
        where = (slots.unsqueeze(1) + spatial).flatten(0, 1)  # [T N, W]
        if index is not None:
            patches = patches.gather(1, index.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
            where = where[index]
        if kind == "video":
            x = self.video_embed(patches)
        else:
            conv = self.conv()
            x = nn.functional.linear(patches, conv.weight.flatten(1), conv.bias)
        before = self.prefix()
        x = self.enter(torch.cat([before.expand(len(x), -1, -1), x + where], dim=1))
        every = self.config.depth // self.config.levels
        levels: list[Tensor] = []
        for i, block in enumerate(self.blocks, start=1):
            x = block(x)
            if i % every == 0 and i < self.config.depth and not last_only:
                levels.append(self.norms[i // every - 1](x[:, len(before) :]))
        return torch.cat([*levels, self.leave(x)[:, len(before) :]], dim=-1)


class TimmEncoder(ImageBackbone):
    """A ``VisionTransformer`` of timm, such as ``vit_small_patch16_224`` or ``vit_base_patch14_dinov2``."""

    vit: VisionTransformer

    def __init__(self, config: EncoderConfig, grid: TokenGrid, model: str) -> None:
        size = (grid.height * config.patch, grid.width * config.patch)
        vit = _timm(model, img_size=size, drop_path_rate=config.drop_path)
        super().__init__(config, grid, vit, vit.patch_embed.proj)

    @property
    def blocks(self) -> Iterable[nn.Module]:  # type: ignore[override]  # a property: they are the network's
        """Its transformer blocks."""
        return list(self.vit.blocks.children())

    def conv(self) -> nn.Conv2d:
        """The patch embedding."""
        found: nn.Conv2d = self.vit.patch_embed.proj
        return found

    def prefix(self) -> Tensor:
        """Class and register tokens, with their positions."""
        tokens = [token for token in (self.vit.cls_token, self.vit.reg_token) if token is not None]
        if not tokens:
            return self.time.new_zeros(0, self.config.width)
        found = torch.cat(tokens, dim=1)
        if not self.vit.no_embed_class:
            found = found + self.vit.pos_embed[:, : found.shape[1]]
        return found[0]

    def positions(self) -> Tensor:
        """Position embeddings of an image's tokens."""
        embedded: Tensor = self.vit.pos_embed[0]
        return embedded if self.vit.no_embed_class else embedded[self.vit.num_prefix_tokens :]

    def enter(self, x: Tensor) -> Tensor:
        """Its norm before the blocks, where it has one."""
        found: Tensor = self.vit.norm_pre(x)
        return found

    def leave(self, x: Tensor) -> Tensor:
        """Its final norm."""
        found: Tensor = self.vit.norm(x)
        return found

    def load(self, state: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Take the parameters of such a network, in timm's or transformers' names; positions as timm resamples."""
        given = timm_names(state)
        head = tuple(key for key in given if key.startswith(NO_COUNTERPART))
        found = checkpoint_filter_fn({k: v for k, v in given.items() if k not in head}, self.vit)
        return _load(self, found, head)


class TorchvisionEncoder(ImageBackbone):
    """A ``VisionTransformer`` of torchvision, such as ``vit_b_16``."""

    vit: TorchvisionTransformer

    def __init__(self, config: EncoderConfig, grid: TokenGrid, model: str) -> None:
        if grid.height != grid.width:
            raise ModelError(f"torchvision's {model} takes square images; the grid is {grid.height}x{grid.width}")
        vit = _torchvision(model, image_size=grid.height * config.patch)
        vit.heads = nn.Identity()
        super().__init__(config, grid, vit, vit.conv_proj)

    @property
    def blocks(self) -> Iterable[nn.Module]:  # type: ignore[override]  # a property: they are the network's
        """Its transformer blocks."""
        return list(self.vit.encoder.layers.children())

    def conv(self) -> nn.Conv2d:
        """The patch embedding."""
        found: nn.Conv2d = self.vit.conv_proj
        return found

    def prefix(self) -> Tensor:
        """The class token, with its position."""
        found: Tensor = self.vit.class_token + self.vit.encoder.pos_embedding[:, :1]
        return found[0]

    def positions(self) -> Tensor:
        """Position embeddings of an image's tokens."""
        embedded: Tensor = self.vit.encoder.pos_embedding[0]
        return embedded[1:]

    def enter(self, x: Tensor) -> Tensor:
        """Its dropout."""
        found: Tensor = self.vit.encoder.dropout(x)
        return found

    def leave(self, x: Tensor) -> Tensor:
        """Its final norm."""
        found: Tensor = self.vit.encoder.ln(x)
        return found

    def load(self, state: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Take the parameters of a checkpoint of this model; its positions are resampled as torchvision does."""
        head = tuple(key for key in state if key.startswith("heads."))
        given = {k: v for k, v in state.items() if k not in head}
        if "encoder.pos_embedding" in given:
            given = dict(interpolate_embeddings(self.vit.image_size, self.vit.patch_size, given))
        return _load(self, given, head)


def _load(encoder: ImageBackbone, state: Mapping[str, Tensor], head: tuple[str, ...]) -> tuple[str, ...]:
    wanted = encoder.vit.state_dict()
    wrong = sorted({*wanted} ^ {*state}) or [k for k, v in wanted.items() if state[k].shape != v.shape]
    if wrong:
        raise ModelError(
            f"it is not of {encoder.config.name}'s {encoder.config.params['model']}: {len(wrong)} entries are missing, "
            f"left over or of another shape, such as {', '.join(wrong[:3])}"
        )
    encoder.vit.load_state_dict(dict(state))
    encoder.inflate()
    return head


def _timm(model: str, **sizes: Any) -> VisionTransformer:
    if not timm.is_model(model):
        raise ModelError(f"timm has no model {model!r}; python -c 'import timm; print(timm.list_models(\"vit*\"))'")
    try:
        found = timm.create_model(model, num_classes=0, global_pool="", **sizes)
    except TypeError:  # not every network takes a size
        found = None
    if (
        not isinstance(found, VisionTransformer)
        or type(found).forward_features is not VisionTransformer.forward_features
    ):
        raise ModelError(_cannot_hide(f"timm's {model}"))
    if found.pos_embed is None:
        raise ModelError(f"timm's {model} has no position embeddings; the encoder vit has rotary ones")
    return found


def _torchvision(model: str, **sizes: Any) -> TorchvisionTransformer:
    if model not in torchvision.models.list_models():
        raise ModelError(f"torchvision has no model {model!r}; its transformers of images are named vit_...")
    if not model.startswith("vit_"):
        raise ModelError(_cannot_hide(f"torchvision's {model}"))
    found: TorchvisionTransformer = torchvision.models.get_model(model, weights=None, **sizes)
    return found


def _cannot_hide(what: str) -> str:
    return (
        f"{what} cannot hide tokens: it mixes neighbouring places, or pools, on the way, and needs the whole picture "
        "for it. JEPA's encoder sees the visible tokens alone; plain vision transformers can do that"
    )


def _model(params: Mapping[str, Any], example: str) -> str:
    if set(params) != {"model"} or not isinstance(params["model"], str):
        raise ModelError(f"params are {dict(params)}; expected the name of a model: {{model: {example}}}")
    return str(params["model"])


# What a network of others has no use for; asking for it is refused as a wrong size is.
_NO_ROTATION = {"rope_frequencies": "paired", "rope_side": None}


@cache
def _timm_sizes(model: str) -> Mapping[str, Any]:
    with torch.device("meta"):
        vit = _timm(model)
    block = vit.blocks[0]
    return {
        "width": vit.embed_dim,
        "depth": len(vit.blocks),
        "heads": block.attn.num_heads,
        "mlp_ratio": block.mlp.fc1.out_features / vit.embed_dim,
        "patch": vit.patch_embed.patch_size[0],
        **_NO_ROTATION,
    }


@cache
def _torchvision_sizes(model: str) -> Mapping[str, Any]:
    with torch.device("meta"):
        vit = _torchvision(model)
    layers = vit.encoder.layers
    return {
        "width": vit.hidden_dim,
        "depth": len(layers),
        "heads": layers[0].num_heads,
        "mlp_ratio": vit.mlp_dim / vit.hidden_dim,
        "patch": vit.patch_size,
        "drop_path": 0.0,
        **_NO_ROTATION,
    }


def _sizes(of: Callable[[str], Mapping[str, Any]], example: str) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    return lambda params: of(_model(params, example))


TIMM = EncoderRecord(
    "timm",
    "a vision transformer of timm, over the tokens of all frames; params: {model: vit_small_patch16_224}",
    TimmEncoder,
    _sizes(_timm_sizes, "vit_small_patch16_224"),
)
TORCHVISION = EncoderRecord(
    "torchvision",
    "a vision transformer of torchvision, over the tokens of all frames; params: {model: vit_b_16}",
    TorchvisionEncoder,
    _sizes(_torchvision_sizes, "vit_b_16"),
)
