"""Curves of training, one line for each variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from equipoise.platform.report.plots.style import (
    DASHES,
    DPI,
    INK,
    MOST_CURVES,
    PALETTE,
    PlotError,
    as_written,
    clean_axis,
    legend_label,
    save_figure,
)


@as_written
def plot_curves(curves: Mapping[str, Sequence[tuple[int, float]]], path: str | Path, ylabel: str, title: str) -> Path:
    """Draw learning curves: name to (step, value) pairs, up to 32 told apart by colour and dash.

    A value that is not finite leaves a gap.

    Raises:
        PlotError: no curve, an empty one, more than 32, or a suffix other than PNG, PDF or SVG.
    """
    if not 1 <= len(curves) <= MOST_CURVES:
        raise PlotError(f"{len(curves)} curves were given; expected 1 to {MOST_CURVES}: draw several pictures")
    empty = [name for name, points in curves.items() if not points]
    if empty:
        raise PlotError(f"the curve {', '.join(empty)} has no points; leave it out")
    figure = Figure(figsize=(9.0, 5.0), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    for place, (name, points) in enumerate(curves.items()):
        steps, values = zip(*sorted(points), strict=True)
        axis.plot(
            steps,
            values,
            label=legend_label(name),
            color=PALETTE[place % len(PALETTE)],
            linestyle=DASHES[place // len(PALETTE)],
            linewidth=1.8,
            marker="o" if len(points) < 30 else None,
            markersize=4,
        )
    axis.set_title(title, loc="left", fontsize=14, color=INK)
    axis.set_xlabel("step", fontsize=12)
    axis.set_ylabel(ylabel, fontsize=12)
    clean_axis(axis)
    figure.legend(loc="outside right upper", frameon=False, fontsize=10)
    return save_figure(figure, path)
