"""Pictures of a design's effects: a forest plot, or a dose-response curve, one panel per benchmark."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from equipoise.platform.analysis.effects import Effect, Effects, alias_text
from equipoise.platform.report.plots.style import (
    DPI,
    GREY,
    INK,
    PALETTE,
    TITLES,
    PlotError,
    as_written,
    clean_axis,
    save_figure,
)
from equipoise.platform.settings.design import TIMES

PANEL_WIDTH = 4.6  # inches
ROW_HEIGHT = 0.36  # inches
CLEAR, UNCLEAR = PALETTE[0], "#8A8A8A"  # more than chance, and not
Handles = list[Line2D]


@as_written
def plot_effects(effects: Effects, path: str | Path, title: str) -> Path:
    """Draw every effect with its interval, and save; the suffix of ``path`` picks PNG, PDF or SVG.

    Filled points are more than chance after correction for all effects of their benchmark. An interval holds for its
    effect alone, so one that just leaves out 0 may belong to an open point.

    Returns:
        The path written.

    Raises:
        PlotError: no effect to draw, or another suffix.
    """
    if not effects.effects:
        raise PlotError("there is no effect to draw: the cells of the design have no finished trials")
    doses = effects.plan.design.kind == "dose_response"
    names = list(dict.fromkeys(effect.name for effect in effects.effects))
    height = 5.0 if doses else 1.9 + ROW_HEIGHT * len(names)
    count = len(effects.benchmarks)
    figure = Figure(
        figsize=(max(1.4 + PANEL_WIDTH * count, 8.0), height), dpi=DPI, facecolor="white", layout="constrained"
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.012, ha="left", fontsize=14, color=INK)
    first: Axes | None = None
    for place, benchmark in enumerate(effects.benchmarks):
        axis = figure.add_subplot(1, count, place + 1, sharey=None if doses else first)
        first = first or axis
        if doses:
            _curve(axis, effects, benchmark)
        else:
            _forest(axis, effects.on(benchmark), names, named=place == 0)
        axis.set_title(_title(effects, benchmark), loc="left", fontsize=12, color=INK)
    figure.legend(handles=_handles(effects, doses), loc="outside lower left", ncols=3, frameon=False, fontsize=10)
    return save_figure(figure, path)


def _title(effects: Effects, benchmark: str) -> str:
    """Name of a benchmark, and the trend over doses where there is one."""
    name = f"{TITLES.get(benchmark, benchmark)} {effects.part}"
    trend = next((effect for effect in effects.on(benchmark) if effect.kind == "trend"), None)
    if trend is None:
        return name
    interval = "" if math.isnan(trend.low) else f" [{trend.low:+.2f}, {trend.high:+.2f}]"
    return f"{name}\nten times the weight: {trend.estimate:+.2f}{interval}"


def _forest(axis: Axes, found: Sequence[Effect], names: Sequence[str], *, named: bool) -> None:
    """Effects of one benchmark from top to bottom, a line between main effects and interactions."""
    axis.axvline(0, color=INK, linewidth=1.0, zorder=1)
    for effect in found:
        _point(axis, effect, effect.estimate, names.index(effect.name), upright=False)
    kinds = {effect.name: effect.kind for effect in found}
    for row, (above, below) in enumerate(itertools.pairwise(names)):
        if kinds.get(above) != kinds.get(below):
            axis.axhline(row + 0.5, color=GREY, linewidth=0.7, linestyle=(0, (2, 3)))
    axis.set_ylim(len(names) - 0.4, -0.6)
    clean_axis(axis)
    axis.grid(visible=False, axis="y")
    confused = {e.name: {k: v for k, v in e.aliases.items() if k.count(TIMES) < 2} for e in found}
    aliases = {name: alias_text(them, 1) for name, them in confused.items() if them}
    axis.set_yticks(range(len(names)), [f"{n}\n{aliases[n]}" if n in aliases else n for n in names])
    axis.tick_params(labelleft=named)
    axis.set_xlabel("effect in points of top-1 accuracy", fontsize=11, color=INK)


def _curve(axis: Axes, effects: Effects, benchmark: str) -> None:
    """Difference to the baseline over the weight, on a logarithmic axis."""
    found = sorted((e for e in effects.on(benchmark) if e.dose is not None), key=lambda e: e.dose or 0.0)
    axis.axhline(0, color=INK, linewidth=1.0, zorder=1)
    axis.plot([e.dose or math.nan for e in found], [e.estimate for e in found], color=GREY, linewidth=1.3, zorder=2)
    for effect in found:
        _point(axis, effect, effect.dose or math.nan, effect.estimate, upright=True)
    axis.set_xscale("log")
    clean_axis(axis)
    axis.set_xticks([e.dose for e in found if e.dose], [f"{e.dose:g}" for e in found])
    axis.set_xticks([], minor=True)
    axis.set_xlabel(f"weight of {effects.plan.design.objective}", fontsize=11, color=INK)
    axis.set_ylabel("points above the baseline", fontsize=11, color=INK)


def _point(axis: Axes, effect: Effect, x: float, y: float, *, upright: bool) -> None:
    colour = CLEAR if effect.distinguishable else UNCLEAR
    bar = None if math.isnan(effect.low) else [[effect.estimate - effect.low], [effect.high - effect.estimate]]
    axis.errorbar(
        x,
        y,
        xerr=None if upright else bar,
        yerr=bar if upright else None,
        fmt="o" if effect.kind != "interaction" else "D",
        markersize=7 if effect.kind != "interaction" else 6,
        markerfacecolor=colour if effect.distinguishable else "white",
        markeredgecolor=colour,
        markeredgewidth=1.4,
        ecolor=colour,
        elinewidth=1.6,
        capsize=3,
        zorder=3,
    )


def _handles(effects: Effects, doses: bool) -> Handles:
    share = f"{1 - effects.level:.0%}"
    shape = {"linestyle": "", "markersize": 7}
    handles = [
        Line2D([], [], marker="o", color=CLEAR, label="more than chance (Holm over the benchmark)", **shape),  # type: ignore[arg-type]
        Line2D([], [], marker="o", color=UNCLEAR, markerfacecolor="white", label="not distinguishable from 0", **shape),  # type: ignore[arg-type]
        Line2D([], [], color=INK, linewidth=1.6, label=f"interval at {share}, of one effect alone"),
    ]
    if not doses and any(effect.kind == "interaction" for effect in effects.effects):
        label = "interaction: gain of the one with the other on, minus with it off"
        handles.append(Line2D([], [], marker="D", color=INK, markerfacecolor="white", label=label, **shape))  # type: ignore[arg-type]
    return handles
