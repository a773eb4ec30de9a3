"""A small study beside one of record: what both have of a mix, and how far the small one can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from equipoise.platform.analysis.differences import Differences, differences
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.settings.variant import CONTROLS


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Variants that two studies share, as differences from the baseline of each, in points.

    Attributes:
        here: name of the small study.
        reference: name of the study of record.
        benchmarks: that both were scored on.
        variants: shared mixes, in the order of the small study.
        small: its differences.
        record: those of the study of record.
        unlike: what differs between the two besides seeds, in words.
    """

    here: str
    reference: str
    benchmarks: tuple[str, ...]
    variants: tuple[str, ...]
    small: Differences
    record: Differences
    unlike: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """How much the two agree, in plain words."""
        pairs = [(self.small[key].estimate, self.record[key].estimate) for key in self.keys]
        agree = sum(one * other > 0 for one, other in pairs)
        clear = [key for key in self.keys if self.record[key].distinguishable]
        found = sum(self.small[key].estimate * self.record[key].estimate > 0 for key in clear)
        return (
            f"{agree} of {len(pairs)} differences have the sign that they have in {self.reference}; of the "
            f"{len(clear)} that are more than chance there, {found}."
        )

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Variant and benchmark of every difference that both have."""
        return [(v, b) for v in self.variants for b in self.benchmarks]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record; an end of an interval that is not known is null."""

        def known(value: float) -> float | None:
            return None if math.isnan(value) else value

        rows = [
            {
                "variant": v,
                "benchmark": b,
                "here": self.small[v, b].estimate,
                "reference": self.record[v, b].estimate,
                "reference_interval": [known(end) for end in (self.record[v, b].low, self.record[v, b].high)],
                "reference_distinguishable": self.record[v, b].distinguishable,
            }
            for v, b in self.keys
        ]
        unlike = list(self.unlike)
        return {"reference": self.reference, "differences": rows, "unlike": unlike, "sentence": self.sentence}


def beside(small: StudyRecord, reference: StudyRecord) -> Beside | None:
    """Place a study beside one of record; None where they share no mix.

    A mix is shared where its name and its weights are.

    Raises:
        TrackingError: no trial of one of them is finished.
        StatisticsError: outcomes of items that are missing or do not fit together.
        StorageError: the place where its trials wrote cannot be reached.
    """
    one, other = differences(small), differences(reference)
    mine, its = small.settings, reference.settings
    benchmarks = tuple(b for b in small.benchmarks if b in reference.benchmarks)
    shared = tuple(
        v
        for v in small.table.variants
        if v not in CONTROLS
        and v in its
        and its[v].variant.objectives == mine[v].variant.objectives
        and all((v, b) in one and (v, b) in other for b in benchmarks)
    )
    if not shared:
        return None
    return Beside(
        here=small.name,
        reference=reference.name,
        benchmarks=benchmarks,
        variants=shared,
        small=one,
        record=other,
        unlike=tuple(_unlike(small, reference, shared[0])),
    )


def _unlike(small: StudyRecord, reference: StudyRecord, variant: str) -> list[str]:
    one, other = small.settings[variant], reference.settings[variant]
    seeds: Mapping[str, int] = {r.name: len(r.table.seeds(variant)) for r in (small, reference)}
    numbers = (
        ("steps", one.preset.optimisation.steps, other.preset.optimisation.steps),
        ("seeds", seeds[small.name], seeds[reference.name]),
        ("part", small.part, reference.part),
        ("regime", one.regime.name, other.regime.name),
    )
    return [f"{what} {mine} here, {its} there" for what, mine, its in numbers if mine != its]
