"""Studies of a home are listed and deleted; what only reads creates nothing where there is no home."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking._tracking_service import utils as tracking_utils

from equipoise.platform.api import load_encoder
from equipoise.platform.errors import EquipoiseError, StudyError
from equipoise.platform.record.client import TrackingError
from equipoise.platform.record.home import Home
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.record.registry import MODEL_FOLDER, register
from equipoise.platform.search.store import OWNER_ATTRIBUTE, SearchStore
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.study.removal import delete_study
from equipoise.platform.study.resume import PLACES

Call = Callable[..., tuple[int, str, str]]
Make = Callable[..., TrialSettings]


def started(home: Home, name: str, settings: TrialSettings) -> str:
    """A study with one trial, its run, its files and its model; returns its parent run."""
    tracker = home.tracker()
    parent = tracker.start_study(name, "sweep", {"name": name})
    run = tracker.start_trial(parent, name, "t0001", "search", settings, "0")
    with home.book(name, create=True) as book:
        row = book.open_trial("hw", "search", settings.model_dump_json())
        book.update(
            row.number, status="finished", run_id=run, result={"accuracies": {}, "checkpoint": None, "flags": []}
        )
        book.set_fact("parent", parent)
        book.set_fact(PLACES, {"storage": home.storage, "optuna_storage": home.optuna_storage})
    (home.trials(name) / "t0001" / "scores.json").write("{}")
    (home.root / "weights.bin").write_bytes(b"weights")
    tracker.artifacts(run, home.root / "weights.bin", MODEL_FOLDER)
    register(tracker, name, "candidate", tracker.run(run))
    return parent


def test_studies_are_listed_and_one_is_deleted(call: Call, make_trial: Make, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    for name in ("one", "two"):
        started(home, name, make_trial())
    code, out, _ = call("studies", "list", "--home", home.root)
    assert (code, out.split()) == (0, ["one", "1", "finished", "two", "1", "finished"])
    code, _, err = call("studies", "delete", "on", "--yes", "--home", home.root)
    assert code == 1
    assert "there is no study 'on'" in err
    assert "did you mean 'one'?" in err
    assert call("studies", "delete", "one", "--yes", "--home", home.root)[0] == 0
    assert home.studies() == ["two"]
    assert [p.name for p in (home.root / "studies").iterdir()] == ["two"]
    tracker = home.tracker()
    assert [r.data.tags["equipoise.study"] for r in tracker.studies()] == ["two"]
    assert [m.name for m in tracker.client.search_registered_models()] == ["two"]
    started(home, "one", make_trial())  # its name is free


def test_a_name_is_asked_for(make_trial: Make, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from equipoise.platform.cli.main import cli

    home = Home(tmp_path / "home")
    started(home, "one", make_trial())
    words = ["studies", "delete", "one", "--home", str(home.root)]
    assert CliRunner().invoke(cli, words, input="two\n").exit_code != 0
    assert home.studies() == ["one"]
    assert CliRunner().invoke(cli, words, input="one\n").exit_code == 0
    assert home.studies() == []


def test_what_lies_elsewhere_is_deleted_too_and_nobody_elses(make_trial: Make, tmp_path: Path) -> None:
    import optuna

    place, journal = str(tmp_path / "place"), str(tmp_path / "optuna.journal")
    home = Home(tmp_path / "home", storage=place, optuna_storage=journal)
    parent = started(home, "one", make_trial())
    storage = SearchStore.of(home, "one").open()
    for name, owner in (("one", parent), ("other", "somebody")):
        optuna.create_study(study_name=name, storage=storage).set_user_attr(OWNER_ATTRIBUTE, owner)
    with pytest.raises(StudyError, match=r"also wrote to .*place: name it with --storage"):
        delete_study(Home(home.root), "one")
    with pytest.raises(StudyError, match=r"also wrote to .*optuna\.journal: name it with --optuna-storage"):
        delete_study(Home(home.root, storage=place), "one")
    assert home.has_book("one")
    delete_study(home, "one")
    assert not (tmp_path / "place" / "one").exists()
    assert optuna.get_all_study_names(SearchStore.of(home, "one").open()) == ["other"]
    assert SearchStore(journal).has("other") is False


@pytest.mark.parametrize("damage", [b"", b"no database" * 500], ids=["empty", "overwritten"])
def test_a_study_whose_book_is_damaged_is_listed_and_deleted(
    call: Call, make_trial: Make, tmp_path: Path, damage: bytes
) -> None:
    home = Home(tmp_path / "home")
    started(home, "one", make_trial())
    (home.folder("one") / "ledger.db").write_bytes(damage)
    assert "is damaged" in call("studies", "list", "--home", home.root)[1]
    delete_study(home, "one")
    assert home.studies() == []
    assert home.tracker().studies() == []


READING = [
    ("front", "nope"), ("report", "nope"), ("effects", "nope"), ("explain", "nope"), ("claims", "nope"),
    ("bundle", "nope"), ("confirm", "nope"), ("ui",), ("studies", "list"), ("studies", "delete", "nope", "--yes"),
]  # fmt: skip


@pytest.mark.parametrize("words", READING)
def test_what_reads_creates_nothing_and_names_the_homes_nearby(
    call: Call, make_trial: Make, tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, _, err = call(*words, "--home", tmp_path / "here" / "equipoise_home")
    assert code == 1
    assert err.startswith("Error: ")
    assert len(err.splitlines()) == 1
    assert not list((tmp_path / "here").iterdir())
    with Home(tmp_path / "there" / "equipoise_home").book("mine", create=True):
        pass
    err = call(*words, "--home", tmp_path / "here" / "equipoise_home")[2]
    assert f"{tmp_path / 'there' / 'equipoise_home'} (studies: mine)" in err
    assert not list((tmp_path / "here").iterdir())


def test_a_model_is_looked_for_without_creating_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(tracking_utils, "_tracking_uri", None)
    with Home(tmp_path / "home").book("mine", create=True):
        pass
    for uri in (None, f"sqlite:///{tmp_path / 'none.db'}"):
        with pytest.raises(TrackingError, match=r"there is no MLflow store .*studies: mine"):
            load_encoder("models:/mine@candidate", uri)
    assert os.listdir(tmp_path) == ["home"]


def test_a_checkpoint_is_found_where_the_home_is_now(tmp_path: Path) -> None:
    home = Home(tmp_path / "now")
    written = f"{tmp_path}/before/studies/mine/trials/t0001/checkpoints/step_00000003"
    assert home.checkpoint("mine", "t0001", written) == written, "as it was written, where it is nowhere"
    (home.folder("mine") / "trials/t0001/checkpoints/step_00000003").mkdir(parents=True)
    assert home.checkpoint("mine", "t0001", written) == str(
        home.folder("mine") / "trials/t0001/checkpoints/step_00000003"
    )
    assert home.checkpoint("mine", "t0002", written) == written
    assert home.checkpoint("mine", "t0001", None) is None


def test_an_unknown_study_of_a_home_names_those_there_are(make_trial: Make, tmp_path: Path) -> None:
    home = Home(tmp_path)
    started(home, "one", make_trial())
    with pytest.raises(EquipoiseError, match=r"no study 'nope' in .*; known: one"):
        StudyRecord.open(home, "nope")
