"""The audit: does every objective of a mix train anything? One real batch, every gradient, a verdict for each.

An objective ``reaches`` when its gradient arrives at everything its record says it moves and the encoder that is
evaluated moves with it. Otherwise it is ``dead``, for one of these reasons:

- ``weight overridden``: its weight is 0 at every step;
- ``no qualifying token``: no element of the batches looked at takes part in it;
- ``detached``: its value carries no gradient;
- ``not finite``: its value or gradient is infinite or not a number;
- ``gradient does not arrive``: it is zero on a part the objective must move;
- ``policy without effect``: a mask policy draws the masks that would be drawn without it;
- ``teacher not updated``: the encoder that is evaluated keeps its initialisation, whatever is trained.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equipoise.data.loader import ClipStream
from equipoise.models.jepa import ClipGroup, StepOutput, VideoJEPA
from equipoise.models.masking import Mask, motion_map
from equipoise.platform.definitions import SweepDefinition
from equipoise.platform.errors import EquipoiseError
from equipoise.platform.home import Paths
from equipoise.platform.seeds import generator, stream
from equipoise.platform.settings import RECORDS, ObjectiveSetting, TrialSettings
from equipoise.platform.training import LocalReporter, Trainer, default_device

BATCHES = 4
"""Batches looked at before an objective without a qualifying token is dead: a small batch may lack one by chance."""
MASK_STEPS = 8
"""Steps whose masks are drawn with and without a policy."""
MOST_STEPS = 1000
"""Steps of the training at which a weight is looked at."""

Verdict = Literal["reaches", "dead"]
NOTHING: Mapping[str, float | None] = {"encoder": None, "predictor": None, "head": None}


class AuditError(EquipoiseError):
    """A mix in which an objective trains nothing."""


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
    verdict: Verdict
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


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """The audit of one mix.

    Attributes:
        variant: its name.
        reading: how it was read.
        seed: of initialisation, data and masks.
        objectives: one record per objective of the mix, in the order of the design's table.
        losses: ``jepa``, and ``context`` where it has a weight, for comparison.
        names: rows of ``cosine``: the losses, then the loss objectives.
        cosine: ``[n, n]`` between gradients on the encoder; NaN where one of the two is absent or zero.
        evaluated: the encoder that is scored.
        clips: clips of the batch by kind.
        seconds: the audit took.
    """

    variant: str
    reading: str
    seed: int
    objectives: tuple[ObjectiveAudit, ...]
    losses: tuple[ObjectiveAudit, ...]
    names: tuple[str, ...]
    cosine: NDArray[np.float64]
    evaluated: EncoderAudit
    clips: Mapping[str, int]
    seconds: float

    @property
    def dead(self) -> tuple[ObjectiveAudit, ...]:
        """The objectives that train nothing."""
        return tuple(o for o in self.objectives if o.verdict == "dead")

    def with_jepa(self, name: str) -> float:
        """Cosine of a part's encoder gradient with the JEPA gradient; NaN where it has none."""
        return float(self.cosine[self.names.index(name), 0]) if name in self.names else math.nan

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record; what is not a number is null."""
        matrix = [[float(c) if math.isfinite(c) else None for c in row] for row in self.cosine]
        return {
            "variant": self.variant,
            "reading": self.reading,
            "seed": self.seed,
            "objectives": [_plain(o) for o in self.objectives],
            "losses": [_plain(o) for o in self.losses],
            "cosine": {"names": list(self.names), "matrix": matrix},
            "evaluated_encoder": asdict(self.evaluated),
            "clips": dict(self.clips),
            "seconds": self.seconds,
        }

    def write_heatmap(self, path: str | Path) -> Path:
        """Draw the cosine matrix as a .png, .pdf or .svg picture.

        Raises:
            PlotError: for another suffix.
        """
        from equipoise.platform.audit_view import heatmap

        return heatmap(self, path)


def refuse_dead(result: AuditResult) -> None:
    """Refuse a mix that would train less than it says; the ``as_published`` reading has its dead objectives on purpose.

    Raises:
        AuditError: naming the first dead objective and why it is dead, unless the reading is ``as_published``.
    """
    if result.reading == "as_published" or not result.dead:
        return
    first, more = result.dead[0], len(result.dead) - 1
    others = f" (and {more} more: {', '.join(o.name for o in result.dead[1:])})" if more else ""
    raise AuditError(
        f"objective {first.name!r} of variant {result.variant!r} trains nothing{others}: {first.reason}; take it "
        "out of the mix, or read the variant as_published if that is what you want to reproduce"
    )


def space_settings(definition: SweepDefinition, seed: int | None = None) -> TrialSettings:
    """All objectives of a search space on at once, each at the geometric mean of its range."""
    preset, regime = definition.load()
    name = f"{definition.name}: all at once"
    return definition.trial(name, definition.middle(), definition.trial_seed if seed is None else seed, preset, regime)


def audit_apart(settings: TrialSettings, paths: Paths) -> AuditResult:
    """Audit the losses of a search space under its preset's own masks, and its mask policies by themselves.

    No trial need have both, and clips whose future is hidden leave a loss over all of time little to see.
    """
    parts = []
    for kind in ("loss", "mask"):
        chosen = {k: s for k, s in settings.variant.objectives.items() if RECORDS[k].kind == kind}
        if chosen:
            variant = settings.variant.model_copy(update={"objectives": chosen})
            parts.append(audit(settings.model_copy(update={"variant": variant}), paths))
    objectives = tuple(o for part in parts for o in part.objectives)
    return replace(parts[0], objectives=objectives, seconds=sum(part.seconds for part in parts))


def audit(settings: TrialSettings, paths: Paths) -> AuditResult:
    """Audit one mix on one batch of its own data, with the model, masks and optimiser its training would start with.

    Every loss objective enters at the highest weight it has in training. Nothing is written and the caller's random
    streams are left as they were.

    Args:
        settings: the trial.
        paths: where to read; a missing clip cache is built.

    Returns:
        Value, gradients, cosines and a verdict for every objective with an entry in the variant.

    Raises:
        EquipoiseError: for settings or data that cannot be used.
    """
    began = time.perf_counter()
    device = default_device()
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng([device] if device.type == "cuda" else []):
        trainer = Trainer(settings, paths, LocalReporter(Path(folder), device=device))
        weights = _highest_weights(trainer)
        with trainer.open_stream() as batches:
            groups, out = _step_forward(trainer, batches, weights)
        vectors, norms = _gradients(trainer.model, out)
        encoder = _step_check(trainer, out)
    reports = {
        name: _loss_audit(name, trainer, weights.get(name, 0.0), out, norms, encoder) for name in trainer.mix.weights
    }
    for name, setting in settings.variant.objectives.items():
        if name not in reports:
            reports[name] = _mask_audit(name, setting, trainer, groups, encoder)
    losses = tuple(
        _report(name, "loss", weight, None, "", float(out.values[name]), norms[name])
        for name, weight in (("jepa", 1.0), ("context", trainer.mix.context.weight))
        if name in out.values
    )
    rows = (*(part.name for part in losses), *(n for n in RECORDS if n in trainer.mix.weights))
    return AuditResult(
        variant=settings.variant_name,
        reading=settings.reading,
        seed=settings.seed,
        objectives=tuple(reports[n] for n in RECORDS if n in reports),
        losses=losses,
        names=rows,
        cosine=_cosines([vectors.get(n) for n in rows]),
        evaluated=encoder,
        clips={("image" if g.clip.shape[2] == 1 else "video"): len(g.clip) for g in groups},
        seconds=time.perf_counter() - began,
    )


def _highest_weights(trainer: Trainer) -> dict[str, float]:
    """Highest weight of every loss objective over the training's steps."""
    steps = trainer.o.steps
    looked = np.unique(np.linspace(0, steps - 1, min(steps, MOST_STEPS)).astype(int))
    at = [trainer.mix.weights_at(int(step), steps) for step in looked]
    return {name: max(w[name] for w in at) for name in trainer.mix.weights}


def _step_forward(
    trainer: Trainer, batches: ClipStream, weights: Mapping[str, float]
) -> tuple[list[ClipGroup], StepOutput]:
    """Forward of the first batch in which every objective has an element; of the last one where none of a few has."""
    wanted = {name for name, weight in weights.items() if weight}
    for attempt in range(BATCHES):
        torch.manual_seed(stream(trainer.settings.seed, "step", trainer.step, 0))
        groups = trainer.batch_groups(next(batches))
        with torch.autocast(trainer.device.type, dtype=torch.bfloat16, enabled=trainer.autocast):
            out: StepOutput = trainer.model(groups, weights, trainer.mix.context.weight)
        if wanted <= set(out.values) or attempt + 1 == BATCHES:
            break
        trainer.step += 1
    return groups, out


def _gradients(model: VideoJEPA, out: StepOutput) -> tuple[dict[str, Tensor], dict[str, dict[str, float | None]]]:
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


def _cosines(vectors: Sequence[Tensor | None]) -> NDArray[np.float64]:
    """``[n, n]`` cosines; NaN where a vector is absent."""
    n = len(vectors)
    found = np.full((n, n), np.nan)
    units = [None if v is None else v / v.double().norm().float() for v in vectors]
    for i, a in enumerate(units):
        for j, b in enumerate(units[: i + 1]):
            if a is not None and b is not None:
                found[i, j] = found[j, i] = 1.0 if i == j else float(torch.dot(a, b).clamp(-1, 1))
    return found


def _step_check(trainer: Trainer, out: StepOutput) -> EncoderAudit:
    """Make one step of the optimiser and of the teacher, and see whether the encoder that is scored has moved."""
    model, which = trainer.model, trainer.mix.evaluated
    if trainer.settings.variant.untrained:
        return EncoderAudit(encoder=which, moves=False, change=0.0, why="the variant is never trained")
    encoder = model.target_encoder if which == "target" else model.encoder
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


def _report(
    name: str,
    kind: str,
    weight: float,
    dead: str | None,
    reaches: str,
    value: float | None,
    gradient: Mapping[str, float | None] = NOTHING,
) -> ObjectiveAudit:
    return ObjectiveAudit(
        name=name,
        kind=kind,
        weight=weight,
        verdict="reaches" if dead is None else "dead",
        reason=reaches if dead is None else dead,
        value=value,
        gradient=dict(gradient),
    )


def _loss_audit(
    name: str,
    trainer: Trainer,
    weight: float,
    out: StepOutput,
    norms: Mapping[str, Mapping[str, float | None]],
    encoder: EncoderAudit,
) -> ObjectiveAudit:
    gradient = norms.get(name, NOTHING)
    dead = _why_dead(name, trainer, weight, out, gradient) or _stuck(encoder)
    value = float(out.values[name]) if name in out.values else None
    reaches = "its gradient arrives at " + " and ".join(RECORDS[name].moves)
    return _report(name, "loss", weight, dead, reaches, value, gradient)


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


def _mask_audit(
    name: str, setting: ObjectiveSetting, trainer: Trainer, groups: Sequence[ClipGroup], encoder: EncoderAudit
) -> ObjectiveAudit:
    """Masks drawn with a policy for every clip against masks drawn for none, from equal generators."""
    if not setting.weight:
        kind = RECORDS[name].kind
        return _report(name, kind, 0.0, "weight overridden: its weight in the variant is 0", "", None)
    clip = next((g.clip for g in groups if g.clip.shape[2] > 1), None)
    if clip is None:
        why = "no qualifying token: the batch has no video clip, and a still image has neither motion nor future"
        return _report(name, "mask", setting.weight, why, "", None)
    sampler, mix = trainer.samplers["video"], trainer.mix
    motion = motion_map(clip, mix.model.grid("video"), scale=mix.motion_scale).cpu() if mix.motion_guided else None

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
    return _report(
        name, "mask", setting.weight, dead or _stuck(encoder), f"changes the masks of {changed:.0%} of clips", changed
    )


def _plain(found: ObjectiveAudit) -> dict[str, Any]:
    """JSON-able: numbers that are not finite become null."""
    content = asdict(found)
    content["gradient"] = {k: v if v is not None and math.isfinite(v) else None for k, v in found.gradient.items()}
    if found.value is not None and not math.isfinite(found.value):
        content["value"] = None
    return content
