"""The front of a study as a table in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from equipoise.platform.report.front import Conclusion
from equipoise.platform.report.tables.width import make_room
from equipoise.platform.stats.table import ResultTable, heading


def show_accuracies(table: ResultTable, console: Console) -> None:
    """Print mean accuracies and nothing that compares them, where nothing can be selected."""
    shown = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1), header_style="bold")
    shown.add_column("variant", no_wrap=True)
    shown.add_column("n", justify="right")
    for name in table.benchmarks:
        shown.add_column(heading(name, table.part).replace(" ", "\n", 1), justify="right", no_wrap=True)
    for variant in table.variants:
        means = table.mean_of(variant)
        cells = [f"{means[b]:.2f}" if b in means else "" for b in table.benchmarks]
        shown.add_row(variant, str(len(table.seeds(variant))), *cells)
    make_room(console, shown)
    console.print(shown)


def show(found: Conclusion, console: Console) -> None:
    """Print a conclusion as a table, a sentence and notes."""
    s = found.selection
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("variant", no_wrap=True)
    table.add_column("n", justify="right")
    for name in s.benchmarks:
        table.add_column(heading(name, s.part).replace(" ", "\n", 1), justify="right", no_wrap=True)
    if s.scaled_by is not None:
        table.add_column("least", justify="right", no_wrap=True)
    if any(row.front_probability is not None for row in s.rows):
        table.add_column("P(front)", justify="right", no_wrap=True)
    for row in s.rows:
        chosen = s.candidate is not None and row.variant == s.candidate.variant
        mark = "★" if chosen else ("●" if row.variant in s.front else " ")
        name = row.variant + (" °" if row.control else "") + (" !" if row.flags else "")
        cells = [f"{mark} {name}", str(len(row.seeds))]
        for benchmark in s.benchmarks:
            gain = "" if row.variant == s.baseline else f"{row.gains[benchmark]:+.2f}"
            cells.append(f"{row.means[benchmark]:.2f} {gain:>6}")
        if s.scaled_by is not None:
            cells.append("" if row.control or row.smallest_gain is None else f"{row.smallest_gain:+.2f}")
        if row.front_probability is not None:
            cells.append(f"{row.front_probability:.2f}")
        table.add_row(*cells, style="bold green" if chosen else ("dim" if row.control else None))
    make_room(console, table)
    console.print(table)
    legend = "★ leading candidate  ● on the front of the means  ° control  ! see notes  n seeds; beside each accuracy "
    legend += f"its gain over {s.baseline} in points, seed by seed where both have it"
    legend += "; least: the smallest gain, in noise floors" if s.scaled_by else ""
    legend += "; P(front): that it is truly on the front" if len(table.columns) > 3 + len(s.benchmarks) else ""
    console.print(legend, style="dim", highlight=False)
    if s.protocols:
        by = ", ".join(f"{name} by {protocol}" for name, protocol in s.protocols.items())
        console.print(f"Probes: {by}", style="dim", highlight=False, markup=False)
    console.print(s.sentence, style="bold", highlight=False)
    if s.candidate is not None and s.candidate.variant in found.weights:
        mix = ", ".join(f"{name} {weight:.3g}" for name, weight in found.weights[s.candidate.variant].items())
        console.print(f"Weights of {s.candidate.variant}: {mix or 'none'}.", highlight=False)
    against = "".join(f", {k} {v:.2f}" for k, v in s.hypervolume_reference.items())
    console.print(f"Hypervolume {s.hypervolume:.4g} (reference: {s.baseline}{against}).", highlight=False)
    for note in (*s.notes, *found.notes):
        console.print(f"- {note}", highlight=False)
    for said in found.openings:
        console.print(said, highlight=False, markup=False)
    if found.cost is not None:
        console.print(found.cost.sentence, highlight=False)
    if found.plot is not None:
        console.print(f"Plot: {found.plot}", highlight=False, soft_wrap=True)
    if found.cost_plot is not None:
        console.print(f"Against cost: {found.cost_plot}", highlight=False, soft_wrap=True)
