"""Judged claims for the eye: a table on the terminal, with the numbers behind every verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from equipoise.platform.analysis.claims.judge import Finding, Judgement
from equipoise.platform.analysis.claims.scene import REFUTED, SUPPORTED, UNCLEAR, UNTESTABLE
from equipoise.platform.settings.variant import BASELINE

MARKS = {SUPPORTED: "✓", REFUTED: "✗", UNCLEAR: "≈", UNTESTABLE: "?"}
STYLES = {SUPPORTED: "bold green", REFUTED: "bold red", UNCLEAR: "yellow", UNTESTABLE: "cyan"}
FEW = 2  # variants of one check that are shown one by one
Record = Mapping[str, Any]


def show(judgement: Judgement, console: Console, *, details: bool = False) -> None:
    """Print the verdicts, one line a claim, and a sentence that counts them; before that, all numbers on request."""
    console.print(f"Claims of {judgement.source}, judged on {judgement.evidence}", style="bold", highlight=False)
    if details:
        _details(judgement, console)
    for finding in judgement.findings:
        line = Text(f"{finding.claim.id:>3}  ")
        line.append(f"{MARKS[finding.verdict]} {finding.verdict:<20} ", style=STYLES[finding.verdict])
        line.append(f"{finding.claim.title} ({finding.claim.regime})")
        if finding.verdict == UNTESTABLE and finding.missing:
            lacking = dict.fromkeys(phrase.partition(":")[0] for phrase in finding.missing)
            line.append(f"; missing: {', '.join(lacking)}", style="dim")
        console.print(line, no_wrap=True, overflow="ellipsis")
    if not details:
        for note in judgement.notes:
            console.print(f"- {note}", highlight=False)
        console.print("The differences, and what is missing for a verdict: --details", style="dim", highlight=False)
    console.print(judgement.sentence, style="bold", highlight=False)


def _details(judgement: Judgement, console: Console) -> None:
    """Print every verdict with its numbers, and the flags' meanings."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1), header_style="bold", show_lines=False)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("claim, and the differences in points it rests on")
    for finding in judgement.findings:
        verdict = Text(f"{MARKS[finding.verdict]} {finding.verdict}", style=STYLES[finding.verdict])
        table.add_row(str(finding.claim.id), verdict, _cell(finding))
    console.print(table)
    meanings = {f["flag"]: f["meaning"] for finding in judgement.findings for f in finding.flags}
    for flag, meaning in meanings.items():
        console.print(f"! {flag}: {meaning}.", highlight=False)
    for note in judgement.notes:
        console.print(f"- {note}", highlight=False)
    console.print(
        f"[a, b]: interval at {1 - judgement.level:.0%} of one difference; verdicts correct a claim's together (Holm)",
        style="dim",
        highlight=False,
        markup=False,
    )


def _cell(finding: Finding) -> Text:
    cell = Text(finding.claim.title, style="bold")
    cell.append(f" ({finding.claim.regime})", style="dim")
    several = len(finding.numbers) > 1
    for record in finding.numbers:
        mark = f"{MARKS[record['verdict']]} " if several else ""
        line = _line(record)
        if line:
            cell.append(f"\n{mark}{line}", style="not bold")
    if finding.missing:
        cell.append(f"\nmissing: {'; '.join(finding.missing)}", style="not bold")
    for flag in finding.flags:
        cell.append(f"\n! {flag['flag']}: {flag.get('detail') or ', '.join(flag['variants'])}", style="not bold red")
    for note in finding.notes:
        cell.append(f"\n{note}", style="not bold dim")
    return cell


def _line(record: Record) -> str:
    """The numbers of one check; those against a second baseline come after."""
    first, *others = record["against"].values()
    kind = record["check"]
    alone = {"largest": _largest, "balanced": _balanced, "embedding": _embedding}
    if kind in alone:
        return alone[kind](record, first)
    write = {"gain": _gain, "count": _count, "association": _association}[kind]
    text = write(record, first)
    for arm in (arm for arm in others if arm["verdict"] != UNTESTABLE):
        seeds = ", ".join(map(str, arm["baseline_seeds"]))
        text += f"; against baseline of seed {seeds}: {write(record, arm, again=True)}"
    return text


def _published(record: Record, arm: Record) -> str:
    """Whether the published points are found again, where that can be asked."""
    if record["agrees"] is None or record["check"] not in ("gain", "count", "largest"):
        return ""
    if record["agrees"]:
        return " as published"
    claimed = record["claimed"]
    if record["check"] == "gain":
        claimed = " to ".join(f"{v:+.2f}" for v in claimed) if isinstance(claimed, list) else f"{claimed:+.2f}"
    elif record["check"] == "largest":
        claimed = ", ".join(claimed)
    outside = f"; outside: {', '.join(arm['outside'])}" if arm.get("outside") else ""
    return f" (claimed: {claimed}{outside})"


def _gain(record: Record, arm: Record, again: bool = False) -> str:
    shown = arm["comparisons"]
    head = "" if again else f"{record['benchmarks'][0]}: "
    if not shown:
        return ""
    if len(shown) <= FEW:
        points = ", ".join(_points(c) if again else f"{c['variant']} {_points(c)}" for c in shown)
    else:
        values = sorted(c["difference"] for c in shown)
        points = f"{len(shown)} variants {values[0]:+.2f} to {values[-1]:+.2f}"
    return points if again else f"{head}{points}{_published(record, arm)}"


def _largest(record: Record, arm: Record) -> str:
    shown = arm["comparisons"]
    if not shown:
        return ""
    up = arm["direction"] == "up"
    head = (
        f"{record['benchmarks'][0]}: {'highest' if up else 'lowest'} {', '.join(arm['found'])}{_published(record, arm)}"
    )
    nearest = min(shown, key=lambda c: c["difference"] if up else -c["difference"])
    return f"{head}; closest: {nearest['variant']} {_points(nearest)} from {nearest['against']}"


def _count(record: Record, arm: Record, again: bool = False) -> str:
    if not arm["comparisons"]:
        return ""
    lose = "lose" if arm["points"] == 0 else f"lose more than {arm['points']:g}"
    span = f"{arm['at_least']} to {arm['at_most']}" if arm["at_least"] != arm["at_most"] else str(arm["at_least"])
    found = f"{arm['found']} of {arm['of']}"
    if again:
        return f"{found}, by their intervals {span}"
    return f"{record['benchmarks'][0]}: {found} {lose}{_published(record, arm)}, by their intervals {span}"


def _balanced(record: Record, arm: Record) -> str:
    ranked = sorted(arm["smallest_gains"].items(), key=lambda item: item[1]["difference"], reverse=True)
    own = [item for item in ranked if item[0] == record["claimed"]]
    rivals = [item for item in ranked if item[0] != record["claimed"]][:1]
    listed = ", ".join(f"{name} {_points(span)}" for name, span in [*own, *rivals])
    return f"smallest gain, intervals that hold together: {listed}" if listed else ""


def _association(record: Record, arm: Record, again: bool = False) -> str:
    parts = [f"{_points(c)} from {c['against']}" for c in arm["comparisons"] if not again or c["against"] == BASELINE]
    if again:
        return ", ".join(parts).removesuffix(f" from {BASELINE}")
    correlation = arm["rank_correlation"]
    if correlation is not None and correlation["value"] is not None:
        meant = "they move together" if correlation["value"] > 0 else "one against the other"
        parts.append(f"rank correlation with {correlation['benchmarks'][0]} {correlation['value']:+.2f}: {meant}")
    head = (
        f"{record['benchmarks'][0]}: {len(arm['group'])} variants with these objectives, {len(arm['others'])} without"
    )
    return "; ".join([head, *parts])


def _embedding(record: Record, arm: Record) -> str:
    return f"width {'unknown' if arm['found'] is None else arm['found']}, claimed {record['claimed']}"


def _points(span: Record) -> str:
    if span["low"] is None or span["high"] is None:
        return f"{span['difference']:+.2f}"
    return f"{span['difference']:+.2f} [{span['low']:+.2f}, {span['high']:+.2f}]"
