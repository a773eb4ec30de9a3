"""A replication as a table in the terminal."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console
from rich.table import Table

from equipoise.platform.analysis.replication import REFUTED, REPLICATED, Replication
from equipoise.platform.report.tables.width import make_room

STYLES = {REPLICATED: "bold green", REFUTED: "bold red"}


def show_replication(found: Replication, console: Console) -> None:
    """Print every difference beside its repetition, then what they come to."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("variant", no_wrap=True)
    table.add_column("benchmark", no_wrap=True)
    for head in ("study", "fresh seeds", "together"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("verdict")
    for one in found.differences:
        ends = "" if math.isnan(one.low) else f" [{one.low:+.2f}, {one.high:+.2f}]"
        was, now = (f"{d.estimate:+.2f}{'*' if d.distinguishable else ' '}" for d in (one.study, one.fresh))
        cells = (one.variant, one.benchmark, was, now, f"{one.combined:+.2f}{ends}", one.verdict)
        table.add_row(*cells, style=STYLES.get(one.verdict))
    seeds = ", ".join(map(str, found.seeds))
    console.print(f"Study {found.study} again on seeds {seeds}, {found.part} items", style="bold", highlight=False)
    make_room(console, table)
    console.print(table)
    console.print(
        "differences from baseline in points; * more than chance (Holm over all variants and benchmarks of the "
        "column); together: over all seeds, with its interval at 95 %",
        style="dim",
        highlight=False,
        markup=False,
    )
    console.print(found.sentence, style="bold", highlight=False, markup=False)
    for note in found.notes:
        console.print(f"- {note}", highlight=False, markup=False)
