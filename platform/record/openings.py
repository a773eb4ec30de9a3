"""Openings of the test part: when, by what, for which variants. Every one is kept, and shown."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from equipoise.platform.record.reading import read_json
from equipoise.platform.record.runs import Runs
from equipoise.platform.record.tracking import Tracker

OPENINGS = "openings.json"  # artifact of a study's parent run
SHOWN = 5  # variants that a sentence names


@dataclass(frozen=True)
class Opening:
    """One look at test items.

    Attributes:
        when: UTC, as ``2026-11-26T18:04:05Z``.
        by: the kind of study that looked: ``ablation`` or ``confirmation``.
        study: its name.
        variants: that were scored.
        benchmarks: whose test parts were opened.
    """

    when: str
    by: str
    study: str
    variants: tuple[str, ...]
    benchmarks: tuple[str, ...]

    @classmethod
    def now(cls, by: str, study: str, variants: Sequence[str], benchmarks: Sequence[str]) -> Opening:
        """An opening at this moment."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return cls(when, by, study, tuple(dict.fromkeys(variants)), tuple(benchmarks))

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Opening:
        """As it was kept."""
        return cls(**{**content, "variants": tuple(content["variants"]), "benchmarks": tuple(content["benchmarks"])})

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @property
    def sentence(self) -> str:
        """When, by what, for whom."""
        more = len(self.variants) - SHOWN
        names = ", ".join(self.variants[:SHOWN]) + (f" and {more} more" if more > 0 else "")
        return f"Test part of {', '.join(self.benchmarks)} opened {self.when} by {self.by} {self.study} for {names}."

    def same(self, other: Opening) -> bool:
        """Whether the other looks at nothing new: a resumed study goes on with what it had opened."""
        return (self.by, self.study) == (other.by, other.study) and set(other.variants) <= set(self.variants)


def openings_of(tracker: Runs, run_id: str) -> tuple[Opening, ...]:
    """Openings that a study's parent run holds, oldest first."""
    if OPENINGS not in tracker.files(run_id):
        return ()
    return tuple(Opening.of(one) for one in read_json(tracker, run_id, OPENINGS, "the openings of the test part"))


def keep_opening(tracker: Tracker, run_id: str, opening: Opening) -> None:
    """Add an opening to a study's parent run, before anything is scored; one that is there is not added again.

    Raises:
        TrackingError: the run cannot be read.
    """
    before = openings_of(tracker, run_id)
    if any(one.same(opening) for one in before):
        return
    content = [one.to_dict() for one in (*before, opening)]
    tracker.client.log_text(run_id, json.dumps(content, indent=1), OPENINGS)
