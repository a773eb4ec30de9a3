"""Pooled studies as tables in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from equipoise.platform.analysis.pooling import HELPS, HURTS, PooledMix, Pooling
from equipoise.platform.report.tables.width import make_room
from equipoise.platform.stats.verdict import listed

STYLES = {HELPS: "bold green", HURTS: "bold red"}


def show_pooling(found: Pooling, console: Console) -> None:
    """Print what was pooled, every mix over the studies, and what must be known."""
    console.print(f"{len(found.studies)} studies, {found.part} items", style="bold", highlight=False)
    for study in found.studies:
        console.print(
            f"  {study.name}: pretrained on {study.regime}, preset {study.preset}, {study.steps} steps, "
            f"{study.seeds} seeds of the baseline",
            highlight=False,
            markup=False,
        )
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("mix", no_wrap=True)
    table.add_column("benchmark", no_wrap=True)
    for head in ("studies", "pooled", "tau", "I²"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("verdict")
    for one in (*found.mixes, *found.untrained):
        table.add_row(*_cells(one), style=STYLES.get(one.verdict))
    make_room(console, table)
    console.print(table)
    console.print(
        "differences from each study's own baseline in points; pooled: random-effects mean with its interval; tau: "
        "standard deviation of true effects between studies; I²: share of the scatter that this is; a verdict takes "
        "Holm's correction over all rows of mixes",
        style="dim",
        highlight=False,
        markup=False,
    )
    if found.single:
        said = f"In one study alone, and not pooled: {listed(found.single)}."
        console.print(said, highlight=False, markup=False)
    for note in found.notes:
        console.print(f"- {note}", highlight=False, markup=False)


def _cells(one: PooledMix) -> tuple[str, ...]:
    p, count = one.pooled, str(len(one.studies))
    if p is None:
        return one.name, one.benchmark, count, "", "", "", "nothing is known of the error"
    pooled = f"{p.estimate:+.2f} [{p.low:+.2f}, {p.high:+.2f}]"
    return one.name, one.benchmark, count, pooled, f"{p.tau:.2f}", f"{100 * p.i2:.0f} %", one.verdict
