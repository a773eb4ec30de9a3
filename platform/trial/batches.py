"""From a batch of clips to the model's input: crops, masks, motion.

All are drawn for the global batch, of which a worker has some rows: they do not depend on the number of workers.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equipoise.data.loader import Batch, ClipStream
from equipoise.data.mixture import Mixture
from equipoise.data.transforms import Augment, AugmentParams
from equipoise.models.encoders import Kind
from equipoise.models.jepa import ClipGroup
from equipoise.models.masking import Mask, MaskSampler, motion_map
from equipoise.platform.seeds import generator, stream
from equipoise.platform.settings.mix import Mix
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths
from equipoise.platform.trial.caches import open_sources
from equipoise.platform.trial.reporter import Reporter

Rows = NDArray[np.int64]


class Batches:
    """Where a training's batches come from, and what the model sees of them.

    Args:
        settings: the trial.
        mix: it resolved.
        paths: where to read.
        reporter: which worker this is, and its device.

    Attributes:
        sources: of the mixture, over their clip caches.
        samplers: masks by kind of clip.

    Raises:
        EquipoiseError: for data that cannot be used.
    """

    def __init__(self, settings: TrialSettings, mix: Mix, paths: Paths, reporter: Reporter) -> None:
        self.settings, self.mix, self.reporter = settings, mix, reporter
        self.device = reporter.device
        self.sources = open_sources(settings, paths)
        self.mixture = Mixture(self.sources, seed=stream(settings.seed, "mixture"))
        size, sampling = settings.preset.model.size, settings.preset.sampling
        self.augment = Augment(size, sampling.scale, sampling.ratio, sampling.hflip)
        self.samplers = {
            kind: MaskSampler(
                mix.model.grid(kind),
                mix.model.masks,
                # A still image has neither motion nor future: policies need a clip.
                motion_guided=mix.motion_guided if kind == "video" else None,
                future_predictive=mix.future_predictive if kind == "video" else None,
                origin_policies=mix.origin_policies if kind == "video" else {},
            )
            for kind in get_args(Kind)
        }
        self.side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def open(self, state: dict[str, Any] | None = None) -> ClipStream:
        """The trial's batches from the first on, or from a state that was kept; to be closed.

        Args:
            state: as :meth:`equipoise.data.loader.ClipStream.state_dict` gave it.
        """
        preset = self.settings.preset
        opened = ClipStream(
            self.mixture,
            frames=preset.model.frames,
            stride=preset.sampling.stride,
            batch=preset.optimisation.batch,
            seed=stream(self.settings.seed, "clips"),
            rank=self.reporter.rank,
            world=self.reporter.world,
            pin=self.device.type == "cuda",
        )
        if state is not None:
            opened.load_state_dict(state)
        return opened

    def prepared(self, batch: Batch, step: int) -> list[ClipGroup]:
        """Groups of a batch; on a GPU in a stream of their own, so that the host never waits for the step before."""
        if self.side is None:
            return self.groups(batch, step)
        with torch.cuda.stream(self.side):
            groups = self.groups(batch, step)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.side)
        for group in groups:
            group.clip.record_stream(current)
        return groups

    def groups(self, batch: Batch, step: int) -> list[ClipGroup]:
        """Crops and masks of a batch at this step; still images join the videos where the settings repeat them.

        Both are drawn for the global batch, of which this worker has some rows: they do not depend on the number of
        workers.
        """
        crops = self.augment.draw(self.settings.preset.optimisation.batch, generator(self.settings.seed, "crops", step))
        video = self._crop(batch.video, crops.select(batch.video_rows))
        image = self._crop(batch.image, crops.select(batch.image_rows))
        videos, stills = np.flatnonzero(~batch.stills), np.flatnonzero(batch.stills)
        if self.mix.images == "repeat":
            clips = [c for c in (video, image) if c is not None]
            video = torch.cat([c.expand(-1, -1, self.mix.model.frames, -1, -1) for c in clips])
            rows, videos = np.concatenate([batch.video_rows, batch.image_rows]), np.concatenate([videos, stills])
            still = torch.from_numpy(batch.stills[rows]) if self.mix.leave_out_still and len(stills) else None
            groups = [self._group("video", step, video, rows, videos, still)]
        else:
            groups = [
                self._group("video", step, video, batch.video_rows, videos),
                self._group("image", step, image, batch.image_rows, stills),
            ]
        return [group for group in groups if group is not None]

    def _crop(self, frames: Tensor | None, crops: AugmentParams) -> Tensor | None:
        return None if frames is None else self.augment(frames.to(self.device, non_blocking=True), crops)

    def _group(
        self, kind: Kind, step: int, clip: Tensor | None, rows: Rows, all_rows: Rows, still: Tensor | None = None
    ) -> ClipGroup | None:
        """This worker's clips of a kind with their masks: those of ``rows`` among the masks of ``all_rows``."""
        if not len(all_rows):
            return None
        place = {int(row): at for at, row in enumerate(all_rows)}
        mine = torch.tensor([place[int(row)] for row in rows], dtype=torch.int64)
        shares = self.mix.shares if kind == "video" else None
        motion = self._motion(clip, mine, len(all_rows)) if kind == "video" and self.mix.reads_motion else None
        draw = generator(self.settings.seed, f"masks.{kind}", step)
        counts = clip is not None
        if clip is None:
            # Workers meet at the sums over the batch, so this one takes part with a clip that counts nothing.
            model = self.mix.model
            frames = model.frames if kind == "video" else 1
            clip, mine = torch.zeros(1, 3, frames, model.size, model.size, device=self.device), torch.zeros(1).long()
        drawn = self.samplers[kind].sample(len(all_rows), draw, motion=motion, shares=shares)
        masks = [Mask(m.visible[mine], m.masked[mine]) for m in drawn]
        return ClipGroup(clip, [m.pin() for m in masks] if self.device.type == "cuda" else masks, still, counts)

    def _motion(self, clip: Tensor | None, mine: Tensor, count: int) -> Tensor:
        """Motion of all clips of the global batch ``[count, T, H, W]`` on the CPU; every worker has to call it."""
        grid = self.mix.model.grid("video")
        motion = torch.zeros(count, *grid.shape, device=self.device)
        if clip is not None:
            motion[mine.to(self.device)] = motion_map(clip, grid, scale=self.mix.motion_scale)
        return self.reporter.sum(motion).cpu()
