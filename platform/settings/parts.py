"""The parts of a benchmark, and the names by which a record keeps their accuracies apart."""

from __future__ import annotations

from typing import Literal

Part = Literal["train", "select", "test"]
"""Of a benchmark: probes are fitted on ``train``, what chooses looks at ``select``, ``test`` is opened last."""
SELECT: Part = "select"
TEST: Part = "test"
EARLIER: Part = TEST
"""What a record of an earlier version, which says no part, was scored on."""


def metric_of(benchmark: str, part: str) -> str:
    """Name of an accuracy in MLflow, ``mini_dive/select``: runs of different parts never share one."""
    return f"{benchmark}/{part}"
