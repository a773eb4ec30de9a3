from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import optuna
import pytest
from matplotlib.figure import Figure
from optuna.trial import TrialState
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from equipoise.data.miniature import Sizes, build
from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import Ledger
from equipoise.platform.record.reading import accuracies_of
from equipoise.platform.report.plots import cost as plot_cost
from equipoise.platform.report.plots import curves as plot_curves
from equipoise.platform.report.plots import effects as plot_effects
from equipoise.platform.report.plots import front as plots
from equipoise.platform.report.plots.style import save_figure
from equipoise.platform.search.store import SearchStore
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.preset import load_preset
from equipoise.platform.settings.study import AblationDefinition
from equipoise.platform.settings.trial import TrialSettings, load_regime
from equipoise.platform.settings.variant import RECORDS, Variant, load_variant
from equipoise.platform.storage import Paths
from equipoise.platform.study import run as study
from equipoise.platform.study.run import RunOptions

TINY_SIZES = Sizes(
    pixels=32, frames=16, train_clips=16, test_clips=4, select_clips=4, train_stills=16, test_stills=4, select_stills=4
)
TINY_PRESET = (
    "model.size=32",
    "model.encoder={width: 24, depth: 4, heads: 2, patch: 8, tubelet: 2, levels: 4}",
    "model.predictor={width: 16, depth: 1, heads: 2}",
    "model.masks={blocks: [{count: 8, area: 0.15}, {count: 2, area: 0.7}]}",
    "context={weight: 0.5, start: 0.0, full: 0.1}",
    "sampling={stride: 2, images: frame}",
    "optimisation.steps=6",
    "optimisation.batch=8",
    "optimisation.warmup_steps=0",
    "probes.attentive.heads=2",
    "cache_size=32",
)

MakeSettings = Callable[..., TrialSettings]


@pytest.fixture(scope="session")
def miniature_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with the four miniature sets at 32 px, a few clips each."""
    home = tmp_path_factory.mktemp("home")
    build(home / "data" / "miniature", seed=3, workers=1, sizes=TINY_SIZES)
    return home


@pytest.fixture(scope="session")
def miniature_paths(miniature_home: Path) -> Paths:
    return Paths(miniature_home / "data", miniature_home / "cache")


@pytest.fixture(scope="session")
def tiny_overrides() -> tuple[str, ...]:
    return TINY_PRESET


@pytest.fixture(scope="session")
def tiny_settings() -> MakeSettings:
    """Settings of a trial that takes milliseconds a step: a shipped variant by name, or objectives by weight."""

    def make(
        variant: str | dict[str, Any], reading: str = "as_described", *overrides: str, **more: Any
    ) -> TrialSettings:
        if isinstance(variant, str):
            name, loaded = variant, load_variant(variant)
        else:
            name, loaded = "made_up", parse(Variant, {"objectives": variant, **more}, "made_up")
        content = {
            "variant_name": name,
            "variant": loaded,
            "reading": reading,
            "preset": load_preset("nano", [*TINY_PRESET, *overrides]),
            "regime": load_regime("miniature"),
        }
        return parse(TrialSettings, content, name)

    return make


FreePort = Callable[[], int]


@pytest.fixture(scope="session")
def free_port() -> FreePort:
    """A port of this machine that nobody listens on."""

    def find() -> int:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            return port

    return find


Wait = Callable[..., None]


@pytest.fixture(scope="session")
def wait_for_server() -> Wait:
    """Wait until a process of ours listens on a port."""

    def wait(port: int, process: subprocess.Popen[Any], ip: str = "127.0.0.1") -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert process.poll() is None, f"the server ended with {process.returncode}"
            with socket.socket() as one:
                if one.connect_ex((ip, port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError(f"no server on port {port} after two minutes")

    return wait


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory, free_port: FreePort, wait_for_server: Wait) -> Iterator[str]:
    """Address of an S3-compatible server in a process of its own."""
    port = free_port()
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (tmp_path_factory.mktemp("s3") / "log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            wait_for_server(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture
def bucket(object_store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of a fresh bucket; the credentials are in the environment, as they are on a cluster."""
    for key, value in {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}.items():
        monkeypatch.setenv(key, value)
    name = f"b-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=object_store, region_name="us-east-1").create_bucket(Bucket=name)
    return f"s3://{name}/studies?endpoint_override={object_store}&region=us-east-1"


CheckBooks = Callable[[Home, str, int], dict[str, str]]


@pytest.fixture(scope="session")
def check_books() -> CheckBooks:
    """Asserts that ledger, Optuna and MLflow tell the same story of a sweep; returns status by trial."""
    return _check_books


TOLD = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


def _check_books(home: Home, name: str, trials: int) -> dict[str, str]:
    ledger = Ledger(home.folder(name) / "ledger.db")
    rows = ledger.rows()
    parent = ledger.fact("parent")
    ledger.close()
    assert len(rows) == trials
    told = {t.number: t for t in optuna.load_study(study_name=name, storage=SearchStore.of(home, name).open()).trials}
    searched = [r for r in rows if r.role == "search"]
    assert sorted(told) == sorted(r.optuna_number for r in searched if r.optuna_number is not None)
    for row in searched:
        assert row.optuna_number is not None
        trial = told[row.optuna_number]
        assert trial.state == TOLD[row.status]
        if row.status == "finished":
            assert row.result is not None
            assert trial.values == list(row.result["accuracies"].values())
    runs = {r.data.tags["trial"]: r for r in home.tracker().children(parent)}
    assert sorted(runs) == [r.key for r in rows]
    for row in rows:
        run = runs[row.key]
        assert run.info.run_id == row.run_id
        assert run.info.status == {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}[row.status]
        assert set(RECORDS) <= set(run.data.params)
        if row.status == "finished":
            assert row.result is not None
            assert accuracies_of(run, tuple(row.result["accuracies"]), row.result["part"]) == row.result["accuracies"]
    return {r.key: r.status for r in rows}


@pytest.fixture(scope="session")
def studied(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a real ablation, a tiny one: for tests marked ``cluster``, which share a process."""
    root = tmp_path_factory.mktemp("studied")
    (root / "data").symlink_to(tiny_data / "data")
    (tiny_data / "cache").mkdir(exist_ok=True)
    (root / "cache").symlink_to(tiny_data / "cache")
    home = Home(root)
    asked = {
        "name": "abl",
        "regime": "miniature",
        "preset": str(tiny_data / "tiny.yaml"),
        "variants": ["fwm_hw_ld", "motion_guided", "hw"],
        "seeds": [0, 1],
    }
    assert study.ablate(AblationDefinition.model_validate(asked), home, RunOptions(quiet=True)).complete
    return home


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A headless Chromium that writes down its console and every request it makes; tests take `browser`."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no browser here: install Chromium and its driver (Debian: chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield started
    finally:
        started.quit()


@pytest.fixture
def browser(chromium: webdriver.Chrome) -> webdriver.Chrome:
    """The Chromium on an empty page, with nothing written down of the test before."""
    chromium.get("about:blank")
    for log in ("browser", "performance"):
        chromium.get_log(log)  # type: ignore[no-untyped-call]
    return chromium


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures as they were saved."""
    figures: list[Figure] = []
    keep = save_figure

    def save(figure: Figure, path: str | Path) -> Path:
        figures.append(figure)
        return keep(figure, path)

    for module in (plots, plot_cost, plot_curves, plot_effects):
        monkeypatch.setattr(module, "save_figure", save)
    return figures
