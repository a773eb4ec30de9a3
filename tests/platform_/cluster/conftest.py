"""A sweep in a process of its own, Ray clusters of processes on this machine, and the books they must leave."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
import yaml

from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import Ledger

CheckBooks = Callable[[Home, str, int], dict[str, str]]
Record = Callable[[str, object], None]
Wait = Callable[..., None]
EVERY = 5  # steps between checkpoints
STEPS = 40
TRIALS = ["t0001", "t0002", "t0003", "t0004"]  # baseline, random_init, two of the search
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
def edit_space(space: Path) -> Callable[..., None]:
    """Changes keys of the space's file; ``set`` replaces the list of overrides."""

    def edit(**changes: Any) -> None:
        space.write_text(yaml.safe_dump({**yaml.safe_load(space.read_text()), **changes}))

    return edit


@pytest.fixture
def end_tree() -> Callable[[int], None]:
    """Kills a process of ours and all that it started."""
    return _end_tree


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
    """An `equipoise` command in a process of its own, perhaps inside another host."""

    def __init__(self, environment: dict[str, str], *words: str, inside: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*inside, sys.executable, "-m", "equipoise", *words],
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

    def processes(self, title: str) -> list[psutil.Process]:
        """What it started, by a part of the title."""
        return named(self.process.pid, title)

    def kill(self) -> None:
        if self.process.poll() is None:
            _end_tree(self.process.pid)
        self.process.wait(timeout=30)


def _end_tree(pid: int) -> None:
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
    """A Ray cluster of processes on this machine: a head without CPUs, and nodes that come and go.

    Args:
        folder: for logs.
        environment: of every process.
        port: of the head.
        inside: command before every command of the head's host; nothing where all share this one.
        ip: the head's.
    """

    def __init__(
        self, folder: Path, environment: dict[str, str], port: int, inside: Sequence[str] = (), ip: str = "127.0.0.1"
    ) -> None:
        self.folder, self.environment, self.port, self.inside, self.ip = folder, environment, port, inside, ip
        self.address = f"{ip}:{port}"
        self.head: subprocess.Popen[Any] | None = None
        self.nodes: dict[str, subprocess.Popen[Any]] = {}

    def _start(self, name: str, inside: Sequence[str], ip: str, *words: str) -> subprocess.Popen[Any]:
        ray = [*inside, str(Path(sys.executable).parent / "ray"), "start", "--block", f"--node-ip-address={ip}"]
        memory = ["--object-store-memory=80000000", "--disable-usage-stats"]
        with (self.folder / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                [*ray, *memory, *words], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def start_head(self, wait: Wait, *more: str) -> None:
        words = ["--head", f"--port={self.port}", "--num-cpus=0", "--dashboard-port=0", *more]
        self.head = self._start("head", self.inside, self.ip, *words)
        wait(self.port, self.head, self.ip)

    def add(self, name: str, inside: Sequence[str] = (), ip: str = "127.0.0.1") -> None:
        words = [f"--address={self.address}", "--num-cpus=1", f"--resources={json.dumps({name: 1})}"]
        self.nodes[name] = self._start(name, inside, ip, *words)
        deadline = time.monotonic() + 90
        while name not in self.ids():
            assert time.monotonic() < deadline, (self.folder / f"{name}.log").read_text()
            time.sleep(0.5)

    def ids(self) -> dict[str, str]:
        """Ray's id of every living node, by our name."""
        ask = "import json, ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR');"
        ask += "print(json.dumps([[n['NodeID'], list(n['Resources'])] for n in ray.nodes() if n['Alive']]))"
        words = [*self.inside, sys.executable, "-c", ask, self.address]
        said = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60, check=True)
        listed = json.loads(said.stdout.splitlines()[-1])
        return {name: node for name in self.nodes for node, resources in listed if name in resources}

    def processes(self, name: str, title: str) -> list[psutil.Process]:
        """What runs on a node, by a part of the title."""
        return named(self.nodes[name].pid, title)

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
        _end_tree(self.nodes[name].pid)
        self.nodes.pop(name).wait(timeout=30)

    def kill_head(self) -> None:
        if self.head is not None:
            _end_tree(self.head.pid)
            self.head.wait(timeout=30)

    def close(self) -> None:
        for name in list(self.nodes):
            self.kill(name)
        self.kill_head()


@pytest.fixture
def make_nodes(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Callable[..., Nodes]]:
    """Makes clusters of processes that have not started, and ends them with the test."""
    made: list[Nodes] = []

    def make(environment: dict[str, str], **more: Any) -> Nodes:
        made.append(Nodes(tmp_path, environment, free_port(), **more))
        return made[-1]

    try:
        yield make
    finally:
        for cluster in made:
            cluster.close()


@pytest.fixture
def nodes(
    environment: dict[str, str],
    make_nodes: Callable[..., Nodes],
    wait_for_server: Wait,
) -> Nodes:
    """A cluster whose head runs, and no node yet."""
    cluster = make_nodes(environment)
    cluster.start_head(wait_for_server)
    return cluster


@pytest.fixture
def sweep(space: Path, home: Home, environment: dict[str, str]) -> Iterator[Callable[..., Driver]]:
    """Starts `equipoise sweep` on the space, with these options too; ended with the test."""
    drivers: list[Driver] = []
    words = ["sweep", str(space), "--home", str(home.root), "--tolerance", "100"]

    def start(*more: str, inside: Sequence[str] = ()) -> Driver:
        drivers.append(Driver(environment, *words, *more, inside=inside))
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
