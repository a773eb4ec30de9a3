"""Pictures of a front and of learning curves, drawn without a display and without touching matplotlib's global state.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; every group also has its own marker.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from equipoise.platform.report.plots.labels import Boxes, label_variants
from equipoise.platform.report.plots.style import (
    DPI,
    GREY,
    INK,
    PALETTE,
    PANEL_HEIGHT,
    STYLES,
    WIDTH,
    as_written,
    axis_title,
    clean_axis,
    group_handles,
    group_of,
    save_figure,
)
from equipoise.platform.stats.pareto import front
from equipoise.platform.stats.selection import Selection


@as_written
def plot_front(selection: Selection, path: str | Path, title: str) -> Path:
    """Draw every pair of benchmarks as a panel and save it; the suffix of ``path`` picks PNG, PDF or SVG.

    The stepped line joins the variants that are best for the two benchmarks of its panel; filled points are on the
    front over all benchmarks, which can lie off that line. Bars are one sample standard deviation over seeds. Dashed
    lines are the baseline's means, the tinted corner is where the tolerance admits a variant. Every variant is
    named up to ``MOST_NAMES`` of them, beyond that the dominated ones are not. With one benchmark the variants are
    listed from best to worst.

    Returns:
        The path written; its folder is made where missing.

    Raises:
        PlotError: another suffix.
    """
    pairs = list(itertools.combinations(selection.benchmarks, 2))
    columns = 3 if len(pairs) > 1 else 1
    size = (WIDTH if columns == 3 else WIDTH / 2, PANEL_HEIGHT * max(1, math.ceil(len(pairs) / columns)))
    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout=ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.1))
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.012, ha="left", fontsize=15, color=INK)
    axes = [
        figure.add_subplot(max(1, math.ceil(len(pairs) / columns)), columns, i + 1) for i in range(max(1, len(pairs)))
    ]
    if not pairs:
        _ranking(axes[0], selection)
    for axis, (across, up) in zip(axes, pairs, strict=False):
        _panel(axis, selection, across, up)
    handles = _legend(selection, stepped=bool(pairs))
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=3 if columns == 1 else len(handles) if len(handles) <= 8 else 5,
        frameon=False,
        fontsize=11,
        handletextpad=0.5,
        columnspacing=1.5,
    )
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]  # not annotated in matplotlib
    figure.draw(renderer)
    figure.set_layout_engine("none")  # the panels stay where they are: names are placed in their pixels
    for axis, (across, up) in zip(axes, pairs, strict=False):
        points = {row.variant: (row.means[across], row.means[up]) for row in selection.rows}
        label_variants(axis, renderer, selection, points, _lines(axis, selection, across, up))
    return save_figure(figure, path)


def _span(selection: Selection, benchmark: str) -> tuple[float, float]:
    """Axis limits that hold every mean, its spread and the tolerance, with room for labels."""
    low = [row.means[benchmark] - (row.spread[benchmark] or 0.0) for row in selection.rows]
    high = [row.means[benchmark] + (row.spread[benchmark] or 0.0) for row in selection.rows]
    bottom = min(*low, selection.hypervolume_reference[benchmark] - selection.tolerance[benchmark])
    room = max(max(high) - bottom, 1.0)
    return max(bottom - 0.07 * room, -1.0), min(max(high) + 0.09 * room, 101.0)


def _panel(axis: Axes, selection: Selection, across: str, up: str) -> None:
    """One pair of benchmarks without its labels."""
    x_low, x_high = _span(selection, across)
    y_low, y_high = _span(selection, up)
    axis.set(xlim=(x_low, x_high), ylim=(y_low, y_high))
    axis.set_xlabel(axis_title(across, selection.part), fontsize=12, color=INK)
    axis.set_ylabel(axis_title(up, selection.part), fontsize=12, color=INK)
    clean_axis(axis)
    x_base, y_base = selection.hypervolume_reference[across], selection.hypervolume_reference[up]
    x_edge, y_edge = x_base - selection.tolerance[across], y_base - selection.tolerance[up]
    axis.fill_between([x_edge, x_high], y_edge, y_high, color=PALETTE[2], alpha=0.09, linewidth=0, zorder=0.5)
    axis.axvline(x_base, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    axis.axhline(y_base, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    xs, ys = _stairs(selection, across, up, x_low, y_low)
    axis.step(xs, ys, where="pre", color=PALETTE[0], linewidth=1.3, alpha=0.55, zorder=2)
    for row in selection.rows:
        style = STYLES[group_of(selection, row)]
        axis.errorbar(
            row.means[across],
            row.means[up],
            xerr=row.spread[across],
            yerr=row.spread[up],
            fmt=style.marker,
            markersize=style.size,
            markerfacecolor=style.face,
            markeredgecolor=style.edge,
            markeredgewidth=1.0,
            ecolor=style.edge if style.face == "white" else style.face,
            elinewidth=1.1,
            capsize=2.5,
            zorder=style.layer,
        )


def _stairs(selection: Selection, across: str, up: str, x_low: float, y_low: float) -> tuple[list[float], list[float]]:
    """What is attained on two benchmarks: left of a corner its height holds, right of the last corner nothing does."""
    points = {row.variant: (row.means[across], row.means[up]) for row in selection.rows}
    corners = sorted({points[name] for name in front(points)})
    return [x_low, *(x for x, _ in corners), corners[-1][0]], [corners[0][1], *(y for _, y in corners), y_low]


def _lines(axis: Axes, selection: Selection, across: str, up: str) -> Boxes:
    """Boxes around the lines of a panel that a name should not lie on."""
    (x_low, x_high), (y_low, y_high) = axis.get_xlim(), axis.get_ylim()
    x_base, y_base = selection.hypervolume_reference[across], selection.hypervolume_reference[up]
    segments = [((x_base, y_low), (x_base, y_high)), ((x_low, y_base), (x_high, y_base))]
    xs, ys = _stairs(selection, across, up, x_low, y_low)
    for (x0, y0), (x1, y1) in itertools.pairwise(zip(xs, ys, strict=True)):
        segments += [((x0, y0), (x0, y1)), ((x0, y1), (x1, y1))]
    for row in selection.rows:
        x, y, wide, high = row.means[across], row.means[up], row.spread[across] or 0.0, row.spread[up] or 0.0
        segments += [((x - wide, y), (x + wide, y)), ((x, y - high), (x, y + high))]
    ends = axis.transData.transform(np.reshape(segments, (-1, 2))).reshape(-1, 2, 2)
    return np.hstack([ends.min(axis=1) - 1.5, ends.max(axis=1) + 1.5])


def _ranking(axis: Axes, selection: Selection) -> None:
    """One benchmark only: variants from best to worst."""
    benchmark = selection.benchmarks[0]
    rows = sorted(selection.rows, key=lambda row: row.means[benchmark])
    for place, row in enumerate(rows):
        style = STYLES[group_of(selection, row)]
        axis.errorbar(
            row.means[benchmark],
            place,
            xerr=row.spread[benchmark],
            fmt=style.marker,
            markersize=style.size,
            markerfacecolor=style.face,
            markeredgecolor=style.edge,
            ecolor=GREY,
            capsize=2.5,
            zorder=style.layer,
        )
    base = selection.hypervolume_reference[benchmark]
    axis.axvspan(
        base - selection.tolerance[benchmark], _span(selection, benchmark)[1], color=PALETTE[2], alpha=0.09, linewidth=0
    )
    axis.axvline(base, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    axis.set(xlim=_span(selection, benchmark), ylim=(-0.6, len(rows) - 0.4))
    axis.set_xlabel(axis_title(benchmark, selection.part), fontsize=12, color=INK)
    clean_axis(axis)
    axis.set_yticks(np.arange(len(rows)), [row.variant for row in rows])


def _legend(selection: Selection, *, stepped: bool) -> list[Line2D | Patch]:
    """One entry for each group that is there, then the lines."""
    handles = group_handles(selection, all_named=not stepped)
    if stepped:
        handles.append(Line2D([], [], color=PALETTE[0], alpha=0.55, linewidth=1.3, label="best for the pair"))
    handles.append(Line2D([], [], color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), label="baseline mean"))
    handles.append(Patch(facecolor=PALETTE[2], alpha=0.15, linewidth=0, label="within tolerance"))
    if any(value for row in selection.rows for value in row.spread.values()):
        handles.append(Line2D([], [], color=INK, marker="|", markersize=7, linewidth=1.1, label="± 1 sd over seeds"))
    return handles
