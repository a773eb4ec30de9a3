"""A search with early stopping in the books, without Ray: drivers that die anywhere, trials that stop, repeats."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from equipoise.platform import director, meter, study
from equipoise.platform.cost import Budget, Cost
from equipoise.platform.definitions import SweepDefinition
from equipoise.platform.director import Director
from equipoise.platform.errors import StudyError
from equipoise.platform.halving import EarlyStopping, SeedFidelity
from equipoise.platform.home import Home, Paths
from equipoise.platform.ledger import Ledger, Row
from equipoise.platform.progress import StudyDisplay
from equipoise.platform.proposals import OptunaProposer, SearchStore
from equipoise.platform.settings import TrialSettings, parse
from equipoise.platform.storage import Place
from equipoise.platform.trial import PHASE

BENCHMARKS = ("mini_dive", "mini_ssv2", "mini_in")
STOPPING = EarlyStopping(rungs=2, reduction_factor=2, warmup=2)  # at steps 2 and 3 of 6


class Killed(BaseException):
    """The driver dies here."""


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

    def trial_runs(self, parent: str) -> list[Any]:
        return []


Make = Callable[..., TrialSettings]


class Sweep:
    """A study's driver that can die and come back; trials answer at once."""

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
        self.director = Director(
            study="s",
            folder=self.folder,
            trials=Place.at(self.folder / "trials"),
            ledger=self.ledger,
            tracker=tracker,
            parent="parent",
            paths=Paths(self.folder, self.folder),
            display=StudyDisplay("s", 10, quiet=True),
            benchmarks=BENCHMARKS,
            manifest_hash="0",
            proposer=OptunaProposer(self.definition, BENCHMARKS, store, "parent"),
            make=self.make,
            searched=self.definition.trials,
            halving=self.definition.early_stopping,
            seeds=self.definition.seeds,
            budget=self.definition.budget,
            prices=self.definition.prices,
            resources=self.definition.resources,
        )
        self.director.reconcile()
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

    def trial(self, die_after: float | None = None) -> Row | None:
        """One trial from its suggestion to its end; the driver dies after so many reports."""
        config = self.director.suggest("ray")
        if config is None:
            return None
        number, settings = config["number"], TrialSettings.model_validate_json(config["settings"])
        self.director.started(number)
        stays = True
        for count, step in enumerate((config["rungs"] or {"steps": []})["steps"]):
            if die_after == count:
                raise Killed
            scores = self.scores(settings, step / 6)
            stays = self.director.judge(number, step, scores)
            if die_after == count + 0.5:
                raise Killed  # booked, and nobody else has heard of it
            self.director.reported(number, {PHASE: "rung", "step": step, "scores": scores})
            if not stays:
                break
        if stays:
            self.complete(number)
            return self.ledger[number]
        self.director.ended(number, None)
        return self.ledger[number]

    def complete(self, number: int) -> None:
        """A trial comes to its end and is scored."""
        settings = TrialSettings.model_validate_json(self.ledger[number].settings or "")
        folder = self.director.trials / f"t{number:04d}"
        for name in ("correctness/mini_dive.parquet", "scores.json"):
            (folder / name).write("{}")
        result: dict[str, Any] = {
            "checkpoint": None,
            "accuracies": self.scores(settings, 1.0),
            "summaries": [],
            "flags": [],
        }
        self.director.reported(number, {PHASE: "done", "result": {**result, "seconds": {"score": 0.0}}})
        self.director.ended(number, None)

    def finish(self) -> list[Row]:
        while self.trial() is not None:
            pass
        return self.ledger.rows()

    def optuna(self) -> list[optuna.trial.FrozenTrial]:
        storage = SearchStore(str(self.folder / "optuna.journal")).open()
        return optuna.load_study(study_name="s", storage=storage).trials


@pytest.fixture
def sweep(tmp_path: Path, make_trial: Make) -> Callable[..., Sweep]:
    def make(name: str, **change: Any) -> Sweep:
        (tmp_path / name).mkdir()
        return Sweep(tmp_path / name, make_trial, **{"early_stopping": STOPPING.model_dump(), **change})

    return make


def story(rows: list[Row]) -> list[Any]:
    """What a study came to, without who ran it when."""
    return [(r.number, r.name, r.role, r.status, r.settings, r.optuna_number, r.rungs, r.result) for r in rows]


def test_stopped_trials_are_pruned_and_kept_apart(sweep: Callable[..., Sweep]) -> None:
    s = sweep("a")
    rows = s.finish()
    searched = [r for r in rows if r.role == "search"]
    assert len(searched) == 12
    assert {r.status for r in searched} == {"finished", "stopped"}
    assert (rows[0].status, rows[0].rungs) == ("finished", {})  # the control was not looked at
    hw = next(r for r in rows if r.name == "hw")
    assert (hw.status, list(hw.rungs)) == ("finished", [2, 3])
    told = {t.number: t for t in s.optuna()}
    for row in searched:
        assert row.optuna_number is not None
        trial = told.pop(row.optuna_number)
        assert trial.user_attrs["equipoise.rungs"] == {str(k): v for k, v in row.rungs.items()}
        if row.status == "stopped":
            assert (trial.state, trial.values, row.result, row.error) == (TrialState.PRUNED, None, None, None)
            assert s.runs.status[row.key] == "stopped"
            assert s.runs.tags[row.key]["stopped_at_step"] == str(max(row.rungs))
            names = {name for _, values in s.runs.logged[row.key] for name in values}
            assert {n for n in names if not n.startswith("usage/")} == {f"rung_{b}" for b in BENCHMARKS}
        else:
            assert trial.state == TrialState.COMPLETE
            assert row.result is not None
            assert trial.values == list(row.result["accuracies"].values())
    assert not told
    assert s.director.remaining() == 0


def test_a_starting_point_is_compared_with_and_never_stopped(sweep: Callable[..., Sweep]) -> None:
    s = sweep("a", start=["hw", "delta"], trials=2)
    rows = [r for r in s.finish() if r.role == "search"]
    assert [(r.name, r.status, list(r.rungs)) for r in rows] == [
        ("hw", "finished", [2, 3]),
        ("delta", "finished", [2, 3]),
    ]


@pytest.mark.parametrize("when", [0, 0.5, 1, 1.5])
def test_a_driver_that_dies_at_a_rung_changes_nothing(sweep: Callable[..., Sweep], when: float) -> None:
    whole = story(sweep("whole").finish())
    cut = sweep("cut")
    died = 0
    for _ in range(40):
        try:
            if cut.trial(die_after=when) is None:
                break
        except Killed:
            died += 1
            cut.begin()
            cut.trial()  # the one that was interrupted, if it was not stopped
    assert died > 2
    assert story(cut.ledger.rows()) == whole
    states = [t.state for t in cut.optuna()]
    assert [TrialState.PRUNED if r[3] == "stopped" else TrialState.COMPLETE for r in whole[1:]] == states
    assert all(cut.runs.status[r.key] == r.status for r in cut.ledger.rows())


POINTS = ("before asking", "asked", "marked", "first weight", "all weights", "booked")
# Before and after TPE has enough trials for its model; the other samplers where it matters for them.
DEATHS = [("tpe", point, after) for point in POINTS for after in (1, 11)]
DEATHS += [(sampler, point, 2) for sampler in ("random", "nsga2") for point in ("asked", "first weight")]


@pytest.fixture(scope="module")
def whole_stories(tmp_path_factory: pytest.TempPathFactory, make_trial: Make) -> Callable[[str], list[Any]]:
    """What searches come to whose drivers nobody kills."""

    @functools.cache
    def found(sampler: str) -> list[Any]:
        return story(Sweep(tmp_path_factory.mktemp(sampler), make_trial, sampler=sampler, trials=13).finish())

    return found


@pytest.mark.parametrize(("sampler", "point", "after"), DEATHS)
def test_no_suggestion_is_lost_between_asking_and_writing_down(
    sweep: Callable[..., Sweep],
    whole_stories: Callable[[str], list[Any]],
    sampler: str,
    point: str,
    after: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut = sweep("cut", sampler=sampler, trials=13, early_stopping=None)
    for _ in range(1 + after):
        cut.trial()
    proposer: Any = cut.director.proposer
    storage, weights = proposer._storage, 0

    def die(*words: Any, **named: Any) -> Any:
        raise Killed

    def then_die(call: Callable[..., Any], count: int = 1) -> Callable[..., Any]:
        def called(*words: Any, **named: Any) -> Any:
            nonlocal weights
            found = call(*words, **named)
            weights += 1
            if weights == count:
                raise Killed
            return found

        return called

    if point == "before asking":
        monkeypatch.setattr(proposer, "ask", die)
    elif point == "asked":
        monkeypatch.setattr(storage, "create_new_trial", then_die(storage.create_new_trial))
    elif point == "marked":
        monkeypatch.setattr(storage, "set_trial_user_attr", then_die(storage.set_trial_user_attr))
    elif point in ("first weight", "all weights"):
        monkeypatch.setattr(storage, "set_trial_param", then_die(storage.set_trial_param, 1 + (point == "all weights")))
    else:
        monkeypatch.setattr(cut.director, "_book", die)
    with pytest.raises(Killed):
        cut.trial()
    monkeypatch.undo()
    cut.begin()
    assert not [r for r in cut.ledger.rows() if r.settings is None]
    assert story(cut.finish()) == whole_stories(sampler)
    assert all(t.state == TrialState.COMPLETE for t in cut.optuna())


def test_repeats_take_the_place_of_trials_and_are_no_news_to_optuna(sweep: Callable[..., Sweep]) -> None:
    s = sweep("a", seeds=SeedFidelity(most=3, share=0.4).model_dump())
    rows = [r for r in s.finish() if r.role != "control"]
    assert len(rows) == 12
    repeats = [r for r in rows if r.role == "repeat"]
    assert 2 <= len(repeats) <= 4
    variants = {r.name: TrialSettings.model_validate_json(r.settings or "").variant for r in rows if r.role == "search"}
    for r in repeats:
        settings = TrialSettings.model_validate_json(r.settings or "")
        assert (settings.variant, settings.variant_name) == (variants[r.name], r.name)
        assert settings.seed in (1, 2)
        assert (r.optuna_number, r.rungs, r.status) == (None, {}, "finished")
    assert len({(r.name, TrialSettings.model_validate_json(r.settings or "").seed) for r in rows}) == 12
    assert len(s.optuna()) == 12 - len(repeats)
    again = sweep("b", seeds=SeedFidelity(most=3, share=0.4).model_dump())
    for _ in range(5):
        again.trial()
    again.begin()
    assert story(again.finish()) == story(s.ledger.rows())


def test_a_rung_that_comes_again_gets_the_answer_it_got(sweep: Callable[..., Sweep]) -> None:
    s = sweep("a")
    for _ in range(6):
        s.trial()
    row = next(r for r in s.ledger.rows() if r.status == "finished" and r.role == "search")
    better = {n: dict.fromkeys(BENCHMARKS, -math.inf) for n in row.rungs}
    assert all(s.director.judge(row.number, n, scores) for n, scores in better.items())
    assert s.ledger[row.number].rungs == row.rungs
    stopped = next(r for r in s.finish() if r.status == "stopped")
    assert not s.director.judge(stopped.number, max(stopped.rungs), dict.fromkeys(BENCHMARKS, 100.0))


def test_a_stopped_trial_whose_process_dies_before_its_end_stays_stopped(sweep: Callable[..., Sweep]) -> None:
    """On Ray Train its workers end themselves, and until they have Tune may start it again."""
    s = sweep("a", resources={"workers": 2})
    config: dict[str, Any] | None = None
    while (config := s.director.suggest("ray")) is not None:
        number = config["number"]
        s.director.started(number)
        settings = TrialSettings.model_validate_json(config["settings"])
        steps = (config["rungs"] or {"steps": []})["steps"]
        if not all(s.director.judge(number, step, s.scores(settings, step / 6)) for step in steps):
            break
        s.complete(number)
    assert config is not None
    first, number = s.ledger[config["number"]], config["number"]
    s.director.died(number)
    s.director.started(number)
    assert (s.ledger[number].status, s.ledger[number].attempts) == ("stopped", 2)
    assert not any(s.director.judge(number, step, dict.fromkeys(BENCHMARKS, 100.0)) for step in first.rungs)
    s.director.ended(number, None)
    assert (s.ledger[number].status, s.ledger[number].rungs) == ("stopped", first.rungs)
    assert s.optuna()[first.optuna_number or 0].state == TrialState.PRUNED


def test_a_book_from_before_early_stopping_is_read(tmp_path: Path) -> None:
    import sqlite3

    from equipoise.platform import ledger

    old = sqlite3.connect(tmp_path / "ledger.db")
    old.executescript(ledger.SCHEMA.replace("    rungs TEXT,\n    cost TEXT,\n", ""))
    old.execute("INSERT INTO trials (name, role, status, created, updated) VALUES ('hw', 'search', 'finished', 0, 0)")
    old.commit()
    old.close()
    (row,) = Ledger(tmp_path / "ledger.db").rows()
    assert (row.name, row.rungs, row.cost) == ("hw", {}, None)
    found = Ledger(tmp_path / "ledger.db").update(row.number, rungs={7: {"a": 1.0}})
    assert found.rungs == {7: {"a": 1.0}}


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(director, "time", found)
    monkeypatch.setattr(meter, "time", found)
    return found


def test_time_is_booked_over_interruptions_and_lost_work_is_seen(clock: Clock, sweep: Callable[..., Sweep]) -> None:
    s = sweep("a", start=[], prices={"cpu_hour": 36.0})
    config = s.director.suggest("ray")
    assert config is not None
    number = config["number"]

    def cost() -> dict[str, float]:
        found = s.ledger[number].cost
        assert found is not None
        return found

    def start() -> None:
        config = s.director.suggest("ray")
        assert config is not None
        assert config["number"] == number
        s.director.started(number)

    def report(step: int, seconds: float) -> None:
        s.director.reported(
            number, {"phase": "pretrain", "total": 9, "metrics": {"step": step, "loss": 1.0, "seconds": seconds}}
        )

    s.director.started(number)
    clock.now += 4
    report(1, 3.0)
    assert s.ledger[number].cost is None  # a booking costs a write to the disk: not for every report
    clock.now += 8
    report(3, 11.0)
    assert cost() == {"seconds": 12, "cpu_seconds": 12, "gpu_seconds": 0, "trained": 11.0, "lost": 0}
    clock.now += 500  # the driver dies, and comes back much later
    s.begin()
    start()
    clock.now += 2
    report(2, 7.0)  # its checkpoint's report
    assert (cost()["seconds"], cost()["lost"]) == (14, 4.0)
    clock.now += 1
    s.director.interrupt()
    assert cost()["seconds"] == 15
    start()
    clock.now += 5
    s.complete(number)
    assert cost()["seconds"] == 20
    logged = {k: v for _, values in s.runs.logged[s.ledger[number].key] for k, v in values.items()}
    assert logged["usage/cpu_hours"] == pytest.approx(20 / 3600)
    assert logged["usage/price"] == pytest.approx(0.2)
    assert logged["usage/lost_seconds"] == 4.0


def test_a_search_ends_with_its_budget_and_goes_on_with_a_larger_one(clock: Clock, sweep: Callable[..., Sweep]) -> None:
    s = sweep("a", start=[], budget="0.025cpu-h")  # 90 s
    ran = 0
    assert s.director.budget_note() is None
    while (config := s.director.suggest("ray")) is not None:
        s.director.started(config["number"])
        clock.now += 40
        s.complete(config["number"])
        ran += 1
    assert ran == 2  # the control, and one trial: a third does not fit into the 10 s that are left
    assert s.director.remaining() == 0
    assert sum(s.director.meter.hours("cpu").values()) == pytest.approx(80 / 3600)
    note = s.director.budget_note()
    assert note is not None
    assert note.startswith(
        "The budget of 0.025cpu-h holds no further trial: 0.0222 are spent, another takes about 0.0111"
    )
    assert "1 of the search's 12 trials were run; --resume with a larger --budget runs more." in note
    s.definition = s.definition.model_copy(update={"budget": Budget(hours=0.04, unit="cpu")})  # 144 s
    s.begin()
    assert s.director.suggest("ray") is not None


def test_a_budget_waits_for_what_trials_under_way_come_to(
    clock: Clock, sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(director, "capacity", lambda *words: 4)
    s = sweep("a", start=[], budget="0.05cpu-h")  # 180 s

    def start() -> int:
        assert not s.director.full()
        config = s.director.suggest("ray")
        assert config is not None
        s.director.started(config["number"])
        return int(config["number"])

    def end(number: int, after: float) -> None:
        clock.now += after
        s.complete(number)

    end(start(), 60)  # the control
    a, b = start(), start()
    assert s.director.full()  # 60 spent, 120 to come
    end(a, 20)
    c = start()  # another is expected to take 20, and so is b
    end(b, 20)  # 40 of its own: trials take 30, and 120 are spent
    d = start()  # 30 for c, 30 for d
    assert s.director.full()
    end(c, 1)  # 21: trials take 27
    assert s.director.full()
    end(d, 1)  # 2
    e = start()
    assert s.director.full()
    end(e, 30)
    assert not s.director.full()
    assert s.director.suggest("ray") is None
    assert s.director.remaining() == 0
    assert sum(s.director.meter.hours("cpu").values()) == pytest.approx((60 + 20 + 40 + 21 + 2 + 30) / 3600)


def test_what_holds_nothing_costs_nothing(clock: Clock, sweep: Callable[..., Sweep]) -> None:
    s = sweep("a", start=[])
    config = s.director.suggest("ray")
    assert config is not None
    number = config["number"]
    s.director.started(number)
    clock.now += 11
    s.director.reported(number, {PHASE: "probes", "count": 1, "total": 3})
    assert Cost.of(s.ledger[number].cost).seconds == 11, "scoring is booked on the way as training is"
    clock.now += 5
    s.director.died(number)
    clock.now += 600  # its node is gone, and another comes
    s.director.started(number)
    clock.now += 7
    s.complete(number)
    assert Cost.of(s.ledger[number].cost).seconds == 11 + 5 + 7


def test_workers_of_ray_train_cost_from_their_first_report_on(clock: Clock, sweep: Callable[..., Sweep]) -> None:
    s = sweep("a", start=[], resources={"workers": 2, "cpus_per_worker": 3})
    config = s.director.suggest("ray")
    assert config is not None
    number = config["number"]
    s.director.started(number)
    clock.now += 600  # the cluster grows
    s.director.reported(number, {PHASE: "setup", "count": 0, "total": 1})
    clock.now += 10
    s.complete(number)
    assert Cost.of(s.ledger[number].cost) == Cost(seconds=10, cpu_seconds=60)


def test_early_stopping_may_be_given_up_and_not_changed(tmp_path: Path, make_trial: Make) -> None:
    content = {"name": "s", "regime": "miniature", "preset": "nano", "trials": 12, "control_seeds": [0]}
    content |= {"objectives": {"delta": {"low": 0.1, "high": 2.0}}}
    ledger, tracker = Ledger(tmp_path / "ledger.db"), Home(tmp_path).tracker()

    def parent(**change: Any) -> str:
        return study._parent(
            parse(SweepDefinition, content | change, "s"), "sweep", ledger, tracker, make_trial(), False
        )

    first = parent(early_stopping={"rungs": 2})
    with pytest.raises(StudyError, match=r"was started with early_stopping \{'rungs': 2"):
        parent(early_stopping={})
    assert parent() == first
    assert parent() == first
    with pytest.raises(StudyError, match="was started with early_stopping None"):
        parent(early_stopping={})
    ledger.close()


def test_a_search_goes_on_without_early_stopping(sweep: Callable[..., Sweep]) -> None:
    s = sweep("a")
    for _ in range(6):
        s.trial()
    s.definition = s.definition.model_copy(update={"early_stopping": None})
    s.begin()
    before = len(s.ledger.rows())
    rows = s.finish()
    assert {(r.status, len(r.rungs)) for r in rows[before:]} == {("finished", 0)}
    assert sum(r.role == "search" for r in rows) == 12
