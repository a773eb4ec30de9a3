"""`equipoise ui` serves the studies of a home folder, and MLflow's pages show them, in a real browser."""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import pytest
from click.testing import CliRunner
from selenium.webdriver import Chrome

from equipoise.platform.cli.main import cli
from equipoise.platform.record.home import Home
from equipoise.platform.record.reading import StudyRecord

pytestmark = [pytest.mark.slow, pytest.mark.cluster]  # the study they share was run by Ray
BENCHMARKS = ("mini_dive", "mini_ssv2", "mini_in")
METRICS = tuple(f"{benchmark}/test" for benchmark in BENCHMARKS)  # what MLflow calls their accuracies
VARIANTS = {"baseline", "random_init", "fwm_hw_ld", "motion_guided", "hw"}


@dataclass(frozen=True)
class Served:
    """A running `equipoise ui`."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def page(self, title: str) -> str:
        """An address that the command printed."""
        found = re.search(rf"^{title}: (\S+)$", self.log.read_text(), re.MULTILINE)
        assert found, self.log.read_text()
        return found.group(1)


@pytest.fixture(scope="module")
def served(
    studied: Home,
    free_port: Callable[[], int],
    wait_for_server: Callable[[int, subprocess.Popen[bytes]], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    port = free_port()
    log = tmp_path_factory.mktemp("ui") / "log.txt"
    words = [sys.executable, "-m", "equipoise", "ui", "--home", str(studied.root), "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out)
    found = Served(f"http://127.0.0.1:{port}", process, log)
    try:
        wait_for_server(port, process)
        yield found
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)


def text_of(browser: Chrome, address: str, *wanted: str) -> str:
    """Text of a page once it shows what is wanted, in a window that is large enough to show all of it."""
    size = {"width": 2600, "height": 3200, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get("about:blank")  # an address that differs behind its # alone loads nothing
    browser.get(address)
    for _ in range(120):
        text: str = browser.execute_script("return document.body.innerText")
        if all(w in text for w in wanted):
            return text
        time.sleep(0.5)
    raise AssertionError(f"{[w for w in wanted if w not in text]} not on the page:\n{text}")


def test_record_is_served(served: Served) -> None:
    ask = urllib.request.Request(
        f"{served.url}/api/2.0/mlflow/runs/search",
        json.dumps({"experiment_ids": ["1"], "filter": "tags.role = 'study'"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(ask, timeout=30) as answer:
        assert [r["info"]["run_name"] for r in json.load(answer)["runs"]] == ["abl"]


def test_runs_table_shows_variants_with_their_mean_accuracies(studied: Home, served: Served, browser: Chrome) -> None:
    text_of(browser, served.page("Trials of abl"), *METRICS, *(f"Group: {name}" for name in VARIANTS))
    # A row is in two parts: the name stays where it is while the rest scrolls.
    parts = "return [...document.querySelectorAll('.ag-row')].map(r => [r.getAttribute('row-index'), r.innerText])"
    rows: dict[str, str] = {}
    for index, part in browser.execute_script(parts):
        rows[index] = f"{rows.get(index, '')}\n{part}"
    table = StudyRecord.open(studied, "abl").table
    for name in VARIANTS:
        row = next(r for r in rows.values() if f"Group: {name}" in r.splitlines())
        wanted = [
            mean(s.accuracy_percent for s in table.scores if (s.variant, s.benchmark) == (name, benchmark))
            for benchmark in sorted(BENCHMARKS)  # as the page does it
        ]
        assert [float(v) for v in re.findall(r"(\S+) \(average\)", row)] == pytest.approx(wanted, abs=1e-6), row


def test_charts_show_variants_by_name(served: Served, browser: Chrome) -> None:
    titles = (*(f"{x} vs. {y}" for x, y in itertools.combinations(METRICS, 2)), "Parallel Coordinates")
    text_of(browser, served.page("Accuracies against each other"), "Accuracies", "(7)", *titles, *VARIANTS)
    points = """return [...document.querySelectorAll('.js-plotly-plot')].slice(0, 3).map(
        plot => plot.querySelectorAll('.scatterlayer .point').length)"""
    drawn: list[int] = []
    for _ in range(60):
        drawn = browser.execute_script(points)
        if len(drawn) == 3 and min(drawn) >= len(VARIANTS):
            return
        time.sleep(0.5)
    raise AssertionError(f"{drawn} points drawn in the first plots, of {len(VARIANTS)} variants")


def test_it_ends_on_ctrl_c(served: Served) -> None:
    served.process.send_signal(signal.SIGINT)
    served.process.wait(timeout=30)
    for _ in range(40):
        try:
            urllib.request.urlopen(served.url + "/health", timeout=5).close()
        except (urllib.error.URLError, ConnectionError):
            return
        time.sleep(0.25)
    raise AssertionError("the server outlived its command")


def test_wrong_inputs(studied: Home, tmp_path: Path) -> None:
    missing = CliRunner().invoke(cli, ["ui", "nothing", "--home", str(studied.root)])
    assert missing.exit_code != 0
    assert "no study 'nothing'" in str(missing.exception)
    assert "known: abl" in str(missing.exception)
    empty = CliRunner().invoke(cli, ["ui", "--home", str(tmp_path)])
    assert empty.exit_code != 0
    assert "holds no record of studies" in str(empty.exception)
