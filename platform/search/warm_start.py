"""What a search can begin with from an earlier study of the same record.

Where both studies train and score alike (regime, preset, reading, data), the earlier accuracies are comparable, and its
mixes enter the search as trials that are done already. Where they differ, the accuracies mean something else, but the
order of mixes may carry over: the earlier study's best ones, on its front, are tried first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from equipoise.platform.errors import StudyError
from equipoise.platform.record.home import Home
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.settings.parts import SELECT
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.settings.variant import CONTROLS, Variant, variants
from equipoise.platform.stats.pareto import ranks

MOST_STARTS = 8
"""Mixes of an earlier study that are tried first at most, and never more than a quarter of the search."""


@dataclass(frozen=True)
class EarlierMix:
    """A mix of an earlier study that lies in the space of the search.

    Attributes:
        key: ``STUDY/VARIANT``, what the record of the search calls it.
        name: name it would run under here: its own where it is a shipped variant, ``STUDY.VARIANT`` otherwise.
        variant: its weights.
        accuracies: means over seeds in percent, by benchmark.
    """

    key: str
    name: str
    variant: Variant
    accuracies: Mapping[str, float]


@dataclass(frozen=True)
class Earlier:
    """What a search takes from an earlier study.

    Attributes:
        study: its name.
        done: mixes that enter as trials that are done.
        starts: mixes that are tried first.
        left_out: mixes that do not lie in the space, with why: the verb and all that follows the name.
        differs: why values are not comparable; None where they are.
    """

    study: str
    done: tuple[EarlierMix, ...] = ()
    starts: tuple[EarlierMix, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    differs: str | None = None

    @property
    def sentence(self) -> str:
        """What is taken, in a few words."""
        if self.differs is None:
            said = f"warm start from {self.study}: {len(self.done)} of its mixes count as done"
        else:
            names = ", ".join(mix.name for mix in self.starts)
            said = f"warm start from {self.study} ({self.differs}): tried first are {names}"
        return said + (f"; {len(self.left_out)} do not lie in this space" if self.left_out else "")


def earlier_mixes(
    definition: SweepDefinition, home: Home, example: TrialSettings, manifest_hash: str | None = None
) -> Earlier:
    """Read the earlier study that a sweep names, and sort its mixes into done, to be tried first, and left out.

    Args:
        definition: the sweep.
        home: whose record holds both.
        example: settings of a trial of the sweep.
        manifest_hash: of the data that the sweep reads; None leaves the data out of the comparison.

    Raises:
        TrackingError: no such study, or it has no finished trial.
        StudyError: it was scored on the test part, or none of its mixes lies in the space of the search.
    """
    assert definition.warm_start is not None
    record = StudyRecord.open(home, definition.warm_start)
    if record.part != SELECT:
        raise StudyError(
            f"warm_start: study {record.name!r} was scored on the {record.part} part, which a search must not learn "
            "from: name a sweep of this version, or leave warm_start out"
        )
    study, table, settings = record.name, record.table, record.settings
    found: list[EarlierMix] = []
    left_out: dict[str, str] = {}
    for name, one in settings.items():
        means = table.mean_of(name)
        if name in CONTROLS or len(means) < len(table.benchmarks):
            continue
        why = definition.refuses(one.variant)
        if why is None:
            own = name if variants().get(name) == one.variant else f"{study}.{name}"
            found.append(EarlierMix(f"{study}/{name}", own, one.variant, means))
        else:
            left_out[name] = why
    if not found:
        example_of = "; ".join(f"{name} {why}" for name, why in list(left_out.items())[:1])
        raise StudyError(
            f"warm_start: study {study!r} has no finished mix that lies in the search space of {definition.name!r}"
            f"{f' ({example_of})' if example_of else ''}: widen the space, or leave warm_start out"
        )
    differs = _differs(next(iter(settings.values())), example, _hashes(record), manifest_hash)
    if differs is None and set(table.benchmarks) != set(example.scored):
        differs = f"its benchmarks are {', '.join(table.benchmarks)}"
    if differs is None:
        return Earlier(study, done=tuple(found), left_out=left_out)
    return Earlier(study, starts=best_mixes(found, definition.trials), left_out=left_out, differs=differs)


def _differs(one: TrialSettings, other: TrialSettings, hashes: set[str], manifest_hash: str | None) -> str | None:
    for what, mine, its in (("regime", other.regime, one.regime), ("preset", other.preset, one.preset)):
        if its != mine:
            return f"its {what} is {its.name}" + (" with other values" if its.name == mine.name else "")
    if one.reading != other.reading:
        return f"its reading is {one.reading}"
    if manifest_hash is not None and hashes != {manifest_hash}:
        return "its data was another"
    return None


def _hashes(record: StudyRecord) -> set[str]:
    return {run.data.tags.get("manifest_hash", "") for run in record.trials}


def best_mixes(found: Sequence[EarlierMix], trials: int) -> tuple[EarlierMix, ...]:
    """What a search tries first: mixes on the front of an earlier study, the best on the average of benchmarks first.

    Args:
        found: its mixes.
        trials: of the search; a quarter of them at most, and no more than ``MOST_STARTS``.
    """
    points = np.array([list(mix.accuracies.values()) for mix in found])
    spread = points.std(axis=0)
    score = ((points - points.mean(axis=0)) / np.where(spread > 0, spread, 1.0)).mean(axis=1)
    on_front = [i for i, rank in enumerate(ranks(points)) if rank == 0]
    best = sorted(on_front, key=lambda i: -score[i])[: min(MOST_STARTS, max(1, trials // 4))]
    return tuple(found[i] for i in best)
