"""Where Optuna's studies are kept: SQLite, PostgreSQL or a journal file."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from equipoise.platform.errors import StorageError, StudyError
from equipoise.platform.record.home import Home
from equipoise.platform.search.journal import ANEW, Journal
from equipoise.platform.storage import Place

optuna.logging.set_verbosity(optuna.logging.ERROR)

DRIVER = "postgresql+psycopg2"
OWNER_ATTRIBUTE = "equipoise.parent"  # of a search: MLflow's parent run of its study


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

    @classmethod
    def of(cls, home: Home, study: str) -> SearchStore:
        """Where a home keeps a sweep: its ``optuna_storage``, or a journal in the study's folder.

        Raises:
            StorageError: if ``optuna_storage`` is neither PostgreSQL nor a file.
        """
        return cls(home.optuna_storage or str(home.folder(study) / "optuna.journal"))

    @property
    def missing(self) -> bool:
        """Whether it is a journal that does not exist."""
        return self._journal is not None and not self._journal.is_file()

    def search(self, study: str) -> optuna.Study:
        """A search in it.

        Raises:
            StorageError: if the store cannot be used.
            KeyError: if it holds no such search.
        """
        with self.errors_in_words():
            return optuna.load_study(study_name=study, storage=self.open())

    def has(self, study: str) -> bool:
        """Whether it holds a search of this name with trials: without any, its driver died before it began.

        Raises:
            StorageError: if the store cannot be used.
        """
        with self.errors_in_words():
            storage = self.open()
            try:
                return bool(storage.get_all_trials(storage.get_study_id_from_name(study), deepcopy=False))
            except KeyError:
                return False

    def check(self) -> None:
        """See that a journal can be written; what is no journal is checked by using it.

        Raises:
            StorageError: if it cannot.
        """
        if self._journal is None:
            return
        with self.errors_in_words():
            new = self.missing
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            self._journal.open("ab").close()
            if new:
                self._journal.unlink()

    def delete(self, study: str, owner: str | None) -> None:
        """Delete a search, where there is one of this owner.

        Raises:
            StorageError: if the store cannot be used.
        """
        with self.errors_in_words(), contextlib.suppress(KeyError):
            storage = self.open()
            found = storage.get_study_id_from_name(study)
            if owner is not None and storage.get_study_user_attrs(found).get(OWNER_ATTRIBUTE) == owner:
                storage.delete_study(found)

    def open(self) -> BaseStorage:
        """Connect.

        Raises:
            StorageError: if it cannot be reached, its driver is not installed, or a journal is damaged.
        """
        with self.errors_in_words():
            if self._journal is not None:
                return self._replayed(Journal(self._journal))
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

    def _replayed(self, journal: Journal) -> BaseStorage:
        try:
            return JournalStorage(journal)
        except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:  # whole, and no sense
            raise StorageError(
                f"Optuna's storage {self.name} is damaged: its records contradict each other ({type(error).__name__}); "
                f"{ANEW.format(file=journal.path.name)}"
            ) from error

    def torn(self) -> str | None:
        """What of a journal's end is no whole record and will be cut off, in a sentence; None for nothing.

        Raises:
            StorageError: if the journal is damaged, or is none.
        """
        with self.errors_in_words():
            return None if self._journal is None else Journal(self._journal).torn()

    @contextlib.contextmanager
    def errors_in_words(self) -> Iterator[None]:
        """Turn what goes wrong inside into one sentence without a password."""
        try:
            yield
        except (OSError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            # Optuna's own error says nothing: the database's is its cause.
            said = str(error.__cause__ or error).splitlines()[0]
            secret = self._url.password if self._url is not None else None
            said = said.replace(str(secret), "***") if secret else said
            raise StorageError(f"Optuna's storage {self.name} cannot be used: {said[:200]}") from None

    def export(self, study: str) -> bytes:
        """A journal that holds one search of the store, as its file's content.

        Raises:
            StorageError: the store cannot be used.
            StudyError: it holds no such search.
        """
        if self._journal is not None and not self.missing:
            with self.errors_in_words():
                return Journal(self._journal).whole()  # a driver may be writing the next record
        with tempfile.TemporaryDirectory() as temporary:
            target = SearchStore(f"{temporary}/optuna.journal")
            copy_search(self, study, target.open())
            return (Path(temporary) / "optuna.journal").read_bytes()

    def restore(self, study: str, journal: bytes, owner: str) -> None:
        """Put a search that :meth:`export` gave into the store.

        Args:
            study: its name.
            journal: the content.
            owner: whose it is from now on, see :class:`equipoise.platform.search.proposer.OptunaProposer`.

        Raises:
            StorageError: the store cannot be used, or holds a search of this name.
        """
        with tempfile.TemporaryDirectory() as temporary:
            kept = Path(temporary) / "optuna.journal"
            kept.write_bytes(journal)
            with self.errors_in_words():
                try:
                    copied = copy_search(SearchStore(str(kept)), study, self.open())
                except optuna.exceptions.DuplicatedStudyError:
                    raise StorageError(f"Optuna's storage {self.name} holds a search {study!r} already") from None
                copied.set_user_attr(OWNER_ATTRIBUTE, owner)


def copy_search(store: SearchStore, study: str, into: BaseStorage) -> optuna.Study:
    """Copy one search with all that its sampler remembers.

    Args:
        store: where the search is.
        study: its name.
        into: another storage.

    Raises:
        StorageError: if the store cannot be used.
        StudyError: if it holds no such search.
    """
    with store.errors_in_words():
        source = store.open()
        try:
            found = source.get_study_id_from_name(study)
        except KeyError:
            raise StudyError(
                f"Optuna's storage {store.name} holds no search {study!r}: name the right one with "
                "--optuna-storage, or run equipoise sweep"
            ) from None
        copied = optuna.create_study(study_name=study, storage=into, directions=source.get_study_directions(found))
        copied.add_trials(source.get_all_trials(found, deepcopy=False))
        for key, value in source.get_study_user_attrs(found).items():
            copied.set_user_attr(key, value)
        made = into.get_study_id_from_name(study)
        for key, value in source.get_study_system_attrs(found).items():
            if ":parent:" in key:  # of the genetic samplers: ids of trials, which differ here
                numbers = (source.get_trial_number_from_id(one) for one in value)
                value = [into.get_trial_id_from_study_id_trial_number(made, n) for n in numbers]
            into.set_study_system_attr(made, key, value)
    return copied


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
        self._memory = InMemoryStorage()
        copy_search(store, study, self._memory)

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
