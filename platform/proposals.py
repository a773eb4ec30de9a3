"""Where trials come from: a list, or Optuna's ask and tell."""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from equipoise.platform.definitions import SweepDefinition
from equipoise.platform.errors import StorageError, StudyError
from equipoise.platform.ledger import Row
from equipoise.platform.mix import CONTROLS, load_variant
from equipoise.platform.samplers import RUNGS_ATTRIBUTE, WARM_ATTRIBUTE, ShownStudy, make_sampler
from equipoise.platform.seeds import stream
from equipoise.platform.settings import Variant
from equipoise.platform.storage import Place
from equipoise.platform.warm_start import Earlier

optuna.logging.set_verbosity(optuna.logging.ERROR)
TRIAL_ATTRIBUTE = "equipoise.trial"
OWNER_ATTRIBUTE = "equipoise.parent"
WARMED_ATTRIBUTE = "equipoise.warm_started"
DRIVER = "postgresql+psycopg2"
BASELINE = CONTROLS[0]


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


class Snapshot(SearchStore):
    """A copy in memory of one search of a store: what is asked of it or told to it is written nowhere.

    Args:
        store: where the search is.
        study: its name.

    Raises:
        StorageError: if the store cannot be used.
        StudyError: if it holds no such search.
    """

    def __init__(self, store: SearchStore, study: str) -> None:
        self.name = store.name
        self._url = self._journal = None
        with store.told():
            source = store.open()
            try:
                found = source.get_study_id_from_name(study)
            except KeyError:
                raise StudyError(
                    f"Optuna's storage {store.name} holds no search {study!r}: name the right one with "
                    "--optuna-storage, or run equipoise sweep"
                ) from None
            self._memory = InMemoryStorage()
            copied = optuna.create_study(
                study_name=study, storage=self._memory, directions=source.get_study_directions(found)
            )
            trials = source.get_all_trials(found, deepcopy=False)
            copied.add_trials(trials)
            for key, value in source.get_study_user_attrs(found).items():
                copied.set_user_attr(key, value)
            made = self._memory.get_study_id_from_name(study)
            for key, value in source.get_study_system_attrs(found).items():
                if ":parent:" in key:  # of the genetic samplers: ids of trials, which differ here
                    numbers = (source.get_trial_number_from_id(one) for one in value)
                    value = [self._memory.get_trial_id_from_study_id_trial_number(made, n) for n in numbers]
                self._memory.set_study_system_attr(made, key, value)

    def open(self) -> BaseStorage:
        """The copy."""
        return self._memory


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
        baseline: the baseline's accuracies by benchmark in percent, or None while none is known; asked for before
            every suggestion of a search with constraints.
        earlier: what a sweep with ``warm_start`` begins with; asked for once, until all of it is in the store.

    Raises:
        StorageError: if the store cannot be used.
        StudyError: if the store's study of this name is another's, or nothing says what a warm start begins with.
    """

    def __init__(
        self,
        definition: SweepDefinition,
        benchmarks: Sequence[str],
        store: SearchStore,
        owner: str,
        baseline: Callable[[], Mapping[str, float] | None] = lambda: None,
        earlier: Callable[[], Earlier] | None = None,
    ) -> None:
        self.definition = definition
        self.benchmarks = tuple(benchmarks)
        self.store = store
        self._baseline = baseline
        storage = store.open()
        with store.told():
            self.study = optuna.create_study(
                study_name=definition.name,
                storage=storage,
                directions=["maximize"] * len(self.benchmarks),
                load_if_exists=True,
            )
            self._storage = storage
            self._shown = ShownStudy(definition.name, storage, self.benchmarks)
            self._own(owner)
            cold = definition.warm_start is not None and not self.study.user_attrs.get(WARMED_ATTRIBUTE)
        found = None
        if cold:
            if earlier is None:
                raise StudyError(f"the warm start of {definition.name!r} needs the record of the earlier study")
            found = earlier()
        with store.told():
            if found is not None:
                self._warm(found)
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

    def _warm(self, found: Earlier) -> None:
        """Add what an earlier study found, each mix once, also where a driver dies in between."""
        d = self.definition
        trials = self.study.get_trials(deepcopy=False)
        added = {t.user_attrs.get(WARM_ATTRIBUTE) for t in trials}
        for mix in found.done:
            if mix.key not in added:
                point = d.point(mix.variant)
                self.study.add_trial(
                    optuna.create_trial(
                        params=point,
                        distributions={a.name: a.distribution for a in d.dimensions if a.name in point},
                        values=[mix.accuracies[b] for b in self.benchmarks],
                        user_attrs={WARM_ATTRIBUTE: mix.key},
                    )
                )
        queued = {t.user_attrs.get("start") for t in trials}
        for mix in found.starts:
            if mix.name not in queued:
                self.study.enqueue_trial(d.point(mix.variant), user_attrs={"start": mix.name, "from": mix.key})
        self.study.set_user_attr(WARMED_ATTRIBUTE, True)

    def _queue(self) -> None:
        with warnings.catch_warnings():
            # Only the names on plots depend on it; its signature is covered by the sweep tests.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names(list(self.benchmarks))
        # By name, not "if the study is new": a driver that died between two of them left the rest out.
        queued = {t.user_attrs.get("start") for t in self.study.get_trials(deepcopy=False)}
        for name in self.definition.starts:
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
        self._prepare(number)
        asked = self._shown.ask()
        asked.set_user_attr(TRIAL_ATTRIBUTE, trial)
        return self._proposal(asked)

    def _prepare(self, number: int) -> None:
        """Make the sampler of a suggestion, from how many were asked for before it."""
        d = self.definition
        # Only TPE: of a Gaussian process the rest of the off part would be unknown land to explore.
        self._shown.refresh(self._lowest(), d.merged if d.sampler == "tpe" else None)
        self._shown.sampler = make_sampler(
            d.sampler,
            stream(d.seed, "sampler", number),
            sequence=stream(d.seed, "sequence"),
            number=number,
            conditional=d.conditional,
        )

    def _proposal(self, asked: optuna.trial.Trial) -> Proposal:
        variant = self.definition.variant(self.definition.suggest(asked))
        return Proposal(name_of(asked, variant), variant, self.definition.trial_seed, asked.number)

    def recover(self, optuna_number: int, trial: int) -> Proposal:
        """The suggestion of a driver that died before it wrote down what it got, as it would have got it.

        What was drawn is in Optuna's storage. The rest is drawn now, from where the stream was.

        Args:
            optuna_number: of the trial that was asked for; it has to be the newest, and running.
            trial: the trial's number in the ledger.

        Raises:
            StorageError: if the store cannot be used.
        """
        with self.store.told():
            self._prepare(sum(t.state != TrialState.WAITING for t in self.study.get_trials(deepcopy=False)) - 1)
            study = self._storage.get_study_id_from_name(self.definition.name)
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(study, optuna_number)
            stored = self._storage.get_trial(trial_id)
            asked = optuna.trial.Trial(self._shown, trial_id)
            asked.set_user_attr(TRIAL_ATTRIBUTE, trial)
            given = {*stored.system_attrs.get("fixed_params", {}), *asked.relative_params}
            for name, distribution in stored.distributions.items():
                if name not in given:
                    self._shown.sampler.sample_independent(self._shown, stored, name, distribution)
            return self._proposal(asked)

    def is_start(self, optuna_number: int) -> bool:
        """Whether a trial was enqueued by name, and not drawn by the sampler."""
        with self.store.told():
            return "start" in self.study.get_trials(deepcopy=False)[optuna_number].user_attrs

    def trial_of(self, optuna_number: int) -> int | None:
        """Number in the ledger of an Optuna trial; None if its driver died before it stored that."""
        with self.store.told():
            found: int | None = self.study.get_trials(deepcopy=False)[optuna_number].user_attrs.get(TRIAL_ATTRIBUTE)
        return found

    def _lowest(self) -> dict[str, float] | None:
        """Accuracies below which trials break a constraint; None without one, or before the baseline is known."""
        limits = self.definition.constraints
        baseline = self._baseline() if limits is not None else None
        return None if limits is None or baseline is None else limits.lowest(baseline)

    def tell(
        self,
        optuna_number: int,
        accuracies: Mapping[str, float] | None,
        rungs: Mapping[int, Mapping[str, float]] | None = None,
    ) -> None:
        """Tell a trial's accuracies, or that it failed; telling again changes nothing.

        Args:
            optuna_number: of the trial.
            accuracies: final ones by benchmark; None for a trial that failed.
            rungs: partial ones on the way, by training step: from them samplers learn how far accuracies rise.
        """
        with self.store.told():
            self._keep_rungs(optuna_number, rungs)
            if accuracies is None:
                self.study.tell(optuna_number, state=TrialState.FAIL, skip_if_finished=True)
            else:
                self.study.tell(optuna_number, [accuracies[b] for b in self.benchmarks], skip_if_finished=True)

    def prune(self, optuna_number: int, rungs: Mapping[int, Mapping[str, float]]) -> None:
        """Tell that a trial was stopped early: PRUNED, without final values; telling again changes nothing.

        Its partial accuracies are kept apart from final ones, in the attribute ``equipoise.rungs``. Samplers see what
        it was heading for, see :func:`equipoise.platform.samplers.estimates`.

        Args:
            optuna_number: of the trial.
            rungs: training step to benchmark to accuracy in percent.

        Raises:
            StudyError: a rung lacks a benchmark.
        """
        with self.store.told():
            self._keep_rungs(optuna_number, rungs)
            self.study.tell(optuna_number, state=TrialState.PRUNED, skip_if_finished=True)

    def _keep_rungs(self, optuna_number: int, rungs: Mapping[int, Mapping[str, float]] | None) -> None:
        for step, partial in (rungs or {}).items():
            lacking = [b for b in self.benchmarks if b not in partial]
            if lacking:
                raise StudyError(
                    f"rung {step} of Optuna trial {optuna_number} has no accuracy on {lacking[0]}: "
                    f"expected one on each of {', '.join(self.benchmarks)}"
                )
        study = self._storage.get_study_id_from_name(self.definition.name)
        trial = self._storage.get_trial_id_from_study_id_trial_number(study, optuna_number)
        if rungs and not self._storage.get_trial(trial).state.is_finished():
            kept = {str(step): {b: float(partial[b]) for b in self.benchmarks} for step, partial in rungs.items()}
            self._storage.set_trial_user_attr(trial, RUNGS_ATTRIBUTE, kept)

    def running(self) -> Iterator[int]:
        """Numbers of trials that Optuna believes to be running."""
        with self.store.told():
            found = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        yield from (t.number for t in found)


def name_of(trial: optuna.trial.BaseTrial, variant: Variant) -> str:
    """What a suggestion is called: as it was enqueued; with nothing on, what it is; any other by its number."""
    given = trial.user_attrs.get("start") or trial.user_attrs.get(WARM_ATTRIBUTE)
    return str(given or (f"mix-{trial.number:03d}" if variant.objectives else BASELINE))


def baseline_of(rows: Iterable[Row]) -> dict[str, float] | None:
    """Accuracies of the baseline in a study's book, means over its finished seeds; None while there is none."""
    found = [(r.result or {})["accuracies"] for r in rows if r.name == BASELINE and r.status == "finished"]
    return {b: math.fsum(one[b] for one in found) / len(found) for b in found[0]} if found else None


def describe(variant: Variant) -> str:
    """``hard_region 0.3, delta 0.5``: a variant's weights on one line."""
    parts = [f"{name} {setting.weight:.3g}" for name, setting in variant.objectives.items() if setting.weight]
    return ", ".join(parts) or ("untrained" if variant.untrained else "no auxiliary objective")
