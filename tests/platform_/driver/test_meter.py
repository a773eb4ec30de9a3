"""What trials cost as a search goes on, and a budget that ends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from equipoise.platform.record.cost import Cost
from equipoise.platform.settings.search import Budget
from equipoise.platform.study import director
from equipoise.platform.trial.messages import Progress, Trained

Begin = Callable[..., Any]


def heard(sweep: Any, number: int, step: int, seconds: float) -> None:
    """A trial reports a step of its nine, and the seconds of training behind it."""
    metrics = {"step": step, "loss": 1.0, "seconds": seconds}
    sweep.bookkeeper.reported(number, Trained(9, metrics))


def test_time_is_booked_over_interruptions_and_lost_work_is_seen(clock: Any, sweep: Begin) -> None:
    s = sweep("a", start=[], prices={"cpu_hour": 36.0})
    task = s.director.suggest("ray")
    assert task is not None
    number = task.number

    def cost() -> dict[str, float]:
        found: dict[str, float] | None = s.ledger[number].cost
        assert found is not None
        return found

    def start() -> None:
        task = s.director.suggest("ray")
        assert task is not None
        assert task.number == number
        s.bookkeeper.started(number)

    s.bookkeeper.started(number)
    clock.now += 4
    heard(s, number, 1, 3.0)
    assert s.ledger[number].cost is None  # a booking costs a write to the disk: not for every report
    clock.now += 8
    heard(s, number, 3, 11.0)
    assert cost() == {"seconds": 12, "cpu_seconds": 12, "gpu_seconds": 0, "trained": 11.0, "lost": 0}
    clock.now += 500  # the driver dies, and comes back much later
    s.begin()
    start()
    clock.now += 2
    heard(s, number, 2, 7.0)  # its checkpoint's report
    assert (cost()["seconds"], cost()["lost"]) == (14, 4.0)
    clock.now += 1
    s.bookkeeper.interrupt()
    assert cost()["seconds"] == 15
    start()
    clock.now += 5
    s.complete(number)
    assert cost()["seconds"] == 20
    logged = {k: v for _, values in s.runs.logged[s.ledger[number].key] for k, v in values.items()}
    assert logged["usage/cpu_hours"] == pytest.approx(20 / 3600)
    assert logged["usage/price"] == pytest.approx(0.2)
    assert logged["usage/lost_seconds"] == 4.0


def test_a_search_ends_with_its_budget_and_goes_on_with_a_larger_one(clock: Any, sweep: Begin) -> None:
    s = sweep("a", start=[], budget="0.025cpu-h")  # 90 s
    ran = 0
    assert s.director.budget_note() is None
    while (task := s.director.suggest("ray")) is not None:
        s.bookkeeper.started(task.number)
        clock.now += 40
        s.complete(task.number)
        ran += 1
    assert ran == 2  # the control, and one trial: a third does not fit into the 10 s that are left
    assert s.director.remaining() == 0
    assert sum(s.bookkeeper.meter.hours("cpu").values()) == pytest.approx(80 / 3600)
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
    clock: Any, sweep: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(director, "capacity", lambda *words: 4)
    s = sweep("a", start=[], budget="0.05cpu-h")  # 180 s

    def start() -> int:
        assert not s.director.full()
        task = s.director.suggest("ray")
        assert task is not None
        s.bookkeeper.started(task.number)
        return int(task.number)

    def end(number: int, after: float) -> None:
        clock.now += after
        heard(s, number, 9, after)
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
    assert sum(s.bookkeeper.meter.hours("cpu").values()) == pytest.approx((60 + 20 + 40 + 21 + 2 + 30) / 3600)


def start_all(sweep: Any) -> list[int]:
    """All trials that may start now."""
    found = []
    while not sweep.director.full() and (task := sweep.director.suggest("ray")) is not None:
        sweep.bookkeeper.started(task.number)
        found.append(int(task.number))
    return found


@pytest.fixture
def room_for_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that holds eight trials at once."""
    monkeypatch.setattr(director, "capacity", lambda *words: 8)


@pytest.mark.usefixtures("room_for_eight")
def test_a_first_wave_fits_into_the_budget(clock: Any, sweep: Begin) -> None:
    s = sweep("a", start=[], budget="0.1cpu-h")  # 360 s
    (control,) = start_all(s)
    assert s.director.remaining() == 1 + 12, "nothing is given up because nothing is known"
    clock.now += 12  # two of them to start
    heard(s, control, 1, 10.0)
    wave = start_all(s)
    assert len(wave) == 2, "by its pace the control takes 2 + 90 s, and so does each of the others: 276 of 360"
    clock.now += 60
    heard(s, control, 8, 40.0)  # faster than it began: 77 s in all
    assert len(start_all(s)) == 1, "4 * 77 of 360, and a fifth does not fit"


@pytest.mark.usefixtures("room_for_eight")
def test_without_budget_a_first_wave_waits_for_nothing(sweep: Begin) -> None:
    assert len(start_all(sweep("a", start=[]))) == 8


@pytest.mark.usefixtures("room_for_eight")
def test_what_was_not_trained_or_failed_is_no_forecast(clock: Any, sweep: Begin) -> None:
    s = sweep("a", start=[], budget="0.1028cpu-h")  # 370 s: a fourth would fit if nobody scored
    (untrained,) = start_all(s)
    clock.now += 5
    s.complete(untrained)
    (failed,) = start_all(s)  # nothing is under way, and nothing known: one
    clock.now += 1
    s.bookkeeper.ended(failed, "out of memory")
    (first,) = start_all(s)
    clock.now += 10
    heard(s, first, 1, 10.0)
    assert len(start_all(s)) == 2, "6 s spent; 90 of training and 5 of scoring for each of three: 291 of 370"


@pytest.mark.usefixtures("room_for_eight")
def test_a_trial_that_outlived_the_usual_is_expected_to_go_to_its_end(clock: Any, sweep: Begin) -> None:
    s = sweep("a", start=[], budget="0.08cpu-h")  # 288 s
    (control,) = start_all(s)
    clock.now += 90
    heard(s, control, 9, 90.0)
    s.complete(control)
    a, b = start_all(s)  # 90 spent, and 90 for each
    clock.now += 30
    s.complete(a)  # as one that is stopped early
    clock.now += 10
    heard(s, b, 4, 40.0)  # 50 s to come
    spent, to_come, another = s.bookkeeper.meter.outlook("cpu")
    assert (3600 * spent, 3600 * to_come, another) == (pytest.approx(160), pytest.approx(50), pytest.approx(30 / 3600))


def test_what_holds_nothing_costs_nothing(clock: Any, sweep: Begin) -> None:
    s = sweep("a", start=[])
    task = s.director.suggest("ray")
    assert task is not None
    number = task.number
    s.bookkeeper.started(number)
    clock.now += 11
    s.bookkeeper.reported(number, Progress("probes", 1, 3))
    assert Cost.of(s.ledger[number].cost).seconds == 11, "scoring is booked on the way as training is"
    clock.now += 5
    s.bookkeeper.died(number)
    clock.now += 600  # its node is gone, and another comes
    s.bookkeeper.started(number)
    clock.now += 7
    s.complete(number)
    assert Cost.of(s.ledger[number].cost).seconds == 11 + 5 + 7


def test_workers_of_ray_train_cost_from_their_first_report_on(clock: Any, sweep: Begin) -> None:
    s = sweep("a", start=[], resources={"workers": 2, "cpus_per_worker": 3})
    task = s.director.suggest("ray")
    assert task is not None
    number = task.number
    s.bookkeeper.started(number)
    clock.now += 600  # the cluster grows
    s.bookkeeper.reported(number, Progress("setup", 0, 1))
    clock.now += 10
    s.complete(number)
    assert Cost.of(s.ledger[number].cost) == Cost(seconds=10, cpu_seconds=60)
