"""An audit of objectives as a table in the terminal."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from equipoise.platform.report.plots.gradients import hundredths
from equipoise.platform.trial.audit import AuditResult

PLAIN_WIDTH = 160  # characters of a line where the output is no terminal


def show(result: AuditResult, console: Console) -> None:
    """Print the verdicts, the matrix of cosines and what is scored."""
    if not console.is_terminal:
        console = Console(file=console.file, width=PLAIN_WIDTH, markup=False, emoji=False, highlight=False)
    console.print(_verdicts(result))
    if result.names:
        console.print("Cosine between gradients on the encoder, in hundredths", style="bold")
        console.print(_matrix(result), no_wrap=True, overflow="ignore", crop=False, highlight=False)
    encoder = result.evaluated
    style = None if encoder.moves else "yellow"
    console.print(f"\nEvaluated encoder: {encoder.encoder}; {encoder.why}.", style=style, highlight=False)
    clips = ", ".join(f"{n} {kind} clips" for kind, n in result.clips.items())
    total, dead = len(result.objectives), len(result.dead)
    verdict = f"{total - dead} of {total} objectives reach what they move" + (f", {dead} dead" if dead else "")
    about = f"{result.variant}, {result.reading}, seed {result.seed}, one batch of {clips}, {result.seconds:.1f} s"
    console.print(
        f"{verdict}. {about}.",
        style="bold red" if dead else "bold green" if total else None,
        highlight=False,
    )


def _verdicts(result: AuditResult) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("objective", no_wrap=True)
    for name in ("weight", "value", "|g| encoder", "predictor", "head", "cos JEPA"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("reason")
    for part in (*result.losses, *result.objectives):
        loss = part in result.losses
        cosine = result.with_jepa(part.name)
        style = "dim" if loss else "red" if part.verdict == "dead" else None
        table.add_row(
            part.name,
            f"{part.weight:.3g}",
            _number(part.value),
            *(_number(part.gradient[k]) for k in ("encoder", "predictor", "head")),
            f"{cosine:+.2f}" if math.isfinite(cosine) else "–",
            "" if loss else part.verdict,
            "" if loss else part.reason,
            style=style,
        )
    return table


def _matrix(result: AuditResult) -> Text:
    """The matrix as lines: numbered columns, since many names do not fit side by side."""
    width = max(len(n) for n in result.names)
    head = " " * (width + 4) + "".join(f"{i:>5}" for i in range(1, len(result.names) + 1))
    lines = [head]
    for i, name in enumerate(result.names):
        cells = (hundredths(c) if math.isfinite(c) else "–" for c in result.cosine[i])
        lines.append(f"{i + 1:>3} {name:{width}}" + "".join(f"{c:>5}" for c in cells))
    return Text("\n".join(lines))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
