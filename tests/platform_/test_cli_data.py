"""`equipoise data ...` as a person meets it, and studies on what it makes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from equipoise.data.manifest import Manifest
from equipoise.platform.record.home import Home
from equipoise.platform.settings.study import AblationDefinition
from equipoise.platform.settings.trial import load_regime
from equipoise.platform.study import run as study
from equipoise.platform.study.run import RunOptions

Call = Callable[..., tuple[int, str, str]]
SYNTHETIC = ("--train-clips", 24, "--test-clips", 8, "--pixels", 64, "--frames", 8)


@pytest.fixture
def call(call: Call) -> Call:
    """Run `equipoise data` in this process."""
    return functools.partial(call, "data")


@pytest.mark.usefixtures("small_counts")
def test_import_says_what_it_found(call: Call, small_releases: dict[str, Path], tmp_path: Path) -> None:
    code, out, err = call("import", "diving48", "--root", small_releases["diving48"], "--workers", 1)
    assert code == 0, err
    assert "Diving-48 V2 in " in out
    assert [line.split() for line in out.splitlines() if line.startswith(" t")] == [
        ["train", "6", "6", "6", "0", "0"],
        ["test", "3", "3", "3", "0", "0"],
    ]
    assert "3 classes, such as 'Back 15som 05Twis FREE'" in out
    assert "Not the official release" not in out
    assert "Reading: diving48/train (6)" in err
    assert Manifest.read(tmp_path / "equipoise_home/data/diving48/train.parquet").classes[0] == "Back 15som 05Twis FREE"
    code, out, _ = call("import", "ucf101", "--root", small_releases["ucf101"], "--split", 2, "--workers", 1, "--json")
    assert code == 0
    assert json.loads(out)["splits"]["test"] | {"hash": None} == {
        "expected": 3,
        "listed": 3,
        "usable": 3,
        "missing": 0,
        "unreadable": 0,
        "hash": None,
        "failures": [],
    }


def test_import_refuses_other_numbers_and_names_them_when_accepted(call: Call, small_releases: dict[str, Path]) -> None:
    words = ("import", "ssv2", "--root", small_releases["ssv2"], "--workers", 1)
    code, out, err = call(*words)
    assert (code, out) == (1, "")
    assert "Error: Something-Something V2 in " in err
    assert "train has 6 of 168,913 clips" in err
    code, out, _ = call(*words, "--allow-incomplete")
    assert code == 0
    assert out.count("Not the official release: ") == 3


@pytest.mark.usefixtures("small_counts")
def test_import_names_what_is_wrong(call: Call, release: Callable[[str], Path]) -> None:
    root = release("ssv2")
    clips = sorted((root / "20bn-something-something-v2").iterdir())
    clips[1].write_bytes(b"")
    clips[2].unlink()
    for copy in (clips[3], clips[6]):
        copy.write_bytes(clips[0].read_bytes())
    code, out, _ = call("import", "ssv2", "--root", root, "--workers", 1, "--allow-incomplete")
    assert code == 0
    lines = out.splitlines()
    at = lines.index("2 files cannot be used:")
    assert lines[at + 1 : at + 3] == [
        "  20bn-something-something-v2/78688.webm: the file is empty (0 bytes)",
        "  20bn-something-something-v2/78689.webm: no such file",
    ]
    at = lines.index("1 group of files with the same content:")
    group = [f"20bn-something-something-v2/{number}.webm" for number in (78687, 78690, 78693)]
    assert lines[at + 1] == f"  train: {group[0]} = train: {group[1]} = test: {group[2]}"
    assert lines[at + 2] == "In both splits, so tested on what was trained on: 1 of them"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("import", "ssv2"), "--root"),
        (("import", "ucf11", "--root", "x"), "'ucf101', 'ssv2', 'imagenet100', 'diving48'"),
        (("import", "ssv2", "--root", "nowhere"), "is no folder; --root takes the one in which"),
        (("import", "ssv2", "--root", ".", "--split", "2"), "--split cannot take effect with ssv2"),
        (("import", "ucf101", "--root", ".", "--classes", "x"), "--classes cannot take effect with ucf101"),
        (("manifest", "../x", "train", "--list", "l.csv", "--root", "."), "NAME: '../x' becomes part of a path"),
        (("manifest", "x", "train", "--list", "l.csv", "--root", "."), "The list l.csv cannot be read (No such file"),
        (("check", "none.parquet"), "there is no manifest none.parquet, neither here nor in"),
        (("build", "synthetic", "--pixels", "63"), "pixels is 63; it must be even"),
        (("build", "miniature", "--pixels", "300"), "pixels is 300; it must be even and from 16 to 96"),
    ],
)
def test_mistakes_get_one_sentence(call: Call, words: tuple[str, ...], sentence: str) -> None:
    code, out, err = call(*words)
    assert code != 0
    assert out == ""
    assert sentence in " ".join(err.split())
    assert sum(line.startswith("Error") for line in err.splitlines()) == 1


def test_what_a_split_shares_with_another_is_counted_and_named(call: Call, tmp_path: Path) -> None:
    for name, shade in (("a", 10), ("b", 90), ("c", 170)):
        Image.new("RGB", (16, 16), (shade, 0, 0)).save(tmp_path / f"{name}.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "b.png").read_bytes())
    for split, files in (("train", "ab"), ("test", ("a", "copy", "c"))):
        rows = "".join(f"{file}.png,one\n" for file in files)
        (tmp_path / f"{split}.csv").write_text(f"path,label\n{rows}")
    words = ("--root", tmp_path, "--workers", 1)
    code, out, err = call("manifest", "own", "train", "--list", "train.csv", *words)
    assert code == 0, err
    assert " too" not in out
    code, out, _ = call("manifest", "own", "test", "--list", "test.csv", *words)
    assert code == 0
    assert "2 of 3 are in own/train too: not to be told from learnt by heart: a.png, copy.png" in out
    found = json.loads(call("manifest", "own", "test", "--list", "test.csv", *words, "--json")[1])
    assert found["shared"] == {"train": ["a.png", "copy.png"]}


def test_a_class_in_two_spellings_is_refused_and_not_two(call: Call, tmp_path: Path) -> None:
    for first, second in (("Jump", "jump"), ("caf\u00e9", "cafe\u0301")):
        root = tmp_path / f"set-{len(second)}"
        for number, label in enumerate((first, second)):
            (root / label).mkdir(parents=True)
            Image.new("RGB", (20, 16), (90 * number, 9, 9)).save(root / label / f"{number}.png")
        code, _, err = call("manifest", "mine", "train", "--root", root, "--home", tmp_path / "home")
        assert code == 1
        assert "differ in capitals or in how accents are encoded alone, and would be two" in err


def test_files_that_cannot_be_read_are_named(call: Call, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / "set" / "a").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (9 * number, 9, 9)).save(tmp_path / "set" / "a" / f"{number}.png")
    for name in ("b0.png", "b1.mp4"):
        (tmp_path / "set" / "a" / name).write_bytes(b"neither a picture nor a film")
    where = ("--root", tmp_path / "set", "--home", tmp_path / "home")
    code, out, err = call("manifest", "mine", "train", *where, "--budget", "1")
    assert code == 0, err
    assert "20 items, 1 classes, 2 unreadable" in out
    assert "unreadable: a/b0.png: " in out
    assert "unreadable: a/b1.mp4: " in out


def test_a_list_of_vjepas_that_leads_nowhere_says_how_it_was_read(call: Call, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("/data/x.mp4 166\n/data/y.mp4 0\n")
    code, _, err = call("manifest", "own", "train", "--list", "list.csv", "--root", tmp_path, "--workers", 1)
    assert code == 1
    assert "none of 2 files" in err
    assert "It was read as one of V-JEPA's lists" in err
    assert "a CSV has path,label in its first line" in err


def test_build_synthetic_and_check_it(call: Call, tmp_path: Path) -> None:
    code, out, err = call("build", "synthetic", *SYNTHETIC, "--workers", 1)
    assert code == 0, err
    assert ["synthetic", "train", "24", "items", "8", "classes"] in [line.split() for line in out.splitlines()]
    data = tmp_path / "equipoise_home" / "data"
    assert load_regime("synthetic").sources["synthetic"].manifest == "synthetic/train.parquet"
    code, out, _ = call("check", "synthetic/train.parquet", "--workers", 1)
    assert code == 0
    assert "synthetic/train: 24 of 24 files are as the manifest says, 192 frames" in out
    report = data / "synthetic" / "train.check.json"
    assert json.loads(report.read_text())["failed"] == 0

    manifest = Manifest.read(data / "synthetic" / "train.parquet")
    changed = manifest.file(3)
    changed.write_bytes(manifest.file(4).read_bytes())
    code, out, err = call("check", data / "synthetic" / "train.parquet", "--workers", 1)
    assert code == 1
    assert f"{manifest.path[3]}: the file has changed since the manifest was written" in out
    assert "1 of 24 files could not be decoded, more than the budget of 1.00%" in err
    code, out, _ = call("check", "synthetic/train.parquet", "--budget", 0.05, "--report", "r.json", "--json")
    assert code == 0
    assert json.loads(out)["faults"] == {"changed": 1}
    assert json.loads((tmp_path / "r.json").read_text())["failures"][0]["path"] == manifest.path[3]


@pytest.mark.slow
@pytest.mark.usefixtures("small_counts")
def test_a_study_on_the_synthetic_regime_is_scored_on_imported_releases(
    call: Call, small_releases: dict[str, Path], tiny_data: Path, tmp_path: Path
) -> None:
    """Pretraining on rendered motion, frozen probes on the three real benchmarks: the whole way from files."""
    home = tmp_path / "home"
    assert call("build", "synthetic", *SYNTHETIC, "--workers", 1, "--home", home)[0] == 0
    for name in ("diving48", "ssv2", "imagenet100"):
        assert call("import", name, "--root", small_releases[name], "--workers", 1, "--home", home)[0] == 0
    content = {
        "name": "motion",
        "regime": "synthetic",
        "preset": str(tiny_data / "tiny.yaml"),
        "set": ["optimisation.steps=3"],
        "variants": ["delta"],
        "seeds": [0],
        "control_seeds": [],
        "refuse_controls": True,
        "concurrent": 1,
    }
    outcome = study.ablate(AblationDefinition.model_validate(content), Home(home), RunOptions(quiet=True))
    assert outcome.complete
    (row,) = outcome.rows
    assert row.status == "finished", row.error
    assert row.result is not None
    assert set(row.result["accuracies"]) == {"diving48", "ssv2", "imagenet100"}
    assert all(0 <= value <= 100 for value in row.result["accuracies"].values())
