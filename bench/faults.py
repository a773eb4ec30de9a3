"""Injects every fault of tests/platform_/cluster several times and tabulates what came of it.

    python bench/faults.py --times 5 --write bench/faults.md

Each run is a real sweep in processes of its own; the fault is real: processes are killed, disks are full, servers are
gone. A row counts a run only if every trial finished once in the ledger, in Optuna and in MLflow.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import click

TESTS = Path(__file__).resolve().parent.parent / "tests" / "platform_" / "cluster"
FAULTS = {
    "test_losing_processes.py::test_the_process_of_a_trial_is_killed": "the process of a trial is killed",
    "test_losing_processes.py::test_a_worker_of_train_is_killed": "one of two Ray Train workers is killed",
    "test_losing_nodes.py::test_a_node_is_killed": "the node that runs a trial is killed, another is there",
    "test_losing_nodes.py::test_a_node_is_told_to_go": "a node is told to go, then killed; no periodic checkpoint",
    "test_losing_processes.py::test_the_driver_is_killed": "the driver is killed (SIGKILL), then --resume",
    "test_losing_nodes.py::test_the_head_is_restarted": "the head node is killed and started anew, then --resume",
    "test_losing_services.py::test_the_storage_is_full": "the storage is full, room is made, then --resume",
    "test_losing_services.py::test_the_mlflow_server_is_away": "the MLflow server is killed, and back after a minute",
}
AWAY_S = 60


@dataclass(frozen=True)
class Run:
    """One fault, once."""

    passed: bool
    seconds: float
    twice: int | None
    message: str


def inject(test: str, folder: Path) -> Run:
    """Run one fault's test and read what it recorded."""
    report = folder / "report.xml"
    words = [sys.executable, "-m", "pytest", "-q", str(TESTS / test), f"--junitxml={report}", "-p", "no:cacheprovider"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "EQUIPOISE_MLFLOW_AWAY_S": str(AWAY_S)}
    subprocess.run([*words, "--timeout=900"], cwd=TESTS.parents[2], env=environment, capture_output=True, check=False)
    case = ElementTree.parse(report).getroot().find(".//testcase")
    assert case is not None
    bad = next((e for kind in ("failure", "error", "skipped") for e in case.iter(kind)), None)
    found = {p.get("name"): p.get("value") for p in case.iter("property")}
    twice = found.get("steps trained twice")
    message = "" if bad is None else (bad.get("message") or bad.tag).splitlines()[0][:120]
    return Run(bad is None, float(case.get("time", 0)), None if twice is None else int(twice), message)


def table(found: dict[str, list[Run]]) -> str:
    """The Markdown table."""
    lines = ["| fault | complete | steps trained twice (most) | seconds (median) |", "|---|---|---|---|"]
    for test, runs in found.items():
        good = [r for r in runs if r.passed]
        twice = max((r.twice for r in good if r.twice is not None), default=None)
        seconds = sorted(r.seconds for r in runs)[len(runs) // 2]
        lines.append(f"| {FAULTS[test]} | {len(good)} of {len(runs)} | {twice} | {seconds:.0f} |")
    bad = [f"- {FAULTS[test]}: {r.message}" for test, runs in found.items() for r in runs if not r.passed]
    return "\n".join([*lines, "", *bad]) if bad else "\n".join(lines)


@click.command()
@click.option("--times", type=click.IntRange(1), default=5, show_default=True)
@click.option("--fault", "faults", multiple=True, type=click.Choice(list(FAULTS)), help="Only this; may be repeated.")
@click.option("--write", type=click.Path(path_type=Path, dir_okay=False), help="Put the table into this Markdown file.")
def main(times: int, faults: tuple[str, ...], write: Path | None) -> None:
    """Inject faults and print what came of them."""
    found: dict[str, list[Run]] = {}
    for test in faults or tuple(FAULTS):
        for _ in range(times):
            with tempfile.TemporaryDirectory() as folder:
                found.setdefault(test, []).append(inject(test, Path(folder)))
            click.echo(f"{test}: {found[test][-1]}", err=True)
    text = table(found)
    click.echo(text)
    if write is not None:
        before = write.read_text().split("<!-- table -->")[0] if write.is_file() else ""
        cores = len(os.sched_getaffinity(0))
        write.write_text(
            f"{before}<!-- table -->\n\n{text}\n\n{times} times each; {cores} cores, {platform.machine()}.\n"
        )


if __name__ == "__main__":
    main()
