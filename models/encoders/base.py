"""What an encoder is: the protocol that training, objectives and evaluation rely on, and the encoders by name.

Shapes: B clips, F frames, N tokens of the grid, K tokens seen, P values in a patch, W width, L levels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor, nn

from equipoise.models.errors import ModelError
from equipoise.models.geometry import TokenGrid

Kind = Literal["video", "image"]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Which encoder, and its size; the defaults are the published ViT-B at 16 frames of 224 pixels.

    Attributes:
        name: one of ``list_encoders()``.
        params: of an encoder that is not ``vit``: what its record says.
        width: channels of a token.
        depth: transformer blocks; a multiple of ``levels``.
        heads: attention heads; divides ``width``.
        mlp_ratio: hidden width of a block's MLP over ``width``.
        patch: side of a patch in pixels.
        tubelet: frames in a patch.
        levels: intermediate levels the objectives see, at equal spacing in depth.
        drop_path: stochastic-depth rate, the same in every block.
        rope_theta: ratio of the highest to the lowest rotary frequency.
        rope_frequencies: ``tiled`` as V-JEPA 2 has them, to start from its checkpoints.
        rope_side: rows and columns that positions are scaled to, 16 in V-JEPA 2.1; None: as many as there are.

    Raises:
        ValueError: for an unknown encoder, sizes that it cannot have, or parameters that it does not know.
    """

    name: str = "vit"
    params: Mapping[str, Any] = field(default_factory=dict)
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    patch: int = 16
    tubelet: int = 2
    levels: int = 4
    drop_path: float = 0.0
    rope_theta: float = 10_000.0
    rope_frequencies: Literal["paired", "tiled"] = "paired"
    rope_side: int | None = None

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  read by the settings layer, which owns the checks of types

    def __post_init__(self) -> None:
        self._take_sizes(encoder_record(self.name).sizes(self.params))
        for name in ("width", "depth", "heads", "patch", "tubelet", "levels", "rope_side"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ModelError(f"encoder {name} is {getattr(self, name)}; expected at least 1")
        if self.width % self.heads:
            raise ModelError(f"encoder width {self.width} is not a multiple of heads {self.heads}")
        if self.depth % self.levels:
            raise ModelError(f"encoder depth {self.depth} is not a multiple of levels {self.levels}")
        if not 0 <= self.drop_path < 1:
            raise ModelError(f"encoder drop_path is {self.drop_path}; expected 0 <= drop_path < 1")

    def _take_sizes(self, own: Mapping[str, Any]) -> None:
        """Take the sizes that an encoder has of itself; what was asked for otherwise is refused."""
        for key in fields(self):
            if key.name in own:
                given = getattr(self, key.name)
                if given not in (key.default, own[key.name]):
                    raise ModelError(
                        f"encoder {key.name} is {given}; {self.name} with {dict(self.params)} has {own[key.name]}: "
                        f"write {key.name}: {own[key.name]}"
                    )
                object.__setattr__(self, key.name, own[key.name])

    @property
    def channels(self) -> int:
        """Channels of the concatenated levels: what the objectives see."""
        return self.levels * self.width


class Encoder(nn.Module, ABC):
    """An encoder of the visible tokens of a clip or of a still image.

    An encoder of your own inherits from this, takes ``(config, grid, **params)``, and is made known by
    :func:`register_encoder`. It must encode any subset of a clip's tokens by themselves: what is hidden is never
    read. ``equipoise.testing.check_encoder`` checks it.

    Attributes:
        config: sizes.
        grid: token grid of a video clip; a still image uses its first time slot.
        blocks: its repeated parts, in order; sharded one by one where a study asks for that.
    """

    blocks: Iterable[nn.Module]

    def __init__(self, config: EncoderConfig, grid: TokenGrid) -> None:
        super().__init__()
        self.config = config
        self.grid = grid

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

    @abstractmethod
    def forward(self, patches: Tensor, kind: Kind, index: Tensor | None = None, last_only: bool = False) -> Tensor:
        """Encode the tokens at ``index`` (all of them where it is None).

        Args:
            patches: ``[B, N, P]`` from :meth:`patches`.
            kind: which patch embedding to use.
            index: int64 ``[B, K]`` visible tokens.
            last_only: return the deepest level alone: what frozen evaluation reads.

        Returns:
            ``[B, K, levels * width]``, the deepest level last, or ``[B, K, width]`` with ``last_only``.
        """


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


def no_sizes(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of an encoder without parameters whose sizes are those of its settings."""
    if params:
        raise ModelError(f"this encoder takes no params; {dict(params)} given")
    return {}


@dataclass(frozen=True)
class EncoderRecord:
    """An encoder that settings can ask for.

    Attributes:
        name: how settings call it.
        description: one line.
        factory: builds it from ``(config, grid, **config.params)``.
        sizes: checks ``config.params`` and says the fields of :class:`EncoderConfig` that follow from them.
    """

    name: str
    description: str
    factory: Callable[..., Encoder]
    sizes: Callable[[Mapping[str, Any]], Mapping[str, Any]] = no_sizes


_known: dict[str, EncoderRecord] = {}
ENCODERS: Mapping[str, EncoderRecord] = MappingProxyType(_known)
"""Every known encoder by name."""


def register_encoder(record: EncoderRecord) -> EncoderRecord:
    """Make an encoder known to settings; one of the same name is replaced, unless it ships.

    Raises:
        ValueError: an encoder that ships has this name, or it is no name.
    """
    if not record.name.isidentifier():
        raise ModelError(f"encoder {record.name!r}: expected letters, digits and _ for a name")
    shipped = _known.get(record.name)
    if shipped is not None and shipped.factory.__module__.startswith("equipoise.models."):
        raise ModelError(f"encoder {record.name!r} ships with Equipoise: give yours another name")
    _known[record.name] = record
    return record


def encoder_record(name: str) -> EncoderRecord:
    """The record of an encoder.

    Raises:
        ValueError: it is not known, naming the nearest.
    """
    if name not in _known:
        near = get_close_matches(name, _known, n=1, cutoff=0.0)
        raise ModelError(f"unknown encoder {name!r}; nearest is {near[0]!r}, known are {', '.join(_known)}")
    return _known[name]


def list_encoders() -> tuple[str, ...]:
    """Names of all known encoders, those that ship first."""
    return tuple(_known)


def create_encoder(config: EncoderConfig, grid: TokenGrid) -> Encoder:
    """Build the encoder that a configuration names.

    Raises:
        ValueError: it cannot be built on this grid.
    """
    return encoder_record(config.name).factory(config, grid, **config.params)
