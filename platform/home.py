"""The folder with everything a person's studies read and write."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from equipoise.platform.errors import StudyError
from equipoise.platform.storage import Place

if TYPE_CHECKING:  # they bring MLflow and Optuna along, which work on data does not need
    from equipoise.platform.proposals import SearchStore
    from equipoise.platform.tracking import Tracker


@dataclass(frozen=True)
class Paths:
    """Where a trial reads.

    Attributes:
        data: folder that the manifests' paths are relative to.
        cache: folder of the clip caches.
    """

    data: Path
    cache: Path


@dataclass(frozen=True)
class Home:
    """One folder with everything a person's studies write.

    Attributes:
        root: the folder.
        tracking_uri: MLflow store; None for the SQLite file in the folder.
        storage: where trials write checkpoints and results: a path or a ``file:``, ``s3:`` or ``gs:`` URI; None for
            ``studies/`` of the folder. Every node of a cluster has to reach it.
        optuna_storage: where Optuna keeps a sweep, see :class:`equipoise.platform.proposals.SearchStore`; None for a
            journal in the study's folder.
    """

    root: Path
    tracking_uri: str | None = None
    storage: str | None = None
    optuna_storage: str | None = None

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
        from equipoise.platform.tracking import Tracker

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

    def search_store(self, study: str) -> SearchStore:
        """Where Optuna keeps a sweep.

        Raises:
            StorageError: if ``optuna_storage`` is neither PostgreSQL nor a file.
        """
        from equipoise.platform.proposals import SearchStore

        return SearchStore(self.optuna_storage or str(self.folder(study) / "optuna.journal"))

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
