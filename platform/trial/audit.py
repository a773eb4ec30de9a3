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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from equipoise.data.loader import ClipStream
from equipoise.models.jepa import ClipGroup, StepOutput
from equipoise.platform.errors import EquipoiseError
from equipoise.platform.seeds import stream
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.settings.variant import RECORDS
from equipoise.platform.storage import Paths
from equipoise.platform.trial.audit_checks import (
    BATCHES,
    EncoderAudit,
    ObjectiveAudit,
    audit_loss,
    audit_mask_policy,
    check_step,
    cosines,
    encoder_gradients,
    objective_report,
    plain_record,
)
from equipoise.platform.trial.device import default_device
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer

MOST_STEPS = 1000
"""Steps of the training at which a weight is looked at."""


class AuditError(EquipoiseError):
    """A mix in which an objective trains nothing."""


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
            "objectives": [plain_record(o) for o in self.objectives],
            "losses": [plain_record(o) for o in self.losses],
            "cosine": {"names": list(self.names), "matrix": matrix},
            "evaluated_encoder": asdict(self.evaluated),
            "clips": dict(self.clips),
            "seconds": self.seconds,
        }


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
        with trainer.batches.open() as batches:
            groups, out = _step_forward(trainer, batches, weights)
        vectors, norms = encoder_gradients(trainer.model, out)
        encoder = check_step(trainer, out)
    reports = {
        name: audit_loss(name, trainer, weights.get(name, 0.0), out, norms, encoder) for name in trainer.mix.weights
    }
    for name, setting in settings.variant.objectives.items():
        if name not in reports:
            reports[name] = audit_mask_policy(name, setting, trainer, groups, encoder)
    losses = tuple(
        objective_report(name, "loss", weight, None, "", float(out.values[name]), norms[name])
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
        cosine=cosines([vectors.get(n) for n in rows]),
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
        groups = trainer.batches.groups(next(batches), trainer.step)
        with torch.autocast(trainer.device.type, dtype=torch.bfloat16, enabled=trainer.autocast):
            out: StepOutput = trainer.model(groups, weights, trainer.mix.context.weight)
        if wanted <= set(out.values) or attempt + 1 == BATCHES:
            break
        trainer.step += 1
    return groups, out
