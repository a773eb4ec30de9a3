"""Worker processes that die or hang take nothing with them, and the file they were at is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from equipoise.data._files import run_jobs

# In a file of its own: worker processes import what they run.
SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
from equipoise.data._files import LostFileError, WorkerError, handling, run_jobs

folder = Path(sys.argv[1])

def once(name):
    try:
        (folder / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

def work(files):
    found = {}
    for file in files:
        try:
            with handling(file):
                if file.startswith("abort"):
                    os.abort()
                if file.startswith("crash"):
                    os.kill(os.getpid(), signal.SIGSEGV)
                if file.startswith("hang"):
                    time.sleep(1000)
                if file.startswith("full") or file.startswith("unlucky") and once(file):
                    os.kill(os.getpid(), signal.SIGKILL)
                if file.startswith("leave"):
                    os._exit(3)
                if file.startswith("wrong"):
                    raise ZeroDivisionError(file)
                found[file] = "read"
        except LostFileError as error:
            found[file] = str(error)
    return found

def outside(files):
    os._exit(7)

if __name__ == "__main__":
    jobs, workers, what = json.loads(sys.argv[2])
    try:
        results = dict(run_jobs({"work": work, "outside": outside}[what], jobs, workers, seconds=2))
        print(json.dumps(results))
    except (WorkerError, ZeroDivisionError) as error:
        print(json.dumps(type(error).__name__ + ": " + str(error)))
"""


def run(folder: Path, jobs: list[list[str]], workers: int, what: str = "work") -> Any:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    words = [sys.executable, str(script), str(folder), json.dumps([jobs, workers, what])]
    found = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    return json.loads(found.stdout)


def test_every_kind_of_end_is_named_and_nothing_else_is_lost(tmp_path: Path) -> None:
    jobs = [["a", "abort 1", "b", "crash 1", "c"], ["hang 1", "d"], ["unlucky 1", "full 1", "leave 1"], ["e"]]
    found = run(tmp_path, jobs, workers=2)
    assert sorted(found) == ["0", "1", "2", "3"]
    together = {file: outcome for part in found.values() for file, outcome in part.items()}
    assert set(together) == {file for job in jobs for file in job}
    died = "the process that read it died"
    assert together == {
        **dict.fromkeys(("a", "b", "c", "d", "e", "unlucky 1"), "read"),
        "abort 1": f"{died} (SIGABRT)",
        "crash 1": f"{died} (SIGSEGV)",
        "full 1": f"{died} (SIGKILL)",
        "leave 1": f"{died} (exit code 3)",
        "hang 1": "it took longer than 2 s",
    }


def test_a_single_worker_can_be_apart_and_errors_come_back(tmp_path: Path) -> None:
    assert run(tmp_path, [["a", "crash"]], workers=1) == {
        "0": {"a": "read", "crash": "the process that read it died (SIGSEGV)"}
    }
    assert run(tmp_path, [["a"], ["wrong one"]], workers=1) == "ZeroDivisionError: wrong one"


def test_a_script_that_runs_itself_again_is_told_what_it_lacks(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from equipoise.data._files import WorkerError, run_jobs\n"
        "def work(job): return job\n"
        "try: list(run_jobs(work, [1], 1))\n"
        "except WorkerError as error: print(error)\n"
    )
    found = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=True)
    assert "3 worker processes ended before they began, the last by exit code 1" in found.stdout
    assert found.stdout.endswith('needs its calls below `if __name__ == "__main__":`.\n')


def test_processes_that_die_without_a_file_end_the_work(tmp_path: Path) -> None:
    message = run(tmp_path, [["a"], ["b"]], workers=2, what="outside")
    assert message.startswith("WorkerError: 3 worker processes died on one job, the last by exit code 7")


def test_without_workers_the_work_is_done_here() -> None:
    assert list(run_jobs(lambda number: number * 2, [1, 2], 0)) == [(0, 2), (1, 4)]
    with pytest.raises(ZeroDivisionError):
        list(run_jobs(lambda number: 1 // number, [0], 0))
