"""One driver for each study: a second one is told who has it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from equipoise.platform.errors import StudyError

LOCK = "driver.lock"  # in a study's folder


@contextlib.contextmanager
def held(folder: Path, study: str) -> Iterator[None]:
    """Be the only driver of a study, on this machine and on others that see its folder.

    The kernel drops the hold with its process, however that ends, so that a driver that was killed blocks nobody; over
    NFS the server does. Reading a study takes no hold.

    Args:
        folder: of the study; made if it is not there, and taken away again if nothing was written to it.
        study: its name.

    Raises:
        StudyError: another driver has it, saying which process, where, since when.
    """
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    with open(path, "a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(f"study {study!r} is being run by {_holder(path)}: end that first") from None
        handle.truncate(0)
        json.dump({"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %H:%M")}, handle)
        handle.flush()
        try:
            yield
        finally:
            # The file stays: taken away, it could be held by one driver and made anew by another.
            if fresh and [one.name for one in folder.iterdir()] == [LOCK]:
                path.unlink()
                folder.rmdir()


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError):
        return "another process, which is just starting"
