"""A picture of a search in slices: the weight of each objective against the accuracy on each benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from equipoise.platform.analysis.interactions import Finished
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
from equipoise.platform.settings.axes import Range
from equipoise.platform.stats.pareto import nondominated
from equipoise.platform.stats.table import Part, heading

MOST_SLICES = 8
PANEL = (2.6, 2.3)  # inches
SPREAD = 0.06  # of the width in which points of "off" lie side by side
OFF = -0.22  # where "off" is, left of the range that ends at 0 and 1


@as_written
def plot_slices(
    found: Finished,
    ranges: Mapping[str, Range],
    path: str | Path,
    title: str,
    *,
    part: Part,
    objectives: Sequence[str] | None = None,
    baseline: Mapping[str, float] | None = None,
) -> Path:
    """Draw a panel for each objective and benchmark, and save; the suffix of ``path`` picks PNG, PDF or SVG.

    A point is a finished trial: across, the objective's weight on a logarithmic axis, with the trials that have it off
    on the left; up, the accuracy. Everything else differs from point to point, so a trend may be another objective's.
    Filled points are on the search's own front, hollow squares come from an earlier study, dashed lines are the
    baseline's means.

    Args:
        found: the finished trials.
        ranges: search range of every objective.
        path: the picture.
        title: its heading.
        part: of the benchmarks, what the accuracies were taken on.
        objectives: which ones, at most ``MOST_SLICES``; default: those with the most trials on.
        baseline: accuracies of the baseline in percent.

    Returns:
        The path written.

    Raises:
        PlotError: no finished trial, or another suffix.
    """
    if not found.names:
        raise PlotError("there is no finished trial to draw: run more of the search")
    on = (found.doses > 0).sum(axis=0)
    most = [found.objectives[i] for i in np.argsort(-on, kind="stable")]
    shown = list(objectives or most)[:MOST_SLICES]
    rows, columns = len(found.benchmarks), len(shown)
    size = (max(1.2 + PANEL[0] * columns, 7.0), 1.5 + PANEL[1] * rows)
    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.012, ha="left", fontsize=14, color=INK)
    front = np.zeros(len(found.names), dtype=bool)
    front[found.own] = nondominated(found.values[found.own]) if found.own.any() else False
    for row, benchmark in enumerate(found.benchmarks):
        first: Axes | None = None
        for column, name in enumerate(shown):
            axis = figure.add_subplot(rows, columns, row * columns + column + 1, sharey=first)
            first = first or axis
            _slice(axis, found, name, benchmark, ranges[name], front)
            if baseline is not None and benchmark in baseline:
                axis.axhline(baseline[benchmark], color=INK, linewidth=1.0, linestyle=(0, (5, 3)), zorder=1)
            if row == 0:
                axis.set_title(name, loc="left", fontsize=11, color=INK)
            axis.tick_params(labelleft=column == 0, labelbottom=row == rows - 1)
        assert first is not None
        first.set_ylabel(heading(TITLES.get(benchmark, benchmark), part), fontsize=11, color=INK)
    figure.align_ylabels()
    figure.supxlabel("weight (logarithmic)", fontsize=11, color=INK)
    figure.legend(handles=_handles(found, baseline), loc="outside lower left", ncols=4, frameon=False, fontsize=10)
    return save_figure(figure, path)


def _slice(axis: Axes, found: Finished, name: str, benchmark: str, r: Range, front: NDArray[np.bool_]) -> None:
    values = found.values[:, found.benchmarks.index(benchmark)]
    weights = [mix.objectives[name].weight if name in mix.objectives else None for mix in found.variants]
    # Points that are off would lie on one another: they are spread by their place in the search.
    across = np.array(
        [
            OFF + SPREAD * (2 * i / max(1, len(weights) - 1) - 1)
            if w is None
            else math.log(w / r.low) / math.log(r.high / r.low)
            for i, w in enumerate(weights)
        ]
    )
    own = found.own
    for chosen, marker, face, edge, layer in (
        (~own, "s", "none", GREY, 2),
        (own & ~front, "o", "white", GREY, 3),
        (own & front, "o", PALETTE[0], "white", 4),
    ):
        axis.scatter(
            across[chosen], values[chosen], s=26, marker=marker, facecolors=face, edgecolors=edge, zorder=layer
        )
    clean_axis(axis)
    axis.axvline(OFF / 2, color=GREY, linewidth=0.7, linestyle=(0, (2, 3)))
    axis.set_xlim(OFF - 0.12, 1.06)
    axis.set_xticks([OFF, 0.0, 1.0], ["off", f"{r.low:g}", f"{r.high:g}"])


def _handles(found: Finished, baseline: Mapping[str, float] | None) -> list[Line2D]:
    handles = [
        Line2D(
            [], [], marker="o", linestyle="", color="white", markerfacecolor=PALETTE[0], label="on the search's front"
        ),
        Line2D([], [], marker="o", linestyle="", color=GREY, markerfacecolor="white", label="dominated"),
    ]
    if not found.own.all():
        handles.append(
            Line2D([], [], marker="s", linestyle="", color=GREY, markerfacecolor="none", label="from an earlier study")
        )
    if baseline is not None:
        handles.append(Line2D([], [], color=INK, linewidth=1.0, linestyle=(0, (5, 3)), label="baseline"))
    return handles
