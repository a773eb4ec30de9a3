"""A small study beside one of record, as a table in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from equipoise.platform.analysis.beside import Beside
from equipoise.platform.report.tables.width import make_room


def show_beside(found: Beside, console: Console) -> None:
    """Print what both studies have of every mix that they share."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("variant", no_wrap=True)
    for benchmark in found.benchmarks:
        table.add_column(f"{benchmark}\nhere; of record", justify="right", no_wrap=True)
    for variant in found.variants:
        cells = []
        for benchmark in found.benchmarks:
            here, there = found.small[variant, benchmark], found.record[variant, benchmark]
            star = "*" if there.distinguishable else " "
            cells.append(f"{here.estimate:+.1f}; {there.estimate:+.1f}{star}\n[{there.low:+.1f}, {there.high:+.1f}] ")
        table.add_row(variant, *cells)
    console.print(f"Beside the study of record {found.reference}", style="bold", highlight=False)
    make_room(console, table)
    console.print(table)
    legend = "differences from baseline in points; * more than chance there; [a, b]: its interval at 95 %"
    console.print(f"{legend}; {'; '.join(found.unlike)}", style="dim", highlight=False, markup=False)
    console.print(found.sentence, highlight=False, markup=False)
