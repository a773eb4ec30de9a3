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

from equipoise.models.encoders import Encoder
from equipoise.models.encoders.loading import take_parameters
from equipoise.models.errors import ModelError
from equipoise.platform.errors import CheckpointError
from equipoise.platform.storage import Place

WRAPPERS = ("state_dict", "model", "module", "ema_encoder", "target_encoder", "encoder")
"""Entries under which files of others hold the state that is meant; V-JEPA's own evaluation reads the teacher."""


def start_from_file(encoder: Encoder, file: Path, place: Place, sha256: str) -> None:
    """Give an encoder the parameters of a file of a state dict, as safetensors or as torch writes it.

    :func:`take_parameters` says whose encoders they can be.

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
        take_parameters(encoder, state)
    except ModelError as error:
        raise CheckpointError(f"initial_encoder: {place} does not fit: {error}") from None


def check_sha256(file: Path, place: Place, sha256: str) -> None:
    """See that a file is the one that was asked for.

    Raises:
        CheckpointError: it is another one, or no file.
    """
    found = sha256_of(file, place)
    if found != sha256:
        raise CheckpointError(
            f"initial_encoder: {place} has the sha256 {found}, and {sha256} was asked for: it is another file, or was "
            "cut off"
        )


def sha256_of(file: Path, place: Place) -> str:
    """The sha256 of a file.

    Raises:
        CheckpointError: it is no file.
    """
    if not file.is_file():
        raise CheckpointError(f"initial_encoder: {place} is no file, and no folder of a checkpoint")
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
