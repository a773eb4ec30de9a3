"""The parameters of other people's encoders: V-JEPA 2 and 2.1, image transformers, in their own or others' spelling.

Every entry of what is given has a counterpart, or is of a part that is known to have none (a predictor, a classifier).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from equipoise.models.encoders.backbones import ImageBackbone
from equipoise.models.encoders.base import Encoder
from equipoise.models.encoders.names import NO_COUNTERPART, timm_names
from equipoise.models.encoders.vit import VideoEncoder
from equipoise.models.errors import ModelError

POSITIONS = ("cls_token", "reg_token", "dist_token", "pos_embed")
"""Entries of an image transformer for which positions that rotate need no counterpart."""


def take_parameters(encoder: Encoder, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Give an encoder the parameters of a state dict.

    It is that of such an encoder; or, for ``vit``, of V-JEPA 2 or 2.1 (of the original code or of ``transformers``) or
    of an image transformer, which is inflated over time; or, for ``timm`` and ``torchvision``, of the very network.

    Args:
        encoder: changed in place.
        state: of other people's encoder, without prefixes of wrappers.

    Returns:
        Names of the entries that have no counterpart, all of parts that need none.

    Raises:
        ValueError: it is of another encoder, and what differs.
    """
    # Blocks have the names of timm's; what lies around them tells whose they are.
    of_own = any(key in state for key in encoder.state_dict() if not key.startswith("blocks."))
    if of_own or not isinstance(encoder, ImageBackbone | VideoEncoder):
        return _take_own(encoder, state)
    if isinstance(encoder, ImageBackbone):
        return encoder.load(state)
    given = timm_names(state)
    conv = given.get("patch_embed.proj.weight")
    if conv is None:
        raise ModelError(
            f"it has no patch embedding that is known, and {len(state)} entries such as {', '.join(list(state)[:3])}; "
            "expected V-JEPA 2 or 2.1, or a vision transformer in timm's or transformers' names"
        )
    return _take_vjepa(encoder, given) if conv.ndim == 5 else inflate(encoder, given)


def _take_own(encoder: Encoder, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    own = encoder.state_dict()
    wrong = sorted(set(own) ^ set(state)) or [k for k, v in own.items() if state[k].shape != v.shape]
    if wrong:
        raise ModelError(
            f"it is of another {encoder.config.name} encoder: {len(wrong)} entries are missing, left over or of "
            f"another shape: {', '.join(wrong[:3])}"
        )
    encoder.load_state_dict(dict(state))
    return ()


def _take_vjepa(encoder: VideoEncoder, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """V-JEPA 2.1 has a norm of each level and embeddings of images and of both kinds; V-JEPA 2 has one norm for all."""
    c, later = encoder.config, "norms_block.0.weight" in state
    name, wanted = ("V-JEPA 2.1", "paired") if later else ("V-JEPA 2", "tiled")
    if c.rope_frequencies != wanted:
        raise ModelError(
            f"it is {name}, whose rotary frequencies are {wanted}, and the encoder's are {c.rope_frequencies}: "
            f"write rope_frequencies: {wanted} in the preset's model.encoder"
        )
    if later and c.rope_side != 256 // c.patch:
        raise ModelError(
            f"it is {name}, which places rows and columns as on its own grid of {256 // c.patch}: write rope_side: "
            f"{256 // c.patch} in the preset's model.encoder"
        )
    if not later and "pos_embed" in state:
        raise ModelError("it is V-JEPA with position embeddings; only those whose positions are rotary fit")
    new = {k: v for k, v in state.items() if k.startswith("blocks.")}
    weight, bias = state["patch_embed.proj.weight"], state.get("patch_embed.proj.bias")
    _same_patches(name, weight, (c.width, 3, c.tubelet, c.patch, c.patch))
    new["embed.video.weight"] = weight.flatten(1)
    new["embed.video.bias"] = torch.zeros(len(weight)) if bias is None else bias
    used = {*new, "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"}
    if "patch_embed_img.proj.weight" in state:
        new["embed.image.weight"] = state["patch_embed_img.proj.weight"].flatten(1)
        new["embed.image.bias"] = state["patch_embed_img.proj.bias"]
    else:  # an image is what a clip of equal frames is
        new["embed.image.weight"], new["embed.image.bias"] = weight.sum(2).flatten(1), new["embed.video.bias"]
    for kind, entry in (("image", "img_mod_embed"), ("video", "video_mod_embed")):
        new[f"modality.{kind}"] = state[entry].flatten() if entry in state else torch.zeros(c.width)
    for i in range(c.levels):
        for end in ("weight", "bias"):
            source = f"norms_block.{i}.{end}" if later else f"norm.{end}"
            if source not in state:
                raise ModelError(f"{source} is missing; the encoder has {c.levels} levels")
            new[f"norms.{i}.{end}"] = state[source]
            used.add(source)
    used |= {"patch_embed_img.proj.weight", "patch_embed_img.proj.bias", "img_mod_embed", "video_mod_embed"}
    return _take(encoder, new, [k for k in state if k not in used], name)


def inflate(encoder: VideoEncoder, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Initialise an encoder from an image ViT of the same width and depth, in timm's names.

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
    weight = state["patch_embed.proj.weight"]
    _same_patches("an image transformer", weight, (c.width, 3, c.patch, c.patch))
    new = {k: v for k, v in state.items() if k.startswith("blocks.")}
    used = {*new, "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"}
    bias = state.get("patch_embed.proj.bias", torch.zeros(c.width))
    new["embed.image.weight"] = weight.flatten(1)
    new["embed.video.weight"] = weight.unsqueeze(2).expand(-1, -1, c.tubelet, -1, -1).flatten(1) / c.tubelet
    new["embed.image.bias"] = new["embed.video.bias"] = bias
    new |= {f"modality.{kind}": torch.zeros(c.width) for kind in ("image", "video")}
    for i in range(c.levels):
        for end in ("weight", "bias"):
            new[f"norms.{i}.{end}"] = state.get(f"norm.{end}", encoder.state_dict()[f"norms.{i}.{end}"])
    return _take(encoder, new, [k for k in state if k not in used], "an image transformer")


def _same_patches(what: str, weight: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(weight.shape) != expected:
        raise ModelError(f"it is {what} whose patch embedding is {tuple(weight.shape)}; expected {expected}")


def _take(encoder: VideoEncoder, new: Mapping[str, Tensor], left: list[str], what: str) -> tuple[str, ...]:
    own = encoder.state_dict()
    wrong = [k for k, v in own.items() if k in new and new[k].shape != v.shape]
    if wrong:
        key = wrong[0]
        raise ModelError(
            f"it is {what} of other sizes: {key} is {tuple(new[key].shape)}; expected {tuple(own[key].shape)}"
        )
    odd = sorted(set(new) ^ set(own))
    if odd:
        blocks = len({k.split(".")[1] for k in new if k.startswith("blocks.")})
        raise ModelError(
            f"it is {what} with {blocks} blocks, and the encoder has {encoder.config.depth}: {len(odd)} entries have "
            f"no counterpart, such as {', '.join(odd[:3])}"
        )
    strange = [k for k in left if not k.startswith((*NO_COUNTERPART, *POSITIONS))]
    if strange:
        raise ModelError(f"{len(strange)} of its entries have no counterpart: {', '.join(strange[:3])}")
    encoder.load_state_dict(dict(new))
    return tuple(left)
