"""Charts of a report as inline SVG: no script, no font, no colour of their own.

Colours and line styles come from the page's style sheet through classes, so that a chart follows light, dark and print;
every mark carries a ``<title>`` with its numbers, and its variant's name in ``data-variant``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from matplotlib.ticker import MaxNLocator

from equipoise.platform.report.plots.style import axis_title, group_of
from equipoise.platform.stats.pareto import front
from equipoise.platform.stats.selection import RankedVariant, Selection
from equipoise.platform.stats.verdict import listed

WIDTH, HEIGHT = 460.0, 350.0  # a column of the page on a desk, the whole width of a phone
LEFT, RIGHT, TOP, BOTTOM = 60.0, 14.0, 14.0, 46.0
LETTER = 6.9  # mean width of a letter of a label
LINE = 14.0  # height of a label
MOST_NAMES = 14
FAR = 2.0  # spans of the variants that matter, beyond which a dominated one would squeeze them into a corner
REACH = 0.6  # share of the means' span that intervals may add at either end of an axis
ORDER = ("rest", "untrained", "front", "random_init", "baseline", "candidate")  # what covers what
Span = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Scale:
    """A linear axis from ``low`` to ``high``, drawn from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values within the axis."""
        found = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        return [float(v) for v in found if self.low <= v <= self.high]


def scale_of(values: Iterable[float], start: float, end: float, room: float = 0.07) -> Scale:
    """An axis with room around finite values."""
    known = [v for v in values if math.isfinite(v)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    gap = room * (high - low) or max(abs(high) * 0.1, 0.5)
    return Scale(low - gap, high + gap, start, end)


class Chart:
    """An SVG picture with one pair of axes.

    Args:
        label: what it shows, for those who cannot see it.
        height: in units of the view box.
    """

    def __init__(self, label: str, height: float = HEIGHT) -> None:
        view = f"0 0 {WIDTH:g} {height:g}"
        self.root = ET.Element("svg", {"viewBox": view, "role": "img", "aria-label": label, "class": "chart"})
        self.height = height
        self.plot: Box = (LEFT, TOP, WIDTH - RIGHT, height - BOTTOM)

    def add(self, tag: str, kind: str, parent: ET.Element | None = None, **attributes: object) -> ET.Element:
        """An element; numbers are rounded, ``_`` in a name stands for ``-``."""
        plain = {k.replace("_", "-"): f"{v:.2f}" if isinstance(v, float) else str(v) for k, v in attributes.items()}
        return ET.SubElement(self.root if parent is None else parent, tag, {"class": kind, **plain})

    def text(self, x: float, y: float, words: str, kind: str = "tick", anchor: str = "middle") -> None:
        """A label."""
        self.add("text", kind, x=x, y=y, text_anchor=anchor).text = words

    def across(self, scale: Scale, title: str) -> None:
        """The horizontal axis."""
        left, top, right, bottom = self.plot
        for value in scale.ticks():
            self.add("line", "grid", x1=scale(value), x2=scale(value), y1=top, y2=bottom)
            self.text(scale(value), bottom + 17, f"{value:g}")
        self.add("line", "axis", x1=left, x2=right, y1=bottom, y2=bottom)
        self.text((left + right) / 2, bottom + 38, title, "title")

    def up(self, scale: Scale, title: str) -> None:
        """The vertical axis."""
        left, top, right, bottom = self.plot
        for value in scale.ticks():
            self.add("line", "grid", x1=left, x2=right, y1=scale(value), y2=scale(value))
            self.text(left - 7, scale(value) + 4.5, f"{value:g}", anchor="end")
        self.add("line", "axis", x1=left, x2=left, y1=top, y2=bottom)
        middle = (top + bottom) / 2
        self.add(
            "text", "title", x=12, y=middle, text_anchor="middle", transform=f"rotate(-90 12 {middle:g})"
        ).text = title

    def mark(self, x: float, y: float, group: str, variant: str, label: str) -> None:
        """A variant's marker: the shape, not only the colour, tells its group."""
        point = self.add("path", f"mark {group}", d=_shape(group, x, y), data_variant=variant)
        ET.SubElement(point, "title").text = label

    def names(self, points: Mapping[str, Span], kinds: Mapping[str, str]) -> None:
        """Names beside their points where nothing is covered; the dominated ones only where all find room."""
        taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y in points.values()]
        named = 0
        left, top, right, bottom = self.plot
        for variant, (x, y) in points.items():
            minor = kinds[variant] in ("rest", "untrained")
            if minor and len(points) > MOST_NAMES:
                continue
            wide = LETTER * len(variant)
            spots = [(x + 10, y + 4.5, "start"), (x - 10, y + 4.5, "end"), (x, y - 11, "middle"), (x, y + 20, "middle")]
            spots += [(x + 8, y - 9, "start"), (x - 8, y - 9, "end"), (x + 8, y + 18, "start"), (x - 8, y + 18, "end")]
            prices = []
            for across, baseline, anchor in spots:
                begin = across - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
                box = (begin, baseline - LINE + 3, begin + wide, baseline + 3)
                outside = (
                    max(left - box[0], 0) + max(box[2] - right, 0) + max(top - box[1], 0) + max(box[3] - bottom, 0)
                )
                prices.append(
                    (sum(_shared(box, other) for other in taken) + 40 * outside, box, (across, baseline, anchor))
                )
            price, box, (across, baseline, anchor) = min(prices, key=lambda p: p[0])
            if price > (0.1 if minor else 0.5) * wide * LINE:
                continue  # it would hide another name: the marker's title and the table have it
            taken.append(box)
            named += 1
            self.add(
                "text", f"name {kinds[variant]}", x=across, y=baseline, text_anchor=anchor, data_variant=variant
            ).text = variant
        if named < len(points):
            self.text(right, top - 6, f"{len(points) - named} of {len(points)} not named: point at them", anchor="end")

    def html(self) -> str:
        """The picture as it stands in a page."""
        return ET.tostring(self.root, encoding="unicode")


def _shape(group: str, x: float, y: float) -> str:
    if group == "candidate":
        turns = [math.pi * (i / 5 - 0.5) for i in range(10)]
        points = [(11 if i % 2 == 0 else 4.6, turn) for i, turn in enumerate(turns)]
        return _polygon([(x + r * math.cos(a), y + r * math.sin(a)) for r, a in points])
    if group == "baseline":
        return _polygon([(x, y - 7), (x + 7, y), (x, y + 7), (x - 7, y)])
    if group == "random_init":
        corners = [(0, -2.6), (4, -6.6), (6.6, -4), (2.6, 0), (6.6, 4), (4, 6.6), (0, 2.6)]
        corners += [(-4, 6.6), (-6.6, 4), (-2.6, 0), (-6.6, -4), (-4, -6.6)]
        return _polygon([(x + dx, y + dy) for dx, dy in corners])
    if group == "untrained":
        return _polygon([(x - 6, y - 5), (x + 6, y - 5), (x, y + 6)])
    r = 5.2 if group == "front" else 4.2
    return f"M{x - r:.2f} {y:.2f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"


def _polygon(points: Sequence[Span]) -> str:
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points) + "z"


def marker(group: str) -> str:
    """A group's marker alone, for the legend."""
    root = ET.Element("svg", {"viewBox": "0 0 24 24", "class": "key", "aria-hidden": "true"})
    ET.SubElement(root, "path", {"class": f"mark {group}", "d": _shape(group, 12, 12)})
    return ET.tostring(root, encoding="unicode")


def groups(selection: Selection) -> dict[str, str]:
    """Variant to the group it is drawn in."""
    return {row.variant: group_of(selection, row) for row in selection.rows}


def spoken(row: RankedVariant, means: Mapping[tuple[str, str], Span]) -> str:
    """A variant's accuracies in a sentence."""
    parts = []
    for benchmark, mean in row.means.items():
        low, high = means[row.variant, benchmark]
        known = f" ({low:.2f} to {high:.2f})" if math.isfinite(low) else ""
        parts.append(f"{benchmark} {mean:.2f} %{known}")
    seeds = f"{len(row.seeds)} seeds" if len(row.seeds) > 1 else "one seed"
    return f"{row.variant}, {seeds}: {', '.join(parts)}"


def outside(selection: Selection) -> tuple[str, ...]:
    """Dominated variants so far below the others on some benchmark that the charts leave them to the table."""
    kinds = groups(selection)
    minor = [row for row in selection.rows if kinds[row.variant] in ("rest", "untrained")]
    major = [row for row in selection.rows if row not in minor]
    limits = {}
    for benchmark in selection.benchmarks:
        values = [row.means[benchmark] for row in major]
        limits[benchmark] = min(values) - FAR * max(max(values) - min(values), selection.tolerance[benchmark], 1.0)
    return tuple(row.variant for row in minor if any(row.means[b] < limit for b, limit in limits.items()))


def rows_of(selection: Selection) -> list[RankedVariant]:
    """The variants a chart shows, the prominent ones last, so that they lie on top."""
    kinds, far = groups(selection), outside(selection)
    return sorted(
        (row for row in selection.rows if row.variant not in far), key=lambda row: ORDER.index(kinds[row.variant])
    )


def pair(selection: Selection, means: Mapping[tuple[str, str], Span], across: str, up: str) -> str:
    """Two benchmarks against each other, with the interval of every mean."""
    kinds = groups(selection)
    rows = rows_of(selection)
    chart = Chart(
        f"{up} against {across}: {len(rows)} variants; on the front over all benchmarks: {listed(selection.front)}"
    )
    left, top, right, bottom = chart.plot
    x = scale_of(_ends(rows, selection, means, across), left, right)
    y = scale_of(_ends(rows, selection, means, up), bottom, top)
    x_base, y_base = selection.hypervolume_reference[across], selection.hypervolume_reference[up]
    x_edge, y_edge = x(x_base - selection.tolerance[across]), y(y_base - selection.tolerance[up])
    chart.add("rect", "allowed", x=x_edge, y=top, width=right - x_edge, height=y_edge - top)
    chart.across(x, axis_title(across, selection.part))
    chart.up(y, axis_title(up, selection.part))
    chart.add("line", "base", x1=x(x_base), x2=x(x_base), y1=top, y2=bottom)
    chart.add("line", "base", x1=left, x2=right, y1=y(y_base), y2=y(y_base))
    corners = {row.variant: (row.means[across], row.means[up]) for row in rows}
    best = sorted({corners[name] for name in front(corners)})
    steps = f"M{left:.2f} {y(best[0][1]):.2f}" + "".join(f"H{x(a):.2f}V{y(b):.2f}" for a, b in _falling(best, y.low))
    chart.add("path", "stairs", d=steps)
    for row in rows:
        for d in _whiskers(row, means, (across, up), x, y):
            chart.add("path", f"whisker {kinds[row.variant]}", d=d, data_variant=row.variant)
    for row in rows:
        chart.mark(x(row.means[across]), y(row.means[up]), kinds[row.variant], row.variant, label=spoken(row, means))
    chart.names({r.variant: (x(r.means[across]), y(r.means[up])) for r in rows[::-1]}, kinds)
    return chart.html()


def _falling(best: Sequence[Span], floor: float) -> list[Span]:
    """Right to each corner, then down to the next one's height."""
    return [(a, best[i + 1][1] if i + 1 < len(best) else floor) for i, (a, _) in enumerate(best)]


def _ends(
    rows: Sequence[RankedVariant], selection: Selection, means: Mapping[tuple[str, str], Span], benchmark: str
) -> list[float]:
    """What an axis must hold: means, and intervals as far as they do not squeeze the means into a corner."""
    values = [row.means[benchmark] for row in rows]
    values.append(selection.hypervolume_reference[benchmark] - selection.tolerance[benchmark])
    room = REACH * (max(values) - min(values) or 1.0)
    ends = [end for row in rows for end in means[row.variant, benchmark] if math.isfinite(end)]
    return values + [min(max(end, min(values) - room), max(values) + room, 100.0) for end in ends]


def _whiskers(
    row: RankedVariant, means: Mapping[tuple[str, str], Span], pair_: tuple[str, str], x: Scale, y: Scale
) -> list[str]:
    """Interval of a mean along both axes, cut where the axis ends."""
    found = []
    across, up = pair_
    low, high = means[row.variant, across]
    if math.isfinite(low):
        at = y(row.means[up])
        found.append(f"M{x(max(low, x.low)):.2f} {at:.2f}H{x(min(high, x.high)):.2f}")
    low, high = means[row.variant, up]
    if math.isfinite(low):
        at = x(row.means[across])
        found.append(f"M{at:.2f} {y(max(low, y.low)):.2f}V{y(min(high, y.high)):.2f}")
    return found


def _shared(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(high, 0.0)
