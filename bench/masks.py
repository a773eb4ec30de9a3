"""Time of drawing masks and of the context loss's distance weights: `python bench/masks.py`; results in masks.md."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from equipoise.models.geometry import TokenGrid, squared_distance_to
from equipoise.models.masking import MaskSampler, MotionGuided

GRID = TokenGrid(8, 14, 14)
BATCH = 8
REPEATS = 40


def seconds(work: Callable[[], object]) -> list[float]:
    work()
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return taken


def main() -> None:
    draw = torch.Generator().manual_seed(0)
    motion = torch.rand(BATCH, *GRID.shape, generator=draw)
    marked = torch.rand(BATCH, *GRID.shape, generator=draw) < 0.5
    plain, guided = MaskSampler(GRID), MaskSampler(GRID, motion_guided=MotionGuided())
    found = {
        "block masks": seconds(lambda: plain.sample(BATCH, draw)),
        "motion-guided block masks": seconds(lambda: guided.sample(BATCH, draw, motion)),
        "distance weights": seconds(lambda: squared_distance_to(marked).sqrt().rsqrt()),
    }
    base = statistics.median(found["block masks"])
    print(f"{BATCH} clips of {GRID.time} x {GRID.height} x {GRID.width} tokens, {torch.get_num_threads()} thread(s)")
    for name, taken in found.items():
        middle = statistics.median(taken)
        print(f"{name:28} {1e3 * middle:6.2f} ms (fastest {1e3 * min(taken):.2f})  {middle / base:5.2f} x block masks")


if __name__ == "__main__":
    main()
