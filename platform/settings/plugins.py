"""Objectives, encoders, probes and benchmarks of a person's own: files that register them, or packages' entry points.

A file travels as its text inside the settings of every trial, so that it is there on every node, in every checkpoint
and in a study that was moved; its sha256 belongs to the trial's key. A package has to be installed wherever it is used,
and is recorded with its version and the sha256 of the file that defines what it brings.
"""

from __future__ import annotations

import hashlib
import inspect
import linecache
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import Field

from equipoise.models.encoders import ENCODERS, EncoderRecord, register_encoder
from equipoise.models.objectives import RECORDS, ObjectiveRecord
from equipoise.models.objectives.registry import register
from equipoise.models.probe_records import PROBES, SHIPPED, ProbeRecord, register_probe
from equipoise.platform.errors import SettingsError
from equipoise.platform.settings.base import Settings, parse
from equipoise.platform.settings.benchmarks import BENCHMARKS, BenchmarkRecord, register_benchmark


@dataclass(frozen=True)
class Kind:
    """Something that can be brought.

    Attributes:
        known: every record of the kind, by name.
        record: their type.
        register: makes one known.
        defines: the function or class that defines one; None: it is data of the module that registers it.
        describe: one line.
    """

    known: Mapping[str, Any]
    record: type
    register: Callable[[Any], Any]
    defines: Callable[[Any], Callable[..., Any] | None] = lambda record: record.factory
    describe: Callable[[Any], str] = lambda record: str(record.description)


KINDS: dict[str, Kind] = {
    "objectives": Kind(RECORDS, ObjectiveRecord, register),
    "encoders": Kind(ENCODERS, EncoderRecord, register_encoder),
    "probes": Kind(PROBES, ProbeRecord, register_probe),
    "benchmarks": Kind(BENCHMARKS, BenchmarkRecord, register_benchmark, lambda record: None),
}
"""What can be brought; a room that settings do not know adds its own (`bring`). ``equipoise.objectives`` and so on are
groups of entry points of packages: each entry names a record, several of them, or a module that registers its own."""
LARGEST = 1 << 20  # bytes of a file: it is a part of every trial's settings
_origins: dict[tuple[str, str], Plugin] = {}
_failed: dict[str, str] = {}


class Plugin(Settings):
    """Where an objective, an encoder or a probe of one's own comes from.

    Attributes:
        name: of the file, or of the installed package.
        version: of the package; of a file what it calls its ``__version__``.
        sha256: of the file that defines what it brings.
        source: a file's text; None for a package.
    """

    name: str = Field(min_length=1)
    version: str | None = None
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    source: str | None = Field(None, repr=False)

    def __str__(self) -> str:
        return f"{self.name}{f' {self.version}' if self.version else ''} (sha256 {self.sha256[:12]})"


def plugin_of(path: str | Path) -> Plugin:
    """The plug-in that a file is; what it brings is known from now on.

    Raises:
        SettingsError: it cannot be read, cannot be run, or registers nothing.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise SettingsError(f"plug-in {path} cannot be read: {reason}; give a Python file") from None
    if path.suffix != ".py" or len(content) > LARGEST:
        raise SettingsError(f"plug-in {path} is no Python file of at most {LARGEST >> 20} MiB")
    return _use_file(Plugin(name=path.name, sha256=hashlib.sha256(content).hexdigest(), source=text), path)


def use(given: Iterable[Plugin | Mapping[str, Any]]) -> None:
    """Make known what plug-ins bring that settings, a checkpoint or a record name.

    Raises:
        SettingsError: one cannot be run, or is a package that is not installed here.
    """
    for one in given:
        plugin = one if isinstance(one, Plugin) else parse(Plugin, one, "plug-in")
        if plugin.source is not None:
            if hashlib.sha256(plugin.source.encode()).hexdigest() != plugin.sha256:
                raise SettingsError(f"plug-in {plugin} holds another text than its sha256 says")
            _use_file(plugin, Path(plugin.name))
        elif all(origin.name != plugin.name for origin in installed().values()):
            why = next((why for name, why in _failed.items() if name == plugin.name), "it is not installed here")
            raise SettingsError(f"plug-in {plugin}: {why}; install it on every node, as it was")


def used_by(objectives: Iterable[str], encoder: str, probes: Iterable[str]) -> tuple[Plugin, ...]:
    """The plug-ins that these objectives, this encoder and these probes come from, each once, by name."""
    origins = [*(origin_of(name) for name in objectives), origin_of(encoder, "encoders")]
    origins += [origin_of(kind, "probes") for kind in probes]
    found = {origin.sha256: origin for origin in origins if origin is not None}
    return tuple(sorted(found.values(), key=lambda plugin: plugin.name))


def origin_of(name: str, kind: str = "objectives") -> Plugin | None:
    """The plug-in that something comes from; None where it ships, or is unknown."""
    return _origins.get((kind, name)) or installed().get((kind, name))


def described(kind: str) -> dict[str, str]:
    """What everything of a kind that is known does, by name, and which plug-in brings it."""
    of = KINDS[kind]
    origins = {name: origin_of(name, kind) for name in of.known}
    brought = {name: f" [{origin}]" if origin else "" for name, origin in origins.items()}
    shipped = SHIPPED if kind == "probes" else {}
    return {**shipped, **{name: of.describe(record) + brought[name] for name, record in of.known.items()}}


def bring(name: str, kind: Kind) -> None:
    """Let plug-ins bring another kind of records, of a room that settings do not know."""
    if name not in KINDS:
        KINDS[name] = kind
        installed.cache_clear()


def check(plugins: Iterable[Plugin]) -> None:
    """See that what is about to train is what the settings name.

    Raises:
        SettingsError: a package has another version here.
    """
    for plugin in plugins:
        here = [origin for origin in installed().values() if origin.name == plugin.name]
        if plugin.source is None and all(origin.sha256 != plugin.sha256 for origin in here):
            raise SettingsError(f"plug-in {plugin} was asked for, and {', '.join(map(str, here))} is installed here")


def failures() -> Mapping[str, str]:
    """Installed plug-ins that could not be loaded, and why."""
    installed()
    return _failed


@cache
def installed() -> Mapping[tuple[str, str], Plugin]:
    """The plug-in of everything that an installed package brings."""
    found: dict[tuple[str, str], Plugin] = {}
    for point in (point for kind in KINDS for point in metadata.entry_points(group=f"equipoise.{kind}")):
        dist = point.dist
        name, version = (point.name, None) if dist is None else (dist.name, dist.version)
        before = _registered()
        try:
            loaded = point.load()
            for record in loaded if isinstance(loaded, list | tuple) else [loaded]:
                for kind in KINDS.values():
                    if isinstance(record, kind.record):
                        kind.register(record)
        except Exception as error:  # a package of others', whatever is wrong with it, is no reason to stop
            _failed[name] = f"it cannot be loaded: {type(error).__name__}: {error}"
            continue
        for key in _new(before):
            own = KINDS[key[0]]
            digest = _sha256_of(own.defines(own.known[key[1]]) or sys.modules[point.module])
            found[key] = Plugin(name=name, version=version, sha256=digest)
    return found


def _registered() -> dict[tuple[str, str], Any]:
    return {(kind, name): record for kind, of in KINDS.items() for name, record in of.known.items()}


def _new(before: Mapping[tuple[str, str], Any]) -> list[tuple[str, str]]:
    return [key for key, record in _registered().items() if before.get(key) is not record]


def _sha256_of(what: Callable[..., Any] | ModuleType) -> str:
    """Of the file that defines an objective or an encoder, or of a module's."""
    file = inspect.getsourcefile(what)
    assert file is not None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _use_file(plugin: Plugin, path: Path) -> Plugin:
    """Run a file's text, unless it was run last under its name; returns the plug-in with the version that it says."""
    name = f"equipoise_plugin_{path.stem}"
    module = sys.modules.get(name)
    if module is not None and getattr(module, "__sha256__", None) == plugin.sha256:
        return _versioned(plugin, module)
    assert plugin.source is not None
    module = ModuleType(name)
    module.__dict__.update(__file__=str(path), __sha256__=plugin.sha256)
    before = _registered()
    shown = f"<plug-in {path}>"
    linecache.cache[shown] = (len(plugin.source), None, plugin.source.splitlines(keepends=True), shown)
    sys.modules[name] = module  # before it runs: what defines dataclasses looks its module up
    try:
        exec(compile(plugin.source, shown, "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise SettingsError(f"plug-in {path} cannot be run: {_where(error, shown)}") from error
    brought = _new(before)
    if not brought:
        del sys.modules[name]
        raise SettingsError(f"plug-in {path} registers nothing: call equipoise.register with a record in it")
    found = _versioned(plugin, module)
    for key in brought:
        _origins[key] = found
    return found


def _versioned(plugin: Plugin, module: ModuleType) -> Plugin:
    version = getattr(module, "__version__", None)
    return plugin if version is None else plugin.model_copy(update={"version": str(version)})


def _where(error: Exception, shown: str) -> str:
    """An error in one line, with the line of the plug-in that it comes from."""
    lines = [error.lineno] if isinstance(error, SyntaxError) and error.filename == shown else []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == shown:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    said = error.msg if isinstance(error, SyntaxError) else next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {said}" + (f" (line {lines[-1]})" if lines else "")
