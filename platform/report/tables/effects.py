"""Effects of a design as tables in the terminal."""

from __future__ import annotations

import math
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from equipoise.platform.analysis.effects import MEANINGS, Effect, Effects, alias_text
from equipoise.platform.settings.design import TIMES
from equipoise.platform.stats.table import heading


def show_effects(found: Effects, picture: Path | None, console: Console) -> None:
    """Print the effects as a table, then what they mean and what to beware of."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1), header_style="bold")
    # Names and numbers stay whole on a narrow terminal; what a number holds besides may wrap.
    table.add_column("effect", min_width=max((len(effect.name) for effect in found.effects), default=6))
    for benchmark in found.benchmarks:
        table.add_column(
            heading(benchmark, found.part, "points").replace(" points", "\npoints"), justify="right", no_wrap=True
        )
    by_name: dict[str, dict[str, Effect]] = {}
    for effect in found.effects:
        by_name.setdefault(effect.name, {})[effect.benchmark] = effect
    for name, on in by_name.items():
        example = next(iter(on.values()))
        label = Text(name)
        confused = {name: factor for name, factor in example.aliases.items() if name.count(TIMES) < 2}
        if confused:
            label.append(f"\n{alias_text(confused)}", style="dim")
        table.add_row(label, *(_cell(on[b]) if b in on else Text("-") for b in found.benchmarks))
    console.print(f"Effects of study {found.study}", style="bold", highlight=False)
    console.print(table)
    legend = f"bold *: more than chance (Holm over a benchmark's effects); [a, b]: interval at {1 - found.level:.0%}"
    console.print(legend, style="dim", highlight=False, markup=False)
    for kind in dict.fromkeys(effect.kind for effect in found.effects):
        console.print(f"{kind.replace('_', ' ')}: {MEANINGS[kind]}", style="dim", highlight=False, soft_wrap=True)
    for note in found.notes:
        console.print(f"- {note}", highlight=False, markup=False)
    if picture is not None:
        console.print(f"Plot: {picture}", highlight=False, soft_wrap=True)


def _cell(effect: Effect) -> Text:
    text = f"{effect.estimate:+.2f} {'*' if effect.distinguishable else ' '}"
    if not math.isnan(effect.low):
        text += f"\n[{effect.low:+.2f}, {effect.high:+.2f}]  "
    return Text(text, style="bold" if effect.distinguishable else "")
