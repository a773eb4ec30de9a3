"""Video-JEPA with auxiliary objectives: one module whose forward is one training step's loss.

Shapes: B clips, F frames, S pixels a side, N tokens, K visible, M masked, T H W the token grid, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from equipoise.models import losses
from equipoise.models.encoders import Encoder, EncoderConfig, Kind, create_encoder
from equipoise.models.errors import ModelError
from equipoise.models.geometry import TokenGrid
from equipoise.models.masking import Mask, MaskConfig
from equipoise.models.objectives import Latents, Objective, create
from equipoise.models.predictor import Predictor, PredictorConfig
from equipoise.models.workers import Workers, total


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Where the prediction target comes from.

    Attributes:
        mode: ``ema``: the moving average of the context encoder; ``self``: the context encoder itself.
        momentum: of the moving average; 0.99925 is the published value.
        stop_gradient: False lets the gradient into the target with ``self``, as the published code does.
    """

    mode: Literal["ema", "self"] = "ema"
    momentum: float = 0.99925
    stop_gradient: bool = True

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  read by the settings layer, which owns the checks of types

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ModelError(f"teacher momentum is {self.momentum}; expected 0 <= momentum < 1")
        if self.mode == "ema" and not self.stop_gradient:
            raise ModelError(
                "teacher stop_gradient: false has no effect with mode ema; set mode: self or leave it true"
            )


@dataclass(frozen=True, kw_only=True)
class JepaConfig:
    """Everything that fixes the model's shapes and its targets.

    Attributes:
        frames: frames of a video clip.
        size: side of a clip in pixels.
        encoder: context encoder, and so the target encoder.
        predictor: predictor.
        masks: block masks drawn in one step.
        teacher: where the target comes from.
    """

    frames: int = 16
    size: int = 224
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  read by the settings layer, which owns the checks of types

    def __post_init__(self) -> None:
        if self.frames < 1 or self.frames % self.encoder.tubelet:
            raise ModelError(
                f"frames is {self.frames}; expected a multiple of the tubelet length {self.encoder.tubelet}"
            )
        if self.size < 1 or self.size % self.encoder.patch:
            raise ModelError(f"size is {self.size} px; expected a multiple of the patch side {self.encoder.patch}")

    def grid(self, kind: Kind = "video") -> TokenGrid:
        """Token grid of a video clip, or of a still image (one time slot)."""
        side = self.size // self.encoder.patch
        time = self.frames // self.encoder.tubelet if kind == "video" else 1
        tubelet = self.encoder.tubelet if kind == "video" else 1
        return TokenGrid(time, side, side, patch=self.encoder.patch, tubelet=tubelet)


@dataclass(frozen=True)
class Term:
    """One loss objective of a mix.

    Attributes:
        name: one of ``list_objectives()`` of kind ``loss``.
        params: its parameters.
        detached: compute it without gradient, as the published code does to latent dynamics beside ``hard_region``.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    detached: bool = False


@dataclass
class ClipGroup:
    """Clips of one kind that go through the model together.

    Attributes:
        clip: float ``[B, 3, F, S, S]``, ImageNet-normalised; F is 1 for still images.
        masks: one per mask policy, all rows cut to the same length; on the CPU, where they are drawn, so that the step
            knows which tokens qualify without waiting for the device.
        still: bool ``[B]`` on the CPU, clips to leave out of every temporal term; None leaves none out.
        counts: False for a stand-in: it goes through the model and counts nothing in the loss. Workers that share a
            batch have to make the same passes, also where one has no clip of a kind.
    """

    clip: Tensor
    masks: Sequence[Mask]
    still: Tensor | None = None
    counts: bool = True

    @property
    def weight(self) -> int:
        """Clips that count."""
        return len(self.clip) if self.counts else 0


Part = tuple[Tensor | None, int | None]
"""Value of a part of the loss for one mask of a worker's clips, None where it has no element; and how many elements."""


@dataclass
class StepOutput:
    """Result of one forward.

    Attributes:
        loss: what to minimise.
        weighted: each live part of ``loss`` after its weight, by name (``jepa``, ``context``, objectives).
        values: each part before its weight, detached; not a number where several workers lack it together.
        student: the encoder outputs every part's gradient passes through.
        target: ``[B, N, D]`` targets of the largest group, detached.
    """

    loss: Tensor
    weighted: dict[str, Tensor]
    values: dict[str, Tensor]
    student: list[Tensor]
    target: Tensor


class VideoJEPA(nn.Module):
    """Context encoder, target encoder, predictor and the heads of the objectives.

    Args:
        config: shapes and targets.
        terms: loss objectives of the mix; their weights are given at every step.
    """

    def __init__(self, config: JepaConfig, terms: Sequence[Term] = ()) -> None:
        super().__init__()
        self.config = config
        grid = config.grid()
        channels = config.encoder.channels
        self.encoder = create_encoder(config.encoder, grid)
        self.predictor = Predictor(config.predictor, channels, grid, len(config.masks.blocks))
        self.objectives = nn.ModuleDict({t.name: create(t.name, channels=channels, **t.params) for t in terms})
        self.detached = frozenset(t.name for t in terms if t.detached)
        self.workers: Workers | None = None  # that share the batches; set by who starts them
        # The copy is made after initialisation, so that both start equal.
        self.target = ModelEmaV3(self.encoder, decay=config.teacher.momentum, exclude_buffers=True)
        self.target.requires_grad_(False)

    @property
    def target_encoder(self) -> Encoder:
        """The moving average of the context encoder."""
        return self.target.module  # type: ignore[no-any-return]

    def update_target(self) -> None:
        """Move the target encoder towards the context encoder; nothing happens with teacher mode ``self``."""
        if self.config.teacher.mode == "ema":
            self.target.update(self.encoder)

    def targets(self, patches: Tensor, kind: Kind) -> Tensor:
        """Target features on the whole grid.

        Args:
            patches: ``[B, N, P]``.
            kind: video or image.

        Returns:
            ``[B, N, D]``, every level layer-normalised without affine parameters.
        """
        teacher = self.config.teacher
        encoder = self.target_encoder if teacher.mode == "ema" else self.encoder
        with torch.set_grad_enabled(torch.is_grad_enabled() and not teacher.stop_gradient):
            levels = encoder(patches, kind).unflatten(-1, (self.config.encoder.levels, -1))
            return nn.functional.layer_norm(levels.float(), levels.shape[-1:]).flatten(-2)

    def forward(
        self, groups: Sequence[ClipGroup], weights: Mapping[str, float], context_weight: float = 0.0
    ) -> StepOutput:
        """Loss of one step.

        A part is averaged over masks, then over groups by their number of clips; where it has no qualifying element it
        is left out of both averages, and left out of the result if that leaves nothing. Workers that share a batch all
        compute the loss of the whole batch.

        Args:
            groups: clips by kind.
            weights: weight of every objective at this step; objectives with weight 0 are not computed.
            context_weight: lambda of the context loss at this step; at 0 it is not computed.

        Returns:
            The loss and its parts.

        Raises:
            ValueError: if ``weights`` names an objective the model was not built with, or there is no clip.
        """
        unknown = sorted(set(weights) - set(self.objectives))
        if unknown or not groups:
            raise ModelError(
                f"no such objective in this mix: {unknown}" if unknown else "a step needs at least one clip"
            )
        active = [name for name in self.objectives if weights.get(name, 0.0) != 0.0]
        parts: list[dict[str, list[Part]]] = []
        student: list[Tensor] = []
        targets: list[Tensor] = []
        for group in groups:
            found, z, h = self._group(group, active, context_weight)
            student += z
            targets.append(h)
            parts.append(found)
        clips = [group.weight for group in groups]
        values = _alone(clips, parts) if self.workers is None else values_together(clips, parts, self.workers)
        scale = {"jepa": 1.0, "context": context_weight, **weights}
        weighted = {k: scale[k] * v for k, (v, _) in values.items()}
        loss = torch.stack(list(weighted.values())).sum()
        largest = max(targets, key=len).detach()
        return StepOutput(loss, weighted, {k: told for k, (_, told) in values.items()}, student, largest)

    def _group(
        self, group: ClipGroup, active: Sequence[str], context_weight: float
    ) -> tuple[dict[str, list[Part]], list[Tensor], Tensor]:
        patches, kind = self.encoder.patches(group.clip)
        grid = self.config.grid(kind)
        h = self.targets(patches, kind)
        parts: dict[str, list[Part]] = {}
        student: list[Tensor] = []
        for policy, drawn in enumerate(group.masks):
            mask = drawn.to(patches.device, non_blocking=True)
            z = self.encoder(patches, kind, mask.visible)
            predicted, context = self.predictor(z, mask.visible, mask.masked, policy)
            student.append(z)
            h_masked = h.gather(1, mask.masked.unsqueeze(-1).expand(-1, -1, h.shape[-1]))
            parts.setdefault("jepa", []).append((losses.prediction_loss(predicted, h_masked), group.weight))
            if context_weight:
                value = losses.context_loss(context, h.unflatten(1, grid.shape), mask.visible, mask.masked, grid)
                parts.setdefault("context", []).append((value, group.weight))
            latents = self._latents(group, grid, mask, drawn, z, h, predicted)
            for name in active:
                objective = cast("Objective", self.objectives[name])
                with torch.set_grad_enabled(torch.is_grad_enabled() and name not in self.detached):
                    term = objective(latents)
                elements = 0 if term is None or self.workers is None else objective.elements(latents)
                parts.setdefault(name, []).append((term, elements))
        return parts, student, h

    def _latents(
        self, group: ClipGroup, grid: TokenGrid, mask: Mask, drawn: Mask, z: Tensor, h: Tensor, predicted: Tensor
    ) -> Latents:
        # Of a stand-in no token is visible or masked, and nothing moves.
        visible, masked = (x if group.counts else x[:, :0] for x in (mask.visible, mask.masked))
        return Latents(
            student=grid.scatter(z, mask.visible),
            visible=grid.visible(visible),
            target=h.unflatten(1, grid.shape),
            predicted=predicted[:, : masked.shape[1]],
            masked=masked,
            clip=group.clip,
            patch=grid.patch,
            tubelet=grid.tubelet,
            still=group.still if group.counts else torch.ones(len(group.clip), dtype=torch.bool),
            visible_host=grid.visible(drawn.visible.cpu()[:, : visible.shape[1]]),
            workers=self.workers,
        )


def _alone(clips: Sequence[int], groups: Sequence[Mapping[str, Sequence[Part]]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Every part that there is, its mean over masks, then over groups by their clips: to differentiate, and to tell."""
    there: dict[str, list[tuple[int, Tensor]]] = {}
    for n, parts in zip(clips, groups, strict=True):
        for name, of_masks in parts.items():
            values = [value for value, _ in of_masks if value is not None]
            if values and n:
                there.setdefault(name, []).append((n, torch.stack(values).mean()))
    found = {}
    for name, of_groups in there.items():
        count = sum(n for n, _ in of_groups)
        value = torch.stack([v * (n / count) for n, v in of_groups]).sum()
        found[name] = value, value.detach()
    return found


def values_together(
    clips: Sequence[int], groups: Sequence[Mapping[str, Sequence[Part]]], workers: Workers
) -> dict[str, tuple[Tensor, Tensor]]:
    """As :func:`_alone` of the clips of all workers, in one sum over them; a part that none has is 0, told as nan.

    Nothing of it is read on the host, which would have to wait for the device.
    """
    sums, counts = [], []
    for parts in groups:
        for value, elements in (part for of_masks in parts.values() for part in of_masks):
            share = 1 / workers.world if elements is None else float(elements)
            sums.append(torch.zeros(()) if value is None else value.float() * share)
            counts.append(share)
    device = next(s.device for s in sums if s.requires_grad)
    added = total(torch.stack([s.to(device) for s in sums]), workers)
    host = torch.tensor([*counts, *map(float, clips)])
    both = workers.sum((host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True))
    number, of_group = both.split([len(counts), len(clips)])
    mean, there = iter(added / number.clamp_min(1e-9)), iter((number > 0).float())
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for n, parts in zip(of_group, groups, strict=True):
        for name, of_masks in parts.items():
            values = torch.stack([next(mean) for _ in of_masks])
            has = torch.stack([next(there) for _ in of_masks])
            value = (values * has).sum() / has.sum().clamp_min(1)
            found.setdefault(name, []).append((n * has.max(), value))
    result = {}
    for name, of_groups in found.items():
        count = torch.stack([n for n, _ in of_groups]).sum()
        value = torch.stack([n * v for n, v in of_groups]).sum() / count.clamp_min(1)
        result[name] = value, torch.where(count > 0, value.detach(), torch.nan)
    return result
