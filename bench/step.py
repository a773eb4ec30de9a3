"""One training step by part, and what the objectives add to it: `python bench/step.py --shape small`; see step.md.

Parts are measured in steps of their own, with the device waited for at each part's end; totals and ratios come from
steps that are not interrupted. The compared mixes take turns in one process, so that whatever else the machine does
falls on all of them alike; a ratio is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from equipoise.data.transforms import Augment
from equipoise.models.jepa import ClipGroup, VideoJEPA
from equipoise.models.masking import MaskSampler, motion_map
from equipoise.models.objectives import list_objectives
from equipoise.platform.settings.mix import resolve
from equipoise.platform.settings.preset import load_preset
from equipoise.platform.settings.trial import TrialSettings, load_regime
from equipoise.platform.settings.variant import Variant

CPU_BATCH = {"nano": 32, "small": 4, "base": 1}
PARTS = (
    "data",
    "masks",
    "target",
    "context",
    "predictor",
    "objectives",
    "rest of forward",
    "backward",
    "optimiser",
    "EMA",
)
LOSSES = {r.name: r.published_weight for r in list_objectives() if r.kind == "loss"}
MIXES: dict[str, dict[str, float]] = {
    "baseline": {},
    "16 losses": LOSSES,
    "all 18": {**LOSSES, "motion_guided": 0.5, "future_predictive": 0.5},
}


class Clock:
    """Adds up the seconds of named parts; a part inside another counts for itself alone."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.open: list[tuple[str, float]] = []

    def now(self) -> float:
        """Seconds, once the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def start(self, part: str) -> None:
        """Begin a part."""
        now = self.now()
        if self.open:
            outer, since = self.open[-1]
            self.seconds[outer] += now - since
        self.open.append((part, now))

    def stop(self) -> None:
        """End the part begun last."""
        now = self.now()
        part, since = self.open.pop()
        self.seconds[part] += now - since
        if self.open:
            self.open[-1] = (self.open[-1][0], now)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure what runs inside."""
        self.start(name)
        yield
        self.stop()

    def attach(self, module: nn.Module, part: str) -> Any:
        """Measure a module's forward as a part."""
        before = module.register_forward_pre_hook(lambda *_: self.start(part))
        after = module.register_forward_hook(lambda *_: self.stop())
        return before, after


class Subject:
    """A mix at a shape, with everything a step needs and no data set behind it."""

    def __init__(self, shape: str, weights: dict[str, float], batch: int, device: torch.device) -> None:
        preset = load_preset(shape)
        settings = TrialSettings(
            variant_name="bench",
            variant=Variant.model_validate({"objectives": weights}),
            preset=preset,
            regime=load_regime("miniature"),
        )
        self.mix, self.batch, self.device = resolve(settings), batch, device
        torch.manual_seed(0)
        self.model = VideoJEPA(self.mix.model, self.mix.terms).to(device)
        self.optimiser = create_optimizer_v2(self.model, opt="adamw", lr=1e-4, weight_decay=0.04)
        self.augment = Augment(preset.model.size, preset.sampling.scale, preset.sampling.ratio, preset.sampling.hflip)
        self.sampler = MaskSampler(
            self.mix.model.grid(),
            self.mix.model.masks,
            motion_guided=self.mix.motion_guided,
            future_predictive=self.mix.future_predictive,
        )
        self.weights = self.mix.weights_at(0, 1)
        self.draw = torch.Generator().manual_seed(0)
        size = preset.cache_size
        self.frames = torch.randint(
            0, 256, (batch, preset.model.frames, size, size, 3), dtype=torch.uint8, generator=self.draw
        )

    def prepare(self, clock: Clock) -> ClipGroup:
        """Crops and masks of a batch."""
        with clock.part("data"):
            clip = self.augment(
                self.frames.to(self.device, non_blocking=True), self.augment.draw(self.batch, self.draw)
            )
        with clock.part("masks"):
            motion: Tensor | None = None
            if self.mix.motion_guided is not None:
                motion = motion_map(clip, self.mix.model.grid()).cpu()
            return ClipGroup(clip, self.sampler.sample(self.batch, self.draw, motion, self.mix.shares))

    def step(self, clock: Clock) -> None:
        """One step of training."""
        group = self.prepare(clock)
        with (
            clock.part("rest of forward"),
            torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"),
        ):
            loss = self.model([group], self.weights, 0.5).loss
        with clock.part("backward"):
            loss.backward()
        with clock.part("optimiser"):
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
        with clock.part("EMA"):
            self.model.update_target()

    def parts(self) -> dict[str, float]:
        """Seconds of one step by part."""
        clock = Clock(self.device)
        modules: list[tuple[nn.Module, str]] = [(o, "objectives") for o in self.model.objectives.values()]
        modules += [(self.model.target_encoder, "target"), (self.model.encoder, "context")]
        modules.append((self.model.predictor, "predictor"))
        handles = [h for module, part in modules for h in clock.attach(module, part)]
        self.step(clock)
        for handle in handles:
            handle.remove()
        return clock.seconds

    def total(self) -> float:
        """Seconds of one step that is not interrupted."""
        clock = Clock(self.device)
        began = clock.now()
        self.step(_Silent(self.device))
        return clock.now() - began


class _Silent(Clock):
    """Measures nothing and waits for nothing."""

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        yield


def compare(shape: str, rounds: int, batch: int, device: torch.device) -> None:
    subjects = {name: Subject(shape, weights, batch, device) for name, weights in MIXES.items()}
    for subject in subjects.values():
        subject.step(_Silent(device))
    totals: dict[str, list[float]] = {name: [] for name in subjects}
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            totals[name].append(subject.total())
        for name, subject in subjects.items():
            parts[name].append(subject.parts())
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    print(f"\n{shape}: batch {batch}, {rounds} rounds, {what}; milliseconds, median over rounds\n")
    print("| part | " + " | ".join(subjects) + " |")
    print("|---|" + "---:|" * len(subjects))
    for part in PARTS:
        cells = (f"{1e3 * statistics.median(p[part] for p in parts[name]):.1f}" for name in subjects)
        print(f"| {part} | " + " | ".join(cells) + " |")
    print("| **whole step** | " + " | ".join(f"{1e3 * statistics.median(t):.1f}" for t in totals.values()) + " |")
    base = totals["baseline"]
    over = []
    for taken in totals.values():
        ratios = [t / b for t, b in zip(taken, base, strict=True)]
        over.append(f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    print("| over baseline (least to most) | " + " | ".join(over) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", action="append", choices=tuple(CPU_BATCH), help="default: all three")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, help="clips in a step; default: the preset's on a GPU, few on a CPU")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for shape in options.shape or tuple(CPU_BATCH):
        usual = load_preset(shape).optimisation.batch if device.type == "cuda" else CPU_BATCH[shape]
        compare(shape, options.rounds, options.batch or usual, device)


if __name__ == "__main__":
    main()
