"""What is printed works as it stands: its letters in any output, its commands in any shell."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import shlex
import shutil
import sys
from functools import cache
from pathlib import Path

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


@cache
def program() -> str:
    """How a shell calls this program: by its name where the path leads to it, else by where it is."""
    own = Path(sys.executable).parent / "equipoise"
    if not own.is_file():
        return f"{shlex.quote(sys.executable)} -m equipoise"
    found = shutil.which("equipoise")
    if found is not None and os.path.samefile(found, own):
        return "equipoise"
    with contextlib.suppress(ValueError):
        return shlex.quote(str(own.relative_to(Path.cwd())))
    return shlex.quote(str(own))


def as_typed(text: str, where: str = "") -> str:
    """A text in which every command of this program can be copied to a shell as it stands.

    Args:
        text: to be printed.
        where: the options that name the home, for the commands in it that name a study and no home.
    """
    if "equipoise " not in text:
        return text
    if where:
        text = re.sub(r"\bequipoise (?:confirm|unbundle) (?:'[^']*'|[\w./-]*\w)(?! --)", rf"\g<0> {where}", text)
    return re.sub(r"(?<![\w./-])equipoise(?= [a-z]{2})", lambda _: program(), text)


def speak_plainly() -> None:
    """From now on nothing that is printed fails for a letter that the terminal, log or container does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(ValueError, OSError):  # a stream that is closed already
                stream.reconfigure(errors=PLAIN)
