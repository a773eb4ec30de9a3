"""What all plots share: colours, titles, sizes, and how a file is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from equipoise.platform.errors import EquipoiseError
from equipoise.platform.stats.selection import RankedVariant, Selection


def check_suffix(path: str | Path) -> None:
    """Refuse a picture's name before any work is done for it.

    Raises:
        PlotError: for a suffix that cannot be drawn.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise PlotError(
            f"cannot save a picture as {Path(path).name!r}; expected a name ending in {', '.join(SUFFIXES)}"
        )


TITLES = {"diving48": "Diving-48", "ssv2": "SSv2", "imagenet100": "ImageNet-100", "ucf101": "UCF-101"}
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
DASHES = ("-", "--", "-.", ":")
MOST_NAMES = 30  # of variants in a picture, before the dominated ones stay without
MOST_CURVES = len(PALETTE) * len(DASHES)  # that a person can tell apart
WIDTH, PANEL_HEIGHT, DPI = 16.0, 5.6, 100  # inches, inches, dots per inch: 1600 x 560 pixels for three panels

SUFFIXES = (".png", ".pdf", ".svg")
INK, GREY, FAINT = "#222222", "#767676", "#D5D5D5"


as_written = rc_context({"text.parse_math": False})  # what every picture is drawn in: a name with dollars is no formula


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
        legend="never trained (control)", marker="X", size=9, face=PALETTE[3], edge="white", ink=INK, layer=5
    ),
    "baseline": Style(legend="baseline (control)", marker="D", size=8, face=INK, edge="white", ink=INK, layer=5),
    "candidate": Style(
        legend="leading candidate",
        marker="*",
        size=19,
        face=PALETTE[1],
        edge="white",
        ink=PALETTE[1],
        layer=6,
        bold=True,
    ),
}


def axis_title(benchmark: str, part: str) -> str:
    """What an axis of a part of a benchmark says."""
    return f"{TITLES.get(benchmark, benchmark)} {part} top-1 (%)"


def group_of(selection: Selection, row: RankedVariant) -> str:
    """Which style a row is drawn in."""
    if row.control is not None:
        return row.control
    if selection.candidate is not None and row.variant == selection.candidate.variant:
        return "candidate"
    if not row.eligible:
        return "untrained"
    return "front" if row.rank == 0 else "rest"


def clean_axis(axis: Axes) -> None:
    """Two spines, a faint grid below everything."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GREY)
    axis.grid(color=FAINT, linewidth=0.6, alpha=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(colors=INK, labelsize=11, length=3)


def group_handles(selection: Selection, *, all_named: bool = False) -> list[Line2D | Patch]:
    """A legend's entries for the groups of variants that are there; one whose names are left out says so."""
    groups = [group_of(selection, row) for row in selection.rows]
    there = set(groups)
    unnamed = f", {groups.count('rest')} not named" if len(groups) > MOST_NAMES and not all_named else ""
    return [
        Line2D(
            [],
            [],
            linestyle="",
            marker=style.marker,
            markersize=min(style.size, 14),
            markerfacecolor=style.face,
            markeredgecolor=style.edge,
            label=style.legend + (unnamed if name == "rest" else ""),
        )
        for name, style in reversed(STYLES.items())
        if name in there
    ]


def legend_label(name: str) -> str:
    """A name as a legend shows it: Matplotlib leaves out what begins with ``_``; a sign of no width goes before it."""
    return f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as .png, .pdf or .svg.

    Raises:
        PlotError: for another suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise PlotError(f"cannot save a picture as {path.name!r}; expected a name ending in {', '.join(SUFFIXES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path
