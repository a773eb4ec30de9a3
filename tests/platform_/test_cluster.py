"""Studies on clusters that lose parts and that grow: every trial accounted for, little work done twice.

``bench/faults.py`` runs each fault several times and tabulates what the tests record.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
import yaml

from equipoise.platform.home import Home
from equipoise.platform.ledger import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

CheckBooks = Callable[[Home, str, int], dict[str, str]]
Record = Callable[[str, object], None]
EVERY = 5  # steps between checkpoints
STEPS = 40
TRIALS = ["t0001", "t0002", "t0003", "t0004"]  # baseline, random_init, two of the search
PROCESS, WORKER = "ImplicitFunc", "RayTrainWorker"  # what Ray calls the process of a trial, and of a worker of Train
NAME = "faulty"


@pytest.fixture
def space(tiny_data: Path, tmp_path: Path) -> Path:
    content = {
        "name": NAME,
        "regime": "miniature",
        "preset": str(tiny_data / "tiny.yaml"),
        "set": [f"optimisation.steps={STEPS}", "log_every=1", f"checkpoint_every={EVERY}", "optimisation.batch=16"],
        "trials": 2,
        "control_seeds": [0],
        "start": ["hw"],
        "objectives": {"hard_region": {"low": 0.1, "high": 1.0}, "delta": {"low": 0.1, "high": 1.0}},
    }
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def environment() -> dict[str, str]:
    """For every process of a test: one token, which Ray asks for."""
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }


class Driver:
    """`equipoise sweep` in a process of its own."""

    def __init__(self, space: Path, home: Home, environment: dict[str, str], *more: str) -> None:
        words = [sys.executable, "-m", "equipoise.platform.cli", "sweep", str(space), "--home", str(home.root)]
        self.process = subprocess.Popen(
            [*words, "--tolerance", "100", *more],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        self.lines.extend(iter(stream.readline, ""))

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def wait_for(self, text: str, seconds: float = 300.0) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def finish(self, code: int = 0, seconds: float = 400.0) -> str:
        """Wait for the end, which must have this exit status; returns what was said."""
        assert self.process.wait(timeout=seconds) == code, self.said
        self._reader.join(timeout=10)
        assert "Traceback" not in self.said
        return self.said

    def kill(self) -> None:
        if self.process.poll() is None:
            end_tree(self.process.pid)
        self.process.wait(timeout=30)


def end_tree(pid: int) -> None:
    """Kill a process of ours and all that it started."""
    try:
        root = psutil.Process(pid)
        doomed = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for process in doomed:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def named(pid: int, title: str) -> list[psutil.Process]:
    """Processes that one of ours started, by a part of their title."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if title in " ".join(process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


class Nodes:
    """A Ray cluster of processes on this machine: a head without CPUs, and nodes that come and go."""

    def __init__(self, folder: Path, environment: dict[str, str], port: int) -> None:
        self.folder, self.environment, self.port = folder, environment, port
        self.address = f"127.0.0.1:{port}"
        self.head: subprocess.Popen[Any] | None = None
        self.nodes: dict[str, subprocess.Popen[Any]] = {}

    def _start(self, name: str, *words: str) -> subprocess.Popen[Any]:
        ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--node-ip-address=127.0.0.1"]
        memory = ["--object-store-memory=80000000", "--disable-usage-stats"]
        with (self.folder / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                [*ray, *memory, *words], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def start_head(self, wait: Callable[[int, subprocess.Popen[Any]], None], *more: str) -> None:
        self.head = self._start("head", "--head", f"--port={self.port}", "--num-cpus=0", "--dashboard-port=0", *more)
        wait(self.port, self.head)

    def add(self, name: str, cpus: int = 1) -> None:
        words = [f"--address={self.address}", f"--num-cpus={cpus}", f"--resources={json.dumps({name: 1})}"]
        self.nodes[name] = self._start(name, *words)
        deadline = time.monotonic() + 90
        while name not in self.ids():
            assert time.monotonic() < deadline, (self.folder / f"{name}.log").read_text()
            time.sleep(0.5)

    def ids(self) -> dict[str, str]:
        """Ray's id of every living node, by our name."""
        ask = "import json, ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR');"
        ask += "print(json.dumps([[n['NodeID'], list(n['Resources'])] for n in ray.nodes() if n['Alive']]))"
        words = [sys.executable, "-c", ask, self.address]
        said = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60, check=True)
        listed = json.loads(said.stdout.splitlines()[-1])
        return {name: node for name in self.nodes for node, resources in listed if name in resources}

    def of(self, title: str) -> str:
        """The node on which a process with this title runs."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for name, process in self.nodes.items():
                if process.poll() is None and named(process.pid, title):
                    return name
            time.sleep(0.1)
        raise AssertionError(f"no {title} on any node")

    def kill(self, name: str) -> None:
        end_tree(self.nodes[name].pid)
        self.nodes.pop(name).wait(timeout=30)

    def kill_head(self) -> None:
        if self.head is not None:
            end_tree(self.head.pid)
            self.head.wait(timeout=30)

    def close(self) -> None:
        for name in list(self.nodes):
            self.kill(name)
        self.kill_head()


@pytest.fixture
def nodes(
    tmp_path: Path,
    environment: dict[str, str],
    free_port: Callable[[], int],
    wait_for_server: Callable[[int, subprocess.Popen[Any]], None],
) -> Iterator[Nodes]:
    cluster = Nodes(tmp_path, environment, free_port())
    try:
        cluster.start_head(wait_for_server)
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def sweep(space: Path, home: Home, environment: dict[str, str]) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def start(*more: str) -> Driver:
        drivers.append(Driver(space, home, environment, *more))
        return drivers[-1]

    try:
        yield start
    finally:
        for driver in drivers:
            driver.kill()


@pytest.fixture
def accounted(home: Home, check_books: CheckBooks, record_property: Record) -> Callable[..., None]:
    """Every trial finished once in all three books; no more than a checkpoint interval was trained twice."""

    def check(hit: str, attempts: int = 2, lost: int = EVERY, steps: int = STEPS) -> None:
        assert set(check_books(home, NAME, len(TRIALS)).values()) == {"finished"}
        ledger = Ledger(home.folder(NAME) / "ledger.db")
        rows = {r.key: r for r in ledger.rows()}
        ledger.close()
        assert list(rows) == TRIALS
        client = home.tracker().client
        twice: dict[str, int] = {}
        for key, row in rows.items():
            history = client.get_metric_history(row.run_id, "train/loss") if key != "t0002" else []
            values: dict[int, list[float]] = {}
            for metric in history:
                values.setdefault(metric.step, []).append(metric.value)
            assert sorted(values) == (list(range(1, steps + 1)) if history else [])
            # What ran twice gave the same loss: the random streams went on where they were.
            assert all(len(set(v)) == 1 for v in values.values())
            twice[key] = sum(len(v) - 1 for v in values.values())
        assert rows[hit].attempts == attempts
        # One more: the checkpoint's own report is repeated, because its listener may have died before hearing it.
        assert twice[hit] <= lost + 1
        record_property("steps trained twice", twice[hit])
        record_property("trials finished", len(rows))

    return check


def test_the_process_of_a_trial_is_killed(sweep: Callable[..., Driver], accounted: Callable[..., None]) -> None:
    driver = sweep("--concurrent", "1")
    driver.wait_for("t0003 hw s0: pretrain")
    (process,) = named(driver.process.pid, PROCESS)
    process.kill()
    driver.finish()
    accounted("t0003")


def test_the_driver_is_killed(sweep: Callable[..., Driver], accounted: Callable[..., None]) -> None:
    driver = sweep("--concurrent", "1")
    driver.wait_for("t0003 hw s0: pretrain")
    driver.process.send_signal(signal.SIGKILL)
    driver.finish(-signal.SIGKILL)
    time.sleep(2)  # its Ray ends with it
    sweep("--concurrent", "1", "--resume").finish()
    accounted("t0003")


@pytest.mark.long
def test_a_worker_of_train_is_killed(sweep: Callable[..., Driver], accounted: Callable[..., None], space: Path) -> None:
    content = yaml.safe_load(space.read_text())
    content["set"] = [
        *content["set"],
        "optimisation.steps=15",
    ]  # every step is reported through Train, which takes time
    space.write_text(yaml.safe_dump(content))
    driver = sweep("--workers", "2", "--cpus-per-worker", "0.5", "--concurrent", "1")
    driver.wait_for("t0003 hw s0: pretrain")
    named(driver.process.pid, WORKER)[0].kill()
    driver.finish()
    accounted("t0003", attempts=1, steps=15)  # Train starts its workers again inside the trial


def test_a_node_is_killed(sweep: Callable[..., Driver], nodes: Nodes, accounted: Callable[..., None]) -> None:
    nodes.add("first")
    nodes.add("second")
    driver = sweep("--address", nodes.address, "--concurrent", "1")
    driver.wait_for("t0003 hw s0: pretrain")
    nodes.kill(nodes.of(PROCESS))
    driver.finish()
    accounted("t0003")


@pytest.mark.long
def test_a_node_is_told_to_go(
    sweep: Callable[..., Driver],
    nodes: Nodes,
    accounted: Callable[..., None],
    environment: dict[str, str],
    space: Path,
) -> None:
    # Without the notice everything since the first step would be lost: there is no other checkpoint.
    content = yaml.safe_load(space.read_text())
    content["set"] = [s for s in content["set"] if "checkpoint_every" not in s and "steps" not in s]
    content["set"] += ["checkpoint_every=100000", "optimisation.steps=300"]
    space.write_text(yaml.safe_dump(content))
    nodes.add("first")
    driver = sweep("--address", nodes.address, "--concurrent", "1")
    driver.wait_for("t0003 hw s0: pretrain")
    node = nodes.ids()["first"]
    nodes.add("second")
    words = [str(Path(sys.executable).parent / "ray"), "drain-node", "--address", nodes.address, "--node-id", node]
    words += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken back"]
    subprocess.run([*words, "--deadline-remaining-seconds", "8"], env=environment, check=True, capture_output=True)
    time.sleep(8)
    nodes.kill("first")
    driver.finish()
    accounted("t0003", lost=150, steps=300)


def test_the_head_is_restarted(
    sweep: Callable[..., Driver],
    nodes: Nodes,
    accounted: Callable[..., None],
    wait_for_server: Callable[[int, subprocess.Popen[Any]], None],
) -> None:
    nodes.add("first")
    driver = sweep("--address", nodes.address, "--concurrent", "1")
    driver.wait_for("t0003 hw s0: pretrain")
    nodes.kill_head()
    assert driver.process.wait(timeout=200) != 0
    nodes.kill("first")
    nodes.start_head(wait_for_server)
    nodes.add("again")
    sweep("--address", nodes.address, "--concurrent", "1", "--resume").finish()
    accounted("t0003")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for little."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting a small file system is not allowed here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_the_storage_is_full(sweep: Callable[..., Driver], small_disk: Path, accounted: Callable[..., None]) -> None:
    filler = small_disk / "filler"
    driver = sweep("--concurrent", "1", "--storage", str(small_disk))
    driver.wait_for("t0003 hw s0: pretrain")
    room = os.statvfs(small_disk)
    filler.write_bytes(bytes(room.f_bavail * room.f_bsize - 4096))
    said = driver.finish(1)
    assert "No space left on device" in said
    assert "mend that, then go on with --resume" in said
    filler.unlink()
    sweep("--concurrent", "1", "--storage", str(small_disk), "--resume").finish()
    accounted("t0003")


def test_the_mlflow_server_is_away(
    sweep: Callable[..., Driver],
    home: Home,
    tmp_path: Path,
    free_port: Callable[[], int],
    wait_for_server: Callable[[int, subprocess.Popen[Any]], None],
    accounted: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", str(tmp_path / "a")]

    def serve() -> subprocess.Popen[Any]:
        with (tmp_path / "server.log").open("a") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        wait_for_server(port, process)
        return process

    server = serve()
    try:
        driver = sweep("--concurrent", "1", "--tracking-uri", uri)
        driver.wait_for("t0003 hw s0: pretrain")
        end_tree(server.pid)
        server.wait(timeout=30)
        driver.wait_for(f"MLflow at {uri} does not answer")
        time.sleep(float(os.environ.get("EQUIPOISE_MLFLOW_AWAY_S", "10")))
        server = serve()
        driver.finish()
        object.__setattr__(home, "tracking_uri", uri)  # the fixture's home reads the same record
        accounted("t0003", attempts=1, lost=0)
    finally:
        end_tree(server.pid)


# ---- a cluster that grows

GROWING = {
    "cluster_name": "grows",
    "max_workers": 3,
    "upscaling_speed": 10.0,
    "idle_timeout_minutes": 0.1,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "node": {
            "resources": {"CPU": 1, "object_store_memory": 80_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 3,
        },
    },
    **{key: {} for key in ("auth", "docker", "file_mounts")},
    **{
        key: []
        for key in (
            *("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands"),
            *("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"),
        )
    },
    "file_mounts_sync_continuously": False,
}
WATCH = """
import ray, sys, time
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
while True:
    print(sum(n["Alive"] for n in ray.nodes()), flush=True)
    time.sleep(0.5)
"""


@pytest.mark.long
def test_a_sweep_grows_the_cluster_and_leaves_it_small(
    space: Path,
    home: Home,
    environment: dict[str, str],
    tmp_path: Path,
    free_port: Callable[[], int],
    wait_for_server: Callable[[int, subprocess.Popen[Any]], None],
    check_books: CheckBooks,
) -> None:
    content = yaml.safe_load(space.read_text())
    # Long enough that the first node cannot do all of it while the others start.
    content |= {"set": ["optimisation.steps=150", "optimisation.batch=16"], "trials": 10}
    space.write_text(yaml.safe_dump(content))
    port = free_port()
    cluster = Nodes(tmp_path, {**environment, "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}, port)
    config = tmp_path / "grows.json"
    config.write_text(json.dumps({**GROWING, "provider": {"type": "fake_multinode", "gcs_address": cluster.address}}))
    counts: list[int] = []
    processes: list[subprocess.Popen[str]] = []
    try:
        cluster.start_head(wait_for_server, f"--autoscaling-config={config}")
        watch = [sys.executable, "-c", WATCH, cluster.address]
        processes.append(subprocess.Popen(watch, env=environment, stdout=subprocess.PIPE, text=True))
        stream = processes[0].stdout
        assert stream is not None
        threading.Thread(
            target=lambda: counts.extend(int(n) for n in stream if n.strip().isdigit()), daemon=True
        ).start()
        driver = Driver(space, home, environment, "--address", cluster.address, "--concurrent", "3")
        try:
            said = driver.finish()
        finally:
            driver.kill()
        assert set(check_books(home, NAME, 12).values()) == {"finished"}
        assert counts[0] == 1
        assert max(counts) == 4, counts  # the head, and the configured maximum of three
        assert "wait for 1 CPU" in said
        assert "cluster growing: " in said
        deadline = time.monotonic() + 90
        while counts[-1] > 1:
            assert time.monotonic() < deadline, counts
            time.sleep(0.5)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        cluster.close()
