"""Which of a manifest's files could not be decoded, and how many may fail."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from equipoise.data._files import write_json
from equipoise.data.errors import ArgumentError, DataError


class DecodeBudgetError(DataError, ValueError):
    """More files failed to decode than a study accepts."""


@dataclass
class DecodeReport:
    """Which of a manifest's files could not be decoded, and why.

    Attributes:
        total: Files tried.
        failures: ``(path, reason)`` of each file that failed, in manifest order.
        path: Where the report was last written or read, if anywhere.
    """

    total: int
    failures: list[tuple[str, str]] = field(default_factory=list)
    path: Path | None = None

    def check(self, budget: float = 0.01) -> None:
        """Refuses a data set of which more than ``budget`` (a share, 0 to 1) failed.

        Raises:
            DecodeBudgetError: If more failed.
            ValueError: If ``budget`` is no share.
        """
        if not 0 <= budget <= 1:
            raise ArgumentError(f"budget is {budget}; it is a share of files, from 0 to 1.")
        if len(self.failures) <= budget * self.total:
            return
        first = "; ".join(f"{path} ({reason})" for path, reason in self.failures[:3])
        more = f" and {len(self.failures) - 3} more" if len(self.failures) > 3 else ""
        where = f"; all are listed in {self.path}" if self.path is not None else ""
        raise DecodeBudgetError(
            f"{len(self.failures)} of {self.total} files could not be decoded, more than the budget of {budget:.2%}: "
            f"{first}{more}{where}."
        )

    def write(self, path: Path | str) -> None:
        """Writes the report as JSON, atomically."""
        content = {
            "total": self.total,
            "failed": len(self.failures),
            "failures": [{"path": file, "reason": reason} for file, reason in self.failures],
        }
        self.path = Path(path)
        write_json(self.path, content)

    @classmethod
    def read(cls, path: Path | str) -> DecodeReport:
        """Reads a report that `write` wrote."""
        path = Path(path)
        content = json.loads(path.read_text())
        return cls(content["total"], [(entry["path"], entry["reason"]) for entry in content["failures"]], path)
