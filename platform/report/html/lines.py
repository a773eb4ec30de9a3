"""The other charts of a report: parallel coordinates, learning curves and bars, in the manner of `report_charts`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from equipoise.platform.analysis.importance import Importance
from equipoise.platform.analysis.spending import Spending
from equipoise.platform.report.html.charts import (
    LETTER,
    REACH,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Scale,
    groups,
    rows_of,
    scale_of,
)
from equipoise.platform.report.plots.style import DASHES, PALETTE
from equipoise.platform.stats.selection import Selection
from equipoise.platform.stats.uncertainty import Difference

MOST_STYLES = len(PALETTE) * len(DASHES)
SHIFT = 5.0  # between two intervals on one axis
BAR = 9.0
ROW = 30.0


def parallel(selection: Selection, differences: Mapping[tuple[str, str, str], Difference]) -> str:
    """Gains over the baseline on every benchmark, a line per variant, with the intervals of those on the front."""
    kinds = groups(selection)
    rows = rows_of(selection)
    chart = Chart(
        f"Gain over {selection.baseline} in {selection.part} points on {', '.join(selection.benchmarks)}: "
        "a line for each variant"
    )
    left, top, right, bottom = chart.plot
    gains = [gain for row in rows for gain in row.gains.values()]
    shown = [row.variant for row in rows if kinds[row.variant] in ("front", "candidate")]
    y = scale_of(
        gains + _reach(gains, [d for (v, a, _), d in differences.items() if v in shown and a == selection.baseline]),
        bottom,
        top,
    )
    chart.up(y, f"{selection.part} points above {selection.baseline}")
    count = len(selection.benchmarks)
    places = {b: left + (right - left) * (i + 0.5) / count for i, b in enumerate(selection.benchmarks)}
    for benchmark, x in places.items():
        chart.add("line", "axis", x1=x, x2=x, y1=top, y2=bottom)
        chart.text(x, bottom + 20, benchmark, "title")
    chart.add("line", "base", x1=left, x2=right, y1=y(0.0), y2=y(0.0))
    for row in rows:
        kind, name = kinds[row.variant], row.variant
        if name == selection.baseline:
            continue
        points = [f"{places[b]:.2f} {y(row.gains[b]):.2f}" for b in selection.benchmarks]
        if count > 1:
            chart.add("path", f"line {kind}", d="M" + "L".join(points), data_variant=name)
        for benchmark, x in places.items():
            gain = row.gains[benchmark]
            difference = differences.get((name, selection.baseline, benchmark))
            label = f"{name} on {benchmark}: {gain:+.2f} points"
            if difference is not None and math.isfinite(difference.low):
                label += f" ({difference.low:+.2f} to {difference.high:+.2f})"
                if name in shown:
                    at = x + SHIFT * (shown.index(name) - (len(shown) - 1) / 2)
                    low, high = max(difference.low, y.low), min(difference.high, y.high)
                    chart.add("path", f"whisker {kind}", d=f"M{at:.2f} {y(low):.2f}V{y(high):.2f}", data_variant=name)
            chart.mark(x, y(gain), kind, name, label)
    return chart.html()


def volume_for_cost(spent: Spending) -> str:
    """The hypervolume of what was known by then, over what had been spent by then."""
    chart = Chart(f"Hypervolume of what was known by then, over what had been spent by then, in {spent.measure}")
    _, top, _, bottom = chart.plot
    y = scale_of([0.0, *(one.hypervolume for one in spent.trials)], bottom, top)
    x = _spent_axis(chart, spent)
    chart.up(y, "hypervolume")
    steps = "".join(f"H{x(one.spent):.2f}V{y(one.hypervolume):.2f}" for one in spent.trials)
    line = chart.add("path", "curve c2", d=f"M{x(0.0):.2f} {y(0.0):.2f}{steps}")
    last = spent.trials[-1]
    ET.SubElement(line, "title").text = f"{last.hypervolume:.3g} after {last.spent:.3g} {spent.measure}"
    return chart.html()


def gains_for_cost(spent: Spending, selection: Selection) -> str:
    """Each variant's smallest gain over the baseline, where its last score was in."""
    kinds = groups(selection)
    rows = rows_of(selection)
    chart = Chart(
        f"Smallest gain over {selection.baseline} of {len(rows)} variants, over what had been spent when their last "
        f"score was in, in {spent.measure}"
    )
    left, top, right, bottom = chart.plot
    least = {row.variant: min(row.gains.values()) for row in rows}
    y = scale_of(least.values(), bottom, top)
    x = _spent_axis(chart, spent)
    chart.up(y, f"smallest gain over {selection.baseline} (points)")
    chart.add("line", "base", x1=left, x2=right, y1=y(0.0), y2=y(0.0))
    places = {name: (x(spent.where[name]), y(gain)) for name, gain in least.items()}
    for name, (across, up) in places.items():
        label = f"{name}: {least[name]:+.2f} points where it gains least, after {spent.where[name]:.3g} {spent.measure}"
        chart.mark(across, up, kinds[name], name, label)
    chart.names(dict(reversed(places.items())), kinds)
    return chart.html()


def _spent_axis(chart: Chart, spent: Spending) -> Scale:
    """The axis of what had been spent, with what was done twice tinted."""
    left, top, right, bottom = chart.plot
    x = Scale(0.0, 1.05 * spent.total or 1.0, left, right)
    for one in spent.trials:
        if one.lost:
            began = one.spent - one.cost
            wide = x(began + one.lost) - x(began)
            band = chart.add("rect", "lost", x=x(began), y=top, width=wide, height=bottom - top)
            ET.SubElement(band, "title").text = f"{one.trial}: {one.lost:.3g} {spent.measure} done twice"
    chart.across(x, f"spent by then ({spent.measure})")
    return x


def _reach(gains: Sequence[float], drawn: Sequence[Difference]) -> list[float]:
    """Ends of the intervals that are drawn, as far as they leave the gains legible."""
    room = REACH * (max(gains) - min(gains) or 1.0)
    ends = [end for d in drawn if math.isfinite(d.low) for end in (d.low, d.high)]
    return [min(max(end, min(gains) - room), max(gains) + room) for end in ends]


def line_styles(variants: Sequence[str], prominent: Sequence[str]) -> dict[str, str]:
    """A class for each variant's lines: its own for the prominent ones first, as far as they can be told apart."""
    ordered = list(dict.fromkeys([*prominent, *variants]))
    own = ordered if len(ordered) <= len(PALETTE) else list(dict.fromkeys(prominent))[:MOST_STYLES]
    styles = {name: f"c{i % len(PALETTE)} d{i // len(PALETTE)}" for i, name in enumerate(own)}
    return {name: styles.get(name, "other") for name in ordered}


def curves(lines: Sequence[tuple[str, str, Sequence[tuple[int, float]]]], styles: Mapping[str, str], title: str) -> str:
    """Learning curves.

    Args:
        lines: name of the trial, its variant, its (step, value) pairs.
        styles: variant to the class of its lines.
        title: of the vertical axis.
    """
    chart = Chart(f"{title} over training steps, a line for each of {len(lines)} trials")
    left, top, right, bottom = chart.plot
    x = scale_of([step for _, _, points in lines for step, _ in points], left, right, room=0.02)
    y = scale_of([value for _, _, points in lines for _, value in points], bottom, top)
    chart.across(x, "step")
    chart.up(y, title)
    for name, variant, points in sorted(lines, key=lambda line: styles[line[1]] != "other"):
        runs = itertools.groupby(points, key=lambda point: math.isfinite(point[1]))
        drawn = [[f"{x(step):.2f} {y(value):.2f}" for step, value in run] for finite, run in runs if finite]
        path = "".join("M" + "L".join(run) for run in drawn)
        if not path:
            continue
        line = chart.add("path", f"curve {styles[variant]}", d=path, data_variant=variant)
        ET.SubElement(line, "title").text = f"{name}: {points[-1][1]:.3g} at step {points[-1][0]}"
    return chart.html()


def swatch(style: str) -> str:
    """A variant's line alone, for the legend."""
    root = ET.Element("svg", {"viewBox": "0 0 34 12", "class": "swatch", "aria-hidden": "true"})
    ET.SubElement(root, "path", {"class": f"curve {style}", "d": "M1 6H33"})
    return ET.tostring(root, encoding="unicode")


def bars(found: Sequence[Importance]) -> str:
    """Importances on one benchmark: a bar per objective and evaluator, a line where chance reaches."""
    names = list(found[0].shares)
    height = TOP + ROW * len(names) + 46
    chart = Chart(f"Importance of {len(names)} objectives on {found[0].benchmark}", height)
    left = 14.0 + LETTER * max(map(len, names))
    most = max([*(s for one in found for s in one.shares.values()), *(one.chance or 0.0 for one in found)])
    x = Scale(0.0, 1.08 * 100 * most, left, WIDTH - RIGHT)
    chart.plot = (left, TOP, WIDTH - RIGHT, height - 46)
    chart.across(x, "share of the evaluator's total (%)")
    for row, name in enumerate(names):
        y = TOP + ROW * row + 5
        chart.text(left - 7, y + 13, name, "tick", "end")
        for place, one in enumerate(found):
            share = 100 * one.shares.get(name, 0.0)
            kind = f"bar e{place}" + ("" if name in one.clear else " faint")
            bar = chart.add("rect", kind, x=left, y=y + place * (BAR + 1), width=x(share) - left, height=BAR)
            clear = "above chance" if name in one.clear else "within chance"
            ET.SubElement(bar, "title").text = f"{name}, {one.evaluator}: {share:.0f} %, {clear}"
    for place, one in enumerate(found):
        if one.chance is not None:
            at = x(100 * one.chance)
            line = chart.add("line", f"chance e{place}", x1=at, x2=at, y1=TOP, y2=height - 46)
            ET.SubElement(line, "title").text = f"{one.evaluator}: chance reaches {100 * one.chance:.0f} %"
    return chart.html()
