"""The folder with everything a person's studies read and write."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from equipoise.platform.errors import StudyError
from equipoise.platform.storage import Paths, Place

if TYPE_CHECKING:
    from equipoise.platform.record.ledger import Ledger
    from equipoise.platform.record.tracking import Tracker

BOOK = "ledger.db"  # in a study's folder


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
        return self.tracking_uri or f"sqlite:///{(self.root / 'mlflow.db').resolve()}"

    def tracker(self) -> Tracker:
        """The MLflow record of this home."""
        from equipoise.platform.record.tracking import Tracker

        self.make()
        return Tracker(self.uri(), self.root)

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
            raise StudyError(f"there is no study {study!r} in {self.root}")
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
