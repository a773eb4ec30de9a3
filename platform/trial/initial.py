"""Where an encoder starts: at a checkpoint of one's own or of others, every entry of which is accounted for."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from equipoise.models.encoder import VideoEncoder, inflate_timm_vit
from equipoise.models.errors import ModelError
from equipoise.platform.errors import CheckpointError
from equipoise.platform.storage import Place
from equipoise.platform.trial.checkpoint import load_strictly

WRAPPERS = ("state_dict", "model", "module", "target_encoder", "encoder")
"""Entries under which files of others hold the state that is meant."""
UNUSED = ("cls_token", "reg_token", "pos_embed", "head.", "fc_norm.", "head_dist.", "dist_token")
"""Entries of an image ViT that have no counterpart here: positions are rotary, nothing is classified."""


def start_from_file(encoder: VideoEncoder, file: Path, place: Place, sha256: str) -> None:
    """Give an encoder the parameters of a file of a state dict, as safetensors or as torch writes it.

    It is that of such an encoder, or of a timm image ViT of its width, depth and patch, which is inflated over time.

    Args:
        encoder: changed in place.
        file: where it can be read.
        place: what a person calls it.
        sha256: that it must have.

    Raises:
        CheckpointError: it is another file, holds no tensors alone, or does not fit.
    """
    check_sha256(file, place, sha256)
    state = _unwrapped(_read(file, place))
    try:
        _load(encoder, state, place)
    except ModelError as error:
        raise CheckpointError(f"initial_encoder: {place} does not fit: {error}") from None


def check_sha256(file: Path, place: Place, sha256: str) -> None:
    """See that a file is the one that was asked for.

    Raises:
        CheckpointError: it is another one, or no file.
    """
    if not file.is_file():
        raise CheckpointError(f"initial_encoder: {place} is no file, and no folder of a checkpoint")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise CheckpointError(
            f"initial_encoder: {place} has the sha256 {found}, and {sha256} was asked for: it is another file, or was "
            "cut off"
        )


def _read(file: Path, place: Place) -> Mapping[str, Any]:
    try:
        found: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"initial_encoder: {place} is no file of tensors alone ({said[:150]})") from None
    if not isinstance(found, Mapping):
        raise CheckpointError(f"initial_encoder: {place} holds {type(found).__name__}; expected a state dict")
    return found


def _unwrapped(found: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict within what a training wrote, without the prefixes of its wrappers."""
    for name in WRAPPERS:
        if isinstance(found.get(name), Mapping):
            return _unwrapped(found[name])
    state = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    for prefix in ("module.", "backbone."):
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return state


def _load(encoder: VideoEncoder, state: dict[str, Tensor], place: Place) -> None:
    if "embed.video.weight" in state:
        load_strictly(encoder, state, place)
        return
    conv = state.get("patch_embed.proj.weight")
    if conv is not None and conv.ndim == 5:
        raise ModelError(
            "it is of a video encoder of others, as V-JEPA's; V-JEPA 2 repeats its rotary frequencies, which no "
            "encoder here does, and V-JEPA 2.1 is not read yet"
        )
    left = [key for key in inflate_timm_vit(encoder, state) if not key.startswith(UNUSED)]
    if left:
        raise ModelError(f"{len(left)} of its entries have no counterpart: {', '.join(left[:3])}")
