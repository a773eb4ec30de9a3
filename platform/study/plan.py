"""The plan of a study: what its director and its bookkeeper go by, decided before the first trial and never changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from equipoise.platform.search.proposer import OptunaProposer
from equipoise.platform.settings.parts import Part
from equipoise.platform.settings.search import Budget, EarlyStopping, Prices, SeedFidelity
from equipoise.platform.settings.trial import Resources, TrialSettings
from equipoise.platform.settings.variant import Variant
from equipoise.platform.storage import Paths, Place


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """How a study searches.

    Attributes:
        proposer: source of mixes.
        make: settings of a trial from its name, variant and seed.
        trials: how many it asks for, repeats included.
        early_stopping: when its trials stop early; None: never.
        seeds: how promising variants earn more seeds; None: they do not.
        budget: hours that it does not mean to exceed; None: no end but ``trials``.
        reserve: trials of the confirmation that follows, for which the budget keeps hours back.
    """

    proposer: OptunaProposer
    make: Callable[[str, Variant, int], TrialSettings]
    trials: int
    early_stopping: EarlyStopping | None = None
    seeds: SeedFidelity | None = None
    budget: Budget | None = None
    reserve: int = 0


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """What a study is made of.

    Attributes:
        study: name of the study.
        folder: the study's folder on the driver.
        trials: where trials write, each in a folder of its own.
        parent: its parent run.
        paths: where trials read.
        benchmarks: what trials are scored on; empty for none.
        part: of each benchmark: ``select`` or ``test``.
        manifest_hash: of all manifests the study reads.
        resources: what a trial occupies.
        concurrent: trials at once; None: as many as fit.
        prices: of an hour; None: no price is booked.
        search: how it searches; None for a study that is a list.
    """

    study: str
    folder: Path
    trials: Place
    parent: str
    paths: Paths
    benchmarks: tuple[str, ...]
    part: Part
    manifest_hash: str
    resources: Resources
    concurrent: int | None = None
    prices: Prices | None = None
    search: SearchPlan | None = None
