"""The front of a study as a table in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from equipoise.platform.report.front import Conclusion


def show(found: Conclusion, console: Console) -> None:
    """Print a conclusion as a table, a sentence and notes."""
    s = found.selection
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("variant", no_wrap=True)
    table.add_column("n", justify="right")
    for name in s.benchmarks:
        table.add_column(f"{name} %", justify="right", no_wrap=True)
    table.add_column("least", justify="right", no_wrap=True)
    for row in s.rows:
        chosen = s.balanced is not None and row.variant == s.balanced.variant
        mark = "★" if chosen else ("●" if row.variant in s.front else " ")
        name = row.variant + (" °" if row.control else "") + (" !" if row.flags else "")
        cells = [f"{mark} {name}", str(len(row.seeds))]
        for benchmark in s.benchmarks:
            gain = "" if row.variant == s.baseline else f"{row.gains[benchmark]:+.2f}"
            cells.append(f"{row.means[benchmark]:.2f} {gain:>6}")
        cells.append("" if row.control else f"{row.smallest_gain:+.2f}")
        table.add_row(*cells, style="bold green" if chosen else ("dim" if row.control else None))
    console.print(table)
    unit = "noise floors" if s.scaled_by else "points"
    legend = (
        f"★ balanced  ● on the front  ° control  ! see notes  n seeds; beside each accuracy its gain over {s.baseline}"
    )
    console.print(f"{legend} in points; least: the smallest gain, in {unit}", style="dim", highlight=False)
    console.print(s.sentence, style="bold", highlight=False)
    if s.balanced is not None and s.balanced.variant in found.weights:
        mix = ", ".join(f"{name} {weight:.3g}" for name, weight in found.weights[s.balanced.variant].items())
        console.print(f"Weights of {s.balanced.variant}: {mix or 'none'}.", highlight=False)
    against = "".join(f", {k} {v:.2f}" for k, v in s.hypervolume_reference.items())
    console.print(f"Hypervolume {s.hypervolume:.4g} (reference: {s.baseline}{against}).", highlight=False)
    for note in (*s.notes, *found.notes):
        console.print(f"- {note}", highlight=False)
    if found.cost is not None:
        console.print(found.cost.sentence, highlight=False)
    console.print(f"Plot: {found.plot}", highlight=False, soft_wrap=True)
    if found.cost_plot is not None:
        console.print(f"Against cost: {found.cost_plot}", highlight=False, soft_wrap=True)
