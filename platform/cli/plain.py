"""Output without letters beyond ASCII: nothing that is printed fails for one."""

from __future__ import annotations

import codecs
import contextlib
import io
import sys

PLAIN = "equipoise.plain"  # name of what encodes marks where the output has no letters for them
MARKS = {
    "★": "*",
    "●": "o",
    "°": "'",
    "→": "->",
    "≈": "~",
    "±": "+-",
    "×": "x",
    "²": "2",
    "…": "...",
    "–": "-",
    "−": "-",
    "━": "-",
    "─": "-",
    "│": "|",
    "✓": "ok",
    "✗": "x",
    "≥": ">=",
    "≤": "<=",
    "τ": "tau",
    "ρ": "rho",
}


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What stands for letters that an encoding does not have: of a mark its like, of anything else its number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(MARKS.get(c) or c.encode("ascii", "backslashreplace").decode() for c in found), error.end


codecs.register_error(PLAIN, _plain)


def speak_plainly() -> None:
    """From now on nothing that is printed fails for a letter that the terminal, log or container does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(ValueError, OSError):  # a stream that is closed already
                stream.reconfigure(errors=PLAIN)
