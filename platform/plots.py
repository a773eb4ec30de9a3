"""Pictures of a front and of learning curves, drawn without a display and without touching matplotlib's global state.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; every group also has its own marker.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from equipoise.platform.errors import EquipoiseError
from equipoise.platform.selection import Row, Selection, front

TITLES = {"diving48": "Diving-48", "ssv2": "SSv2", "imagenet100": "ImageNet-100", "ucf101": "UCF-101"}
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
DASHES = ("-", "--", "-.", ":")
MOST_CURVES = len(PALETTE) * len(DASHES)  # that a person can tell apart
WIDTH, PANEL_HEIGHT, DPI = 16.0, 5.6, 100  # inches, inches, dots per inch: 1600 x 560 pixels for three panels
MOST_NAMES = 30
SUFFIXES = (".png", ".pdf", ".svg")
INK, GREY, FAINT = "#222222", "#767676", "#D5D5D5"


Array = NDArray[np.float64]
Boxes = NDArray[np.float64]  # [n, 4] in pixels: left, bottom, right, top


class PlotError(EquipoiseError, ValueError):
    """A picture that cannot be drawn or saved; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one group of variants is drawn; ``size`` in points, ``layer`` orders what covers what."""

    legend: str
    marker: str
    size: float
    face: str
    edge: str
    ink: str
    layer: int
    bold: bool = False


STYLES = {
    "rest": Style(legend="dominated", marker="o", size=5, face="white", edge=GREY, ink=GREY, layer=3),
    "front": Style(
        legend="front (all benchmarks)", marker="o", size=8, face=PALETTE[0], edge="white", ink=INK, layer=4
    ),
    "untrained": Style(
        legend="untrained encoder (flagged)", marker="v", size=7, face="white", edge=PALETTE[4], ink=GREY, layer=4
    ),
    "random_init": Style(
        legend="random_init (control)", marker="X", size=9, face=PALETTE[3], edge="white", ink=INK, layer=5
    ),
    "baseline": Style(legend="baseline (control)", marker="D", size=8, face=INK, edge="white", ink=INK, layer=5),
    "balanced": Style(
        legend="balanced", marker="*", size=19, face=PALETTE[1], edge="white", ink=PALETTE[1], layer=6, bold=True
    ),
}


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
    return _save(figure, path)


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
            label=name,
            color=PALETTE[place % len(PALETTE)],
            linestyle=DASHES[place // len(PALETTE)],
            linewidth=1.8,
            marker="o" if len(points) < 30 else None,
            markersize=4,
        )
    axis.set_title(title, loc="left", fontsize=14, color=INK)
    axis.set_xlabel("step", fontsize=12)
    axis.set_ylabel(ylabel, fontsize=12)
    _clean(axis)
    figure.legend(loc="outside right upper", frameon=False, fontsize=10)
    return _save(figure, path)


def axis_title(benchmark: str) -> str:
    """What an axis of a benchmark says."""
    return f"{TITLES.get(benchmark, benchmark)} top-1 (%)"


def group_of(selection: Selection, row: Row) -> str:
    """Which style a row is drawn in."""
    if row.control is not None:
        return row.control
    if selection.balanced is not None and row.variant == selection.balanced.variant:
        return "balanced"
    if not row.eligible:
        return "untrained"
    return "front" if row.rank == 0 else "rest"


def _clean(axis: Axes) -> None:
    """Two spines, a faint grid below everything."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GREY)
    axis.grid(color=FAINT, linewidth=0.6, alpha=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(colors=INK, labelsize=11, length=3)


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
    axis.set_xlabel(axis_title(across), fontsize=12, color=INK)
    axis.set_ylabel(axis_title(up), fontsize=12, color=INK)
    _clean(axis)
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
    order = ("balanced", "baseline", "random_init", "front", "untrained", "rest")
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
    axis.set_xlabel(axis_title(benchmark), fontsize=12, color=INK)
    _clean(axis)
    axis.set_yticks(np.arange(len(rows)), [row.variant for row in rows])


def group_handles(selection: Selection) -> list[Line2D | Patch]:
    """A legend's entries for the groups of variants that are there."""
    there = {group_of(selection, row) for row in selection.rows}
    return [
        Line2D(
            [],
            [],
            linestyle="",
            marker=style.marker,
            markersize=min(style.size, 14),
            markerfacecolor=style.face,
            markeredgecolor=style.edge,
            label=style.legend,
        )
        for name, style in reversed(STYLES.items())
        if name in there
    ]


def _legend(selection: Selection, *, stepped: bool) -> list[Line2D | Patch]:
    """One entry for each group that is there, then the lines."""
    handles = group_handles(selection)
    if stepped:
        handles.append(Line2D([], [], color=PALETTE[0], alpha=0.55, linewidth=1.3, label="best for the pair"))
    handles.append(Line2D([], [], color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), label="baseline mean"))
    handles.append(Patch(facecolor=PALETTE[2], alpha=0.15, linewidth=0, label="within tolerance"))
    if any(value for row in selection.rows for value in row.spread.values()):
        handles.append(Line2D([], [], color=INK, marker="|", markersize=7, linewidth=1.1, label="± 1 sd over seeds"))
    return handles


def _save(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise PlotError(f"cannot save a picture as {path.name!r}; expected a name ending in {', '.join(SUFFIXES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path
