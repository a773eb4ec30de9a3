"""What a person sees while a study runs."""

from __future__ import annotations

import time

import pytest

from equipoise.platform.study.progress import StudyDisplay


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds; the last is now."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[-1])
    return now


def test_the_time_to_go_is_that_of_trained_trials(clock: list[float]) -> None:
    display = StudyDisplay("ablation mine", quiet=True)
    display.planned = 8
    display.start("t0001", "random_init s0")
    display.update("t0001", "probes", 1, 1)
    clock.append(5.0)
    display.end("t0001", "finished", "")
    assert display.summary() == "1 of 8 trials ended", "nothing is known of a training yet"
    for key in ("t0002", "t0003"):
        display.start(key, "baseline s0")
        display.update(key, "pretrain", 0, 100)
    clock.append(605.0)
    display.end("t0002", "finished", "")
    display.start("t0004", "hw s0")
    display.update("t0004", "pretrain", 0, 100)
    display.update("t0003", "pretrain", 50, 100)
    # Six are not over, of one of them half: five and a half times ten minutes, two at a time.
    assert display.summary() == "2 of 8 trials ended, about 28 min to go"


def test_an_interrupted_trial_did_not_end(clock: list[float]) -> None:
    display = StudyDisplay("ablation mine", quiet=True)
    display.planned, display.finished_before = 4, 1
    display.start("t0002", "hw s0")
    display.update("t0002", "pretrain", 10, 100)
    display.end("t0002", "interrupted", "goes on with --resume")
    assert display.summary() == "1 of 4 trials ended"
