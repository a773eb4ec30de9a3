"""Options that several commands share; a command gets them as one frozen record."""

from __future__ import annotations

import contextlib
import functools
import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from equipoise.platform.cli.plain import as_typed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from equipoise.platform.record.home import Home
    from equipoise.platform.record.reading import StudyRecord

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Places:
    """Where a command reads and writes: ``--home``, ``--tracking-uri``, ``--storage``, ``--optuna-storage``."""

    home: Path
    tracking_uri: str | None = None
    storage: str | None = None
    optuna_storage: str | None = None

    def open(self) -> Home:
        """The home folder."""
        from equipoise.platform.record.home import Home

        return Home(self.home.resolve(), self.tracking_uri, self.storage, self.optuna_storage)

    def study(self, name: str | None) -> StudyRecord:
        """The record of a study.

        Raises:
            TrackingError: no such study.
        """
        from equipoise.platform.record.reading import StudyRecord

        return StudyRecord.open(self.open(), name)

    def read(self, study: str | None, reference: str | None) -> StudyRecord:
        """The study that is asked about: one of the home, or one that ships, or lies in a file.

        Raises:
            UsageError: not exactly one of the two is given.
            TrackingError: no such study.
            BundleError: no such bundle.
        """
        if (study is None) == (reference is None):
            raise click.UsageError("give one of: a STUDY, or --reference NAME (equipoise list references)")
        if reference is None:
            return self.study(study)
        from equipoise.platform.study.bundling import open_bundle

        return open_bundle(reference, self.open().root)

    @property
    def record(self) -> str:
        """The options that name the record again, as they are typed."""
        where = f"--home {shlex.quote(str(self.home.resolve()))}"
        return where + (f" --tracking-uri {shlex.quote(self.tracking_uri)}" if self.tracking_uri else "")


@dataclass(frozen=True)
class StudyOptions:
    """What every command that runs a study was asked for; None and () where an option was not given.

    Attributes:
        name: of the study.
        resume: go on with the study of this name.
        preset: shipped preset or file.
        regime: shipped regime or file.
        overrides: of the preset.
        reading: of the variants.
        concurrent: trials at once.
        address: of a Ray cluster.
        tolerance: points a candidate may lose.
        workers: Ray Train workers of a trial.
        cpus_per_worker: CPUs of each.
        gpus_per_worker: GPUs of each.
        placement: of the workers on nodes.
        parallel: how several workers share the model.
        plugins: files that register objectives of one's own.
    """

    name: str | None = None
    resume: bool = False
    preset: str | None = None
    regime: str | None = None
    overrides: tuple[str, ...] = ()
    reading: str | None = None
    concurrent: int | None = None
    address: str | None = None
    tolerance: float | None = None
    workers: int | None = None
    cpus_per_worker: float | None = None
    gpus_per_worker: float | None = None
    placement: str | None = None
    parallel: str | None = None
    plugins: tuple[str, ...] = ()

    @property
    def resources(self) -> dict[str, Any]:
        """Resources of a trial that were given."""
        keys = ("workers", "cpus_per_worker", "gpus_per_worker", "placement", "parallel")
        return {k: getattr(self, k) for k in keys if getattr(self, k) is not None}

    def changes(self, **more: Any) -> dict[str, Any]:
        """What they and ``more`` change of a definition."""
        found = {k: getattr(self, k) for k in ("name", "preset", "regime", "reading", "concurrent")}
        shared = {"set": self.overrides, "plugins": self.plugins, "resources": self.resources or None}
        return {**found, **more, **shared}


def gathered(record: type[Any], word: str) -> Callable[[F], F]:
    """Pass the options that are fields of a record as one argument, ``word``."""
    names = [field.name for field in fields(record)]

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def wrapper(*args: Any, **options: Any) -> Any:
            taken = {name: options.pop(name) for name in names if name in options}
            return command(*args, **options, **{word: record(**taken)})

        return wrapper  # type: ignore[return-value]

    return decorate


def home_options(command: F) -> F:
    """``--home`` and ``--tracking-uri``."""
    home = click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="EQUIPOISE_HOME",
        default=Path("equipoise_home"),
        show_default=True,
        help="Folder with data, caches, studies and the local MLflow store (or EQUIPOISE_HOME).",
    )
    uri = click.option(
        "--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="MLflow server; default: a SQLite file in the home folder."
    )
    return home(uri(gathered(Places, "places")(command)))


def reference_option(command: F) -> F:
    """``--reference``: a study that ships, or a bundle, instead of one of the home."""
    return click.option(
        "--reference", metavar="NAME|FILE", help="A study that ships (equipoise list references), or a bundle."
    )(command)


def study_options(command: F) -> F:
    """Everything that the commands which run a study share, as ``asked``."""
    options = [
        click.option("--name", help="Name of the study; default: the file's."),
        click.option("--resume", is_flag=True, help="Go on with the study of this name."),
        preset_option(),
        regime_option(),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a preset key."),
        click.option("--reading", type=click.Choice(["as_described", "as_published"])),
        click.option("--concurrent", type=click.IntRange(1), help="Trials at once; default: as many as fit."),
        click.option("--address", help="Address of a Ray cluster, or auto; default: start one here."),
        click.option("--tolerance", type=click.FloatRange(0), help="Points a candidate may lose anywhere."),
        click.option("--workers", type=click.IntRange(1), help="Ray Train workers of a trial."),
        click.option("--cpus-per-worker", type=click.FloatRange(0, min_open=True)),
        click.option("--gpus-per-worker", type=click.FloatRange(0, 1), help="Below 1, trials share a GPU."),
        click.option("--placement", type=click.Choice(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"])),
        click.option("--parallel", type=click.Choice(["ddp", "fsdp"]), help="How several workers share the model."),
    ]
    command = plugin_option(gathered(StudyOptions, "asked")(command))
    for option in reversed(options):
        command = option(command)
    return storage_option(command)


def plugin_option(command: F) -> F:
    """``--plugin``: absolute paths, as a study may be gone on with from elsewhere."""
    return click.option(
        "--plugin",
        "plugins",
        multiple=True,
        metavar="FILE",
        callback=lambda _, __, files: tuple(str(Path(file).resolve()) for file in files),
        help="A Python file that registers objectives, encoders, probes or importers of your own; repeatable.",
    )(command)


def storage_option(command: F) -> F:
    """``--storage``."""
    return click.option(
        "--storage",
        envvar="EQUIPOISE_STORAGE",
        metavar="PLACE",
        help="Where trials write: a folder all nodes share, s3://bucket/folder or gs://bucket/folder "
        "(or EQUIPOISE_STORAGE); default: the home folder.",
    )(command)


def optuna_storage_option(command: F) -> F:
    """``--optuna-storage``."""
    return click.option(
        "--optuna-storage",
        envvar="EQUIPOISE_OPTUNA_STORAGE",
        metavar="URL",
        help="Where Optuna keeps the search: postgresql://user@host/database (password from PGPASSWORD or .pgpass) or "
        "the path of a journal file (or EQUIPOISE_OPTUNA_STORAGE); default: a journal in the home folder.",
    )(command)


def max_loss_option(command: F) -> F:
    """``--max-loss``: the constraints of a search."""
    return click.option(
        "--max-loss",
        "constraints",
        metavar="POINTS",
        multiple=True,
        callback=_constraints,
        help="Points below the baseline that a mix may lose, on every benchmark, or BENCHMARK=POINTS, once for each; "
        "the sampler avoids mixes that lose more.",
    )(command)


def _constraints(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any] | None:
    found: dict[str, float] = {}
    for text in values:
        benchmark, _, points = text.rpartition("=")  # nothing before it: every benchmark
        try:
            value = float(points)
        except ValueError:
            raise click.BadParameter(
                f"{text!r} given; expected points of accuracy, as in 2.0, or mini_dive=2.0"
            ) from None
        if benchmark in found:
            raise click.BadParameter(f"{text!r} comes after another one for {benchmark or 'every benchmark'}: give one")
        found[benchmark] = value
    if "" in found and len(found) > 1:
        raise click.BadParameter("give one number for every benchmark, or BENCHMARK=POINTS for each, not both")
    return {"max_loss": found.get("", found)} if found else None


def named(folder: str, what: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """See that an option which is no file names what ships: at once, before what takes seconds to load.

    Args:
        folder: of ``search_spaces/``.
        what: the word for the error sentence.
    """

    def check(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
        from equipoise.platform.settings.files import find

        if value is not None and Path(value).suffix not in (".yaml", ".yml"):
            find(folder, value, what)
        return value

    return check


def named_variant(*folders: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """See that words which are no files name a shipped variant, or what ships in one of the folders: at once.

    Args:
        folders: of ``search_spaces/``, whose names are taken as well.
    """

    def check(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        from equipoise.platform.errors import SettingsError, nearest
        from equipoise.platform.settings.files import shipped, variant_names

        known = [*variant_names(), *(name for folder in folders for name in shipped(folder))]
        for word in value if isinstance(value, tuple) else (value,):
            if word not in known and Path(word).suffix not in (".yaml", ".yml"):
                raise SettingsError(f"unknown variant {word!r}; {nearest(word, known)}")
        return value

    return check


def preset_option(help: str = "nano, small, base, or a YAML file.") -> Callable[[F], F]:
    """``--preset``."""
    return click.option("--preset", callback=named("presets", "preset"), help=help)


def regime_option(help: str = "miniature, ucf101, mixed, synthetic, or a YAML file.") -> Callable[[F], F]:
    """``--regime``."""
    return click.option("--regime", callback=named("regimes", "regime"), help=help)


def json_option(command: F) -> F:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")(command)


def emit(content: Any) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(content, indent=1))


def terminal(*, stderr: bool = False) -> Console:
    """The console of every command: what it prints is shown as it is written, names with brackets and colons too."""
    from rich.console import Console
    from rich.text import Text

    context = click.get_current_context(silent=True)
    typed = context is not None and context.get_parameter_source("home") is ParameterSource.COMMANDLINE
    where = f"--home {shlex.quote(str(context.params['home']))}" if context is not None and typed else ""

    class Terminal(Console):
        def render_str(self, text: str, **how: Any) -> Text:
            return super().render_str(as_typed(text, where), **how)

    return Terminal(stderr=stderr, markup=False, emoji=False, highlight=False)


def say(text: object, *, err: bool = False) -> None:
    """Print a line, in which commands can be copied as they stand."""
    click.echo(as_typed(str(text)), err=err)


class Bar:
    """A progress bar, called with what, done and total.

    Args:
        title: before every line.
        bar: that draws.
        console: to which.
    """

    def __init__(self, title: str, bar: Progress, console: Console) -> None:
        self._title, self._bar, self._console = title, bar, console
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """So much is done."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(f"{self._title}: {what}", total=total)
            if not self._console.is_terminal:
                self._console.print(f"{self._title}: {what} ({total})")
        self._bar.update(self._tasks[what], completed=done, total=total)

    def close(self) -> None:
        """Take it off the screen, for good."""
        self._bar.stop()


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Bar]:
    """A progress bar on standard error that goes when it is done; plain lines where that is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = terminal(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        yield Bar(title, bar, console)
