"""The folder with everything a person's studies read and write."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from equipoise.platform.errors import StudyError
from equipoise.platform.record import hold
from equipoise.platform.storage import Paths, Place

if TYPE_CHECKING:
    from equipoise.platform.record.ledger import Ledger
    from equipoise.platform.record.tracking import Tracker

BOOK = "ledger.db"  # in a study's folder
RECORD = "mlflow.db"  # in a home
NEAR = 3  # homes that are named where there is none
LOOKED_AT = 2000  # folders, for those


@dataclass(frozen=True)
class Home:
    """One folder with everything a person's studies write.

    Attributes:
        root: the folder.
        tracking_uri: MLflow store; None for the SQLite file in the folder.
        storage: where trials write checkpoints and results: a path or a ``file:``, ``s3:`` or ``gs:`` URI; None for
            ``studies/`` of the folder. Every node of a cluster has to reach it.
        optuna_storage: where Optuna keeps a sweep, see :class:`equipoise.platform.search.store.SearchStore`; None for a
            journal in the study's folder.
    """

    root: Path
    tracking_uri: str | None = None
    storage: str | None = None
    optuna_storage: str | None = None

    @property
    def bundle(self) -> str | None:
        """Name or file of what its studies are read from, where they can be read only; None where they are written."""
        return None

    @property
    def data(self) -> Path:
        """Data sets; manifests' paths in regimes are relative to it."""
        return self.root / "data"

    @property
    def cache(self) -> Path:
        """Clip caches."""
        return self.root / "cache"

    @property
    def paths(self) -> Paths:
        """Where trials read."""
        return Paths(self.data, self.cache)

    def uri(self) -> str:
        """MLflow tracking URI."""
        return self.tracking_uri or f"sqlite:///{(self.root / RECORD).resolve()}"

    def tracker(self, *, create: bool = True) -> Tracker:
        """The MLflow record of this home.

        Args:
            create: make what is not there; what only reads creates nothing.

        Raises:
            StudyError: there is none, and ``create`` is not set; or the folder cannot be written.
            TrackingError: if the store cannot be used.
        """
        from equipoise.platform.record.tracking import Tracker

        if create:
            self.make()
        elif (why := self.unrecorded()) is not None:
            raise StudyError(why)
        return Tracker(self.uri(), self.root, create=create)

    def unrecorded(self) -> str | None:
        """Why there is nothing to read, in a sentence: no database of MLflow's where it would be; None where it is."""
        if self.tracking_uri is not None or (self.root / RECORD).is_file():
            return None
        books = ", though the books of studies are: put a copy of it back" if self.studies() else nearby(self.root)
        return f"{self.root} holds no record of studies (there is no {RECORD}){books}"

    def studies(self) -> list[str]:
        """Names of the studies whose book is here."""
        return sorted(book.parent.name for book in self.root.glob(f"studies/*/{BOOK}"))

    @contextlib.contextmanager
    def hold(self, study: str) -> Iterator[None]:
        """Be the only one who runs a study, or deletes it, until this ends, or the process does.

        Raises:
            StudyError: somebody else does.
            StorageError: the file system keeps no locks.
        """
        with contextlib.ExitStack() as holds:
            for path in self._locks(study):
                try:
                    holds.enter_context(hold.held(path))
                except hold.HeldError as error:
                    raise StudyError(f"study {study!r} is being run by {error.holder}: end that first") from None
                except OSError as error:
                    raise StudyError(f"study {study!r} cannot be held: {error.strerror}: {path}") from None
            yield

    def holder(self, study: str) -> str | None:
        """Who runs a study now: ``process 4711 on node1 since 14:02``; None for nobody."""
        return next((found for path in self._locks(study) if (found := hold.holder(path))), None)

    def _locks(self, study: str) -> list[Path]:
        """Files that are locked while a study is run: homes may share the place where trials write."""
        folders = [self.root / "studies", self.place.local]
        return [folder / f".{study}.lock" for folder in dict.fromkeys(folders) if folder is not None]

    def folder(self, study: str) -> Path:
        """Folder of a study: what its driver writes."""
        return self.root / "studies" / study

    @property
    def place(self) -> Place:
        """What the trials of all studies write lies below it.

        Raises:
            StorageError: if ``storage`` is no path or URI of a store.
        """
        return Place.at(self.storage or self.root / "studies")

    def trials(self, study: str) -> Place:
        """Where the trials of a study write, each in a folder of its own."""
        return self.place / study / "trials"

    def checkpoint(self, study: str, trial: str, written: str | None) -> str | None:
        """Where a trial's checkpoint is: in this home where that was moved or copied, else where it was written.

        Args:
            study: the trial's.
            trial: its key, ``t0007``.
            written: where it was written; None for a trial that has none.
        """
        if not written:
            return written
        there = Place.at(written)
        _, found, below = there.path.rpartition(f"/{study}/trials/{trial}/")
        here = self.trials(study) / trial / below
        return str(here) if found and here != there and here.exists() else written

    def has_book(self, study: str) -> bool:
        """Whether a study of this name was started here."""
        return (self.folder(study) / BOOK).is_file()

    def book(self, study: str, *, create: bool = False) -> Ledger:
        """The book of a study, to be closed: ``with home.book(name) as book``.

        Raises:
            StudyError: if there is none and ``create`` is not set, or it cannot be opened.
        """
        from equipoise.platform.record.ledger import Ledger

        if not create and not self.has_book(study):
            known = self.studies()
            said = f"it has {', '.join(known)}" if known else f"it has none{nearby(self.root)}"
            raise StudyError(f"there is no study {study!r} in {self.root}; {said}")
        return Ledger(self.folder(study) / BOOK)

    def make(self) -> None:
        """Create the folder.

        Raises:
            StudyError: if it cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not os.access(self.root, os.W_OK | os.X_OK):
                raise PermissionError("no permission to write")
        except OSError as error:
            raise StudyError(
                f"the home folder {self.root} cannot be written: {error.strerror or error}; choose another with --home"
            ) from None


def nearby(folder: Path) -> str:
    """Homes above, beside and below a folder that is none, for the end of a sentence that says so."""
    parent, above = folder.parent, folder.parent.parent
    around = [[*folder.parents[:NEAR]], *(at.glob("*") for at in (folder, parent, above)), parent.glob("*/*")]
    around += [above.glob(f"*/{folder.name}")]
    found = dict.fromkeys(at for at in itertools.islice(itertools.chain(*around), LOOKED_AT) if _is_home(at))
    if not found:
        return ": name the home with --home, or begin with equipoise quickstart, sweep or ablate"
    said = []
    for at in list(found)[:NEAR]:
        studies = Home(at).studies()
        said.append(f"{at} (studies: {', '.join(studies[:NEAR]) or 'none'}{', ...' if len(studies) > NEAR else ''})")
    return f": --home names one; nearby are {'; '.join(said)}"


def _is_home(folder: Path) -> bool:
    try:
        return (folder / RECORD).is_file() or any(folder.glob(f"studies/*/{BOOK}"))
    except OSError:  # nobody may look
        return False
