"""Tables and a picture of replayed searches: hypervolume against training steps, with intervals over repetitions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
GRID = 400  # points of the budget axis
DRAWS = 1000  # of the bootstrap over repetitions
AGAINST = "random"  # what is compared with; where that was not replayed, the first strategy of the file
TABLES = "tables"
END = "<!-- end -->"
BANDS = ("random", "tpe", "tpe + stopping")  # strategies drawn with their intervals


def curves(records: list[dict[str, Any]], best: Mapping[int, float], grid: Array) -> dict[int, Array]:
    """By repetition, the hypervolume ``[grid]`` of the front that the search would report at each budget.

    Repetitions have worlds of their own, so each is a share of the best that any strategy came to there.
    """
    found = {}
    for record in sorted(records, key=lambda r: int(r["seed"])):
        steps, volumes = np.array([(0.0, 0.0), *record["curve"]]).T
        found[record["seed"]] = volumes[np.searchsorted(steps, grid, side="right") - 1] / best[record["seed"]]
    return found


def reach(mean: Array, goal: float, grid: Array) -> float:
    """Share of the budget from which on a mean curve stays at or above a goal; infinite where it ends below."""
    below = np.flatnonzero(mean < goal - 1e-9)  # the two means of one curve may differ in their last digit
    if len(below) == 0:
        return 0.0
    return float(grid[below[-1] + 1] / grid[-1]) if below[-1] + 1 < len(grid) else float("inf")


def table(world: str, by_name: Mapping[str, dict[int, Array]], grid: Array, counts: Mapping[str, str]) -> list[str]:
    """One row per strategy, against random search (or the first strategy) in the same repetitions."""
    against = _against(by_name)
    rows = [
        f"### {world}: {len(by_name[against])} repetitions, a budget of {grid[-1]:.0f} trainings",
        "",
        "| strategy | trials (stopped, repeats) | hypervolume at a third of the budget | at the end "
        f"| gain over {against} at a third | at the end | share of the budget to {against}'s end | p |",
        "|---|---|---|---|---|---|---|---|",
    ]
    third = int(np.searchsorted(grid, grid[-1] / 3))
    for name, by_seed in by_name.items():
        seeds = sorted(set(by_seed) & set(by_name[against]))
        found, random = (np.stack([volumes[s] for s in seeds]) for volumes in (by_seed, by_name[against]))
        share = reach(found.mean(0), float(random[:, -1].mean()), grid)
        cells = [name, counts[name], _interval(found[:, third]), _interval(found[:, -1]), "", "", _share(share), ""]
        if name != against:
            # The same repetitions are drawn for both: their worlds are the same.
            drawn = np.random.default_rng(0).integers(len(seeds), size=(DRAWS, len(seeds)))
            shares = [reach(found[d].mean(0), float(random[d, -1].mean()), grid) for d in drawn]
            low, high = np.quantile(shares, [0.025, 0.975], method="nearest")
            p = stats.mannwhitneyu(found[:, -1], random[:, -1], alternative="greater").pvalue
            cells[-4:] = [_interval(found[:, at] - random[:, at]) for at in (third, -1)]
            cells += [f"{_share(share)} ({_share(float(low))} to {_share(float(high))})", f"{p:.2g}"]
        if len(seeds) < len(by_name[against]):
            cells[0] += f" ({len(seeds)} repetitions)"
        rows.append("| " + " | ".join(cells) + " |")
    return [*rows, ""]


def _against(by_name: Mapping[str, Any]) -> str:
    return AGAINST if AGAINST in by_name else next(iter(by_name))


def _share(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "not reached"


def _interval(values: Array) -> str:
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return f"{values.mean():.3f} ± {half:.3f}"


def report(args: argparse.Namespace) -> None:
    """Print the tables; with ``--write`` put them under their mark in a file, a picture of the first mark beside it."""
    records = [json.loads(line) for line in args.raw.read_text().splitlines()]
    worlds = list(dict.fromkeys(r["world"] for r in records))
    text: list[str] = []
    figure, axes = plt.subplots(1, len(worlds), figsize=(5.2 * len(worlds), 4.6), squeeze=False)
    for world, axis in zip(worlds, axes[0], strict=True):
        here = [r for r in records if r["world"] == world]
        by_strategy: dict[str, list[dict[str, Any]]] = {}
        for r in here:
            by_strategy.setdefault(r["strategy"], []).append(r)
        end = min(max(s for s, _ in r["curve"]) for r in here)
        grid = np.linspace(0, float(np.floor(end)), GRID)
        best: dict[int, float] = {}
        for r in here:
            best[r["seed"]] = max(best.get(r["seed"], 1e-9), max(volume for _, volume in r["curve"]))
        found = {name: curves(group, best, grid) for name, group in by_strategy.items()}
        counts = {name: _counts(group) for name, group in by_strategy.items()}
        text += table(world, found, grid, counts)
        _draw(axis, world, found, grid)
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.legend(handles, names, loc="lower center", ncol=6, fontsize=8, frameon=False)
    print("\n".join(text))
    if args.write is not None:
        if args.mark == TABLES:
            figure.savefig(args.write.with_suffix(".png"), dpi=110)
        words = args.write.read_text() if args.write.is_file() else ""
        args.write.write_text(placed(words, args.mark, "\n".join(text)))


def placed(words: str, mark: str, text: str) -> str:
    """A file's words with a text between a mark and the next ``END``, or the end of the file."""
    before, _, after = words.partition(f"<!-- {mark} -->")
    rest = after.partition(END)[2]
    return f"{before}<!-- {mark} -->\n\n{text}" + (f"\n{END}{rest}" if END in after else "")


def _counts(group: list[dict[str, Any]]) -> str:
    trials, stopped, repeats = (np.mean([r[k] for r in group]) for k in ("trials", "stopped", "repeats"))
    return f"{trials:.0f} ({stopped:.0f}, {repeats:.0f})"


def _draw(axis: Any, world: str, found: Mapping[str, dict[int, Array]], grid: Array) -> None:
    for k, (name, by_seed) in enumerate(found.items()):
        volumes = np.stack(list(by_seed.values()))
        mean = volumes.mean(0)
        half = stats.t.ppf(0.975, len(volumes) - 1) * volumes.std(0, ddof=1) / np.sqrt(len(volumes))
        line = axis.plot(
            grid,
            mean,
            label=name,
            color=plt.get_cmap("tab20")(2 * k % 20 + 2 * k // 20),
            linestyle="-" if "+" in name else "--",
        )[0]
        if name in BANDS:
            axis.fill_between(grid, mean - half, mean + half, color=line.get_color(), alpha=0.15, linewidth=0)
    axis.axhline(float(np.mean([v[-1] for v in found[_against(found)].values()])), color="0.6", linewidth=0.8)
    axis.axvline(grid[-1] / 3, color="0.6", linewidth=0.8, linestyle=":")
    axis.set(title=world, xlabel="training spent, in whole trainings", ylabel="hypervolume, best of all = 1")
    axis.set_ylim(bottom=max(0.0, axis.get_ylim()[0]))
