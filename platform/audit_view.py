"""An audit for the eye: the heat map of its cosines, and its tables in a terminal."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from equipoise.platform.audit import AuditResult
from equipoise.platform.plots import DPI, FAINT, GREY, INK, PALETTE, SUFFIXES, PlotError

CELL = 0.44  # inches
PLAIN_WIDTH = 160  # characters of a line where the output is no terminal
COLOURS = "RdBu"  # red: against each other, blue: together
DEAD_INK = PALETTE[1]


def check_suffix(path: str | Path) -> None:
    """Refuse a picture's name before any work is done for it.

    Raises:
        PlotError: for a suffix that cannot be drawn.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise PlotError(
            f"cannot save a picture as {Path(path).name!r}; expected a name ending in {', '.join(SUFFIXES)}"
        )


def heatmap(result: AuditResult, path: str | Path) -> Path:
    """Draw the cosines between all gradients on the encoder; rows and columns of dead objectives are marked.

    Args:
        result: the audit.
        path: the picture, .png, .pdf or .svg.

    Returns:
        The path.

    Raises:
        PlotError: for another suffix.
    """
    check_suffix(path)
    n = len(result.names)
    side = max(3.4, CELL * n)
    figure = Figure(
        figsize=(side + 3.4, side + 2.4), layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15), facecolor="white"
    )
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    shown = np.ma.masked_invalid(result.cosine)
    axis.set_facecolor(FAINT)
    image = axis.imshow(shown, cmap=COLOURS, vmin=-1, vmax=1)
    for i in range(n):
        for j in range(n):
            cosine = result.cosine[i, j]
            text = _hundredths(cosine) if math.isfinite(cosine) else "–"
            ink = "white" if math.isfinite(cosine) and abs(cosine) > 0.6 else INK
            axis.text(j, i, text, ha="center", va="center", fontsize=7.5, color=ink)
    axis.set_xticks(range(n), list(result.names), rotation=60, ha="right", rotation_mode="anchor", fontsize=9)
    axis.set_yticks(range(n), list(result.names), fontsize=9)
    axis.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1)
    axis.tick_params(which="both", length=0, colors=INK)
    axis.spines[:].set_visible(False)
    dead = {o.name for o in result.dead}
    for label in (*axis.get_xticklabels(), *axis.get_yticklabels()):
        if label.get_text() in dead:
            label.set(color=DEAD_INK, fontweight="bold")
    bar = figure.colorbar(image, ax=axis, shrink=0.7, aspect=30, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=9, colors=GREY)
    about = f"{result.variant}, {result.reading}, seed {result.seed}"
    title = f"Cosine between gradients on the encoder, in hundredths\n{about}"
    figure.suptitle(title, x=0.02, ha="left", fontsize=11, color=INK)
    if dead:
        figure.supxlabel(
            "orange: dead; grey cells: no gradient on the encoder", fontsize=8.5, color=GREY, x=0.02, ha="left"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path


def show(result: AuditResult, console: Console) -> None:
    """Print the verdicts, the matrix of cosines and what is scored."""
    if not console.is_terminal:
        console = Console(file=console.file, width=PLAIN_WIDTH)
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
    """The matrix as lines: numbered columns, since eighteen names do not fit side by side."""
    width = max(len(n) for n in result.names)
    head = " " * (width + 4) + "".join(f"{i:>5}" for i in range(1, len(result.names) + 1))
    lines = [head]
    for i, name in enumerate(result.names):
        cells = (_hundredths(c) if math.isfinite(c) else "–" for c in result.cosine[i])
        lines.append(f"{i + 1:>3} {name:{width}}" + "".join(f"{c:>5}" for c in cells))
    return Text("\n".join(lines))


def _hundredths(cosine: float) -> str:
    return f"{round(100 * cosine):d}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
