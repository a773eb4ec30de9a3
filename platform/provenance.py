"""What produced a record: the commit of the code."""

from __future__ import annotations

import subprocess
from pathlib import Path

import equipoise


def git_commit() -> str:
    """Commit of the checkout Equipoise runs from, ``+changes`` if it has any; the version where there is none."""
    folder = Path(equipoise.__file__).resolve().parent
    try:
        head = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return f"v{equipoise.__version__}"
    return head + ("+changes" if changed else "")


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
