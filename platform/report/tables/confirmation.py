"""A confirmation as a table in the terminal."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from equipoise.platform.analysis.confirmation import Confirmation, ConfirmedGain, share_text
from equipoise.platform.report.tables.width import make_room


def show_confirmation(found: Confirmation, console: Console) -> None:
    """Print gains in the search beside those on fresh seeds, then what they mean."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("variant", no_wrap=True)
    was_now = "{} → {}".format(*found.parts)
    for benchmark in found.benchmarks:
        table.add_column(f"{benchmark}\n{was_now}", justify="right")
    table.add_column(f"smallest\n{was_now}", justify="right", no_wrap=True)
    for variant in found.variants:
        gains = found.of(variant)
        was, now = found.smallest[variant]
        low, high = found.at_least[variant]
        smallest = f"{was:+.2f} → {now:+.2f}" + ("" if math.isnan(low) else f"\n[{low:+.2f}, {high:+.2f}]")
        mark = "★" if variant == found.balanced else " "
        table.add_row(f"{mark} {variant}", *(_cell(gains[b]) for b in found.benchmarks), smallest)
    if len(found.variants) > 1:
        name = next(iter(found.together.values())).variant
        table.add_section()
        table.add_row(f"  {name}", *(_cell(found.together[b]) for b in found.benchmarks), "")
    table.add_row(
        "  baseline, %",
        *(f"{was:.2f} → {now:.2f}" for was, now in (found.baseline[b] for b in found.benchmarks)),
        "",
        style="dim",
    )
    seeds = ", ".join(map(str, found.fresh_seeds))
    console.print(f"Confirmation of study {found.confirms} on seeds {seeds}", style="bold", highlight=False)
    make_room(console, table)
    console.print(table)
    legend = (
        f"gains over baseline in points, in the search ({found.parts[0]} items) → on fresh seeds ({found.parts[1]} "
        "items); ★ balanced; bold *: more than chance (Holm over all variants and benchmarks); "
        "[a, b]: interval at 95% of the fresh gain; below it how much of the search's gain survives"
    )
    console.print(legend, style="dim", highlight=False, markup=False)
    for number, sentence in enumerate(found.sentences):
        console.print(sentence, style="" if number else "bold", highlight=False, markup=False)
    for note in found.notes:
        console.print(f"- {note}", highlight=False, markup=False)


def _cell(gain: ConfirmedGain) -> Text:
    fresh = gain.fresh
    clear = fresh.distinguishable
    text = Text(f"{gain.search:+.2f} → {fresh.estimate:+.2f} {'*' if clear else ' '}", style="bold" if clear else "")
    if not math.isnan(fresh.low):
        text.append(f"\n[{fresh.low:+.2f}, {fresh.high:+.2f}]  ")
    if gain.share is not None:
        text.append(f"\n{share_text(gain)}  ", style="dim")
    return text
