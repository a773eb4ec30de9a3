"""What a study would meet on this machine: versions, devices, limits, disk, Ray, MLflow, the home."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from joblib import cpu_count

from equipoise.platform.errors import EquipoiseError
from equipoise.platform.record.home import Home
from equipoise.platform.settings.files import shipped
from equipoise.platform.settings.plugins import failures, installed
from equipoise.platform.settings.trial import Regime, load_regime
from equipoise.platform.study.cluster import check_start, short_folder

GIB = 1024**3
LEAST_FREE = 1.0  # GiB of disk below which a study ends before its first checkpoints are kept
OBJECT_STORE = 256 * 1024**2  # bytes of shared memory that a local cluster asks for
PACKAGES = ("torch", "torchvision", "timm", "ray", "optuna", "mlflow", "av", "pyarrow")
CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        about: what was looked at.
        said: what was found.
        state: ``ok``; ``note`` for what a person may want to know; ``fails`` where a study could not run.
    """

    about: str
    said: str
    state: str = "ok"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return asdict(self)


def examine(home: Home, address: str | None = None) -> Iterator[Finding]:
    """Look at everything, one finding after the other; nothing stays written.

    Args:
        home: where a study would be.
        address: of a cluster that it would join; None: it starts one here.
    """
    yield Finding(
        "python", f"{platform.python_version()} at {sys.executable}, {platform.system()} {platform.machine()}"
    )
    yield _versions()
    yield _processors()
    yield _memory()
    yield _device()
    for check in (_shared_memory, _temporary):
        yield _kept("temporary files", check)
    yield _kept("home", lambda: _home(home))
    yield _kept("storage", lambda: _storage(home))
    yield _kept("ray", lambda: _cluster(address))
    yield _kept("mlflow", lambda: _record(home))
    yield _data(home)
    yield _plugins()


def _kept(about: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except EquipoiseError as error:
        return Finding(about, str(error), "fails")
    except OSError as error:
        return Finding(about, f"{error.strerror or error}: {error.filename}", "fails")


def _versions() -> Finding:
    found, missing = [f"equipoise {metadata.version('equipoise')}"], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("versions", f"not installed: {', '.join(missing)}; install Equipoise anew", "fails")
    return Finding("versions", ", ".join(found))


def _processors() -> Finding:
    there, ours = os.cpu_count() or 1, cpu_count()
    if ours < there:
        return Finding("processors", f"{ours} of {there}: a quota or a batch job gives no more; trials get one each")
    return Finding("processors", f"{ours}; trials get one each")


def _memory() -> Finding:
    there = psutil.virtual_memory()
    limit = there.total
    for file in CGROUP:
        with contextlib.suppress(OSError, ValueError):
            limit = min(limit, int(file.read_text()))
    said = f"{limit / GIB:.1f} GiB, {there.available / GIB:.1f} GiB of the machine free"
    return Finding("memory", said + ("; a container's limit" if limit < there.total else ""))


def _device() -> Finding:
    if not torch.cuda.is_available():
        built = f"PyTorch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "PyTorch is built for CPUs"
        return Finding("gpu", f"none is seen ({built}): trials compute on the CPU", "note")
    names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    said = ", ".join(f"{p.name} ({p.total_memory / GIB:.0f} GiB)" for p in names)
    half = torch.cuda.is_bf16_supported(including_emulation=False)
    return Finding("gpu", f"{said}; bfloat16 {'yes' if half else 'no'}; ask for it with --gpus-per-worker 1")


def _shared_memory() -> Finding:
    free = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else None
    if free is not None and free < OBJECT_STORE:
        said = (
            f"/dev/shm has {free / 1024**2:.0f} MiB free, Ray asks for {OBJECT_STORE >> 20}: it takes a file, and is "
        )
        return Finding("shared memory", said + "slower (containers: --shm-size=1g)", "note")
    return Finding("shared memory", "enough" if free is not None else "none here: Ray takes a file")


def _temporary() -> Finding:
    usual, free = tempfile.gettempdir(), shutil.disk_usage(tempfile.gettempdir()).free / GIB
    short = short_folder()
    said = f"{usual}, {free:.1f} GiB free" + (
        "" if short is None else f"; too long for Ray, whose sockets go to {short}"
    )
    return Finding("temporary files", said, "fails" if free < LEAST_FREE / 4 else "ok" if short is None else "note")


def _home(home: Home) -> Finding:
    at = next(folder for folder in (home.root, *home.root.absolute().parents) if folder.exists())
    if not os.access(at, os.W_OK | os.X_OK) or not at.is_dir():
        return Finding("home", f"{home.root} cannot be written: choose another with --home", "fails")
    free = shutil.disk_usage(at).free / GIB
    studies = home.studies() if home.root.is_dir() else []
    said = f"{home.root}{'' if home.root.exists() else ', which is made by the first study'}: {free:.1f} GiB free"
    said += f"; {len(studies)} {'study' if len(studies) == 1 else 'studies'}" if studies else ""
    running = [f"{name} by {holder}" for name in studies if (holder := home.holder(name))]
    said += f"; running: {', '.join(running)}" if running else ""
    if free < LEAST_FREE:
        return Finding("home", said + f"; a study needs {LEAST_FREE:.0f} GiB at least", "fails")
    return Finding("home", said)


def _storage(home: Home) -> Finding:
    if home.storage is None:
        return Finding("storage", "trials write into the home")
    home.place.check()
    return Finding("storage", f"{home.storage} can be written")


def _cluster(address: str | None) -> Finding:
    check_start(address)
    if address is None:
        return Finding("ray", "a study starts a cluster here, and ends it; --address joins one")
    return Finding("ray", f"something answers at {address}" if address != "auto" else "auto: Ray looks for one here")


def _record(home: Home) -> Finding:
    if home.unrecorded() is not None:
        return Finding("mlflow", f"{home.uri()}, made by the first study")
    tracker = home.tracker(create=False)
    tracker.client.search_experiments(max_results=1)
    return Finding("mlflow", f"{home.uri()} answers")


def _data(home: Home) -> Finding:
    """Which regimes' manifests are there."""
    whole, part = [], []
    for name in shipped("regimes"):
        regime = load_regime(name)
        there = [(home.data / manifest).is_file() for manifest in _manifests(regime)]
        if all(there):
            whole.append(name)
        elif any(there):
            part.append(f"{name} ({sum(there)} of {len(there)} manifests)")
    if not whole and not part:
        said = "of no regime: equipoise data build miniature takes half a minute; data import reads releases"
        return Finding("data", said, "note")
    said = f"whole: {', '.join(whole) or 'none'}" + (f"; in part: {', '.join(part)}" if part else "")
    return Finding("data", said)


def _manifests(regime: Regime) -> list[str]:
    named = [source.manifest for source in regime.sources.values()]
    for benchmark in regime.benchmarks.values():
        named += [path for path in (benchmark.train, benchmark.select, benchmark.test) if path is not None]
    return list(dict.fromkeys(named))


def _plugins() -> Finding:
    broken = failures()
    if broken:
        said = "; ".join(f"{name}: {why}" for name, why in broken.items())
        return Finding("plug-ins", said, "note")
    names = sorted({f"{plugin.name} {plugin.version or ''}".strip() for plugin in installed().values()})
    return Finding("plug-ins", ", ".join(names) or "none is installed")
