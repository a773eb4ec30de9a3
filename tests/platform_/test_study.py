"""Whole studies through Ray Tune, Optuna and MLflow: real processes, really killed."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from equipoise.platform.api import load_encoder
from equipoise.platform.errors import StudyError
from equipoise.platform.record.bundle import Bundle
from equipoise.platform.record.client import TrackingError
from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import Ledger
from equipoise.platform.record.reading import StudyRecord, find_study
from equipoise.platform.record.tracking import Tracker
from equipoise.platform.report.export.writer import export
from equipoise.platform.report.front import conclude_study
from equipoise.platform.settings.study import AblationDefinition, SweepDefinition
from equipoise.platform.settings.trial import load_regime
from equipoise.platform.study import run as study
from equipoise.platform.study.bundling import bundle, unbundle
from equipoise.platform.study.run import RunOptions
from equipoise.platform.trial import checkpoint as checkpoints
from equipoise.platform.trial.audit import AuditError
from equipoise.platform.trial.encoders import frozen_encoder

CheckBooks = Callable[[Home, str, int], dict[str, str]]

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

SPACE: dict[str, Any] = {
    "name": "tiny-sweep",
    "regime": "miniature",
    "trials": 3,
    "control_seeds": [0, 1],
    "start": ["hw", "delta"],
    "objectives": {
        "hard_region": {"low": 0.1, "high": 1.0},
        "delta": {"low": 0.1, "high": 1.0},
        "motion_guided": {"low": 0.25, "high": 1.0},
    },
}


def space(tiny_data: Path, **changes: Any) -> dict[str, Any]:
    return {**SPACE, "preset": str(tiny_data / "tiny.yaml"), **changes}


def parent_note(tracker: Tracker, run_id: str) -> str:
    note: str = tracker.client.get_run(run_id).data.tags["mlflow.note.content"]
    return note


def test_sweep_ties_ray_optuna_and_mlflow_together(home: Home, tiny_data: Path, check_books: CheckBooks) -> None:
    # Without any test item on the disk: a search that needed one, to propose, stop, select or print, could not run.
    (home.root / "data").unlink()
    shutil.copytree(tiny_data / "data", home.root / "data", ignore=shutil.ignore_patterns("test", "test.parquet"))
    definition = SweepDefinition.model_validate(space(tiny_data))
    outcome = study.sweep(definition, home, RunOptions(quiet=True))
    assert outcome.complete
    assert set(check_books(home, "tiny-sweep", 7).values()) == {"finished"}
    assert [r.name for r in outcome.rows] == [*("baseline", "random_init") * 2, "hw", "delta", "mix-002"]

    tracker = home.tracker()
    parent = find_study(tracker, "tiny-sweep")
    runs = {r.data.tags["trial"]: r for r in tracker.children(outcome.parent)}
    hw = runs["t0005"]
    assert hw.data.params["hard_region"] == "0.3"
    assert hw.data.params["delta"] == "0.0"
    wanted = {"variant", "reading", "regime", "seed", "manifest_hash", "git_commit", "status", "trial"}
    assert wanted <= set(hw.data.tags)
    history = tracker.client.get_metric_history(hw.info.run_id, "train/jepa")
    assert [m.step for m in history] == [1, 2, 3, 4, 5, 6]
    for metric in ("effective_rank", "target_std", "gradient_share.hard_region"):
        assert f"train/{metric}" in hw.data.metrics
    names = {a.path for a in tracker.client.list_artifacts(hw.info.run_id)}
    assert {"settings.json", "scores.json", "correctness"} <= names
    folder = tracker.client.download_artifacts(hw.info.run_id, "correctness")
    table = pq.read_table(Path(folder) / "mini_ssv2.parquet")
    assert all(path.startswith("select/") for path in table["path"].to_pylist())
    assert hw.data.tags["part"] == "select"
    assert hw.data.metrics["mini_ssv2/select"] == 100 * sum(table["correct"].to_pylist()) / len(table)

    found = conclude_study(StudyRecord.open(home, "tiny-sweep"), None, tolerance=100, keep=True)
    assert found.plot is not None
    assert found.plot.is_file()
    assert found.selection.part == "select"
    assert found.openings == ("The test part was never opened.",)
    logged = {a.path for a in tracker.client.list_artifacts(parent.info.run_id)}
    assert {"front.json", "front.png", "jepa.png", "effective_rank.png", "study.json", "audit"} <= logged
    assert found.selection.candidate is not None
    chosen = [r for r in tracker.children(outcome.parent) if r.data.tags.get("candidate") == "true"]
    assert {r.data.tags["variant"] for r in chosen} == {found.selection.candidate.variant}
    assert all(tracker.files(r.info.run_id, "checkpoint") for r in chosen)
    assert found.selection.candidate.variant in parent_note(tracker, parent.info.run_id)
    for alias, variant in (("candidate", found.selection.candidate.variant), ("baseline", "baseline")):
        loaded = load_encoder(f"models:/tiny-sweep@{alias}", home.uri())
        row = next(r for r in outcome.rows if r.name == variant)
        assert row.result is not None
        kept = frozen_encoder(checkpoints.load(row.result["checkpoint"]))
        assert all(torch.equal(v, kept.state_dict()[k]) for k, v in loaded.state_dict().items())
        assert not loaded.training
        # For people without Equipoise, with a card that says what was selected, on what evidence.
        selection, folder = found.selection, home.root / alias
        exported = export(f"tiny-sweep@{alias}", folder, home)
        card = (folder / "README.md").read_text()
        assert exported.verdict == selection.sentence
        assert selection.sentence in card
        ranked = next(one for one in selection.rows if one.variant == variant)
        for benchmark in selection.benchmarks:
            assert f"| {ranked.means[benchmark]:.1f} |" in card
            assert f"| {selection.protocols[benchmark]} |" in card
        assert "`tiny-sweep`, 3 mixes launched" in card
        assert "Licence: none was stated" in card
        with pytest.raises(StudyError, match="exists: name a folder that is not there"):
            export(f"tiny-sweep@{alias}", folder, home)
    with pytest.raises(TrackingError, match="no model models:/tiny-sweep@best"):
        load_encoder("models:/tiny-sweep@best", home.uri())
    with pytest.raises(TrackingError, match="write models:/STUDY@candidate"):
        load_encoder("tiny-sweep", home.uri())
    conclude_study(StudyRecord.open(home, "tiny-sweep"), None, tolerance=100, keep=True)
    assert len(tracker.client.search_model_versions("name = 'tiny-sweep'")) == 2

    with pytest.raises(StudyError, match="go on with --resume"):
        study.sweep(definition, home, RunOptions(quiet=True))
    more = SweepDefinition.model_validate(space(tiny_data, trials=4, prices={"cpu_hour": 36.0}))
    assert study.sweep(more, home, RunOptions(quiet=True, resume=True)).complete
    recorded = StudyRecord.open(home, outcome.parent).definition
    assert (recorded["trials"], recorded["prices"]["cpu_hour"]) == (4, 36.0), "what reads the record sees the newest"
    assert len(check_books(home, "tiny-sweep", 8)) == 8
    with pytest.raises(StudyError, match="was started with sampler 'tpe', now it is 'random'"):
        study.sweep(
            SweepDefinition.model_validate(space(tiny_data, sampler="random")),
            home,
            RunOptions(quiet=True, resume=True),
        )


def test_a_failed_trial_is_recorded_and_the_study_goes_on(home: Home, tiny_data: Path) -> None:
    definition = AblationDefinition.model_validate(
        {
            "name": "failing",
            "regime": "miniature",
            "preset": str(tiny_data / "tiny.yaml"),
            "variants": ["hw", "delta"],
        }
    )
    # A file where the third trial's folder should be: it fails in its own process, the others do not.
    (home.folder("failing") / "trials").mkdir(parents=True)
    (home.folder("failing") / "trials" / "t0003").write_text("in the way")
    outcome = study.ablate(definition, home, RunOptions(quiet=True))
    assert outcome.complete
    assert {r.name: r.status for r in outcome.rows} == {
        "baseline": "finished",
        "random_init": "finished",
        "hw": "failed",
        "delta": "finished",
    }
    failed = next(r for r in outcome.rows if r.status == "failed")
    assert failed.error is not None
    assert "t0003" in failed.error
    assert failed.run_id is not None
    run = home.tracker().client.get_run(failed.run_id)
    assert run.info.status == "FAILED"
    assert "t0003" in run.data.tags["error"]
    table = StudyRecord.open(home, "failing").table
    assert set(table.variants) == {"baseline", "random_init", "delta"}


def test_training_on_ray_train_equals_the_loop_in_process(
    home: Home, tiny_data: Path, make_trial: Callable[..., Any], tmp_path: Path
) -> None:
    from equipoise.platform.trial.reporter import LocalReporter
    from equipoise.platform.trial.trainer import Trainer

    content = {
        "name": "on-train",
        "regime": "miniature",
        "preset": str(tiny_data / "tiny.yaml"),
        "variants": ["ld"],
        "control_seeds": [],
        "refuse_controls": True,
        "resources": {"launcher": "train"},
    }
    outcome = study.pretrain(AblationDefinition.model_validate(content), home, RunOptions(quiet=True))
    assert [r.status for r in outcome.rows] == ["finished"]
    assert outcome.rows[0].result is not None
    one = checkpoints.load(outcome.rows[0].result["checkpoint"])
    Trainer(make_trial("ld"), home.paths, LocalReporter(tmp_path / "local")).run()
    local = checkpoints.load(tmp_path / "local")
    assert one.step == local.step == 6
    for key, value in local.state["model"].items():
        if hasattr(value, "shape"):
            assert (one.state["model"][key] == value).all(), key

    two = {**content, "name": "on-two", "resources": {"workers": 2, "cpus_per_worker": 1}}
    outcome = study.pretrain(AblationDefinition.model_validate(two), home, RunOptions(quiet=True))
    assert [r.status for r in outcome.rows] == ["finished"], outcome.rows
    assert outcome.rows[0].run_id is not None
    history = home.tracker().client.get_metric_history(outcome.rows[0].run_id, "train/loss")
    assert [m.step for m in history] == [1, 2, 3, 4, 5, 6]


def test_a_study_with_a_dead_objective_does_not_start(home: Home, tiny_data: Path) -> None:
    content = {
        "name": "dead",
        "regime": "miniature",
        "preset": str(tiny_data / "tiny.yaml"),
        # No place is visible at every time when the future is hidden: spectral finds nothing to train on.
        "custom": {"unseen": {"objectives": {"future_predictive": 1.0, "spectral": 1.0}}},
    }
    with pytest.raises(AuditError, match="spectral"):
        study.ablate(AblationDefinition.model_validate(content), home, RunOptions(quiet=True))
    assert not (home.folder("dead") / "ledger.db").exists()


def command(home: Home, file: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "equipoise", "sweep", str(file), "--home", str(home.root)]
    return [*words, "--tolerance", "100", *more]


def wait_for(text: str, process: subprocess.Popen[str]) -> list[str]:
    """Read a command's progress until a line holds ``text``."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError("".join(lines))


PACKAGE = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "acme-objectives"
version = "1.2"
[project.entry-points."equipoise.objectives"]
acme = "acme_objectives:record"
[project.entry-points."equipoise.encoders"]
acme = "acme_mixer:record"
[project.entry-points."equipoise.probes"]
acme = "acme_centroids"
[project.entry-points."equipoise.benchmarks"]
acme = "acme_benchmarks"
[tool.setuptools]
py-modules = ["acme_objectives", "acme_mixer", "acme_centroids", "acme_benchmarks"]
""",
    "acme_objectives.py": """
from equipoise import Latents, Objective, ObjectiveRecord

class SlowDrift(Objective):
    def __init__(self, channels: int, *, exponent: float = 2.0) -> None:
        super().__init__()
        self.exponent = exponent

    def forward(self, latents: Latents):
        change = latents.dz
        return change.abs().pow(self.exponent).mean() if len(change) else None

record = ObjectiveRecord("slow_drift", "features drift slowly", 0.1, (), ("encoder",), "ACME", SlowDrift)
""",
    "acme_benchmarks.py": """
from equipoise import BenchmarkRecord, register_benchmark

parts = [f"miniature/mini_in/{part}.parquet" for part in ("train", "test", "select")]
register_benchmark(BenchmarkRecord("acme_in", "pictures", "ACME-IN", *parts[:2], "mine", parts[2]))
""",
    "acme_centroids.py": """
import torch
from equipoise import ProbeRecord, register_probe

def fit(features, labels, classes, generator, power=1.0):
    means = torch.stack([features[labels == c].mean(0) for c in range(classes)])
    return lambda items: -torch.cdist(items, means) ** power

register_probe(ProbeRecord("centroids", "distance to the mean of each class", fit))
""",
}


def with_its_encoder_and_probe(tiny_data: Path, tmp_path: Path) -> dict[str, str]:
    """A preset whose encoder, and a regime one of whose benchmarks with its probe, come from the package."""
    preset = yaml.safe_load((tiny_data / "tiny.yaml").read_text())
    preset["model"]["encoder"]["name"] = "acme_mixer"
    preset["probes"]["mine"] = {"kind": "centroids", "params": {"power": [0.5, 1.0]}}
    regime = load_regime("miniature").model_dump(mode="json")
    del regime["benchmarks"]["mini_in"]
    regime["benchmarks"]["acme_in"] = None
    for name, content in (("preset", preset), ("regime", regime)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return {name: str(tmp_path / f"{name}.yaml") for name in ("preset", "regime")}


@pytest.fixture
def package(tmp_path: Path, own_objectives: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of somebody else's with an objective, an encoder and a probe, built as a wheel and installed."""
    source, site = tmp_path / "package", tmp_path / "site"
    source.mkdir()
    skeleton = [sys.executable, "-m", "equipoise", "new", "encoder", "acme_mixer", "--into", str(source)]
    subprocess.run(skeleton, check=True, capture_output=True)
    for name, content in PACKAGE.items():
        (source / name).write_text(content)
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*words, "--target", str(site), str(source)], check=True, capture_output=True)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(str(site))
    return "slow_drift"


def test_a_driver_that_is_stopped_by_ctrl_c_resumes_without_losing_or_doubling(
    home: Home, tiny_data: Path, tmp_path: Path, check_books: CheckBooks, package: str
) -> None:
    file = tmp_path / "space.yaml"
    slow = ["optimisation.steps=100", "log_every=5", "checkpoint_every=5", "optimisation.batch=16"]
    content = space(tiny_data, name="stopped", set=slow, trials=2, control_seeds=[0], start=["hw"])
    content.update(with_its_encoder_and_probe(tiny_data, tmp_path))
    # What an installed package brings is searched, audited, scored, resumed, moved and reported as what ships.
    content["objectives"] = {"hard_region": SPACE["objectives"]["hard_region"], package: {"low": 0.05, "high": 0.2}}
    content["objectives"][package]["off_probability"] = 0.05
    file.write_text(yaml.safe_dump(content))
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command(home, file),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
    )
    # The sweep's first searched trial is in the middle of its training.
    wait_for("t0003 hw s0: pretrain", process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does on Ctrl-C: every process of the group gets it
    assert process.stderr is not None
    rest = process.stderr.read()
    assert process.wait(timeout=120) == 130, rest
    assert "--resume" in rest
    assert "Traceback" not in rest
    client = home.tracker().client
    states = {r.info.status for r in client.search_runs([home.tracker().experiment_id])}
    assert "RUNNING" not in states
    # One copy of it goes on in another home, which has the data and nothing else of this one.
    bundle(StudyRecord.open(home, "stopped")).write(tmp_path / "stopped.bundle")
    elsewhere = Home(tmp_path / "elsewhere")
    elsewhere.root.mkdir()
    for shared in ("data", "cache"):
        (elsewhere.root / shared).symlink_to((home.root / shared).resolve())
    came = unbundle(Bundle.read(tmp_path / "stopped.bundle"), elsewhere)
    assert came.resume is not None
    assert came.finished >= 1
    assert came.open >= 1
    before = {row.key for row in Bundle.read(tmp_path / "stopped.bundle").rows if row.status == "finished"}
    there = [sys.executable, "-m", "equipoise", *shlex.split(came.resume), "--home", str(elsewhere.root), "--json"]
    moved = subprocess.run(there, capture_output=True, text=True, env=env, timeout=400, check=False)
    assert moved.returncode == 0, moved.stderr
    assert set(check_books(elsewhere, "stopped", 4).values()) == {"finished"}
    done = subprocess.run(
        command(home, file, "--resume", "--json"), capture_output=True, text=True, env=env, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(check_books(home, "stopped", 4).values()) == {"finished"}
    ledger = Ledger(home.folder("stopped") / "ledger.db")
    attempts = {r.key: r.attempts for r in ledger.rows()}
    ledger.close()
    assert attempts["t0003"] == 2
    assert attempts["t0002"] == 1
    with home.book("stopped") as here, elsewhere.book("stopped") as other:
        ended = {row.key: (row.name, (row.result or {})["accuracies"]) for row in here.rows()}
        assert {row.key: (row.name, (row.result or {})["accuracies"]) for row in other.rows()} == ended
        assert {r.attempts for r in other.rows() if r.key in before} == {1}, "what was finished is not run again"
    history = home.tracker().client.get_metric_history(
        next(r.run_id for r in Ledger(home.folder("stopped") / "ledger.db").rows() if r.key == "t0003") or "",
        "train/loss",
    )
    by_step: dict[int, set[float]] = {}
    for m in history:
        by_step.setdefault(m.step, set()).add(m.value)
    with home.book("stopped") as here:
        (searched,) = (row for row in here.rows() if row.key == "t0004")
    assert searched.asked.variant.objectives[package].weight > 0
    assert {str(plugin).rpartition(" (")[0] for plugin in searched.asked.plugins} == {"acme-objectives 1.2"}
    assert {plugin.sha256 for plugin in searched.asked.plugins} == {
        hashlib.sha256((tmp_path / "package" / f"acme_{part}.py").read_bytes()).hexdigest()
        for part in ("objectives", "mixer", "centroids")
    }
    kept = checkpoints.load((searched.result or {})["checkpoint"])
    assert type(frozen_encoder(kept)).__name__ == "AcmeMixer"
    assert searched.asked.protocol("acme_in").startswith("mine ")
    record = StudyRecord.open(home, "stopped")
    (file_of_audit,) = (f for f in record.tracker.files(record.run_id, "audit") if f.endswith(".json"))
    audited = record.artifact(file_of_audit, "audit")["objectives"]
    assert {one["name"]: one["verdict"] for one in audited} == {"hard_region": "reaches", package: "reaches"}
    page = [sys.executable, "-m", "equipoise", "report", "stopped", "--home", str(home.root)]
    subprocess.run(page, env=env, check=True, capture_output=True)
    assert package in (home.folder("stopped") / "report.html").read_text()
    # Steps between the last checkpoint and the stop ran twice, with the same loss.
    assert all(len(v) == 1 for v in by_step.values())
    assert sorted(by_step) == list(range(5, 101, 5))
