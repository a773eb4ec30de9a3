"""Block masks: which tokens the context encoder sees and which it has to predict.

Shapes: B clips, T time slots, H rows, W columns, K visible tokens, M masked tokens, F frames.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from equipoise.models.checks import number
from equipoise.models.errors import ModelError
from equipoise.models.geometry import TokenGrid

ATTEMPTS = 100
"""Draws of a block size, or of a clip's blocks, before an empty visible or masked set is an error."""


@dataclass(frozen=True)
class BlockSpec:
    """Blocks of one mask.

    Attributes:
        count: blocks drawn per clip; they may overlap.
        area: share of the frame one block covers.
        time: share of time the blocks span, 1 in the published settings. Below 1 all blocks of a clip hide the same
            random run of time slots, so that what they hide is seen before or after; nothing changes in one slot.
    """

    count: int
    area: float
    time: float = 1.0

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  read by the settings layer, which owns the checks of types

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ModelError(f"block count is {self.count}; expected at least 1")
        if not 0 < self.area < 1:
            raise ModelError(f"block area is {self.area}; expected a share of the frame, above 0 and below 1")
        if not 0 < self.time <= 1:
            raise ModelError(f"block time is {self.time}; expected a share of time, above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Block masks drawn for every clip in one step; the defaults are the published ones.

    Attributes:
        blocks: one entry per mask.
        aspect: lowest and highest height over width of a block.
        cut: how rows are brought to the shortest of the batch: ``random`` drops a random subset, ``tail`` the end of
            the sorted list, which is the end of the clip (V-JEPA, the published code).
    """

    blocks: tuple[BlockSpec, ...] = (BlockSpec(count=8, area=0.15), BlockSpec(count=2, area=0.7))
    aspect: tuple[float, float] = (0.75, 1.5)
    cut: Literal["random", "tail"] = "random"

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  read by the settings layer, which owns the checks of types

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ModelError("mask blocks is empty; expected at least one block specification")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ModelError(f"mask aspect is {self.aspect}; expected 0 < lowest <= highest")
        if self.cut not in ("random", "tail"):
            raise ModelError(f"mask cut is {self.cut!r}; expected random or tail")


@dataclass(frozen=True)
class Mask:
    """One mask of a batch; all rows have the same length.

    Attributes:
        visible: int64 ``[B, K]`` flat grid indices, ascending.
        masked: int64 ``[B, M]`` flat grid indices, ascending; no index is in both.
    """

    visible: Tensor
    masked: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Mask:
        """The same mask on a device."""
        return Mask(
            self.visible.to(device, non_blocking=non_blocking), self.masked.to(device, non_blocking=non_blocking)
        )

    def pin(self) -> Mask:
        """The same mask in page-locked memory, from where a copy to a GPU does not wait for the work queued there."""
        return Mask(self.visible.pin_memory(), self.masked.pin_memory())


@dataclass(frozen=True)
class MotionGuided:
    """Mask policy: blocks lie where the clip moves.

    Attributes:
        strength: s, exponent on a block's mean motion; 0 is uniform.
        random_rate: r, share of draws that are uniform.
    """

    strength: float = 2.0
    random_rate: float = 0.1

    def __post_init__(self) -> None:
        number("strength", self.strength, 0.0, sys.float_info.max)
        number("random_rate", self.random_rate, 0.0, 1.0)

    def origin_probabilities(self, motion_map: Tensor, block: tuple[int, int, int]) -> Tensor:
        """Distribution of a block's first corner.

        Proportional to (mean motion inside the block)^s for a share ``1 - r``, uniform for the rest; uniform throughout
        where nothing moves.

        Args:
            motion_map: ``[T, H, W]``, or ``[B, T, H, W]``, not negative.
            block: (t, h, w) of the block in tokens.

        Returns:
            float64 ``[T - t + 1, H - h + 1, W - w + 1]`` (with ``B`` first if the map had it); each clip's sums to 1.

        Raises:
            ValueError: if the block is empty or larger than the map.
        """
        inside = _block_mean(motion_map, block)
        flat = inside.flatten(-3)
        # Scaled by the largest first: high powers of small motion would underflow to 0 everywhere.
        peak = flat.amax(-1, keepdim=True)
        share = torch.where(peak > 0, flat / peak.clamp_min(torch.finfo(flat.dtype).tiny), 1.0).pow(self.strength)
        guided = share / share.sum(-1, keepdim=True)
        return ((1 - self.random_rate) * guided + self.random_rate / flat.shape[-1]).reshape(inside.shape)


@dataclass(frozen=True)
class FuturePredictive:
    """Mask policy: only the first part of time can be visible; everything else is predicted.

    A mask's block count is halved (published: 4 and 1 blocks instead of 8 and 2). One time slot has no future: still
    images of one frame get ordinary block masks.

    Attributes:
        keep: share of time slots that can be visible.
    """

    keep: float = 0.5

    def __post_init__(self) -> None:
        if number("keep", self.keep, 0.0, 1.0, low_open=True) == 1.0:
            raise ModelError("keep is 1: all of time could be visible and the policy would do nothing; set it below 1")

    def slots(self, time: int) -> int:
        """Time slots that can be visible, of ``time``; at least one, and at least one is left to predict."""
        return min(max(1, round(time * self.keep)), time - 1)

    def origin_probabilities(self, motion_map: Tensor, block: tuple[int, int, int]) -> Tensor:
        """Distribution of a block's first corner: uniform. Arguments and result as in ``MotionGuided``."""
        inside = _block_mean(motion_map, block)
        return torch.full_like(inside, 1 / inside.shape[-3:].numel())


class OriginPolicy(Protocol):
    """A mask policy of one's own: where the blocks of a clip lie.

    ``reads_motion = False`` says of one that it does without the clips' motion, which is then not computed.
    """

    def origin_probabilities(self, motion_map: Tensor, block: tuple[int, int, int]) -> Tensor:
        """Distribution of a block's first corner, ``[B, ...]``; arguments and result as in :class:`MotionGuided`."""


MaskPolicy = MotionGuided | FuturePredictive | OriginPolicy


def reads_motion(policy: object) -> bool:
    """Whether a policy looks at the motion of clips."""
    return policy is not None and bool(getattr(policy, "reads_motion", not isinstance(policy, FuturePredictive)))


def _block_mean(motion: Tensor, block: tuple[int, int, int]) -> Tensor:
    shape = motion.shape[-3:]
    if motion.ndim not in (3, 4) or any(not 1 <= b <= n for b, n in zip(block, shape, strict=True)):
        raise ModelError(
            f"block {block} does not fit a motion map of shape {tuple(motion.shape)}; expected 1 up to its size"
        )
    x = motion.double().reshape(-1, *shape)
    x = functional.avg_pool3d(x.unsqueeze(1), block, stride=1).squeeze(1)
    return x.reshape(*motion.shape[:-3], *x.shape[-3:])


def motion_map(clip: Tensor, grid: TokenGrid, scale: Literal["clip", "published"] = "clip") -> Tensor:
    """Mean absolute frame difference of every token.

    A frame's difference is to the frame before it and counts for the token the later frame lies in; the first frame
    takes the first difference there is. A clip of one frame has no motion.

    Args:
        clip: ``[B, 3, F, height, width]``, float or uint8; size as ``grid`` has it.
        grid: the token grid.
        scale: ``clip``: divided by the clip's own maximum (left at 0 where nothing moves). ``published``: slot t of
            every clip divided by the maximum of clip t, as the published code does by broadcasting along a wrong axis;
            that needs B = T there, here clip ``t mod B`` serves for other batches.

    Returns:
        float32 ``[B, T, H, W]``.

    Raises:
        ValueError: if the clip does not fit the grid, or for an unknown scale.
    """
    T, H, W = grid.shape
    expected = (3, T * grid.tubelet, H * grid.patch, W * grid.patch)
    if clip.ndim != 5 or tuple(clip.shape[1:]) != expected:
        raise ModelError(
            f"clip has shape {tuple(clip.shape)}; this token grid expects (B, {', '.join(map(str, expected))})"
        )
    if scale not in ("clip", "published"):
        raise ModelError(f"motion scale is {scale!r}; expected clip or published")
    if expected[1] == 1:
        return torch.zeros(clip.shape[0], T, H, W, device=clip.device)
    motion = clip.float().diff(dim=2).abs_().mean(dim=1)
    motion = functional.avg_pool2d(motion, grid.patch)
    motion = torch.cat([motion[:, :1], motion], dim=1).reshape(-1, T, grid.tubelet, H, W).mean(2)
    peak: Tensor = motion.amax(dim=(1, 2, 3)).clamp_min(1e-8)
    if scale == "clip":
        peak = peak[:, None, None, None]
    else:
        peak = peak[torch.arange(T, device=peak.device) % len(peak)][:, None, None]
    return motion.div_(peak)


@dataclass(frozen=True)
class MaskSampler:
    """Draws the masks of a batch.

    As in V-JEPA one block size is drawn per batch and mask, and every block spans all of time.

    Attributes:
        grid: the token grid.
        config: blocks, aspect, cutting.
        motion_guided: draw origins by motion.
        future_predictive: hide the later part of time.
        origin_policies: others that draw origins, by name; a clip that several would place follows the last of them.
    """

    grid: TokenGrid
    config: MaskConfig = field(default_factory=MaskConfig)
    motion_guided: MotionGuided | None = None
    future_predictive: FuturePredictive | None = None
    origin_policies: Mapping[str, OriginPolicy] = field(default_factory=dict)

    def sample(
        self,
        batch: int,
        generator: torch.Generator,
        motion: Tensor | None = None,
        shares: Mapping[str, float] | None = None,
    ) -> list[Mask]:
        """Draw all masks of a batch; the same generator state gives the same masks.

        Args:
            batch: B.
            generator: on the CPU.
            motion: ``[B, T, H, W]`` from ``motion_map``; needed where a policy that reads it can be drawn and T > 1.
            shares: probability that a clip follows a policy, by policy name; 1 where not named.

        Returns:
            One mask per block specification, on the CPU.

        Raises:
            ValueError: if the motion is missing or of another shape, a share is not a probability of a policy that is
                on, or the blocks leave a clip nothing visible in 100 draws.
        """
        if batch < 1:
            raise ModelError(f"batch is {batch}; expected at least 1")
        shares = shares or {}
        self._check(batch, motion, shares)
        guided = self._follow("motion_guided", self.motion_guided, batch, shares, generator)
        future = self._follow("future_predictive", self.future_predictive, batch, shares, generator)
        placing = {"motion_guided": guided} if self.motion_guided is not None else {}
        for name, policy in self.origin_policies.items():
            placing[name] = self._follow(name, policy, batch, shares, generator)
        host = motion.cpu() if motion is not None and any(bool(rows.any()) for rows in placing.values()) else None
        return [self._mask(spec, batch, generator, host, placing, future) for spec in self.config.blocks]

    def _check(self, batch: int, motion: Tensor | None, shares: Mapping[str, float]) -> None:
        for name, share in shares.items():
            if self._policy(name) is None:
                raise ModelError(f"share of {name!r} given, but this sampler has no such policy; build it with one")
            if not 0 <= share <= 1:
                raise ModelError(f"share of {name} is {share}; expected a probability")
        for name in ("motion_guided", *self.origin_policies):
            if motion is None and self.grid.time > 1 and shares.get(name, 1.0) > 0 and reads_motion(self._policy(name)):
                raise ModelError(f"{name} masks need the motion of the clips; pass motion=motion_map(clip, grid)")
        if motion is not None and tuple(motion.shape) != (batch, *self.grid.shape):
            raise ModelError(f"motion has shape {tuple(motion.shape)}; expected {(batch, *self.grid.shape)}")

    def _policy(self, name: str) -> MaskPolicy | None:
        own = {"motion_guided": self.motion_guided, "future_predictive": self.future_predictive}
        return own.get(name) or self.origin_policies.get(name)

    def _follow(
        self, name: str, policy: MaskPolicy | None, batch: int, shares: Mapping[str, float], generator: torch.Generator
    ) -> Tensor:
        """Bool ``[B]``: which clips follow a policy. Neither has a meaning in a single time slot."""
        if policy is None or self.grid.time == 1:
            return torch.zeros(batch, dtype=torch.bool)
        return torch.rand(batch, generator=generator) < shares.get(name, 1.0)

    def _mask(
        self,
        spec: BlockSpec,
        batch: int,
        generator: torch.Generator,
        motion: Tensor | None,
        placing: Mapping[str, Tensor],
        future: Tensor,
    ) -> Mask:
        T, H, W = self.grid.shape
        slots = max(1, round(spec.time * T))
        # A whole frame may be hidden where other slots stay visible: not where the future is hidden as well.
        whole_frame = slots < T and not bool(future.any())
        h, w = self._block_size(spec, generator, whole_frame)
        origins = self._origins(batch, (h, w), motion, placing)
        blocks = torch.where(future, max(1, spec.count // 2), spec.count)
        hidden = self._hidden_places(origins, spec.count, blocks, (h, w), generator, whole_frame)
        visible = ~hidden[:, None].expand(batch, T, H, W)
        if slots < T:
            start = torch.randint(T - slots + 1, (batch,), generator=generator)
            visible = visible | ~_span(start, slots, T)[:, :, None, None]
        if self.future_predictive is not None and T > 1:
            late = torch.arange(T) >= self.future_predictive.slots(T)
            visible = visible & ~(future[:, None] & late)[:, :, None, None]
        visible = visible.flatten(1)
        kept = self._cut(visible, generator)
        # "Everything else is predicted" holds after the cut too: tokens it dropped are masked for these clips.
        unseen = ~torch.zeros_like(visible).scatter(1, kept, True)
        masked = torch.where(future[:, None], unseen, ~visible)
        return Mask(kept, self._cut(masked, generator))

    def _block_size(self, spec: BlockSpec, generator: torch.Generator, whole_frame: bool) -> tuple[int, int]:
        _, H, W = self.grid.shape
        tokens = max(1, int(H * W * spec.area))
        low, high = self.config.aspect
        for _ in range(ATTEMPTS):
            aspect = low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))
            h = min(H, max(1, round(math.sqrt(tokens * aspect))))
            w = min(W, max(1, round(math.sqrt(tokens / aspect))))
            if whole_frame or h * w < H * W:
                return h, w
        raise ModelError(
            f"a block of {spec.area} of a {H}x{W} frame covers all of it in {ATTEMPTS} draws: nothing would be "
            "visible; lower the block area or use a larger token grid"
        )

    def _origins(
        self, batch: int, block: tuple[int, int], motion: Tensor | None, placing: Mapping[str, Tensor]
    ) -> Tensor:
        """Probabilities of the block's first corner, ``[B, H - h + 1, W - w + 1]``."""
        _, H, W = self.grid.shape
        places = (H - block[0] + 1, W - block[1] + 1)
        origins = torch.full((batch, *places), 1 / (places[0] * places[1]), dtype=torch.float64)
        for name, rows in placing.items():
            policy = self._policy(name)
            if isinstance(policy, FuturePredictive) or policy is None or not rows.any():
                continue
            seen = torch.zeros(batch, *self.grid.shape) if motion is None else motion
            drawn = policy.origin_probabilities(seen, (self.grid.time, *block)).squeeze(1)
            if drawn.shape != origins.shape:
                raise ModelError(
                    f"{name} places blocks by {tuple(drawn.shape)} probabilities, not {tuple(origins.shape)}"
                )
            origins = torch.where(rows[:, None, None], drawn.double(), origins)
        return origins

    def _hidden_places(
        self,
        origins: Tensor,
        count: int,
        blocks: Tensor,
        size: tuple[int, int],
        generator: torch.Generator,
        whole_frame: bool,
    ) -> Tensor:
        """Bool ``[B, H, W]``: union of the first ``blocks`` blocks; clips with nothing visible left draw again.

        With ``whole_frame`` a frame may be hidden entirely: other time slots stay visible.
        """
        _, H, W = self.grid.shape
        columns = origins.shape[2]
        hidden = torch.ones(len(origins), H, W, dtype=torch.bool)
        for _ in range(ATTEMPTS):
            full = hidden.flatten(1).all(1)
            if not full.any():
                return hidden
            at = torch.multinomial(origins[full].flatten(1), count, replacement=True, generator=generator)
            top, left = torch.div(at, columns, rounding_mode="floor"), at % columns
            rows = _span(top, size[0], H) & (torch.arange(count) < blocks[full][:, None])[:, :, None]
            hidden[full] = (rows[:, :, :, None] & _span(left, size[1], W)[:, :, None, :]).any(1)
            if whole_frame:
                return hidden
        if not hidden.flatten(1).all(1).any():
            return hidden
        raise ModelError(
            f"{count} blocks of {size[0]}x{size[1]} tokens left a clip of {H}x{W} nothing visible in {ATTEMPTS} draws; "
            "lower the block count or area, or use a larger token grid"
        )

    def _cut(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Int64 ``[B, n]``: ascending indices of n true entries of every row of ``[B, N]``, n the fewest of any row."""
        n = int(chosen.sum(1).min())
        rank = torch.arange(chosen.shape[1], dtype=torch.float32).expand(chosen.shape)
        if self.config.cut == "random":
            rank = torch.rand(chosen.shape, generator=generator)
        kept = torch.where(chosen, rank, torch.inf).topk(n, dim=1, largest=False, sorted=False).indices
        return kept.sort(1).values


def _span(start: Tensor, length: int, size: int) -> Tensor:
    """Bool ``[..., size]``: True from ``start`` on for ``length`` entries."""
    at = torch.arange(size)
    return (at >= start.unsqueeze(-1)) & (at < start.unsqueeze(-1) + length)
