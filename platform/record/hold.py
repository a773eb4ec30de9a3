"""What one process may do at a time: locks of the kernel, which go with their process however it ends.

They are POSIX locks, which a network file system passes on to its server: a process on another machine is seen too. A
process loses such a lock when it closes any file of that name, so nothing else may open these files.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from equipoise.platform.errors import EquipoiseError, StorageError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
TRIES, PAUSE_S = 4, 0.1  # somebody may just be looking who holds it

_threads: dict[str, threading.Lock] = collections.defaultdict(threading.Lock)  # a POSIX lock keeps no thread out
_ours: dict[str, Holder] = {}  # what this process holds: to read who does would be to let it go


@dataclass(frozen=True)
class Holder:
    """Who holds something.

    Attributes:
        host: name of the machine.
        pid: of the process.
        since: seconds since 1970.
    """

    host: str
    pid: int
    since: float

    @classmethod
    def here(cls) -> Holder:
        """This process, from now on."""
        return cls(os.uname().nodename, os.getpid(), time.time())

    def __str__(self) -> str:
        then, now = time.localtime(self.since), time.localtime(time.time())
        form = "%H:%M" if then[:3] == now[:3] else "%Y-%m-%d %H:%M"
        return f"process {self.pid} on {self.host} since {time.strftime(form, then)}"


class HeldError(EquipoiseError):
    """Somebody else holds it.

    Attributes:
        holder: who, in words.
    """

    def __init__(self, holder: Holder | None) -> None:
        self.holder = "another process" if holder is None else str(holder)
        super().__init__(f"held by {self.holder}")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock ``path`` (a file, made if missing), waiting for whoever holds it now.

    Raises:
        StorageError: the file system keeps no locks.
        OSError: the file cannot be written.
    """
    with _threads[os.path.realpath(path)], open(path, "ab") as file:
        _lock(file, path, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold ``path``, a file that says who does and is removed at the end.

    Raises:
        HeldError: somebody else does.
        StorageError: the file system keeps no locks.
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    key = os.path.realpath(path)
    if not _threads[key].acquire(blocking=False):
        raise HeldError(_ours.get(key))
    try:
        with _taken(path) as file:
            _ours[key] = me = Holder.here()
            file.truncate(0)
            file.write(json.dumps(asdict(me)).encode())
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
    finally:
        _ours.pop(key, None)
        _threads[key].release()


def holder(path: Path) -> str | None:
    """Who holds ``path``, in words; None for nobody."""
    ours = _ours.get(os.path.realpath(path))
    if ours is not None:
        return str(ours)
    try:
        with open(path, "rb") as file:
            _lock(file, path, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return HeldError(_said(path)).holder
    except (OSError, StorageError):
        pass  # there is none, or it keeps no locks
    return None


@contextlib.contextmanager
def _taken(path: Path) -> Iterator[IO[bytes]]:
    """The file, locked at once."""
    for attempt in range(1, TRIES + 1):
        with open(path, "a+b") as file:
            try:
                _lock(file, path, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if attempt == TRIES:
                    raise HeldError(_said(path)) from None
                time.sleep(PAUSE_S)
                continue
            # Whoever held it may have removed the name before we had the lock: then it is nobody's.
            if path.exists() and os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                yield file
                return
    raise HeldError(None)


def _lock(file: IO[bytes], path: Path, how: int) -> None:
    try:
        fcntl.lockf(file, how)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise BlockingIOError(error.errno, error.strerror) from None
        if error.errno not in NO_LOCKS:
            raise
        raise StorageError(
            f"{path} cannot be locked ({error.strerror}): its file system keeps no locks, choose another"
        ) from None


def _said(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
