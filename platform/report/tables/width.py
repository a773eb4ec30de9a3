"""How wide a table is printed where nobody watches."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

WIDEST = 10_000


def make_room(console: Console, table: Table) -> None:
    """Where the output is a file or a pipe, make the console as wide as a table needs: a number is never cut there."""
    if not console.is_terminal:
        whole = console.options.update(max_width=WIDEST)
        console.width = max(console.width, Measurement.get(console, whole, table).maximum)
