"""A forest plot: every study of every mix, and what they say together."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from equipoise.platform.analysis.pooling import UNCLEAR, PooledMix, Pooling
from equipoise.platform.report.plots.style import (
    GREY,
    INK,
    PALETTE,
    TITLES,
    as_written,
    check_suffix,
    clean_axis,
    legend_label,
    save_figure,
)

LINE, LETTER, PANEL = 0.2, 0.085, 3.4  # inches of a study's line, of a name's letter, of a panel's width
HEAD, FOOT = 0.9, 1.2  # inches above and below the panels
MARKERS = "os^vPX<>"


@as_written
def plot_forest(found: Pooling, path: Path, title: str) -> Path:
    """Draw one panel for each benchmark: of a mix a small mark for each study, and below them the pooled interval.

    Args:
        found: the studies.
        path: the picture, ending in .png, .pdf or .svg.
        title: above it.

    Raises:
        PlotError: the ending is another.
    """
    check_suffix(path)
    every = (*found.mixes, *found.untrained)
    names = list(dict.fromkeys(one.name for one in every))
    step = len(found.studies) + 1.6
    body, left = LINE * step * max(1, len(names)), 0.4 + LETTER * max([8, *map(len, names)])
    width, height = left + PANEL * len(found.benchmarks), HEAD + body + FOOT
    figure = Figure(figsize=(width, height))
    figure.text(0.2 / width, 1 - 0.3 / height, title, fontsize=13, color=INK, va="center")
    axes = figure.subplots(1, len(found.benchmarks), squeeze=False, sharey=True)[0]
    figure.subplots_adjust(
        left=left / width, right=1 - 0.2 / width, top=1 - HEAD / height, bottom=FOOT / height, wspace=0.08
    )
    for axis, benchmark in zip(axes, found.benchmarks, strict=True):
        axis.axvline(0, color=INK, linewidth=1.0, zorder=1)
        for one in every:
            if one.benchmark == benchmark:
                _mix(axis, one, found, names.index(one.name) * step)
        clean_axis(axis)
        axis.grid(visible=False, axis="y")
        axis.set_title(f"{TITLES.get(benchmark, benchmark)} {found.part}", loc="left", fontsize=11, color=INK)
        axis.set_xlabel("points above the baseline", fontsize=10, color=INK)
        axis.set_yticks([row * step + (step - 1.6) / 2 for row in range(len(names))], names)
        axis.set_ylim(len(names) * step - 0.8, -0.8)
        axis.tick_params(axis="y", length=0)
    figure.legend(handles=_handles(found), loc="lower left", ncols=3, frameon=False, fontsize=9)
    return save_figure(figure, path)


def _mix(axis: Axes, one: PooledMix, found: Pooling, top: float) -> None:
    for at, study in enumerate(found.studies):
        difference = one.studies.get(study.name)
        if difference is not None:
            if not math.isnan(difference.low):
                axis.hlines(top + at, difference.low, difference.high, color=GREY, linewidth=1)
            marker = MARKERS[at % len(MARKERS)]
            axis.plot(difference.estimate, top + at, marker, color="white", markeredgecolor=GREY, markersize=5)
    if one.pooled is not None:
        clear = one.verdict != UNCLEAR
        colour, below = PALETTE[0] if clear else INK, top + len(found.studies)
        axis.hlines(below, one.pooled.low, one.pooled.high, color=colour, linewidth=2.2)
        face = colour if clear else "white"
        axis.plot(one.pooled.estimate, below, "D", markersize=6, markerfacecolor=face, markeredgecolor=colour)


def _handles(found: Pooling) -> list[Line2D]:
    marks = [MARKERS[at % len(MARKERS)] for at in range(len(found.studies))]
    studies = [
        Line2D([], [], color=GREY, marker=mark, markerfacecolor="white", label=legend_label(study.name))
        for mark, study in zip(marks, found.studies, strict=True)
    ]
    return [
        *studies,
        Line2D([], [], color=PALETTE[0], marker="D", label="pooled, more than chance"),
        Line2D([], [], color=INK, marker="D", markerfacecolor="white", label="pooled, not distinguishable"),
    ]
