"""A home that is copied or moved is a home of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking._tracking_service import utils as tracking_utils

from equipoise.platform.errors import StudyError
from equipoise.platform.record.home import Home
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.record.registry import MODEL_FOLDER, register
from equipoise.platform.settings.trial import TrialSettings


def filled(home: Home, settings: TrialSettings) -> str:
    """A study with one trial whose checkpoint is registered; returns the trial's run."""
    tracker = home.tracker()
    parent = tracker.start_study("mine", "sweep", {"name": "mine"})
    run = tracker.start_trial(parent, "mine", "t0001", "search", settings, "0")
    (home.root / "weights.bin").write_bytes(b"first")
    tracker.artifacts(run, home.root / "weights.bin", MODEL_FOLDER)
    register(tracker, "mine", "balanced", tracker.client.get_run(run))
    return run


def files(home: Home) -> set[str]:
    return {str(p.relative_to(home.root)) for p in (home.root / "artifacts").rglob("*") if p.is_file()}


@pytest.mark.parametrize("move", [shutil.copytree, shutil.move])
def test_a_copied_or_moved_home_writes_into_itself(
    move: Callable[..., object], make_trial: Callable[..., TrialSettings], tmp_path: Path
) -> None:
    first = Home(tmp_path / "a_%home")  # signs that a pattern of SQL would take for others
    run = filled(first, make_trial())
    before = files(first)
    move(first.root, tmp_path / "second")
    tracking_utils._artifact_repos_cache.clear()  # as in a process of its own: MLflow remembers where a run writes
    second = Home(tmp_path / "second")
    tracker = second.tracker()
    # What it holds is read from it, also where the original is gone.
    shutil.rmtree(first.root / "artifacts", ignore_errors=True)
    kept = tracker.client.download_artifacts(run, f"{MODEL_FOLDER}/weights.bin", str(tmp_path))
    assert Path(kept).read_bytes() == b"first"
    version = tracker.client.get_model_version_by_alias("mine", "balanced")
    assert version.source.startswith((second.root / "artifacts").as_uri())
    # What is written, to runs that were there and to new ones, lies in it.
    record = StudyRecord.open(second, "mine")
    record.keep(front={"better": "none"})
    other = tracker.start_study("more", "sweep", {"name": "more"})
    assert files(second) > before
    assert any(other in name for name in files(second))
    assert record.artifact("front.json", "the front") == {"better": "none"}
    assert not (first.root / "artifacts").exists()


def test_a_store_elsewhere_is_left_alone(make_trial: Callable[..., TrialSettings], tmp_path: Path) -> None:
    """One store for several homes: the addresses in it are not this home's to change."""
    first = Home(tmp_path / "first")
    run = filled(first, make_trial())
    other = Home(tmp_path / "other", tracking_uri=first.uri())
    assert other.tracker().client.get_run(run).info.artifact_uri.startswith(first.root.as_uri())


def test_a_book_is_opened_where_there_is_one(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert not home.has_book("mine")
    with pytest.raises(StudyError, match="there is no study 'mine'"):
        home.book("mine")
    with home.book("mine", create=True) as book:
        book.set_fact("a", 1)
    with home.book("mine") as book:
        assert book.fact("a") == 1
