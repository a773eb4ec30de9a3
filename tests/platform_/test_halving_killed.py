"""A real driver of a search with early stopping, really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import Ledger, TrialRow
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.search.proposer import OptunaProposer
from equipoise.platform.search.store import SearchStore
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.settings.trial import TrialSettings

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

CheckBooks = Callable[[Home, str, int], dict[str, str]]
NAME = "halved"
TRIALS = 6


@pytest.fixture
def content(tiny_data: Path) -> dict[str, Any]:
    return {
        "name": NAME,
        "regime": "miniature",
        "preset": str(tiny_data / "tiny.yaml"),
        "set": ["optimisation.steps=8", "checkpoint_every=2"],
        "trials": TRIALS,
        "control_seeds": [0],
        "concurrent": 1,
        "start": ["hw"],
        "objectives": {"hard_region": {"low": 0.1, "high": 1.0}, "delta": {"low": 0.1, "high": 1.0}},
        "early_stopping": {"rungs": 2, "reduction_factor": 2, "warmup": 2, "items": 24},
    }


def rows_of(home: Home) -> list[TrialRow]:
    ledger = Ledger(home.folder(NAME) / "ledger.db")
    rows = ledger.rows()
    ledger.close()
    return rows


def test_stopped_trials_stay_stopped_and_the_search_goes_on_where_it_was(
    home: Home, content: dict[str, Any], tmp_path: Path, check_books: CheckBooks
) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    words = [sys.executable, "-m", "equipoise", "sweep", str(file), "--home", str(home.root)]
    words += ["--tolerance", "100"]
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env, start_new_session=True
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if ": stopped, " in line:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait(timeout=60) == -signal.SIGKILL, "".join(said)
    process.stderr.close()
    before = {r.number: r for r in rows_of(home)}
    stopped = [r for r in before.values() if r.status == "stopped"]
    assert stopped
    assert len(before) < 2 + TRIALS

    time.sleep(1)  # its Ray ends with it
    done = subprocess.run([*words, "--resume"], capture_output=True, text=True, env=env, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert f"sweep {NAME}: {2 + TRIALS} trials\n" in done.stderr, "what an earlier driver asked for counts once"
    statuses = check_books(home, NAME, 2 + TRIALS)
    assert set(statuses.values()) == {"finished", "stopped"}
    after = {r.number: r for r in rows_of(home)}
    for row in stopped:
        assert (after[row.number].rungs, after[row.number].attempts) == (row.rungs, row.attempts)
    for row in after.values():
        steps = {"control": [], "search": [2, 4] if row.status == "finished" else [2, 4][: len(row.rungs)]}[row.role]
        assert list(row.rungs) == steps

    # What was drawn is what one driver that nobody killed would have drawn: fewer trials than TPE waits for.
    definition = SweepDefinition.model_validate({**content, "trials": TRIALS})
    alone = OptunaProposer(definition, ("a", "b", "c"), SearchStore(str(tmp_path / "alone.journal")), "alone")
    expected = [alone.ask(number) for number in range(TRIALS)]
    found = [r for r in after.values() if r.role == "search"]
    assert [r.name for r in found] == [p.name for p in expected]
    variants = [TrialSettings.model_validate_json(r.settings or "").variant for r in found]
    assert variants == [p.variant for p in expected]

    # Rungs have names of their own in the record, and a stopped trial is not on the front.
    client = home.tracker().client
    run = client.get_run(after[stopped[0].number].run_id)
    assert {k for k in run.data.metrics if k.startswith("rung_")} == {
        "rung_mini_dive/select",
        "rung_mini_ssv2/select",
        "rung_mini_in/select",
    }
    assert not {"mini_dive", "mini_ssv2", "mini_in"} & set(run.data.metrics)
    assert run.data.tags["status"] == "stopped"
    assert run.data.tags["stopped_at_step"] == str(max(stopped[0].rungs))
    table = StudyRecord.open(home, NAME).table
    assert set(table.variants) == {r.name for r in after.values() if r.status == "finished"}


@pytest.mark.long
def test_trials_on_ray_train_are_stopped_and_free_their_workers(
    home: Home, content: dict[str, Any], tmp_path: Path, check_books: CheckBooks
) -> None:
    """Were the workers of a stopped trial not freed, the next trial would wait for them for ever."""
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump({**content, "resources": {"workers": 2, "cpus_per_worker": 0.5}, "trials": 4}))
    words = [sys.executable, "-m", "equipoise", "sweep", str(file), "--home", str(home.root)]
    words += ["--tolerance", "100"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr
    assert set(check_books(home, NAME, 6).values()) == {"finished", "stopped"}
    assert all(r.attempts == 1 for r in rows_of(home))
    assert all(set(r.rungs) <= {2, 4} and bool(r.rungs) == (r.role == "search") for r in rows_of(home))
