"""A study in one file: written, read, damaged, moved into another home, read where it lies, repeated.

That a search which was stopped goes on in another home is in ``test_study.py``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from equipoise.platform.analysis.beside import beside
from equipoise.platform.analysis.replication import replication_of
from equipoise.platform.errors import EquipoiseError, StudyError
from equipoise.platform.record.bundle import ABOUT, Bundle, BundleError
from equipoise.platform.record.home import Home
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.report.tables.beside import show_beside
from equipoise.platform.settings.study import load_ablation
from equipoise.platform.study import bundling
from equipoise.platform.study import run as study
from equipoise.platform.study.bundling import bundle, open_bundle, unbundle
from equipoise.platform.study.run import RunOptions

Call = Callable[..., tuple[int, str, str]]
pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module")
def file(studied: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared ablation as a bundle."""
    path = tmp_path_factory.mktemp("bundles") / "abl.bundle"
    bundle(StudyRecord.open(studied, "abl")).write(path)
    return path


@pytest.fixture(scope="module")
def elsewhere(file: Path, studied: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Another home, over the same data, with the study out of its bundle."""
    root = tmp_path_factory.mktemp("elsewhere")
    for name in ("data", "cache"):
        (root / name).symlink_to((studied.root / name).resolve())
    home = Home(root)
    unbundle(Bundle.read(file), home)
    return home


def without_places(content: Any) -> Any:
    """JSON of a command less what names a folder, a run or a moment of writing."""
    if isinstance(content, dict):
        gone = {"plot", "mlflow_run", "folder", "checkpoint"}
        return {k: without_places(v) for k, v in content.items() if k not in gone}
    if isinstance(content, list):
        return [without_places(v) for v in content]
    return content


def test_a_file_holds_the_study_and_says_so(file: Path, studied: Home) -> None:
    kept = Bundle.read(file)
    record = StudyRecord.open(studied, "abl")
    with studied.book("abl") as book:
        apart = [dataclasses.replace(r, result={**(r.result or {}), "checkpoint": None}) for r in book.rows()]
        assert list(kept.rows) == apart
        assert kept.facts == book.facts()
    assert [run.info.run_id for run in kept.runs] == [record.run_id, *(run.info.run_id for run in record.trials)]
    for run in kept.runs[1:]:
        original = next(r for r in record.trials if r.info.run_id == run.info.run_id)
        assert run.data.metrics == original.data.metrics
        assert run.data.params == original.data.params
        assert run.data.tags.items() <= original.data.tags.items()
        assert {"variant", "seed", "status", "part", "settings_key", "git_commit"} <= set(run.data.tags)
    with zipfile.ZipFile(file) as archive:
        assert not [n for n in archive.namelist() if str(studied.root).encode() in archive.read(n)], (
            "no path of a machine"
        )
    assert kept.about["manifests"], "the data was at hand"
    assert all(len(digest) == 64 for digest in kept.about["manifests"].values())
    assert {"study.json", "openings.json"} <= set(kept.artifacts)
    assert any(name.startswith("audit/") for name in kept.artifacts)
    path = file.with_name("again.bundle")
    kept.write(path)
    again = Bundle.read(path)
    for one, other in zip(kept.outcomes, again.outcomes, strict=True):
        assert (one.benchmark, one.part, one.path) == (other.benchmark, other.part, other.path)
        assert all(np.array_equal(one.predicted[key], other.predicted[key]) for key in one.predicted)
    assert dataclasses.replace(kept, outcomes=()) == dataclasses.replace(again, outcomes=())


@pytest.mark.parametrize("command", ["front", "claims"])
def test_another_home_and_the_file_itself_say_what_the_home_said(
    command: str, file: Path, studied: Home, elsewhere: Home, call: Call, tmp_path: Path
) -> None:
    out = () if command == "claims" else ("--out", tmp_path / "front.png")
    here = call(command, "abl", "--json", "--home", studied.root, *out)
    there = call(command, "abl", "--json", "--home", elsewhere.root, *out)
    lying = call(command, "--reference", file, "--json", "--home", tmp_path / "home", *out)
    assert here[0] == there[0] == lying[0] == 0, (there[2], lying[2])
    said = [without_places(json.loads(one[1])) for one in (here, there, lying)]
    assert said[0] == said[1]
    assert json.dumps(said[2]).replace(f"equipoise unbundle {file}, then ", "") == json.dumps(said[0])


def test_every_number_behind_a_picture_is_there(file: Path, studied: Home, elsewhere: Home, tmp_path: Path) -> None:
    here, there, lying = (
        StudyRecord.open(studied, "abl"),
        StudyRecord.open(elsewhere, "abl"),
        open_bundle(str(file), tmp_path),
    )
    for other in (there, lying):
        for metric in ("jepa", "effective_rank", "loss"):
            assert other.curves(metric) == here.curves(metric)
            assert here.curves(metric)
        assert other.correctness is not None
        assert here.correctness is not None
        assert other.correctness.keys() == here.correctness.keys()
        assert all(np.array_equal(other.correctness[key], right) for key, right in here.correctness.items())
        assert other.weights == here.weights
        assert other.settings == here.settings
        assert other.artifacts("audit") == here.artifacts("audit")


def test_claims_rest_on_one_study_of_a_regime(file: Path, call: Call, tmp_path: Path) -> None:
    twice = ("--reference", file, "--reference", file)
    assert "are both of regime miniature: claims rest on one study" in call("claims", *twice, "--home", tmp_path)[2]


def test_a_small_study_is_placed_beside_another(file: Path, studied: Home, tmp_path: Path) -> None:
    record, other = StudyRecord.open(studied, "abl"), open_bundle(str(file), tmp_path)
    found = beside(record, other)
    assert found is not None
    assert set(found.variants) == {"fwm_hw_ld", "motion_guided", "hw"}
    assert not found.unlike, "it is the same study"
    for (variant, benchmark), difference in found.small.items():
        assert difference.estimate == found.record[variant, benchmark].estimate
        values = [record.table.values(name, benchmark) for name in (variant, "baseline")]
        gains = [values[0][seed] - values[1][seed] for seed in values[0]]
        assert difference.estimate == pytest.approx(np.mean(gains))
    show_beside(found, Console(file=(out := io.StringIO()), width=80))
    assert all(len(line) <= 80 for line in out.getvalue().splitlines())
    assert found.sentence in " ".join(out.getvalue().split())


def test_a_report_is_written_from_the_file_and_the_file_stays(file: Path, call: Call, tmp_path: Path) -> None:
    before = file.read_bytes()
    code, _, err = call("report", "--reference", file, "--home", tmp_path / "home", "--out", tmp_path / "page.html")
    assert code == 0, err
    assert "motion_guided" in (tmp_path / "page.html").read_text()
    assert file.read_bytes() == before


def test_a_study_that_ended_has_nothing_left_to_run(elsewhere: Home, tiny_data: Path) -> None:
    definition = load_ablation(str(elsewhere.folder("abl") / "abl.yaml"), {})
    outcome = study.ablate(definition, elsewhere, RunOptions(quiet=True, resume=True))
    assert outcome.complete
    assert {row.attempts for row in outcome.rows} == {1}, "nothing was trained a second time"
    assert all((row.result or {})["checkpoint"] is None for row in outcome.rows), "weights do not travel"


def test_other_data_is_refused(file: Path, elsewhere: Home, tmp_path: Path) -> None:
    home = Home(tmp_path / "third")
    (home.root / "studies").mkdir(parents=True)
    for name in ("data", "cache"):
        (home.root / name).symlink_to((elsewhere.root / name).resolve())
    kept = Bundle.read(file)
    unbundle(dataclasses.replace(kept, facts={**kept.facts, "data": "0" * 16}), home)
    with pytest.raises(StudyError, match="begun on other data: its manifests had the hash 0000000000000000, here"):
        study.ablate(load_ablation(str(home.folder("abl") / "abl.yaml"), {}), home, RunOptions(quiet=True, resume=True))


def test_a_name_that_is_taken_is_refused(file: Path, elsewhere: Home, call: Call) -> None:
    code, _, err = call("unbundle", file, "--home", elsewhere.root)
    assert code == 1
    assert "has a study 'abl' already: unbundle into another --home" in err


def test_what_a_first_attempt_left_is_cleared(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")

    def full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(bundling, "lay", full)
        with pytest.raises(OSError, match="no space left"):
            unbundle(Bundle.read(file), home)
    assert not home.has_book("abl")
    unbundle(Bundle.read(file), home)
    record = StudyRecord.open(home, "abl")
    assert len(home.tracker().studies("abl")) == 1
    assert len(record.trials) == len(Bundle.read(file).rows)
    with home.book("abl") as book:
        assert {row.run_id for row in book.rows()} == {run.info.run_id for run in record.trials}


def test_a_damaged_file_is_one_sentence(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    damaged = tmp_path / "damaged.bundle"
    rng = np.random.default_rng(0)
    for cut in (0, 10, *rng.integers(20, len(whole) - 1, 20)):
        damaged.write_bytes(whole[: int(cut)])
        with pytest.raises(BundleError, match=r"is no bundle, or cut off"):
            Bundle.read(damaged)
    read = Bundle.read(file)
    for at in rng.integers(0, len(whole), 60):
        content = bytearray(whole)
        content[int(at)] ^= 0xFF
        damaged.write_bytes(content)
        found = None
        with contextlib.suppress(BundleError):
            found = Bundle.read(damaged)
        # A byte that carries nothing, such as a time of writing, does no harm.
        assert found is None or (found.rows, found.runs) == (read.rows, read.runs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other.txt": "x"}, "is a ZIP archive but no bundle: it holds no bundle.json"),
        (
            {ABOUT: json.dumps({"format": 99, "versions": {"equipoise": "9.9"}})},
            "by Equipoise 9.9, in a format",
        ),
        ({ABOUT: "{"}, "is damaged"),
        ({ABOUT: json.dumps({"format": 1, "facts": {}})}, "is damaged"),
    ],
)
def test_what_is_no_bundle_is_refused(content: dict[str, str], message: str, tmp_path: Path, call: Call) -> None:
    path = tmp_path / "made.bundle"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    code, _, err = call("unbundle", path, "--home", tmp_path / "home")
    assert code == 1
    assert message in err


def test_wrong_words(tmp_path: Path, call: Call, elsewhere: Home) -> None:
    assert "does not exist; give the file that equipoise bundle wrote" in call("unbundle", tmp_path / "no.bundle")[2]
    assert "there is no reference 'minature'" in call("front", "--reference", "minature", "--home", tmp_path)[2]
    assert "give one of: a STUDY" in call("explain", "--home", tmp_path)[2]
    code, _, err = call("bundle", "abl", "--out", "abl.zip", "--home", elsewhere.root)
    assert (code, "name it abl.bundle" in err) == (1, True)


def test_a_replication_runs_on_fresh_seeds_and_weighs_both(
    file: Path, studied: Home, call: Call, tmp_path: Path
) -> None:
    root = tmp_path / "laboratory"
    root.mkdir()
    for name in ("data", "cache"):
        (root / name).symlink_to((studied.root / name).resolve())
    words = ("replicate", file, "--variant", "hw", "--home", root)
    code, out, err = call(*words, "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["part"] == "test"
    assert {(t["variant"], t["seed"]) for t in said["trials"]} == {
        (name, seed) for name in ("baseline", "random_init", "hw") for seed in (2, 3)
    }
    found = said["replication"]
    assert found["seeds"] == [2, 3]
    assert [d["benchmark"] for d in found["differences"]] == ["mini_dive", "mini_ssv2", "mini_in"]
    assert "not that of the study" not in " ".join(found["notes"])
    old, new = open_bundle(str(file), root).table, StudyRecord.open(Home(root), "abl-replication").table
    for one in found["differences"]:
        gains = [
            table.values("hw", one["benchmark"])[s] - table.values("baseline", one["benchmark"])[s]
            for table, seeds in ((old, (0, 1)), (new, (2, 3)))
            for s in seeds
        ]
        assert one["study"]["estimate"] == pytest.approx(np.mean(gains[:2]))
        assert one["fresh"]["estimate"] == pytest.approx(np.mean(gains[2:]))
        assert one["combined"]["estimate"] == pytest.approx(np.mean(gains))
        assert one["combined"]["low"] <= one["combined"]["estimate"] <= one["combined"]["high"]
    opened = call("front", "abl-replication", "--home", root, "--json", "--out", tmp_path / "front.png")
    assert "by replication abl-replication for baseline, random_init, hw" in " ".join(json.loads(opened[1])["openings"])
    # Complete, it is shown again; a name that is taken and a variant that is not there are said.
    assert "exists in" in call(*words)[2]
    code, out, err = call(*words, "--resume")
    assert code == 0, err
    assert "have the same" in out.replace("\n", " ")
    assert "has no finished 'hv'" in call("replicate", file, "--variant", "hv", "--home", root)[2]
    with pytest.raises(EquipoiseError, match="does not replicate"):
        replication_of(StudyRecord.open(studied, "abl"), open_bundle(str(file), root))
