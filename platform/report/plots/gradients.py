"""An audit for the eye: the heat map of its cosines, and its tables in a terminal."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from equipoise.platform.report.plots.style import DPI, FAINT, GREY, INK, PALETTE, as_written, check_suffix
from equipoise.platform.trial.audit import AuditResult

CELL = 0.44  # inches

COLOURS = "RdBu"  # red: against each other, blue: together
DEAD_INK = PALETTE[1]


@as_written
def heatmap(result: AuditResult, path: str | Path) -> Path:
    """Draw the cosines between all gradients on the encoder; rows and columns of dead objectives are marked.

    Args:
        result: the audit.
        path: the picture, .png, .pdf or .svg.

    Returns:
        The path.

    Raises:
        PlotError: for another suffix.
    """
    check_suffix(path)
    n = len(result.names)
    side = max(3.4, CELL * n)
    figure = Figure(
        figsize=(side + 3.4, side + 2.4), layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15), facecolor="white"
    )
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    shown = np.ma.masked_invalid(result.cosine)
    axis.set_facecolor(FAINT)
    image = axis.imshow(shown, cmap=COLOURS, vmin=-1, vmax=1)
    for i in range(n):
        for j in range(n):
            cosine = result.cosine[i, j]
            text = hundredths(cosine) if math.isfinite(cosine) else "–"
            ink = "white" if math.isfinite(cosine) and abs(cosine) > 0.6 else INK
            axis.text(j, i, text, ha="center", va="center", fontsize=7.5, color=ink)
    axis.set_xticks(range(n), list(result.names), rotation=60, ha="right", rotation_mode="anchor", fontsize=9)
    axis.set_yticks(range(n), list(result.names), fontsize=9)
    axis.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1)
    axis.tick_params(which="both", length=0, colors=INK)
    axis.spines[:].set_visible(False)
    dead = {o.name for o in result.dead}
    for label in (*axis.get_xticklabels(), *axis.get_yticklabels()):
        if label.get_text() in dead:
            label.set(color=DEAD_INK, fontweight="bold")
    bar = figure.colorbar(image, ax=axis, shrink=0.7, aspect=30, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=9, colors=GREY)
    about = f"{result.variant}, {result.reading}, seed {result.seed}"
    title = f"Cosine between gradients on the encoder, in hundredths\n{about}"
    figure.suptitle(title, x=0.02, ha="left", fontsize=11, color=INK)
    if dead:
        figure.supxlabel(
            "orange: dead; grey cells: no gradient on the encoder", fontsize=8.5, color=GREY, x=0.02, ha="left"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path


def hundredths(cosine: float) -> str:
    """A cosine in whole hundredths, as it stands in a cell."""
    return f"{round(100 * cosine):d}"
