"""What a search taught, as tables in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from equipoise.platform.analysis.explanation import Explanation
from equipoise.platform.analysis.interactions import Look
from equipoise.platform.analysis.next_trial import Next
from equipoise.platform.report.explanation import DrawnExplanation
from equipoise.platform.settings.variant import describe
from equipoise.platform.stats.table import Part

MOST_PAIRS = 5


def show_explanation(drawn: DrawnExplanation, console: Console) -> None:
    """Print what matters, what does not add up, and what comes next."""
    found = drawn.content
    own, earlier = int(found.finished.own.sum()), int((~found.finished.own).sum())
    head = f"Search {found.study}: {own} finished trials" + (f", {earlier} of an earlier study" if earlier else "")
    console.print(head, style="bold", highlight=False)
    for one in found.importance:
        top = ", ".join(f"{name} {share:.0%}" for name, share in list(one.shares.items())[:3])
        clear = f"above chance: {', '.join(one.clear)}" if one.clear else "none stands out from chance"
        console.print(
            f"{one.benchmark} {found.part} ({one.evaluator}): {top}; {clear}", highlight=False, soft_wrap=True
        )
    if found.interactions:
        console.print(
            f"Pairs, {found.part} points beyond the sum of each alone, both at their highest weight:", highlight=False
        )
        console.print(_pairs(found))
        shown = f"the first {MOST_PAIRS} of {len(found.interactions)}; " if len(found.interactions) > MOST_PAIRS else ""
        said = f"{shown}bold: more than chance (Holm over a benchmark's pairs)"
        console.print(said, style="dim", highlight=False)
    if found.looks:
        console.print(
            f"Early looks against the end ({found.part} accuracies), correlation over finished trials:", highlight=False
        )
        console.print(_looks(found.looks))
    _show_next(found.next, found.part, console)
    for note in drawn.notes:
        console.print(f"- {note}", highlight=False, markup=False)
    if drawn.picture is not None:
        console.print(f"Plot: {drawn.picture}", highlight=False, soft_wrap=True)


def _pairs(found: Explanation) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1), header_style="bold")
    for name in ("pair", "benchmark", "points", "95 % interval", "trials with both"):
        table.add_column(name, justify="left" if name in ("pair", "benchmark") else "right")
    for one in found.interactions[:MOST_PAIRS]:
        table.add_row(
            f"{one.first}, {one.second}",
            one.benchmark,
            f"{one.estimate:+.2f}",
            f"{one.low:+.2f} to {one.high:+.2f}",
            f"{one.together} of {one.trials}",
            style="bold" if one.clear else None,
        )
    return table


def _looks(found: tuple[Look, ...]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1), header_style="bold")
    for name in ("step", "benchmark", "correlation", "95 % interval", "trials"):
        table.add_column(name, justify="left" if name == "benchmark" else "right")
    for one in found:
        known = one.correlation is not None
        shown = [f"{one.correlation:+.2f}", f"{one.low:+.2f} to {one.high:+.2f}"] if known else ["none", ""]
        clear = one.low is not None and one.low > 0
        table.add_row(str(one.step), one.benchmark, *shown, str(one.trials), style="bold" if clear else None)
    return table


def _show_next(coming: Next, part: Part, console: Console) -> None:
    console.print(f"Next: {coming.name} ({describe(coming.variant)})", style="bold", highlight=False, soft_wrap=True)
    for sentence in coming.why:
        console.print(f"  {sentence}", highlight=False, markup=False, soft_wrap=True)
    for one in coming.expected:
        gain = "" if one.gain is None else f", {one.gain:+.2f} against the baseline"
        trust = f"foretells {one.explained:.0%} of the variance" if one.explained > 0 else "knows no more than the mean"
        console.print(
            f"  {one.benchmark} {part}: one run between {one.low:.2f} and {one.high:.2f} %, about {one.accuracy:.2f}"
            f"{gain} (a model that {trust})",
            highlight=False,
            soft_wrap=True,
        )
    for name, distance, accuracies in coming.nearest:
        scores = ", ".join(f"{benchmark} {value:.2f}" for benchmark, value in accuracies.items())
        console.print(
            f"  near it: {name} ({part} %: {scores}; distance {distance:.2f})", highlight=False, soft_wrap=True
        )
