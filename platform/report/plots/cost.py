"""A picture of what a study gained for its cost: hypervolume and gains against what had been spent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from equipoise.platform.analysis.spending import Spending
from equipoise.platform.report.plots.labels import Boxes, label_variants
from equipoise.platform.report.plots.style import (
    DPI,
    GREY,
    INK,
    PALETTE,
    STYLES,
    as_written,
    clean_axis,
    group_handles,
    group_of,
    legend_label,
    save_figure,
)
from equipoise.platform.stats.selection import Selection

SIZE = (10.0, 7.6)  # inches
LOST = PALETTE[4]


@as_written
def plot_cost(spending: Spending, selection: Selection, path: str | Path, title: str) -> Path:
    """Draw a study's gains against its cost, and save; the suffix of ``path`` picks PNG, PDF or SVG.

    Across, what the study had spent by the end of each trial, all its trials and work done twice included. Above, the
    hypervolume of what was known by then. Below, each variant where its last score was in, at its smallest gain over
    the baseline. Tinted: work that was lost and done again.

    Returns:
        The path written.

    Raises:
        PlotError: another suffix.
    """
    figure = Figure(figsize=SIZE, dpi=DPI, facecolor="white", layout=ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.1))
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.012, ha="left", fontsize=14, color=INK)
    volume = figure.add_subplot(2, 1, 1)
    gains = figure.add_subplot(2, 1, 2, sharex=volume)
    spent = [0.0, *(one.spent for one in spending.trials)]
    volumes = [0.0, *(one.hypervolume for one in spending.trials)]
    volume.step(spent, volumes, where="post", color=PALETTE[0], linewidth=1.8)
    volume.set_ylabel("hypervolume", fontsize=12, color=INK)
    volume.set_ylim(bottom=min(0.0, *volumes))
    volume.tick_params(labelbottom=False)
    points = {row.variant: (spending.where[row.variant], min(row.gains.values())) for row in selection.rows}
    gains.axhline(0, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    for row in selection.rows:
        style = STYLES[group_of(selection, row)]
        gains.plot(
            *points[row.variant],
            linestyle="",
            marker=style.marker,
            markersize=style.size,
            markerfacecolor=style.face,
            markeredgecolor=style.edge,
            zorder=style.layer,
        )
    gains.set_ylabel("smallest gain (points)", fontsize=12, color=INK)
    gains.set_xlabel(f"spent by then ({spending.measure})", fontsize=12, color=INK)
    gains.set_xlim(0.0, 1.06 * spending.total or 1.0)
    gains.margins(y=0.12)
    for axis in (volume, gains):
        clean_axis(axis)
        for one in spending.trials:
            if one.lost:
                axis.axvspan(one.spent - one.cost, one.spent - one.cost + one.lost, color=LOST, alpha=0.25, linewidth=0)
    handles = group_handles(selection)
    handles.append(
        Line2D([], [], color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), label=legend_label(selection.baseline))
    )
    if spending.lost:
        handles.append(Patch(facecolor=LOST, alpha=0.25, linewidth=0, label="work done twice"))
    figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False, fontsize=10.5)
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]  # not annotated in matplotlib
    figure.draw(renderer)
    figure.set_layout_engine("none")  # the panels stay where they are: names are placed in their pixels
    label_variants(gains, renderer, selection, points, _level(gains))
    return save_figure(figure, path)


def _level(axis: Axes) -> Boxes:
    """A box around the line of no gain."""
    ends = axis.transData.transform([(axis.get_xlim()[0], 0.0), (axis.get_xlim()[1], 0.0)])
    return np.hstack([ends.min(axis=0) - 1.5, ends.max(axis=0) + 1.5])[None]
