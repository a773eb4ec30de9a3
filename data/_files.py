"""Locks, unfinished folders and worker processes: what the miniature generator and the clip cache share.

Nothing here imports torch: worker processes start in a fraction of a second.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import multiprocessing.connection
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on the file ``path`` (created if missing), waiting for whoever holds it now.

    The kernel drops the lock when its process ends, however it ends, so a killed builder blocks nobody.

    Raises:
        OSError: If the file cannot be created or written.
    """
    with open(path, "a+b") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)


@contextlib.contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """Gives a fresh folder beside ``target`` and renames it to ``target`` when the block ends without an exception.

    Call it with the lock of ``target`` held: what an earlier, killed builder left behind is removed first. A block
    that raises leaves neither ``target`` nor the fresh folder.
    """
    working = target.parent / f".{target.name}.unfinished"
    if working.exists():
        shutil.rmtree(working)
    working.mkdir(parents=True)
    try:
        yield working
    except BaseException:
        shutil.rmtree(working, ignore_errors=True)
        raise
    os.replace(working, target)


def _end_with_parent() -> None:
    """Ends this worker when its parent has gone: a pool's workers otherwise wait for ever after a SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def run_jobs(work: Callable[[_Job], _Result], jobs: Iterable[_Job], workers: int) -> Iterator[tuple[int, _Result]]:
    """Runs ``work`` on every job and yields ``(job number, result)`` as each one finishes, in any order.

    One worker runs in this process; more are spawned (not forked: forking a process with decoder or tensor threads
    can deadlock), so ``work`` must be a module-level function. If the caller stops early, jobs not yet started are
    dropped.
    """
    todo = list(jobs)
    if workers <= 1 or len(todo) <= 1:
        for number, job in enumerate(todo):
            yield number, work(job)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(todo)), mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
    )
    try:
        numbers: dict[Future[_Result], int] = {pool.submit(work, job): number for number, job in enumerate(todo)}
        for future in as_completed(numbers):
            yield numbers[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
