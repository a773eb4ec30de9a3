"""Names beside points, placed so that none covers another."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from equipoise.platform.report.plots.style import DPI, GREY, MOST_NAMES, STYLES, group_of
from equipoise.platform.stats.selection import Selection

Array = NDArray[np.float64]
Boxes = NDArray[np.float64]  # [n, 4] in pixels: left, bottom, right, top


def label_variants(
    axis: Axes,
    renderer: RendererAgg,
    selection: Selection,
    points: Mapping[str, tuple[float, float]],
    lines: Boxes,
) -> None:
    """Name points where the name covers least: other markers, names already there, lines, the panel's edge.

    Names come in the order of importance; a name pushed away from its point gets a thin leader line. Where there are
    more than ``MOST_NAMES`` variants the dominated ones stay without.

    Args:
        axis: whose limits and place in the figure are final.
        renderer: of the figure.
        selection: whose variants they are.
        points: variant to its place on the axis.
        lines: what else a name should not lie on.
    """
    order = ("candidate", "baseline", "random_init", "front", "untrained", "rest")
    rows = sorted(selection.rows, key=lambda row: order.index(group_of(selection, row)))
    styles = [STYLES[group_of(selection, row)] for row in rows]
    centres = axis.transData.transform([points[row.variant] for row in rows])
    halves = np.array([style.size * DPI / 72 / 2 * 0.85 for style in styles])[:, None]
    taken = np.vstack([np.hstack([centres - halves, centres + halves]), lines])
    frame = np.array([axis.get_window_extent().extents])
    for row, style, centre, half in zip(rows, styles, centres, halves[:, 0], strict=True):
        if style is STYLES["rest"] and len(rows) > MOST_NAMES:
            continue
        text = axis.annotate(
            row.variant,
            points[row.variant],
            xytext=(0, 0),
            textcoords="offset points",  # not pixels: a PDF has other pixels than the PNG
            color=style.ink,
            fontsize=9.5 if style.face == "white" else 10.5,
            fontweight="bold" if style.bold else "normal",
            zorder=style.layer + 5,
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=2.2, foreground="white", alpha=0.85)],
        )
        extent = text.get_window_extent(renderer)
        size = np.array([extent.width, extent.height]) / 2
        offsets, prices = _places(float(half), size)
        boxes = np.hstack([centre + offsets - size, centre + offsets + size])
        outside = extent.width * extent.height - _overlap(boxes, frame)[:, 0]
        best = int(np.argmin(_overlap(boxes, taken).sum(axis=1) + 3 * outside + prices))
        text.set_position(tuple(offsets[best] * 72 / DPI))
        taken = np.vstack([taken, boxes[best]])
        if np.hypot(*(offsets[best] / (size + half + 8))) > 1.2:
            _leader(axis, centre, offsets[best], float(half), size)


def _places(half: float, size: Array) -> tuple[Array, Array]:
    """Offsets [n, 2] to try for a name of half extents ``size`` and their prices [n]: beside first, then around."""
    offsets, prices = [], []
    for step, gap in enumerate((3.0, 8.0, 16.0, 26.0, 38.0)):
        for turn in range(16):
            angle = 2 * math.pi * turn / 16
            across = math.cos(angle) * (half + size[0] + gap)
            if turn not in (0, 8) and step == 0:
                across = math.copysign(min(abs(across), half + size[0]), across)
            offsets.append((across, math.sin(angle) * (half + size[1] + gap)))
            prices.append(25.0 * step + (0.0 if turn == 0 else 4.0 if turn in (4, 8, 12) else 6.0))
    return np.array(offsets), np.array(prices)


def _overlap(ones: Boxes, others: Boxes) -> Array:
    """Area [n, m] shared by every pair of boxes."""
    sides = np.minimum(ones[:, None, 2:], others[None, :, 2:]) - np.maximum(ones[:, None, :2], others[None, :, :2])
    area: Array = np.maximum(sides, 0.0).prod(axis=2)
    return area


def _leader(axis: Axes, centre: Array, offset: Array, half: float, size: Array) -> None:
    """A hair line from a marker to its name of half extents ``size``."""
    reach = math.hypot(*offset)
    unit = offset / reach
    inside = float((size / np.maximum(np.abs(unit), 1e-6)).min())  # from the name's middle to the edge of its box
    if reach - inside - half < 2:
        return
    ends = axis.transData.inverted().transform([centre + unit * distance for distance in (half, reach - inside)])
    axis.plot(ends[:, 0], ends[:, 1], color=GREY, linewidth=0.5, zorder=2.5)
