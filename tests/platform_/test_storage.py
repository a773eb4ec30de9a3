"""Places to write: a disk and an S3-compatible server behave alike, and what goes wrong is a sentence."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from pyarrow import fs

from equipoise.platform.cli import main as cli
from equipoise.platform.errors import CheckpointError, StorageError, StudyError, UnreachableError
from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import Ledger
from equipoise.platform.search.proposer import OptunaProposer
from equipoise.platform.search.store import SearchStore
from equipoise.platform.settings.study import AblationDefinition
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths, Place
from equipoise.platform.study.resume import refuse_other_places
from equipoise.platform.trial.checkpoint import RECORD, STATE, keep_latest, latest, load, save
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.run import _stops_all
from equipoise.platform.trial.trainer import Trainer

Make = Callable[..., TrialSettings]


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A folder that does not exist yet, on each kind of store."""
    where = tmp_path / "studies" if request.param == "disk" else request.getfixturevalue("bucket")
    return Place.at(where) / "one"


# ---- names


@pytest.mark.parametrize(
    ("given", "scheme", "path", "shown"),
    [
        ("/a/b/../c/", "file", "/a/c", "/a/c"),
        ("file:///a%20b/c", "file", "/a b/c", "/a b/c"),
        ("file://localhost/a", "file", "/a", "/a"),
        ("s3://bucket", "s3", "bucket", "s3://bucket"),
        ("s3://bucket/a%20b/?region=eu-west-1", "s3", "bucket/a b", "s3://bucket/a%20b?region=eu-west-1"),
        ("gs://bucket/a/b", "gs", "bucket/a/b", "gs://bucket/a/b"),
    ],
)
def test_a_place_is_what_its_name_says(given: str, scheme: str, path: str, shown: str) -> None:
    place = Place.at(given)
    assert (place.scheme, place.path, str(place)) == (scheme, path, shown)
    assert Place.at(shown) == place
    below = place / "t0001" / "x.json"
    assert (below.name, below.parent.parent) == ("x.json", place)
    assert Place.at(str(below)) == below
    assert place.local == (Path(path) if scheme == "file" else None)


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Place.at("here") == Place.at(Path("here")) == Place.at(tmp_path / "here")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("ftp://host/a", "has scheme 'ftp'; expected a path, file:, s3: or gs:"),
        ("hdfs://host/a", "has scheme 'hdfs'"),
        ("s3:///a", "names no bucket; expected s3://bucket/folder"),
        ("gs:bucket/a", "names no bucket; expected gs://bucket/folder"),
        ("file:a", "is no absolute path"),
        ("file://host/a", "is no absolute path"),
        ("s3://me:hush@bucket/a", "carries credentials"),
        ("s3://bucket/a?access_key=me&secret_key=hush", "carries credentials"),
        ("s3://bucket/a?secret_key=", "carries credentials"),
    ],
)
def test_a_name_that_means_nothing_is_refused_without_its_secrets(given: str, sentence: str) -> None:
    with pytest.raises(StorageError) as found:
        Place.at(given)
    assert sentence in str(found.value)
    assert "hush" not in str(found.value)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(StorageError, match="cannot be opened: Unexpected query parameter in S3 URI: 'regoin'"):
        Place.at("s3://bucket/a?regoin=x").names()


# ---- what a place does, on both


def test_files_are_written_whole_and_read_back(place: Place) -> None:
    file = place / "sub" / "a.txt"
    assert not file.exists()
    with pytest.raises(FileNotFoundError):
        file.read()
    with pytest.raises(FileNotFoundError), file.fetched():
        pass
    assert place.names() == []
    file.write("one")
    file.write(b"two \x00")
    assert file.read() == b"two \x00"
    assert place.names() == ["sub"]
    assert (place / "sub").names() == ["a.txt"]
    assert (place / "sub").exists()
    assert file.names() == [], "a file holds nothing"
    with file.fetched() as here:
        assert here.read_bytes() == b"two \x00"
    with (place / "sub").fetched() as here:
        assert [p.name for p in here.iterdir()] == ["a.txt"]
    assert here.exists() == (place.local is not None), "a copy is removed, an original is not"


def test_a_folder_is_put_in_place_of_what_was_there(place: Place) -> None:
    for content in (("old", "both", "end"), ("both", "new", "end")):
        with place.put(last="end") as here:
            for name in content:
                (here / name).write_text(f"{name} of {content[0]}")
    assert place.names() == ["both", "end", "new"]
    assert (place / "end").read() == b"end of both"
    with pytest.raises(UnicodeEncodeError), place.put(last="end") as here:
        (here / "end").write_text("broken \udc00")
    assert (place / "end").read() == b"end of both", "what fails while it is made changes nothing"
    assert place.parent.names() == ["one"], "nothing temporary is left"
    place.remove(first="end")
    assert place.names() == []
    place.remove(first="end")


def test_check_leaves_nothing(place: Place) -> None:
    place.check()
    assert place.names() == []


# ---- checkpoints


def small(folder: Place, make_trial: Make, step: int) -> Place:
    return save(folder, make_trial(), step, {"model": {"w": torch.full((4,), float(step))}}, {}, {"loss": 1.5})


def test_checkpoints_come_and_go(place: Place, make_trial: Make) -> None:
    assert latest(place) is None
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        load(place)
    for step in (9, 100, 20):
        assert small(place, make_trial, step) == place / f"step_{step:08d}"
    assert latest(place) == place / "step_00000100"
    for name in (place, place / "step_00000100", str(place)):
        found = load(name)
        assert (found.path, found.step, found.state["model"]["w"].tolist()) == (place / "step_00000100", 100, [100] * 4)
    keep_latest(place, 2)
    assert place.names() == ["step_00000020", "step_00000100"]
    (place / "step_00000100" / STATE).write(b"PK damaged")
    with pytest.raises(CheckpointError, match=r"is damaged: state\.pt is cut short"):
        load(place)


def test_a_checkpoint_that_was_cut_off_is_never_read(place: Place, make_trial: Make) -> None:
    kept = small(place, make_trial, 2)
    with kept.fetched() as here:
        (place / "step_00000004" / STATE).write((here / STATE).read_bytes())
    assert latest(place) == kept
    assert load(place).step == 2
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        load(place / "step_00000004")
    # The step comes again when the run goes on: what was left behind is replaced.
    small(place, make_trial, 4)
    assert load(place).step == 4
    (place / "step_00000004").remove(first=RECORD)
    assert latest(place) == kept


def test_the_record_is_uploaded_last_and_removed_first(
    bucket: str, make_trial: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place.at(bucket)
    copy, seen = fs.copy_files, list[tuple[str, Place | None]]()

    def watch(source: str, target: str, **options: Any) -> None:
        copy(source, target, **options)
        seen.append((Path(target).name, latest(place)))

    monkeypatch.setattr(fs, "copy_files", watch)
    small(place, make_trial, 3)
    small(place, make_trial, 3)
    whole = place / "step_00000003"
    assert seen == [(STATE, None), (RECORD, whole), (STATE, None), (RECORD, whole)]


SAVE = """
import sys
from pathlib import Path
import torch
from equipoise.platform.trial.checkpoint import keep_latest, save
from equipoise.platform.settings.trial import TrialSettings
settings = TrialSettings.model_validate_json(Path(sys.argv[2]).read_text())
state = {"model": {f"w{i}": torch.zeros(1_000_000) for i in range(8)}}
print("go", flush=True)
for step in range(1, 1000):
    save(sys.argv[1], settings, step, state, {}, {})
    keep_latest(sys.argv[1], 2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_killed_while_uploading_leaves_whole_checkpoints_only(
    delay: float, bucket: str, object_store: str, make_trial: Make, tmp_path: Path
) -> None:
    place = Place.at(bucket)
    client = boto3.client("s3", endpoint_url=object_store, region_name="us-east-1")
    (tmp_path / "settings.json").write_text(make_trial().model_dump_json())
    words = [sys.executable, "-c", SAVE, bucket, str(tmp_path / "settings.json")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "go\n"
            # Wait until a later file of tensors is on its way, then kill without warning.
            name, deadline = place.path.partition("/")[0], time.monotonic() + 120
            while latest(place) is None or not client.list_multipart_uploads(Bucket=name).get("Uploads"):
                assert time.monotonic() < deadline
            time.sleep(delay)
        finally:
            process.kill()
    assert latest(place) is not None
    for name in place.names():
        if (place / name / RECORD).exists():
            assert len(load(place / name).state["model"]) == 8
    small(place, make_trial, 2000)
    assert load(place).step == 2000


def test_training_goes_on_from_an_object_store_exactly(
    bucket: str, make_trial: Make, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_trial("sigreg", overrides=("model.encoder.drop_path=0.1", "sampling.images=repeat"))
    losses: dict[str, list[float]] = {"disk": [], "s3": []}
    Trainer(settings, paths, LocalReporter(tmp_path, lambda m: losses["disk"].append(m["loss"]))).run()

    class StoppedError(Exception):
        pass

    def listen(metrics: dict[str, float]) -> None:
        if metrics["step"] == 5 and len(losses["s3"]) == 4:
            raise StoppedError
        losses["s3"].append(metrics["loss"])

    with pytest.raises(StoppedError):
        Trainer(settings, paths, LocalReporter(bucket, listen)).run()
    Trainer(settings, paths, LocalReporter(bucket, listen)).run()
    # Step 4 is reported again: whoever listened may have died before it was heard.
    assert losses["s3"][:4] + losses["s3"][5:] == losses["disk"]
    here, there = load(tmp_path), load(bucket)
    assert here.step == there.step == 6
    assert str(there.path).startswith("s3://")
    for key, value in here.state["model"].items():
        assert torch.equal(value, there.state["model"][key]) if isinstance(value, torch.Tensor) else True, key


# ---- what goes wrong


def test_a_missing_bucket(bucket: str) -> None:
    place = Place.at(bucket.replace("s3://b-", "s3://c-"))
    with pytest.raises(StorageError, match="cannot be written: there is no such bucket: create it first"):
        place.check()


@pytest.fixture
def forbidding() -> Iterator[str]:
    """Address of a server that lets nobody do anything."""

    class Forbid(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            self.send_response(403)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    for verb in ("GET", "PUT", "POST", "HEAD", "DELETE"):
        setattr(Forbid, f"do_{verb}", Forbid.answer)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Forbid) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_no_permission(forbidding: str, bucket: str) -> None:
    place = Place.at(f"s3://private/a?endpoint_override={forbidding}&region=us-east-1")
    for act in (place.check, place.names, place.exists, (place / "x").read):
        with pytest.raises(StorageError, match="no permission: check the credentials in the environment"):
            act()


def test_a_store_that_cannot_be_reached_never_looks_empty(bucket: str, free_port: Callable[[], int]) -> None:
    """A resumed trial that took it for empty would start from the beginning."""
    place = Place.at(f"s3://b/a?endpoint_override=http://127.0.0.1:{free_port()}&region=us-east-1")
    with pytest.raises(StorageError, match="cannot be read: the server cannot be reached"):
        LocalReporter(place).resume()


def test_google_storage_as_far_as_it_goes_without_it(free_port: Callable[[], int]) -> None:
    """Offline the options are read, a client is made, and its failure is a sentence; no server answers here."""
    place = Place.at(f"gs://bucket/a?endpoint_override=127.0.0.1:{free_port()}&scheme=http&retry_limit_seconds=1")
    assert place.filesystem.type_name == "gcs"
    with pytest.raises(StorageError, match=r"gs://bucket/a\S* cannot be read: (the server|no permission)"):
        place.names()


def test_a_store_that_is_gone_stops_the_study_and_not_the_trial_alone(forbidding: str, bucket: str) -> None:
    place = Place.at(f"s3://private/a?endpoint_override={forbidding}&region=us-east-1")
    with pytest.raises(UnreachableError) as gone:
        place.check()
    assert _stops_all(gone.value)
    assert _stops_all(RuntimeError(f"a worker of Ray Train said: {gone.value}"))
    assert not _stops_all(StorageError("/a/b cannot be written: Not a directory"))


def test_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"file/x/.* cannot be written: Not a directory"):
        Place.at(tmp_path / "file" / "x").check()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("sweep", "quickstart", "--storage", "ftp://x/y"), "has scheme 'ftp'"),
        (("ablate", "miniature_ablation", "--storage", "s3://me:hush@bucket/y"), "carries credentials"),
        (("sweep", "quickstart", "--optuna-storage", "sqlite:///x.db"), "SQLite, which locks under parallel writers"),
        (("sweep", "quickstart", "--optuna-storage", "mysql://me:hush@h/d"), "has scheme 'mysql'"),
        (("sweep", "quickstart", "--optuna-storage", "s3://bucket/x"), "has scheme 's3'"),
        (("sweep", "quickstart", "--optuna-storage", "postgresql://me:hush@h:port/d"), "is no URL like"),
        (("sweep", "quickstart", "--optuna-storage", "postgresql://me:hush@h"), "is no URL like"),
        (("probe", "s3:///x"), "names no bucket"),
    ],
)
def test_the_command_line_says_so_before_anything_starts(
    words: tuple[str, ...],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["equipoise", *words, "--home", str(tmp_path)])
    with pytest.raises(SystemExit):
        cli.main()
    out = capsys.readouterr()
    errors = [line for line in out.err.splitlines() if line.startswith("Error")]
    assert len(errors) == 1
    assert expected in errors[0]
    assert "hush" not in out.err + out.out
    assert not (tmp_path / "studies").exists()


# ---- where a study keeps what


def test_a_study_stays_where_it_was_started(tmp_path: Path) -> None:
    definition = AblationDefinition.model_validate(
        {"name": "mine", "regime": "miniature", "preset": "nano", "variants": ["hw"]}
    )
    at_home = Home(tmp_path)
    away = Home(tmp_path, storage=str(tmp_path / "shared"))
    named = Home(tmp_path, storage=(tmp_path / "studies").as_uri())
    assert away.trials("mine") == Place.at(tmp_path / "shared" / "mine" / "trials")
    assert at_home.trials("mine") == named.trials("mine") == Place.at(tmp_path / "studies" / "mine" / "trials")
    for started, other, said in (
        (at_home, away, f"started with --storage the home folder, now it is {tmp_path / 'shared'}"),
        (away, named, f"started with --storage {tmp_path / 'shared'}, now it is the home folder"),
    ):
        ledger = Ledger(tmp_path / f"{bool(started.storage)}.db")
        refuse_other_places(definition, started, ledger)
        ledger.set_fact("definition", definition.model_dump(mode="json"))
        refuse_other_places(definition, started, ledger)
        with pytest.raises(StudyError, match=said):
            refuse_other_places(definition, other, ledger)
        ledger.close()


def test_a_journal_may_lie_elsewhere_and_belongs_to_one_study(tmp_path: Path) -> None:
    from equipoise.platform.settings.study import load_sweep

    definition = load_sweep("quickstart", {})
    store = SearchStore((tmp_path / "shared" / "search.journal").as_uri())
    assert store.name == str(tmp_path / "shared" / "search.journal")
    first = OptunaProposer(definition, ("a", "b"), store, "run-1")
    asked = first.ask(1)
    assert list(OptunaProposer(definition, ("a", "b"), store, "run-1").running()) == [asked.optuna_number]
    with pytest.raises(StudyError, match="holds a study 'quickstart' of another home: choose another --name"):
        OptunaProposer(definition, ("a", "b"), store, "run-2")


def test_a_database_that_cannot_be_reached_is_a_sentence(free_port: Callable[[], int]) -> None:
    port = free_port()
    store = SearchStore(f"postgresql://me:hush@127.0.0.1:{port}/search?password=hush")
    assert store.name == f"postgresql://127.0.0.1:{port}/search"
    with pytest.raises(StorageError, match=r"cannot be used: .*Connection refused") as found:
        store.open()
    assert "hush" not in str(found.value)
    assert "hush" not in store.name


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(StorageError, match=r"needs PostgreSQL's driver: pip install 'equipoise\[postgres\]'"):
        SearchStore("postgresql://127.0.0.1/search").open()
