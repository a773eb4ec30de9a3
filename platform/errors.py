"""The errors a person can make, and how a near miss is named."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EquipoiseError(Exception):
    """A mistake the person at the keyboard can mend; the command line prints it as one sentence without a trace."""


class SettingsError(EquipoiseError):
    """Settings that cannot be run: unknown key, value out of range, an option that could not take effect."""


class StudyError(EquipoiseError):
    """A study that does not exist, exists already, or cannot go on."""


class StorageError(EquipoiseError):
    """A place for checkpoints and results that cannot be read or written, or a name of one that means nothing."""


class UnreachableError(StorageError):
    """A store that does not answer, or lets nobody in: whatever is tried there fails until that is mended."""


class CheckpointError(EquipoiseError):
    """A checkpoint that is missing, damaged, or of other shapes."""


class DamagedError(CheckpointError):
    """A checkpoint that is there, and is not what was written."""


def nearest(given: str, known: Iterable[str]) -> str:
    """Name the known word closest to ``given``, for the end of an error sentence.

    Args:
        given: the word that was not found.
        known: the words that exist.

    Returns:
        ``"did you mean 'x'?"``, or the sorted list of known words where none is close.
    """
    words = sorted(known)
    close = difflib.get_close_matches(given, words, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(words)}"
