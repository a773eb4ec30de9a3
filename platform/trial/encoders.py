"""Every way to build an encoder: initialised, frozen from a checkpoint, from the state of a running training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from equipoise.models.encoder import VideoEncoder
from equipoise.models.jepa import VideoJEPA
from equipoise.platform.errors import CheckpointError
from equipoise.platform.seeds import stream
from equipoise.platform.settings.mix import Mix, resolve
from equipoise.platform.settings.plugins import check
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.trial.checkpoint import Checkpoint, load_strictly


def scored_encoder(model: VideoJEPA, mix: Mix) -> VideoEncoder:
    """The encoder of a model that evaluation scores: its target, or the context encoder where that never moves."""
    return model.target_encoder if mix.evaluated == "target" else model.encoder


def frozen_encoder(found: Checkpoint) -> VideoEncoder:
    """The encoder that evaluation scores, in evaluation mode.

    Raises:
        CheckpointError: if it is of other shapes, or its parameters still equal their initialisation although the
            variant was trained.
    """
    mix = resolve(found.settings)
    model = build_model(found.settings, mix)
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


def untrained_encoder(settings: TrialSettings) -> VideoEncoder:
    """The encoder of a trial before its first step: what the control ``random_init`` scores."""
    return build_model(settings, resolve(settings)).target_encoder.eval().requires_grad_(False)


def encoder_of(settings: TrialSettings, state: Mapping[str, Any]) -> VideoEncoder:
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
    """The model as initialised by the trial's seed; the same seed gives the same parameters bit for bit on CPU.

    Raises:
        SettingsError: a plug-in of the trial is installed in another version here.
    """
    check(settings.plugins)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(settings.seed, "initialisation"))
        return VideoJEPA(mix.model, mix.terms)
