"""From a named variant and a reading to exactly what is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from equipoise.models.encoders import EncoderConfig
from equipoise.models.jepa import JepaConfig, TeacherConfig, Term
from equipoise.models.masking import FuturePredictive, MaskConfig, MotionGuided, OriginPolicy, reads_motion
from equipoise.models.objectives import create
from equipoise.models.schedules import weight_at
from equipoise.platform.errors import SettingsError
from equipoise.platform.settings.preset import ContextLoss
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.settings.variant import RECORDS, ObjectiveSetting

FACTORISING = frozenset({"static_appearance", "cross_covariance"})


@dataclass(frozen=True)
class Mix:
    """A variant under one reading, ready to build.

    Attributes:
        terms: loss objectives, with every parameter decided.
        weights: weight setting of every loss objective.
        model: model settings with teacher and mask cutting of this reading.
        motion_guided: mask policy, or None.
        future_predictive: mask policy, or None.
        origin_policies: mask policies of one's own, by name.
        shares: share of clips whose masks follow each policy.
        motion_scale: how motion maps are scaled.
        context: schedule of the context loss.
        leave_out_still: still clips take no part in temporal terms.
        images: how a still image enters.
        evaluated: which encoder frozen evaluation loads.
        untrained_allowed: evaluation may score an encoder that still equals its initialisation.
    """

    terms: tuple[Term, ...]
    weights: Mapping[str, ObjectiveSetting]
    model: JepaConfig
    motion_guided: MotionGuided | None
    future_predictive: FuturePredictive | None
    origin_policies: Mapping[str, OriginPolicy]
    shares: Mapping[str, float]
    motion_scale: Literal["clip", "published"]
    context: ContextLoss
    leave_out_still: bool
    images: Literal["frame", "repeat"]
    evaluated: Literal["target", "context"]
    untrained_allowed: bool

    @property
    def reads_motion(self) -> bool:
        """Whether a mask policy looks at the motion of clips."""
        return any(reads_motion(policy) for policy in (self.motion_guided, *self.origin_policies.values()))

    def weights_at(self, step: int, steps: int) -> dict[str, float]:
        """Weight of every loss objective at a 0-based step."""
        return {name: weight_at(s.schedule, s.weight, step, steps) for name, s in self.weights.items()}


def resolve(settings: TrialSettings) -> Mix:
    """Decide everything a variant leaves open, under the reading asked for.

    ``as_published`` reproduces the published code where it differs from its description (design, section 5, points 1,
    2, 3, 5, 6, 7, 8, 9 and 13); ``as_described`` follows the definitions, so that every gradient arrives.

    Raises:
        SettingsError: if a parameter is out of its range.
    """
    variant, reading, preset = settings.variant, settings.reading, settings.preset
    published = reading == "as_published"
    on = {k: s for k, s in variant.objectives.items() if s.weight > 0}
    losses = {k: s for k, s in on.items() if RECORDS[k].kind == "loss"}
    masked = [k for k in RECORDS if k in on and RECORDS[k].kind == "mask"]
    terms = tuple(_term(name, s.params, frozenset(on), published, preset.model.encoder) for name, s in losses.items())
    mode = (published and variant.published_teacher) or variant.teacher
    teacher = TeacherConfig(
        mode=mode, momentum=preset.model.teacher.momentum, stop_gradient=not (published and mode == "self")
    )
    masks: MaskConfig = dataclasses.replace(preset.model.masks, cut="tail" if published else preset.model.masks.cut)
    return Mix(
        terms=terms,
        weights=losses,
        model=dataclasses.replace(preset.model, teacher=teacher, masks=masks),
        motion_guided=_policy("motion_guided", on),
        future_predictive=_policy("future_predictive", on),
        origin_policies={k: _policy(k, on) for k in masked if k not in ("motion_guided", "future_predictive")},
        shares={k: on[k].weight for k in masked},
        motion_scale="published" if published else "clip",
        context=preset.context.model_copy(update={"start": 0.5, "full": 1.0}) if published else preset.context,
        leave_out_still=not published,
        images="repeat" if published else preset.sampling.images,
        # The published evaluation always loads the target encoder, which never moves without the moving average.
        evaluated="target" if mode == "ema" or published else "context",
        untrained_allowed=variant.untrained or (published and mode == "self"),
    )


def _policy(name: str, on: Mapping[str, ObjectiveSetting]) -> Any:
    if name not in on:
        return None
    try:
        return create(name, channels=1, **on[name].params)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{name}: {error}") from None


def _term(name: str, given: Mapping[str, Any], on: frozenset[str], published: bool, encoder: EncoderConfig) -> Term:
    known = RECORDS[name].params
    params = dict(given)
    if "levels" in known:
        params.setdefault("levels", encoder.levels)
    if "split" in known:
        params.setdefault("split", "levels" if published else "channels")
    if name == "latent_dynamics":
        params.setdefault("weighting", "hard" if "hard_region" in on else "none")
        params.setdefault("subspace", "dynamics" if on & FACTORISING else "all")
    if name.startswith("kinematic_"):
        params.setdefault("on", "target" if published else "student")
    if name == "sigreg":
        params.setdefault("per_token", not published)
    try:
        create(name, channels=encoder.channels, **params)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{name}: {error}") from None
    return Term(name, params, detached=published and name == "latent_dynamics" and "hard_region" in on)
