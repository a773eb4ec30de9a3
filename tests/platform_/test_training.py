"""The loop: the same seed is the same trial, a killed run goes on exactly, and nothing broken is saved."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from equipoise.data.loader import Batch, ClipStream
from equipoise.platform.errors import CheckpointError
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths
from equipoise.platform.trial import checkpoint as checkpoints
from equipoise.platform.trial.device import OutOfMemoryError
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.run import _may_pass
from equipoise.platform.trial.trainer import Trainer, TrainingError, learning_rate

Make = Callable[..., TrialSettings]

# Drop-path, random masks, crops, a random-direction objective and still images: every stream is in use.
BUSY = ("model.encoder.drop_path=0.1", "sampling.images=repeat")


def train(settings: TrialSettings, paths: Paths, folder: Path) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Reports of a run, and its last checkpoint's state."""
    reports: list[dict[str, float]] = []
    Trainer(settings, paths, LocalReporter(folder, reports.append)).run()
    return reports, checkpoints.load(folder).state


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two model states are equal bit for bit."""
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) if isinstance(one[k], torch.Tensor) else one[k] == other[k] for k in one
    )


def gone(words: str) -> None:
    raise torch.OutOfMemoryError(words)


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.empty(2**50),  # the CPU's own refusal
        lambda: [0] * 2**60,
        lambda: gone("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_memory_that_runs_out_is_one_sentence_and_is_not_tried_again(
    error: Callable[[], Any], make_trial: Make, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(make_trial(), paths, LocalReporter(tmp_path))
    monkeypatch.setattr(trainer, "train_step", lambda *_, **__: error())
    with pytest.raises(
        OutOfMemoryError, match=r"step 1 does not fit into the machine's memory: lower optimisation\.batch"
    ) as e:
        trainer.run()
    assert not _may_pass(e.value)


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (lambda *_, **__: torch.ones(2)[5], IndexError),
        (lambda *_, **__: torch.ones(2) @ torch.ones(3), RuntimeError),
        (lambda *_, **__: torch.linalg.inv(torch.zeros(2, 2)), RuntimeError),
        (lambda *_, **__: torch.nn.Module()(), NotImplementedError),
    ],
)
def test_what_is_no_lack_of_memory_keeps_its_own_error(
    step: Any, error: type[Exception], make_trial: Make, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(make_trial(), paths, LocalReporter(tmp_path))
    monkeypatch.setattr(trainer, "train_step", step)
    with pytest.raises(error) as found:
        trainer.run()
    assert _may_pass(found.value)


def losses(reports: list[dict[str, float]]) -> dict[float, float]:
    return {r["step"]: r["loss"] for r in reports}


@pytest.mark.parametrize("variant", ["baseline", "sigreg", "motion_future"])
def test_same_seed_is_the_same_trial_bit_for_bit(variant: str, make_trial: Make, paths: Paths, tmp_path: Path) -> None:
    settings = make_trial(variant, overrides=BUSY)
    first, state = train(settings, paths, tmp_path / "a")
    again, state_again = train(settings, paths, tmp_path / "b")
    assert losses(first) == losses(again)
    assert same(state["model"], state_again["model"])
    other, state_other = train(make_trial(variant, overrides=BUSY, seed=1), paths, tmp_path / "c")
    assert losses(first) != losses(other)
    assert not same(state["model"], state_other["model"])


RUN = """
import sys, json
from pathlib import Path
import torch
from equipoise.platform.storage import Paths
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer
torch.set_num_threads(1)
settings = TrialSettings.model_validate_json(Path(sys.argv[1]).read_text())
def report(metrics):
    print(json.dumps({"step": metrics["step"], "loss": metrics["loss"]}), flush=True)
Trainer(settings, Paths(Path(sys.argv[2]), Path(sys.argv[3])), LocalReporter(Path(sys.argv[4]), report)).run()
"""


def test_killed_run_resumes_with_the_same_losses(make_trial: Make, paths: Paths, tmp_path: Path) -> None:
    settings = make_trial("sigreg", overrides=(*BUSY, "optimisation.steps=12", "checkpoint_every=3"))
    whole, state = train(settings, paths, tmp_path / "whole")
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    words = [tmp_path / "settings.json", paths.data, paths.cache, tmp_path / "killed"]
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, words)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout is not None
    # Kill it between checkpoints: after step 4 is reported, before step 6 is saved.
    for line in process.stdout:
        if '"step": 4' in line:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait(timeout=60) == -signal.SIGKILL
    kept = checkpoints.latest(tmp_path / "killed" / "checkpoints")
    assert kept is not None
    step = checkpoints.load(kept).step
    assert 0 < step < 12
    rest, state_resumed = train(settings, paths, tmp_path / "killed")
    assert losses(rest) == {k: v for k, v in losses(whole).items() if k >= step}
    assert same(state["model"], state_resumed["model"])
    assert state["sampler"] == state_resumed["sampler"]


def test_resuming_a_finished_run_changes_nothing(make_trial: Make, paths: Paths, tmp_path: Path) -> None:
    settings = make_trial()
    first, state = train(settings, paths, tmp_path)
    before = time.time()
    reports, again = train(settings, paths, tmp_path)
    # The report of the checkpoint comes again, in case nobody heard it the first time.
    assert reports == first[-1:]
    assert same(state["model"], again["model"])
    assert (tmp_path / "checkpoints" / "step_00000006" / "state.pt").stat().st_mtime < before


def test_another_trials_checkpoint_is_refused(make_trial: Make, paths: Paths, tmp_path: Path) -> None:
    train(make_trial(), paths, tmp_path)
    with pytest.raises(CheckpointError, match="belongs to trial"):
        Trainer(make_trial(seed=1), paths, LocalReporter(tmp_path))


def test_a_loss_that_is_not_finite_stops_and_saves_nothing_broken(
    make_trial: Make, paths: Paths, tmp_path: Path
) -> None:
    settings = make_trial(overrides=("optimisation.lr=1e30", "optimisation.warmup_steps=0"))
    with pytest.raises(TrainingError, match=r"the loss is .* lower the learning rate"):
        train(settings, paths, tmp_path)
    kept = checkpoints.latest(tmp_path / "checkpoints")
    assert kept is None or all(
        v.isfinite().all() for v in checkpoints.load(kept).state["model"].values() if isinstance(v, torch.Tensor)
    )


def test_reports_carry_losses_and_health(make_trial: Make, paths: Paths, tmp_path: Path) -> None:
    reports, _ = train(make_trial("fwm"), paths, tmp_path)
    assert [r["step"] for r in reports] == [1, 2, 3, 4, 5, 6]
    last = reports[-1]
    assert last["clips"] == 48
    assert {"jepa", "static_appearance", "cross_covariance", "effective_rank", "target_std", "lr"} <= set(last)
    shares = {k: v for k, v in last.items() if k.startswith("gradient_share.")}
    assert set(shares) == {f"gradient_share.{k}" for k in ("jepa", "context", "static_appearance", "cross_covariance")}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert all(v > 0 for v in shares.values())
    parts = last["jepa"] + 0.5 * last["context"] + 0.05 * last["static_appearance"] + 0.01 * last["cross_covariance"]
    assert last["loss"] == pytest.approx(parts, rel=1e-5)


def test_learning_rate_follows_warm_up_and_cosine(make_trial: Make) -> None:
    constant = make_trial().preset.optimisation
    assert [learning_rate(constant, s) for s in (0, 1, 2, 5)] == pytest.approx([1e-4, 5.5e-4, 1e-3, 1e-3])
    cosine = make_trial(overrides=("optimisation.schedule=cosine", "optimisation.steps=102")).preset.optimisation
    assert learning_rate(cosine, 2) == pytest.approx(1e-3)
    assert learning_rate(cosine, 52) == pytest.approx(1e-3 * (0.01 + 0.99 / 2))
    assert learning_rate(cosine, 102) == pytest.approx(1e-5)


def test_weight_decay_spares_biases_and_vectors(make_trial: Make, paths: Paths, tmp_path: Path) -> None:
    trainer = Trainer(make_trial("ld"), paths, LocalReporter(tmp_path))
    for group in trainer.optimiser.param_groups:
        for parameter in group["params"]:
            assert (group["weight_decay"] > 0) == (parameter.ndim > 1)
    trained = {id(p) for g in trainer.optimiser.param_groups for p in g["params"]}
    assert all((id(p) in trained) == (not n.startswith("target.")) for n, p in trainer.model.named_parameters())


def test_waiting_for_data_is_told(
    make_trial: Make, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = ClipStream.__next__

    def late(self: ClipStream) -> Batch:
        time.sleep(0.1)
        return at_once(self)

    monkeypatch.setattr(ClipStream, "__next__", late)
    reports, _ = train(make_trial(overrides=("optimisation.steps=2", "log_every=1")), paths, tmp_path)
    for report in reports:
        assert 0 < report["data_wait"] <= 1
        assert report["data_wait"] * report["ms_per_step"] >= 100, "each step waited for 100 ms"
