"""A study's driver without Ray: trials answer at once, and the driver may die anywhere and come back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from equipoise.platform.record.ledger import Ledger, TrialRow
from equipoise.platform.search.proposer import OptunaProposer
from equipoise.platform.search.store import SearchStore
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.search import EarlyStopping
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths, Place
from equipoise.platform.study import director, meter
from equipoise.platform.study.director import Director
from equipoise.platform.study.plan import SearchPlan, StudyPlan
from equipoise.platform.study.progress import StudyDisplay
from equipoise.platform.trial.messages import Done, RungScores

BENCHMARKS = ("mini_dive", "mini_ssv2", "mini_in")
STOPPING = EarlyStopping(rungs=2, reduction_factor=2, warmup=2)  # at steps 2 and 3 of 6


class Runs:
    """MLflow, as far as a director asks for it."""

    def __init__(self) -> None:
        self.status: dict[str, str] = {}
        self.logged: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self.tags: dict[str, dict[str, str]] = {}

    def start_trial(self, parent: str, study: str, key: str, *more: Any) -> str:
        self.status[key] = "RUNNING"
        return key

    def running(self, run_id: str) -> None:
        self.status[run_id] = "RUNNING"

    def metrics(self, run_id: str, values: dict[str, float], step: int) -> None:
        self.logged.setdefault(run_id, []).append((step, dict(values)))

    trained = metrics

    def tag(self, run_id: str, **tags: str) -> None:
        self.tags.setdefault(run_id, {}).update(tags)

    def artifacts(self, *words: Any) -> None:
        pass

    def end(self, run_id: str, status: str, error: str | None = None) -> None:
        self.status[run_id] = status

    def children(self, parent: str) -> list[Any]:
        return []


Make = Callable[..., TrialSettings]


class Sweep:
    """A study's driver that can die and come back; trials answer at once."""

    class Killed(BaseException):
        """The driver dies here."""

    def __init__(self, folder: Path, make_trial: Make, **change: Any) -> None:
        content = {"name": "s", "regime": "miniature", "preset": "nano", "trials": 12, "control_seeds": [0], "seed": 5}
        content |= {"objectives": {"hard_region": {"low": 0.1, "high": 2.0}, "delta": {"low": 0.1, "high": 2.0}}}
        self.definition = parse(SweepDefinition, {**content, "start": ["hw"], **change}, "test")
        self.folder, self.make_trial, self.runs = folder, make_trial, Runs()
        self.director = self.begin()

    def begin(self) -> Director:
        """A new process over the same files."""
        store = SearchStore(str(self.folder / "optuna.journal"))
        self.ledger = Ledger(self.folder / "ledger.db")
        if self.ledger.fact("listed") is None:
            self.ledger.open_trial("baseline", "control", self.make_trial().model_dump_json())
            self.ledger.set_fact("listed", True)
        tracker: Any = self.runs
        d = self.definition
        search = SearchPlan(
            proposer=OptunaProposer(d, BENCHMARKS, store, "parent"),
            make=self.make,
            trials=d.trials,
            early_stopping=d.early_stopping,
            seeds=d.seeds,
            budget=d.budget,
        )
        self.plan = StudyPlan(
            study="s",
            folder=self.folder,
            trials=Place.at(self.folder / "trials"),
            parent="parent",
            paths=Paths(self.folder, self.folder),
            benchmarks=BENCHMARKS,
            part="select",
            manifest_hash="0",
            resources=d.resources,
            prices=d.prices,
            search=search,
        )
        self.director = Director(self.plan, self.ledger, tracker, StudyDisplay("s", quiet=True))
        self.bookkeeper = self.director.bookkeeper
        self.bookkeeper.reconcile()
        return self.director

    def make(self, name: str, variant: Any, seed: int) -> TrialSettings:
        settings = self.make_trial("baseline", seed=seed).model_dump(mode="json")
        return TrialSettings.model_validate({**settings, "variant_name": name, "variant": variant})

    def scores(self, settings: TrialSettings, share: float) -> dict[str, float]:
        """Made-up accuracies: the objectives pull in different directions; less of them on the way."""
        on = settings.variant.objectives
        h, d = (on[k].weight if k in on else 0.0 for k in ("hard_region", "delta"))
        spice = settings.seed
        return {
            "mini_dive": share * (30 + h - d) + spice,
            "mini_ssv2": share * (40 + d - h),
            "mini_in": share * 9 - h * d,
        }

    def trial(self, die_after: float | None = None) -> TrialRow | None:
        """One trial from its suggestion to its end; the driver dies after so many reports."""
        task = self.director.suggest("ray")
        if task is None:
            return None
        number, settings = task.number, task.settings
        self.bookkeeper.started(number)
        stays = True
        for count, step in enumerate(task.rungs.steps if task.rungs else ()):
            if die_after == count:
                raise self.Killed
            scores = self.scores(settings, step / 6)
            stays = self.director.decide(number, step, scores)
            if die_after == count + 0.5:
                raise self.Killed  # booked, and nobody else has heard of it
            self.bookkeeper.reported(number, RungScores(step, scores, 0.0))
            if not stays:
                break
        if stays:
            self.complete(number)
            return self.ledger[number]
        self.bookkeeper.ended(number, None)
        return self.ledger[number]

    def complete(self, number: int) -> None:
        """A trial comes to its end and is scored."""
        settings = TrialSettings.model_validate_json(self.ledger[number].settings or "")
        folder = self.plan.trials / f"t{number:04d}"
        for name in ("correctness/mini_dive.parquet", "scores.json"):
            (folder / name).write("{}")
        result: dict[str, Any] = {
            "checkpoint": None,
            "accuracies": self.scores(settings, 1.0),
            "summaries": [],
            "flags": [],
        }
        self.bookkeeper.reported(number, Done({**result, "seconds": {"score": 0.0}}))
        self.bookkeeper.ended(number, None)

    def finish(self) -> list[TrialRow]:
        while self.trial() is not None:
            pass
        return self.ledger.rows()

    def optuna(self) -> list[optuna.trial.FrozenTrial]:
        storage = SearchStore(str(self.folder / "optuna.journal")).open()
        return optuna.load_study(study_name="s", storage=storage).trials


Begin = Callable[..., Sweep]


@pytest.fixture(scope="session")
def begin(make_trial: Make) -> Begin:
    """A driver over a folder of one's own."""

    def begun(folder: Path, **change: Any) -> Sweep:
        return Sweep(folder, make_trial, **change)

    return begun


@pytest.fixture
def sweep(tmp_path: Path, begin: Begin) -> Begin:
    """A driver over a new folder by name; it stops early."""

    def make(name: str, **change: Any) -> Sweep:
        (tmp_path / name).mkdir()
        return begin(tmp_path / name, **{"early_stopping": STOPPING.model_dump(), **change})

    return make


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The driver's clock, which stands still."""
    found = Clock()
    monkeypatch.setattr(director, "time", found)
    monkeypatch.setattr(meter, "time", found)
    return found
