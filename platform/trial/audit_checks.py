"""The checks of an audit: whether an objective has a gradient, where it goes, whether a step moves it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equipoise.models.jepa import ClipGroup, StepOutput, VideoJEPA
from equipoise.models.masking import Mask, motion_map
from equipoise.platform.seeds import generator
from equipoise.platform.settings.variant import RECORDS, ObjectiveSetting
from equipoise.platform.trial.encoders import scored_encoder
from equipoise.platform.trial.trainer import Trainer

BATCHES = 4
"""Batches looked at before an objective without a qualifying token is dead: a small batch may lack one by chance."""
MASK_STEPS = 8
"""Steps whose masks are drawn with and without a policy."""


AuditVerdict = Literal["reaches", "dead"]
NOTHING: Mapping[str, float | None] = {"encoder": None, "predictor": None, "head": None}


@dataclass(frozen=True, kw_only=True)
class ObjectiveAudit:
    """What the audit found about one part of the loss, or about one mask policy.

    Attributes:
        name: the objective, or ``jepa`` or ``context``.
        kind: ``loss`` or ``mask``.
        weight: the highest weight it has in training; the share of clips of a mask policy.
        verdict: ``reaches`` or ``dead``.
        reason: why it is dead, beginning with one of the module's reasons; where it arrives otherwise.
        value: of the term before its weight, None where no element qualifies; for a mask policy the share of clips
            whose masks it changes.
        gradient: norm of the weighted term's gradient on the ``encoder``, the ``predictor`` and its own ``head``; None
            where there is no such part, and for mask policies.
    """

    name: str
    kind: str
    weight: float
    verdict: AuditVerdict
    reason: str
    value: float | None
    gradient: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class EncoderAudit:
    """Whether the encoder that frozen evaluation loads moves at all.

    Attributes:
        encoder: ``target`` or ``context``.
        moves: whether any parameter differs from its initialisation after one step of the optimiser and the teacher.
        change: norm of the difference over the norm of the parameters.
        why: in words.
    """

    encoder: str
    moves: bool
    change: float
    why: str


def encoder_gradients(
    model: VideoJEPA, out: StepOutput
) -> tuple[dict[str, Tensor], dict[str, dict[str, float | None]]]:
    """Gradient of every part of the loss on the encoder, flat and on the CPU, and its norms on all parts."""
    encoder, predictor = list(model.encoder.parameters()), list(model.predictor.parameters())
    vectors: dict[str, Tensor] = {}
    norms: dict[str, dict[str, float | None]] = {}
    for name in out.values:
        head = list(model.objectives[name].parameters()) if name in model.objectives else []
        part = out.weighted[name]
        found: Sequence[Tensor | None] = [None] * (len(encoder) + len(predictor) + len(head))
        if part.requires_grad:
            found = torch.autograd.grad(part, [*encoder, *predictor, *head], retain_graph=True, allow_unused=True)
        cut = len(encoder), len(encoder) + len(predictor)
        norms[name] = {
            "encoder": _norm(found[: cut[0]]),
            "predictor": _norm(found[cut[0] : cut[1]]),
            "head": _norm(found[cut[1] :]) if head else None,
        }
        if norms[name]["encoder"]:
            pairs = zip(found[: cut[0]], encoder, strict=True)
            flat = [(p.new_zeros(()).expand_as(p) if g is None else g).flatten() for g, p in pairs]
            vectors[name] = torch.cat(flat).float().cpu()
    return vectors, norms


def _norm(gradients: Sequence[Tensor | None]) -> float:
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradients if g is not None))


def cosines(vectors: Sequence[Tensor | None]) -> NDArray[np.float64]:
    """``[n, n]`` cosines; NaN where a vector is absent."""
    n = len(vectors)
    found = np.full((n, n), np.nan)
    units = [None if v is None else v / v.double().norm().float() for v in vectors]
    for i, a in enumerate(units):
        for j, b in enumerate(units[: i + 1]):
            if a is not None and b is not None:
                found[i, j] = found[j, i] = 1.0 if i == j else float(torch.dot(a, b).clamp(-1, 1))
    return found


def check_step(trainer: Trainer, out: StepOutput) -> EncoderAudit:
    """Make one step of the optimiser and of the teacher, and see whether the encoder that is scored has moved."""
    model, which = trainer.model, trainer.mix.evaluated
    if trainer.settings.variant.untrained:
        return EncoderAudit(encoder=which, moves=False, change=0.0, why="the variant is never trained")
    encoder = scored_encoder(model, trainer.mix)
    before = [p.detach().clone() for p in encoder.parameters()]
    for group in trainer.optimiser.param_groups:
        group["lr"] = trainer.o.lr
    out.loss.backward()
    if trainer.o.clip_gradient is not None:
        nn.utils.clip_grad_norm_(model.parameters(), trainer.o.clip_gradient)
    trainer.optimiser.step()
    model.update_target()
    moves = any(not torch.equal(a, b) for a, b in zip(before, encoder.parameters(), strict=True))
    change = _norm([b.detach() - a for a, b in zip(before, encoder.parameters(), strict=True)]) / _norm(before)
    if moves:
        why = f"the {which} encoder moved by {change:.2g} of its norm in one step"
    elif which == "target" and model.config.teacher.mode == "self":
        why = "the moving average is off, so the target encoder, which is the one evaluated, equals its initialisation"
    else:
        why = f"one step with learning rate {trainer.o.lr:g} left every parameter of the {which} encoder as it was"
    return EncoderAudit(encoder=which, moves=moves, change=change, why=why)


def objective_report(
    name: str,
    kind: str,
    weight: float,
    dead: str | None,
    reaches: str,
    value: float | None,
    gradient: Mapping[str, float | None] = NOTHING,
) -> ObjectiveAudit:
    """The record of a part of the loss: dead for the reason ``dead``, or reaching what ``reaches`` says."""
    return ObjectiveAudit(
        name=name,
        kind=kind,
        weight=weight,
        verdict="reaches" if dead is None else "dead",
        reason=reaches if dead is None else dead,
        value=value,
        gradient=dict(gradient),
    )


def audit_loss(
    name: str,
    trainer: Trainer,
    weight: float,
    out: StepOutput,
    norms: Mapping[str, Mapping[str, float | None]],
    encoder: EncoderAudit,
) -> ObjectiveAudit:
    """Verdict on a loss objective, from the forward of one batch and the norms of its gradients."""
    gradient = norms.get(name, NOTHING)
    dead = _why_dead(name, trainer, weight, out, gradient) or _stuck(encoder)
    value = float(out.values[name]) if name in out.values else None
    reaches = "its gradient arrives at " + " and ".join(RECORDS[name].moves)
    return objective_report(name, "loss", weight, dead, reaches, value, gradient)


def _why_dead(
    name: str, trainer: Trainer, weight: float, out: StepOutput, gradient: Mapping[str, float | None]
) -> str | None:
    if not weight:
        setting = trainer.mix.weights[name]
        steps = trainer.o.steps
        return f"weight overridden: {setting.weight:g} with schedule {setting.schedule} is 0 at all {steps} steps"
    if name not in out.values:
        return f"no qualifying token: nothing of {BATCHES} batches takes part in it under this mix's masks and clips"
    if not out.weighted[name].requires_grad:
        return "detached: " + _why_detached(name, trainer)
    arrived = {part: gradient[part] or 0.0 for part in RECORDS[name].moves}
    if not all(map(math.isfinite, [float(out.values[name]), *arrived.values()])):
        return f"not finite: its value is {float(out.values[name]):g} and its gradient norms are {arrived}"
    missing = [part for part, norm in arrived.items() if norm == 0]
    if missing:
        return f"gradient does not arrive: it must move the {' and the '.join(missing)}, where its norm is 0"
    return None


def _why_detached(name: str, trainer: Trainer) -> str:
    if name in trainer.model.detached:
        return "it is computed without gradient beside hard_region, as in the published code"
    if trainer.mix.model.teacher.stop_gradient and getattr(trainer.model.objectives[name], "on_target", False):
        return f"it acts on target features, which carry no gradient with teacher {trainer.mix.model.teacher.mode}"
    return "its value carries no gradient"


def _stuck(encoder: EncoderAudit) -> str | None:
    return None if encoder.moves else f"teacher not updated: {encoder.why}"


def audit_mask_policy(
    name: str, setting: ObjectiveSetting, trainer: Trainer, groups: Sequence[ClipGroup], encoder: EncoderAudit
) -> ObjectiveAudit:
    """Masks drawn with a policy for every clip against masks drawn for none, from equal generators."""
    if not setting.weight:
        kind = RECORDS[name].kind
        return objective_report(name, kind, 0.0, "weight overridden: its weight in the variant is 0", "", None)
    clip = next((g.clip for g in groups if g.clip.shape[2] > 1), None)
    if clip is None:
        why = "no qualifying token: the batch has no video clip, and a still image has neither motion nor future"
        return objective_report(name, "mask", setting.weight, why, "", None)
    sampler, mix = trainer.batches.samplers["video"], trainer.mix
    motion = motion_map(clip, mix.model.grid("video"), scale=mix.motion_scale).cpu() if mix.reads_motion else None

    grid = mix.model.grid("video")

    def drawn(share: float, step: int) -> list[Tensor]:
        # The same sampler both times: a policy that is merely switched on already shifts the random stream.
        draw = generator(trainer.settings.seed, "masks.video", step, 0)
        masks: list[Mask] = sampler.sample(len(clip), draw, motion=motion, shares={**mix.shares, name: share})
        return [grid.visible(m.visible).flatten(1) for m in masks]

    # One block size serves a whole step, and on a small grid a large block has nowhere else to lie: look at several.
    steps = range(trainer.step, trainer.step + MASK_STEPS)
    pairs = [zip(drawn(1.0, step), drawn(0.0, step), strict=True) for step in steps]
    differs = [torch.stack([(a != b).any(1) for a, b in pair]).any(0) for pair in pairs]
    changed = float(torch.stack(differs).float().mean())
    dead = "policy without effect: the masks of this batch are those drawn without it" if changed == 0 else None
    return objective_report(
        name, "mask", setting.weight, dead or _stuck(encoder), f"changes the masks of {changed:.0%} of clips", changed
    )


def plain_record(found: ObjectiveAudit) -> dict[str, Any]:
    """JSON-able: numbers that are not finite become null."""
    content = asdict(found)
    content["gradient"] = {k: v if v is not None and math.isfinite(v) else None for k, v in found.gradient.items()}
    if found.value is not None and not math.isfinite(found.value):
        content["value"] = None
    return content
