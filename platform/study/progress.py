"""What a person sees while a study runs: a live line per trial in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_EVERY_S = 15.0
ENDED = ("finished", "stopped", "failed")  # an interrupted trial goes on
MARKS = {
    "finished": ("done", "green"),
    "stopped": ("stopped early", "blue"),
    "failed": ("failed", "red"),
    "interrupted": ("stopped", "yellow"),
}


@dataclass
class _Line:
    name: str
    phase: str = "starting"
    done: float = 0.0
    total: float = 1.0
    note: str = ""
    status: str = "running"
    began: float = field(default_factory=lambda: time.monotonic())
    ended: float | None = None
    printed: float = 0.0
    printed_phase: str = ""
    trained: bool = False

    @property
    def share(self) -> float:
        """Share of its training that is done; scoring comes after it."""
        return min(self.done / self.total, 1.0) if self.phase == "pretrain" else float(self.phase != "starting")


class StudyDisplay:
    """Live lines of a study, on standard error so that standard output stays clean for results.

    Args:
        title: heading of the table.
        quiet: show nothing.

    Attributes:
        planned: trials of the whole study.
    """

    def __init__(self, title: str, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, markup=False, emoji=False, highlight=False)
        self.title, self.planned = title, 0
        self.lines: dict[str, _Line] = {}
        self.finished_before = 0
        self._waiting: str | None = None
        self._live: Live | None = None

    def __enter__(self) -> StudyDisplay:
        if self.console.is_terminal and not self.console.quiet:
            self._live = Live(self, console=self.console, refresh_per_second=4, transient=False)
            self._live.__enter__()
        else:
            self.console.print(f"{self.title}: {self.planned} trials")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def __rich__(self) -> Group:
        table = Table(box=None, pad_edge=False, show_header=False, expand=False)
        for _ in range(6):
            table.add_column(no_wrap=True)
        ended = [k for k, line in self.lines.items() if line.status in ENDED]
        hidden = set(ended[:-12])
        for key, line in self.lines.items():
            if key in hidden:
                continue
            seconds = (line.ended or time.monotonic()) - line.began
            bar = ProgressBar(total=line.total, completed=min(line.done, line.total), width=18)
            left = ""
            if line.status == "running" and 0 < line.done < line.total and line.phase == "pretrain":
                left = f"{seconds * (line.total - line.done) / line.done:.0f} s left"
            phase = Text(*MARKS[line.status]) if line.status in MARKS else Text(line.phase)
            table.add_row(
                Text(key, "bold").append(f" {line.name}", "not bold"), bar, phase, f"{seconds:.0f} s", left, line.note
            )
        head = Text(self.title, "bold").append(f"  {self.summary()}", "not bold")
        return Group(head, table, Text(self._waiting, "yellow")) if self._waiting else Group(head, table)

    def summary(self) -> str:
        """How many trials ended, and about how long the rest takes by the pace of those."""
        ended = [line for line in self.lines.values() if line.status in ENDED]
        done = self.finished_before + len(ended)
        said = f"{done} of {self.planned} trials ended"
        # An untrained control is over at once, and tells nothing of the others.
        long = [line.ended - line.began for line in ended if line.ended is not None and line.trained]
        running = [line for line in self.lines.values() if line.status == "running"]
        left = self.planned - done - sum(line.share for line in running)
        if not long or not running or left <= 0:
            return said
        seconds = left * sum(long) / len(long) / len(running)
        hours, minutes = divmod(math.ceil(seconds / 60), 60)
        return f"{said}, about {f'{hours} h ' if hours else ''}{minutes} min to go"

    def start(self, key: str, name: str) -> None:
        """A trial starts, for the first time or again."""
        self.lines[key] = _Line(name)
        self._plain(key, force=True)

    def starting(self) -> list[str]:
        """Trials that have started and not reported yet."""
        return [k for k, line in self.lines.items() if line.phase == "starting" and line.ended is None]

    def waiting(self, text: str | None) -> None:
        """What trials wait for that cannot start, or None; a plain log repeats it only when it changes."""
        if text is not None and text != self._waiting and self._live is None:
            self.console.print(text, highlight=False)
        self._waiting = text

    def say(self, text: str | None) -> None:
        """A sentence that stays above the lines; None is none."""
        if text is not None:
            self.console.print(text, highlight=False, markup=False)

    def update(self, key: str, phase: str, done: float, total: float, note: str = "") -> None:
        """A trial moved."""
        line = self.lines[key]
        line.phase, line.done, line.total = phase, done, max(total, 1e-9)
        line.note = note or line.note
        line.trained = line.trained or phase == "pretrain"
        self._plain(key)

    def end(self, key: str, status: str, note: str) -> None:
        """A trial ended: ``finished``, ``stopped`` early, ``failed`` or ``interrupted``."""
        line = self.lines.setdefault(key, _Line(key))
        line.status, line.note, line.ended = status, note, time.monotonic()
        if status == "finished":
            line.done = line.total
        self._plain(key, force=True)

    def _plain(self, key: str, force: bool = False) -> None:
        line = self.lines[key]
        now = time.monotonic()
        if self._live is not None or not (
            force or now - line.printed > PLAIN_EVERY_S or line.phase != line.printed_phase
        ):
            return
        line.printed, line.printed_phase = now, line.phase
        what = line.status if line.ended is not None else f"{line.phase} {100 * line.done / line.total:.0f} %"
        self.console.print(f"{key} {line.name}: {what}, {now - line.began:.0f} s  {line.note}", highlight=False)
