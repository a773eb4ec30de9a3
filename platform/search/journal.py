"""Optuna's journal in a file: nothing is appended behind a record that is not whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from equipoise.platform.errors import StorageError
from equipoise.platform.record.hold import locked

BEGINNING = b'{"op_code":'  # of every record
ANEW = (
    "put a copy of it back, or move it away (mv {file} {file}.damaged) and go on with --resume, which writes it anew "
    "from the study's book"
)
ENOUGH = 3  # lines in a row without a record, at the beginning of a file: it is something else


class Journal(BaseJournalBackend):
    """A file of records, a line of JSON each, as Optuna's own backend writes it.

    Differences to that one: a last record that is torn (by a power cut, a full disk, a copy that was cut off) is cut
    away before another is appended; a damaged one before others is a sentence; and a writer that was killed blocks
    nobody, because the lock is the kernel's. Optuna's is a link that stays where it is, and is waited for half a
    minute, or for ever where the folder was moved.

    Args:
        path: the file; made by the first record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts = [0]  # byte at which each record begins that was read, and the next one

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Records from a number on, a torn last one left out.

        Raises:
            StorageError: a damaged record before others, or no journal.
        """
        at = self._starts[log_number_from]
        lines = self._content(at).splitlines(keepends=True)
        for number, line in enumerate(lines, log_number_from):
            record = _record(line)
            if record is None:
                self._refuse_damage(number, at, lines[number - log_number_from :])
                return
            at += len(line)
            if number + 1 == len(self._starts):
                self._starts.append(at)
            yield record

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records, and have them on the disk.

        Raises:
            StorageError: as :meth:`read_logs`; nothing is appended then.
        """
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.with_name(f".{self.path.name}.lock")), open(self.path, "ab") as file:
            self._cut_torn(file.fileno())
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def torn(self) -> str | None:
        """What is cut off before the next record is appended, in a sentence; None for nothing.

        Raises:
            StorageError: as :meth:`read_logs`.
        """
        whole = self._whole()
        size = self.path.stat().st_size if self.path.is_file() else 0
        if whole == size:
            return None
        return (
            f"the last {size - whole} bytes of {self.path}, from byte {whole} on, are no whole record: they are cut "
            "off, and what they said is taken from the study's book"
        )

    def whole(self) -> bytes:
        """The content, up to the last whole record.

        Raises:
            StorageError: as :meth:`read_logs`.
        """
        return self._content(0)[: self._whole()]

    def _whole(self) -> int:
        """Bytes of whole records; what another process appended meanwhile is among them."""
        for _ in self.read_logs(len(self._starts) - 1):
            pass
        return self._starts[-1]

    def _content(self, at: int) -> bytes:
        try:
            with open(self.path, "rb") as file:
                file.seek(at)
                return file.read()
        except FileNotFoundError:
            return b""

    def _cut_torn(self, file: int) -> None:
        """Cut off what follows the last whole record."""
        size = os.fstat(file).st_size
        if size < self._starts[-1]:
            raise StorageError(
                f"{self.path} was cut to {size} bytes while it was in use, it had {self._starts[-1]}: go on with "
                "--resume, which takes what it lost from the study's book"
            )
        if size > self._starts[-1] and size > (whole := self._whole()):
            os.ftruncate(file, whole)

    def _refuse_damage(self, number: int, at: int, rest: list[bytes]) -> None:
        """Tell a torn end from damage before whole records, and from a file that is something else."""
        first = rest[0].strip(b"\0")
        begins = BEGINNING.startswith(first[: len(BEGINNING)])
        if number == 0 and (not begins or len(rest) >= ENOUGH) and not any(map(_record, rest)):
            raise StorageError(
                f"{self.path} is no journal of Optuna: its first line holds no record; name another file, or move "
                "this one away"
            )
        if any(map(_record, rest)):
            raise StorageError(
                f"{self.path} is damaged in line {number + 1} (byte {at}), and whole records follow, so that nothing "
                f"may be appended: {ANEW.format(file=self.path.name)}"
            )


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None where it is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
    except ValueError:  # no JSON, or no text
        return None
    return found if isinstance(found, dict) and {"op_code", "worker_id"} <= found.keys() else None
