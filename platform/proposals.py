"""Where trials come from: a list, or Optuna's ask and tell."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from equipoise.platform.definitions import Sampler, SweepDefinition
from equipoise.platform.errors import StorageError, StudyError
from equipoise.platform.mix import load_variant
from equipoise.platform.seeds import stream
from equipoise.platform.settings import Variant
from equipoise.platform.storage import Place

optuna.logging.set_verbosity(optuna.logging.ERROR)
TRIAL_ATTRIBUTE = "equipoise.trial"
OWNER_ATTRIBUTE = "equipoise.parent"
DRIVER = "postgresql+psycopg2"


@dataclass(frozen=True)
class Proposal:
    """A trial to run.

    Attributes:
        name: variant name.
        variant: its weights.
        seed: seed to train with.
        optuna_number: number of the Optuna trial, None for a trial from a list.
    """

    name: str
    variant: Variant
    seed: int
    optuna_number: int | None = None


def make_sampler(name: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    """An Optuna sampler by name."""
    seed %= 2**32  # Optuna's samplers take 32-bit seeds
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


class SearchStore:
    """Where Optuna keeps a sweep: a journal file, or a PostgreSQL database.

    Args:
        where: path or ``file:`` URI of the journal, which may lie on storage that several machines share, or
            ``postgresql://user@host:port/database``.

    Raises:
        StorageError: if it is neither.
    """

    def __init__(self, where: str) -> None:
        self._url = self._journal = None
        if "://" in where and not where.startswith("file:"):
            self._url = _postgresql(where)
            # What is shown and stored: nothing that could hold a password.
            self.name = str(URL.create("postgresql", None, None, self._url.host, self._url.port, self._url.database))
        else:
            self._journal = Place.at(where).local
            if self._journal is None:
                raise StorageError(f"Optuna's journal {where!r} has to be a file on a disk: Optuna appends to it")
            self.name = str(self._journal)

    def open(self) -> BaseStorage:
        """Connect.

        Raises:
            StorageError: if it cannot be reached, or its driver is not installed.
        """
        with self.told():
            if self._journal is not None:
                self._journal.parent.mkdir(parents=True, exist_ok=True)
                return JournalStorage(JournalFileBackend(str(self._journal)))
            assert self._url is not None
            try:
                # A connection that the server dropped while trials ran is opened again.
                return RDBStorage(
                    self._url.render_as_string(hide_password=False), engine_kwargs={"pool_pre_ping": True}
                )
            except ImportError:
                raise StorageError(
                    f"Optuna's storage {self.name} needs PostgreSQL's driver: pip install 'equipoise[postgres]'"
                ) from None

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Turn what goes wrong inside into one sentence without a password."""
        try:
            yield
        except (OSError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            # Optuna's own error says nothing: the database's is its cause.
            said = str(error.__cause__ or error).splitlines()[0]
            secret = self._url.password if self._url is not None else None
            said = said.replace(str(secret), "***") if secret else said
            raise StorageError(f"Optuna's storage {self.name} cannot be used: {said[:200]}") from None


def _postgresql(where: str) -> URL:
    scheme, _, rest = where.partition("://")
    shown = f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
    if scheme.startswith("sqlite"):
        raise StorageError(
            f"Optuna's storage {shown!r} is SQLite, which locks under parallel writers: "
            "give the path of a journal file, or postgresql://user@host:port/database"
        )
    if not re.fullmatch(r"postgres(ql)?(\+\w+)?", scheme):
        raise StorageError(
            f"Optuna's storage {shown!r} has scheme {scheme!r}; "
            "expected the path of a journal file, or postgresql://user@host:port/database"
        )
    try:
        # By name, because the driver that a bare postgresql: stands for differs between versions of SQLAlchemy.
        url = make_url(f"{scheme if '+' in scheme else DRIVER}://{rest}")
    except (ValueError, SQLAlchemyError):
        url = None
    if url is None or not url.database:
        raise StorageError(f"Optuna's storage {shown!r} is no URL like postgresql://user@host:port/database")
    return url


class OptunaProposer:
    """The thin adapter over Optuna's ask and tell for one sweep.

    The sampler is made afresh for every suggestion, from the study's seed and the suggestion's number: a resumed sweep
    draws what it would have drawn.

    Args:
        definition: the sweep.
        benchmarks: objectives of the search, all maximised, in this order.
        store: where Optuna keeps the sweep.
        owner: MLflow's parent run of the sweep: a shared store may hold another home's study of the same name.

    Raises:
        StorageError: if the store cannot be used.
        StudyError: if the store's study of this name is another's.
    """

    def __init__(self, definition: SweepDefinition, benchmarks: Sequence[str], store: SearchStore, owner: str) -> None:
        self.definition = definition
        self.benchmarks = tuple(benchmarks)
        self.store = store
        storage = store.open()
        with store.told():
            self.study = optuna.create_study(
                study_name=definition.name,
                storage=storage,
                directions=["maximize"] * len(self.benchmarks),
                load_if_exists=True,
            )
            self._own(owner)
            self._queue()

    def _own(self, owner: str) -> None:
        found = self.study.user_attrs.get(OWNER_ATTRIBUTE)
        # A study without an owner and without trials: its driver died between creating and marking it.
        if found is None and not self.study.get_trials(deepcopy=False):
            self.study.set_user_attr(OWNER_ATTRIBUTE, owner)
        elif found != owner:
            raise StudyError(
                f"Optuna's storage {self.store.name} holds a study {self.definition.name!r} of another home: "
                "choose another --name"
            )

    def _queue(self) -> None:
        with warnings.catch_warnings():
            # Only the names on plots depend on it; its signature is covered by the sweep tests.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names(list(self.benchmarks))
        # By name, not "if the study is new": a driver that died between two of them left the rest out.
        queued = {t.user_attrs.get("start") for t in self.study.get_trials(deepcopy=False)}
        for name in self.definition.start[: self.definition.trials]:
            if name not in queued:
                self.study.enqueue_trial(self.definition.point(load_variant(name)), user_attrs={"start": name})

    def ask(self, trial: int) -> Proposal:
        """The next point of the search.

        Args:
            trial: the trial's number in the ledger, stored with Optuna's trial so that each finds the other.

        Raises:
            StorageError: if the store cannot be used.
        """
        with self.store.told():
            return self._ask(trial)

    def _ask(self, trial: int) -> Proposal:
        number = sum(t.state != TrialState.WAITING for t in self.study.get_trials(deepcopy=False))
        self.study.sampler = make_sampler(self.definition.sampler, stream(self.definition.seed, "sampler", number))
        asked = self.study.ask()
        asked.set_user_attr(TRIAL_ATTRIBUTE, trial)
        weights = {
            name: asked.suggest_float(name, r.floor, r.high, log=True) for name, r in self.definition.objectives.items()
        }
        start = asked.user_attrs.get("start")
        variant = self.definition.variant(weights)
        return Proposal(start or f"mix-{asked.number:03d}", variant, self.definition.trial_seed, asked.number)

    def tell(self, optuna_number: int, accuracies: Mapping[str, float] | None) -> None:
        """Tell a trial's accuracies, or that it failed; telling again changes nothing."""
        with self.store.told():
            if accuracies is None:
                self.study.tell(optuna_number, state=TrialState.FAIL, skip_if_finished=True)
            else:
                self.study.tell(optuna_number, [accuracies[b] for b in self.benchmarks], skip_if_finished=True)

    def running(self) -> Iterator[int]:
        """Numbers of trials that Optuna believes to be running."""
        with self.store.told():
            found = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        yield from (t.number for t in found)


def describe(variant: Variant) -> str:
    """``hard_region 0.3, delta 0.5``: a variant's weights on one line."""
    parts = [f"{name} {setting.weight:.3g}" for name, setting in variant.objectives.items() if setting.weight]
    return ", ".join(parts) or ("untrained" if variant.untrained else "no auxiliary objective")
