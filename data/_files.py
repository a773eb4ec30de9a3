"""Locks, unfinished folders and worker processes: what the generators, the checks and the clip cache share.

Nothing here imports torch: worker processes start in a fraction of a second.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from equipoise.data.errors import DataError
from equipoise.data.pieces import piece_of

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is, and how much there is in all."""

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")

FILE_SECONDS = 300.0  # that a worker process may spend on one file
_TRIES = 3  # deaths of worker processes on a job that say nothing of a file
_FAULTS = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}  # of the code that ran


class LostFileError(DataError, ValueError):
    """A worker process died, or had to be ended, while it was at this file."""


class WorkerError(DataError, RuntimeError):
    """Worker processes die, and not because of a file they were at."""


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


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, atomically, whoever else writes the same file.

    Raises:
        OSError: If the file cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    part.write_bytes(text.encode("utf-8", "backslashreplace"))  # a name that is no Unicode becomes what JSON has for it
    os.replace(part, path)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content.

    Raises:
        OSError: If it cannot be read.
    """
    piece = piece_of(path)
    if piece is not None:
        return hashlib.sha256(piece.read()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def run_jobs(
    work: Callable[[_Job], _Result],
    jobs: Iterable[_Job],
    workers: int,
    *,
    seconds: float = FILE_SECONDS,
) -> Iterator[tuple[int, _Result]]:
    """Runs ``work`` on every job and yields ``(job number, result)`` as each one finishes, in any order.

    Workers are spawned (not forked: forking a process with decoder or tensor threads can deadlock), so ``work`` must
    be a module-level function. They do not import the script that runs here, unless ``work`` is of it: it needs no
    ``if __name__ == "__main__":``. If the caller stops early, jobs under way are ended.

    A process that dies takes nothing with it: its job runs again in a new one. Where it died inside `handling` a file,
    or was ended because it spent too long there, `handling` that file raises `LostFileError` in the new process. A
    process that was killed from outside (which is what happens where memory is full) gets a second try at the file.

    Args:
        work: What to do.
        jobs: With what.
        workers: Processes; 0 for none: the work is done in this process, which then dies or hangs with it.
        seconds: That one file may take.

    Raises:
        WorkerError: If processes end before they have begun, or keep dying on one job without being at a file.
        Exception: What ``work`` raised.
    """
    todo = list(jobs)
    if workers < 1:
        for number, job in enumerate(todo):
            yield number, work(job)
        return
    crew = _Crew(work, todo, seconds)
    try:
        crew.start(min(workers, len(todo)))
        yield from crew.results()
    finally:
        crew.end()


_pipe: Connection | None = None  # of a worker process to the one that gives it jobs
_lost: dict[str, str] = {}


@contextlib.contextmanager
def handling(file: str | os.PathLike[str]) -> Iterator[None]:
    """Tells whoever runs this worker process which file it is at, so that the file can be named if the process dies.

    Raises:
        LostFileError: If a process died on this file before.
    """
    name = os.fspath(file)
    if name in _lost:
        raise LostFileError(_lost[name])
    if _pipe is None:
        yield
        return
    _pipe.send(("at", name))
    try:
        yield
    finally:
        _pipe.send(("at", None))


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    """A worker process: does jobs until the pipe is closed."""
    global _pipe
    _pipe = pipe
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's: it ends its workers
    pipe.send(("ready", None))
    while True:
        try:
            job, lost = pipe.recv()
        except EOFError:
            return
        _lost.update(lost)
        try:
            answer = ("done", work(job))
        except Exception as error:  # whatever it is, it is raised again where the jobs come from
            answer = ("raised", error)
        pipe.send(answer)


_Kind = Literal["ready", "at", "done", "raised", "died"]  # of a message; the last is none


def _of_script(work: Callable[..., Any]) -> bool:
    """Whether ``work`` is a function of the script that runs here, which worker processes then have to import."""
    while isinstance(work, functools.partial):
        work = work.func
    return work.__module__ == "__main__"


_SCRIPT = ("__file__", "__spec__")  # where a spawned process looks for the script of its parent
_hiding = threading.Lock()


@contextlib.contextmanager
def _script_hidden() -> Iterator[None]:
    """A process spawned in this block does not import the script that runs here, nor all that the script imports."""
    main = vars(sys.modules["__main__"])
    with _hiding:
        before = {name: main[name] for name in _SCRIPT if name in main}
        main.update(dict.fromkeys(_SCRIPT))
        try:
            yield
        finally:
            for name in _SCRIPT:
                del main[name]
            main.update(before)


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    job: int | None = None
    file: str | None = None
    since: float = 0.0
    late: bool = False


@dataclass
class _Crew(Generic[_Job, _Result]):
    """Worker processes, the jobs they have and the files they died on."""

    work: Callable[[_Job], _Result]
    jobs: Sequence[_Job]
    seconds: float
    workers: list[_Worker] = field(default_factory=list)
    waiting: deque[int] = field(default_factory=deque)
    deaths: Counter[int | str] = field(default_factory=Counter)
    stillborn: int = 0
    lost: dict[str, str] = field(default_factory=dict)

    def start(self, count: int) -> None:
        self.waiting.extend(range(len(self.jobs)))
        for _ in range(count):
            self._hire()

    def _hire(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.work), daemon=True)
        with contextlib.nullcontext() if _of_script(self.work) else _script_hidden():
            process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        self.workers.append(_Worker(process, ours))

    def results(self) -> Iterator[tuple[int, _Result]]:
        left = len(self.jobs)
        while left:
            for worker in self.workers:
                if worker.job is None and self.waiting:
                    self._give(worker)
            for worker in self._heard():
                kind, content = self._message(worker)
                if kind == "ready":
                    worker.ready = True
                elif kind == "at":
                    worker.file, worker.since = content, time.monotonic()
                elif kind == "raised":
                    raise content
                elif kind == "died":
                    self._mourn(worker)
                elif worker.job is not None:
                    number, worker.job = worker.job, None
                    left -= 1
                    yield number, content

    def _give(self, worker: _Worker) -> None:
        worker.job = self.waiting.popleft()
        worker.file = None
        with contextlib.suppress(BrokenPipeError):  # it has died: its pipe says so next
            worker.pipe.send((self.jobs[worker.job], self.lost))

    def _heard(self) -> list[_Worker]:
        """Workers that said something or died; ends those that are too long at one file."""
        pipes = [worker.pipe for worker in self.workers]
        ready = multiprocessing.connection.wait(pipes, timeout=0)
        if not ready:  # only now: what waits in a pipe may say that a file is done
            now = time.monotonic()
            at = [worker for worker in self.workers if worker.file is not None and not worker.late]
            for worker in at:
                if now - worker.since > self.seconds:
                    worker.late = True
                    worker.process.kill()
            until = min((w.since + self.seconds - now for w in at if not w.late), default=self.seconds)
            ready = multiprocessing.connection.wait(pipes, timeout=max(0.0, until) + 0.05)
        return [worker for worker in self.workers if worker.pipe in ready]

    def _message(self, worker: _Worker) -> tuple[_Kind, Any]:
        try:
            message: tuple[_Kind, Any] = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            return "died", None
        return message

    def _mourn(self, worker: _Worker) -> None:
        """Gives the job of a dead worker to a new one."""
        worker.process.join()
        worker.pipe.close()
        self.workers.remove(worker)
        how, fault = _ending(worker.process.exitcode or 0)
        if worker.file is not None:
            self.deaths[worker.file] += 1
            if worker.late:
                self.lost[worker.file] = f"it took longer than {self.seconds:g} s"
            elif fault or self.deaths[worker.file] > 1:
                self.lost[worker.file] = f"the process that read it died ({how})"
        elif not worker.ready:
            self.stillborn += 1
            if self.stillborn >= _TRIES:
                guard = ' A script whose functions they run needs its calls below `if __name__ == "__main__":`.'
                raise WorkerError(
                    f"{_TRIES} worker processes ended before they began, the last by {how}: what they wrote to "
                    f"standard error says why.{guard if _of_script(self.work) else ''}"
                )
        elif worker.job is not None:
            self.deaths[worker.job] += 1
            if self.deaths[worker.job] >= _TRIES:
                raise WorkerError(f"{_TRIES} worker processes died on one job, the last by {how}: is the memory full?")
        if worker.job is not None:
            self.waiting.appendleft(worker.job)
        self._hire()

    def end(self) -> None:
        for worker in self.workers:
            worker.process.terminate()
            worker.pipe.close()
        for worker in self.workers:
            worker.process.join()


def _ending(code: int) -> tuple[str, bool]:
    """How a process ended, in words, and whether its own code was at fault."""
    if code >= 0:
        return f"exit code {code}", False
    try:
        ended_by = signal.Signals(-code)
    except ValueError:
        return f"signal {-code}", False
    return ended_by.name, ended_by in _FAULTS
