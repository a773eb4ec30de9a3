"""Every way to build an encoder: initialised, frozen from a checkpoint, from the state of a running training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from equipoise.models.encoders import Encoder
from equipoise.models.jepa import VideoJEPA
from equipoise.platform.errors import CheckpointError
from equipoise.platform.seeds import stream
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.mix import Mix, resolve
from equipoise.platform.settings.plugins import check
from equipoise.platform.settings.preset import InitialEncoder, load_preset
from equipoise.platform.settings.trial import TrialSettings, load_regime
from equipoise.platform.settings.variant import UNCHANGED, load_variant
from equipoise.platform.storage import Place
from equipoise.platform.trial import checkpoint as checkpoints
from equipoise.platform.trial.checkpoint import Checkpoint, load_strictly
from equipoise.platform.trial.initial import check_sha256, sha256_of, start_from_file


def scored_encoder(model: VideoJEPA, mix: Mix) -> Encoder:
    """The encoder of a model that evaluation scores: its target, or the context encoder where that never moves."""
    return model.target_encoder if mix.evaluated == "target" else model.encoder


def frozen_encoder(found: Checkpoint) -> Encoder:
    """The encoder that evaluation scores, in evaluation mode.

    Raises:
        CheckpointError: if it is of other shapes, or its parameters still equal their initialisation, or the
            checkpoint that it started from, although the variant was trained.
    """
    mix = resolve(found.settings)
    try:
        model = build_model(found.settings, mix)
    except CheckpointError:  # what it started from need not be kept: it is then compared with random numbers alone
        if found.settings.preset.initial_encoder is None:
            raise
        preset = found.settings.preset.model_copy(update={"initial_encoder": None})
        model = build_model(found.settings.model_copy(update={"preset": preset}), mix)
    start = {k: v.clone() for k, v in model.target_encoder.state_dict().items()}
    load_strictly(model, found.state["model"], found.path)
    encoder = scored_encoder(model, mix)
    moved = any(not torch.equal(v, start[k]) for k, v in encoder.state_dict().items())
    if not moved and not mix.untrained_allowed:
        raise CheckpointError(
            f"checkpoint {found.path}: the {mix.evaluated} encoder still equals its initialisation after "
            f"{found.step} steps, so scoring variant {found.settings.variant_name!r} would score an untrained encoder"
        )
    return encoder.eval().requires_grad_(False)


def untrained_encoder(settings: TrialSettings) -> Encoder:
    """The encoder of a trial before its first step: what the controls ``random_init`` and ``unchanged`` score."""
    return build_model(settings, resolve(settings)).target_encoder.eval().requires_grad_(False)


def encoder_of(settings: TrialSettings, state: Mapping[str, Any]) -> Encoder:
    """The encoder that evaluation would score, apart from the model that is being trained.

    Args:
        settings: the trial.
        state: the whole model's state, as a checkpoint holds it.
    """
    mix = resolve(settings)
    model = build_model(settings, mix)
    load_strictly(model, dict(state), f"of {settings.variant_name}")
    encoder = scored_encoder(model, mix)
    return encoder.eval().requires_grad_(False)


def build_model(settings: TrialSettings, mix: Mix) -> VideoJEPA:
    """The model before its first step: by the trial's seed, then by the checkpoint that its encoder starts from.

    The same seed gives the same parameters bit for bit on CPU.

    Raises:
        SettingsError: a plug-in of the trial is installed in another version here.
        CheckpointError: the checkpoint that it starts from is not there, or does not fit.
    """
    check(settings.plugins)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(settings.seed, "initialisation"))
        model = VideoJEPA(mix.model, mix.terms)
    variant = settings.variant
    if settings.preset.initial_encoder is not None and (variant.unchanged or not variant.untrained):
        start_from(model.encoder, settings.preset.initial_encoder)
        model.target_encoder.load_state_dict(model.encoder.state_dict())
    return model


def foreign_encoder(
    place: Place, named: str, preset: str, regime: str, overrides: Sequence[str] = (), seed: int = 0
) -> tuple[Encoder, TrialSettings]:
    """The frozen encoder of other people's file, and the settings by which it can be scored.

    Args:
        place: the file.
        named: the encoder, ``vit`` or ``timm:vit_small_patch16_224``; of the first the preset says the sizes.
        preset: name or file: clips, probes.
        regime: name or file: benchmarks.
        overrides: ``key=value`` of the preset.
        seed: of the probes.

    Raises:
        SettingsError: there is no such encoder, preset or regime, or they do not go together.
        CheckpointError: the file is not there, or of another encoder.
    """
    name, _, model = named.partition(":")
    own = [f"model.encoder.name={name}"]
    if model:  # its sizes are its own
        base = load_preset(preset).model.encoder
        group = {"name": name, "params": {"model": model}, "tubelet": base.tubelet, "levels": base.levels}
        own = [f"model.encoder={json.dumps(group)}"]
    try:
        with place.fetched() as file:
            initial = {"file": str(place), "sha256": sha256_of(file, place)}
    except FileNotFoundError:
        raise CheckpointError(f"{place} is not there; give a file of a state dict") from None
    variant = load_variant(UNCHANGED)
    content = {
        "variant_name": place.name,
        "variant": variant,
        "seed": seed,
        "preset": load_preset(preset, [*own, *overrides, f"initial_encoder={json.dumps(initial)}"]),
        "regime": load_regime(regime),
    }
    settings = parse(TrialSettings, content, str(place))
    return untrained_encoder(settings), settings


def start_from(encoder: Encoder, given: InitialEncoder) -> None:
    """Give an encoder the parameters of a checkpoint: a folder that Equipoise wrote, or a file of a state dict.

    Raises:
        CheckpointError: it is not there, is another one than its sha256 says, or does not fit.
    """
    place = Place.at(given.file)
    try:
        if checkpoints.STATE in place.names():
            with (place / checkpoints.STATE).fetched() as file:
                check_sha256(file, place, given.sha256)
            load_strictly(encoder, frozen_encoder(checkpoints.load(place)).state_dict(), place)
            return
        with place.fetched() as file:
            start_from_file(encoder, file, place, given.sha256)
    except FileNotFoundError:
        raise CheckpointError(
            f"initial_encoder: {place} is not there; give a file, or the folder of a checkpoint"
        ) from None
