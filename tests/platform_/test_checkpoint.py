from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from equipoise.models.jepa import VideoJEPA
from equipoise.models.objectives.sigreg import SIGReg
from equipoise.platform import storage
from equipoise.platform.errors import CheckpointError
from equipoise.platform.provenance import git_commit
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.mix import resolve
from equipoise.platform.settings.preset import load_preset
from equipoise.platform.settings.trial import TrialSettings, load_regime
from equipoise.platform.settings.variant import Variant, load_variant
from equipoise.platform.storage import Place
from equipoise.platform.trial.checkpoint import RECORD, STATE, keep_latest, latest, load, load_strictly, save
from equipoise.platform.trial.encoders import build_model

TINY = ("model.encoder={width: 24, depth: 4, heads: 2, levels: 4}", "model.predictor={width: 12, depth: 1, heads: 2}",
        "probes.attentive.heads=2")  # fmt: skip


def trial(variant: str | Variant = "baseline", *overrides: str) -> TrialSettings:
    data = {
        "variant_name": "x",
        "variant": load_variant(variant) if isinstance(variant, str) else variant,
        "seed": 5,
        "preset": load_preset("nano", [*TINY, *overrides]),
        "regime": load_regime("miniature"),
    }
    return parse(TrialSettings, data, "test")


def build(settings: TrialSettings) -> VideoJEPA:
    return build_model(settings, resolve(settings))


def state_of(model: torch.nn.Module) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimiser": {"step": 3}, "sampler": {"epoch": 1}}


def test_round_trip_is_exact(tmp_path: Path) -> None:
    settings = trial("fwm_hw_ld")
    model = build(settings)
    path = save(tmp_path, settings, 300, state_of(model), {"mini_ucf": "abc"}, {"loss": 0.5})
    assert path == Place.at(tmp_path / "step_00000300")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000300"], "nothing temporary is left"
    found = load(path)
    assert found.settings == settings
    assert found.settings.key == settings.key
    assert (found.step, found.record["seed"], found.record["manifests"]) == (300, 5, {"mini_ucf": "abc"})
    assert found.record["metrics"] == {"loss": 0.5}
    assert found.record["git_commit"] == git_commit()
    assert set(found.record["versions"]) == {"equipoise", "torch", "timm"}
    assert found.state["sampler"] == {"epoch": 1}
    other = build(trial("fwm_hw_ld").model_copy(update={"seed": 6}))
    before = {k: v.clone() for k, v in other.state_dict().items()}
    load_strictly(other, found.state["model"], path)
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    assert any(not torch.equal(v, other.state_dict()[k]) for k, v in before.items())


def test_extra_state_of_an_objective_goes_through(tmp_path: Path) -> None:
    """The count of random directions is no tensor; it has to come back, read without running code from the file."""
    settings = trial("sigreg")
    model = build(settings)
    sigreg = model.objectives["sigreg"]
    assert isinstance(sigreg, SIGReg)
    sigreg.calls = 17
    assert "objectives.sigreg._extra_state" in model.state_dict()
    found = load(save(tmp_path, settings, 1, state_of(model), {}, {}))
    other = build(settings)
    load_strictly(other, found.state["model"], found.path)
    assert other.objectives["sigreg"].calls == 17
    assert other.objectives["sigreg"].seed == model.objectives["sigreg"].seed
    damaged = dict(found.state["model"]) | {"objectives.sigreg._extra_state": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"_extra_state is \(2,\), these settings need dict"):
        load_strictly(other, damaged, tmp_path)


def test_differences_are_errors_that_name_both() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    state = model.state_dict()
    origin = Path("some/step_1")
    with pytest.raises(CheckpointError, match=r"some/step_1 has no 0\.bias: it is of another model"):
        load_strictly(model, {"0.weight": state["0.weight"]}, origin)
    with pytest.raises(CheckpointError, match=r"some/step_1 has 1\.weight, which these settings do not build"):
        load_strictly(model, {**state, "1.weight": torch.zeros(1)}, origin)
    with pytest.raises(CheckpointError, match=r"0\.weight is \(4, 3\), these settings need \(2, 3\)"):
        load_strictly(model, {**state, "0.weight": torch.zeros(4, 3)}, origin)


def test_nothing_is_loaded_in_part() -> None:
    model = torch.nn.Linear(3, 2)
    before = model.weight.detach().clone()
    with pytest.raises(CheckpointError):
        load_strictly(model, {"weight": torch.ones(2, 3), "bias": torch.zeros(3)}, Path("x"))
    assert torch.equal(model.weight, before)


def test_a_checkpoint_of_other_settings_names_the_entry(tmp_path: Path) -> None:
    found = load(save(tmp_path, trial(), 1, state_of(build(trial())), {}, {}))
    with pytest.raises(CheckpointError, match=r"has no objectives\.latent_dynamics\.head\.0\.weight"):
        load_strictly(build(trial("ld")), found.state["model"], found.path)
    wider = trial("baseline", "model.encoder.width=36", "model.encoder.heads=3", "probes.attentive.heads=3")
    with pytest.raises(CheckpointError, match=r"encoder\.\S+ is \(24, \d+\), these settings need \(36, \d+\)"):
        load_strictly(build(wider), found.state["model"], found.path)


def small(folder: Path, step: int) -> Path:
    state = {"model": {"w": torch.full((4,), float(step))}, "optimiser": {}, "sampler": {}}
    saved = save(folder, trial(), step, state, {}, {}).local
    assert saved is not None
    return saved


def test_latest_and_keep_latest(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert latest(tmp_path / "none") is None
    for step in (9, 100, 20, 3):
        small(tmp_path, step)
    (tmp_path / ".writing-xyz").mkdir()
    assert latest(tmp_path) == Place.at(tmp_path / "step_00000100")
    keep_latest(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.glob("step_*")) == ["step_00000020", "step_00000100"]
    keep_latest(tmp_path, 5)
    assert len(list(tmp_path.glob("step_*"))) == 2


def test_load_takes_a_checkpoint_its_folder_or_the_trial(tmp_path: Path) -> None:
    folder = tmp_path / "t0001" / "checkpoints"
    small(folder, 1)
    newest = small(folder, 2)
    for path in (newest, folder, tmp_path / "t0001"):
        found = load(path)
        assert (found.path, found.step) == (Place.at(newest), 2)
        assert found.state["model"]["w"].tolist() == [2.0] * 4
    assert load(folder / "step_00000001").step == 1


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    small(tmp_path, 4)
    state = {"model": {"w": torch.zeros(2)}, "optimiser": {}, "sampler": {}}
    save(tmp_path, trial(), 4, state, {}, {})
    assert load(tmp_path).state["model"]["w"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("cut", "is damaged: "),
        ("flip", "is damaged: "),
        ("text", r"is damaged: state\.pt is cut short or no file of tensors"),
        ("empty", r"is damaged: state\.pt is cut short or no file of tensors"),
        ("no_state", r"is no checkpoint: expected a folder with record\.json and state\.pt"),
        ("no_record", r"is no checkpoint: expected a folder with record\.json and state\.pt"),
        ("record_cut", "is damaged: "),
        ("record_list", "is damaged: "),
        ("record_key", r"is damaged: record\.json has no 'settings'"),
        ("newer", "has format 999; this version reads up to 1: upgrade equipoise"),
        ("settings", "unknown key 'preset.optimisation.stepz'; did you mean 'steps'?"),
    ],
)
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str, sentence: str) -> None:
    path = small(tmp_path, 1)
    content = (path / STATE).read_bytes()
    record = json.loads((path / RECORD).read_text())
    if damage == "cut":
        (path / STATE).write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        middle = content.index(b"archive/data/0") if b"archive/data/0" in content else len(content) // 2
        (path / STATE).write_bytes(content[: middle - 30] + bytes(60) + content[middle + 30 :])
    elif damage == "text":
        (path / STATE).write_text("these are no tensors")
    elif damage == "empty":
        (path / STATE).write_bytes(b"")
    elif damage == "no_state":
        (path / STATE).unlink()
    elif damage == "no_record":
        (path / RECORD).unlink()
    elif damage == "record_cut":
        (path / RECORD).write_text((path / RECORD).read_text()[:-20])
    elif damage == "record_list":
        (path / RECORD).write_text("[1]")
    else:
        if damage == "record_key":
            del record["settings"]
        elif damage == "newer":
            record["format"] = 999
        else:
            record["settings"]["preset"]["optimisation"]["stepz"] = 3
        (path / RECORD).write_text(json.dumps(record))
    with pytest.raises(Exception, match=sentence) as found:
        load(path)
    assert type(found.value).__name__ in ("CheckpointError", "DamagedError", "SettingsError")
    assert "\n" not in str(found.value)


def test_a_state_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = small(tmp_path, 1)
    torch.save({"model": Evil()}, path / STATE)
    with pytest.raises(CheckpointError, match=r"is damaged: state\.pt holds more than tensors"):
        load(path)
    assert not Evil.ran


class Evil:
    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (_run, ())


def _run() -> None:
    Evil.ran = True


def test_missing_path_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone is no checkpoint"):
        load(tmp_path / "gone")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"checkpoint .*step_00000001 cannot be written: Not a directory"):
        small(tmp_path / "file" / "below", 1)


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from equipoise.platform.trial.checkpoint import save
from equipoise.platform.errors import CheckpointError
from equipoise.platform.settings.trial import TrialSettings
settings = TrialSettings.model_validate_json(Path(sys.argv[2]).read_text())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    save(Path(sys.argv[1]), settings, 7, {"model": {"w": torch.zeros(1_000_000)}}, {}, {})
except CheckpointError as error:
    print("REFUSED", error)
"""

KILLED = """
import sys
from pathlib import Path
import torch
from equipoise.platform.trial.checkpoint import save
from equipoise.platform.settings.trial import TrialSettings
settings = TrialSettings.model_validate_json(Path(sys.argv[2]).read_text())
state = {"model": {f"w{i}": torch.zeros(4_000_000) for i in range(8)}}
print("go", flush=True)
for step in range(1, 1000):
    save(Path(sys.argv[1]), settings, step, state, {}, {})
"""


def child(code: str, tmp_path: Path) -> subprocess.Popen[str]:
    (tmp_path / "settings.json").write_text(trial().model_dump_json())
    arguments = [sys.executable, "-c", code, str(tmp_path / "out"), str(tmp_path / "settings.json")]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    out, _ = child(FULL, tmp_path).communicate(timeout=120)
    assert "REFUSED checkpoint" in out
    assert "step_00000007 cannot be written: writing failed" in out
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.11])
def test_killed_while_writing_leaves_whole_checkpoints_only(tmp_path: Path, delay: float) -> None:
    process = child(KILLED, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    deadline = time.monotonic() + 60
    # Wait until a file of tensors is being written, then kill without warning.
    while not list((tmp_path / "out").glob(f".writing-*/*/{STATE}")) and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    process.stdout.close()
    newest = latest(tmp_path / "out")
    for path in (tmp_path / "out").glob("step_*"):
        assert len(load(path).state["model"]) == 8
    if newest is None:
        with pytest.raises(CheckpointError, match="is no checkpoint"):
            load(tmp_path / "out")
    # A run that goes on in the same folder is not disturbed by what the kill left behind.
    small(tmp_path / "out", 2000)
    assert load(tmp_path / "out").step == 2000


def test_kill_between_files_shows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder appears under its name only once both files are in it."""
    seen: list[Place | None] = []
    sync = storage._sync

    def watch(path: Path) -> None:
        seen.append(latest(tmp_path))
        sync(path)

    monkeypatch.setattr(storage, "_sync", watch)
    small(tmp_path, 3)
    assert seen == [None, None]
    assert latest(tmp_path) is not None
