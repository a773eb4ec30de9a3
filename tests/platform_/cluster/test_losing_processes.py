"""Studies whose processes are killed: every trial accounted for, little work done twice.

``bench/faults.py`` runs each fault of this folder several times and tabulates what the tests record.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

PROCESS, WORKER = "ImplicitFunc", "RayTrainWorker"  # what Ray calls the process of a trial, and of a worker of Train
Sweep = Callable[..., Any]
Accounted = Callable[..., None]


def test_the_process_of_a_trial_is_killed(sweep: Sweep, accounted: Accounted) -> None:
    driver = sweep("--concurrent", "1")
    driver.wait_for("t0003 hw s0: pretrain")
    (process,) = driver.processes(PROCESS)
    process.kill()
    driver.finish()
    accounted("t0003")


def test_the_driver_is_killed(sweep: Sweep, accounted: Accounted) -> None:
    driver = sweep("--concurrent", "1")
    driver.wait_for("t0003 hw s0: pretrain")
    driver.process.send_signal(signal.SIGKILL)
    driver.finish(-signal.SIGKILL)
    time.sleep(2)  # its Ray ends with it
    sweep("--concurrent", "1", "--resume").finish()
    accounted("t0003")


@pytest.mark.long
def test_a_worker_of_train_is_killed(sweep: Sweep, accounted: Accounted, edit_space: Callable[..., None]) -> None:
    # Every step is reported through Train, which takes time.
    edit_space(set=["log_every=1", "checkpoint_every=5", "optimisation.batch=16", "optimisation.steps=15"])
    driver = sweep("--workers", "2", "--cpus-per-worker", "0.5", "--concurrent", "1")
    driver.wait_for("t0003 hw s0: pretrain")
    driver.processes(WORKER)[0].kill()
    driver.finish()
    accounted("t0003", attempts=1, steps=15)  # Train starts its workers again inside the trial
