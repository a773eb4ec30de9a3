"""What may be a name: of a study, a variant of one's own, a regime, a preset, a source, a benchmark.

Names become folders, files, tags and metrics of MLflow and parts of addresses, so one rule holds for all of them. It is
asked with the definition, before any work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator

MOST = 64  # characters
RULE = re.compile(rf"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{{0,{MOST - 2}}}[A-Za-z0-9])?")
ALLOWED = f"1 to {MOST} letters a to z, digits, and . _ - or blanks between them"


def check_name(name: str) -> str:
    """The name, if it is one.

    Raises:
        ValueError: it is none; the sentence says what one is.
    """
    if not RULE.fullmatch(name):
        shown = name if len(name) <= MOST else f"{name[:MOST]}... ({len(name)} characters)"
        raise ValueError(f"{shown!r} cannot be a name, which becomes part of files and addresses: use {ALLOWED}")
    return name


def check_names(names: Iterable[str]) -> None:
    """See that each is a name, and that no two of them are one file where capitals do not count.

    Raises:
        ValueError: one is none, or two differ in capitals alone.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(check_name(name).casefold(), name)
        if other != name:
            raise ValueError(f"{other!r} and {name!r} differ in capitals alone, and would share a file: rename one")


Name = Annotated[str, AfterValidator(check_name)]
