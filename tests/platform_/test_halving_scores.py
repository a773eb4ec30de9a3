"""Looks at an encoder on the way: on training items alone, the same for all, and without a trace in the training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths, Place
from equipoise.platform.trial import checkpoint as checkpoints
from equipoise.platform.trial.early_scores import items_of, rung_scores
from equipoise.platform.trial.encoders import encoder_of, frozen_encoder, untrained_encoder
from equipoise.platform.trial.messages import RungPlan, TrialTask
from equipoise.platform.trial.parts import part_items
from equipoise.platform.trial.ray_train import looks
from equipoise.platform.trial.reporter import LocalReporter, Rungs
from equipoise.platform.trial.trainer import Trainer

Make = Callable[..., TrialSettings]
CPU = torch.device("cpu")
ITEMS = 30
RUNGS = RungPlan((2, 3), ITEMS)


def look_of(settings: TrialSettings, paths: Paths) -> Rungs | None:
    return looks(TrialTask(1, settings, Place.at("unused"), paths, probe=True, rungs=RUNGS), CPU)


def train(
    settings: TrialSettings, paths: Paths, folder: Path, rungs: Rungs | None, stop_at: int | None = None
) -> tuple[list[tuple[str, int, Any]], dict[str, Any]]:
    """Everything a run reported, in order, and its last checkpoint's state."""
    heard: list[tuple[str, int, Any]] = []

    def on_rung(step: int, scores: Mapping[str, float], seconds: float) -> None:
        heard.append(("rung", step, dict(scores)))
        if step == stop_at:
            raise SystemExit  # what Ray Tune does inside a report of a trial that is stopped

    reporter = LocalReporter(folder, lambda m: heard.append(("report", m["step"], m["loss"])), CPU, on_rung=on_rung)
    try:
        Trainer(settings, paths, reporter, rungs).run()
    except SystemExit:
        assert stop_at is not None
    return heard, checkpoints.load(folder).state


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    tensors = {k for k, v in one.items() if isinstance(v, torch.Tensor)}
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in tensors)


@pytest.mark.parametrize("variant", ["sigreg", "motion_future"])
def test_looking_changes_no_bit_of_the_training(variant: str, make_trial: Make, paths: Paths, tmp_path: Path) -> None:
    settings = make_trial(variant, overrides=("model.encoder.drop_path=0.1",))
    plain, state = train(settings, paths, tmp_path / "plain", None)
    looked, state_looked = train(settings, paths, tmp_path / "looked", look_of(settings, paths))
    assert [h for h in looked if h[0] == "report"] == plain
    assert same(state["model"], state_looked["model"])
    assert state["sampler"] == state_looked["sampler"]
    moments = [s["optimiser"]["state"] for s in (state, state_looked)]
    assert all(torch.equal(moments[0][k]["exp_avg"], moments[1][k]["exp_avg"]) for k in moments[0])
    # A checkpoint of the same step is written before the look at it.
    assert [h[:2] for h in looked][1:4] == [("report", 2), ("rung", 2), ("report", 3)]
    scores = looked[2][2]
    assert set(scores) == {"mini_dive", "mini_ssv2", "mini_in"}
    for name, value in scores.items():
        seen = min(ITEMS, len(part_items(settings, paths, name, "select").rows))
        assert value * seen / 100 == pytest.approx(round(value * seen / 100))


def test_a_resumed_trial_looks_again_and_sees_the_same(make_trial: Make, paths: Paths, tmp_path: Path) -> None:
    """Stopped, or killed, in the look of step 2: its checkpoint is there, and what was seen may not have been heard."""
    settings = make_trial("hw")
    whole, state = train(settings, paths, tmp_path / "whole", look_of(settings, paths))
    first, _ = train(settings, paths, tmp_path / "cut", look_of(settings, paths), stop_at=2)
    assert first == whole[:3]
    rest, state_rest = train(settings, paths, tmp_path / "cut", look_of(settings, paths))
    assert rest == whole[1:]  # the report of the checkpoint and its rung, once more
    assert same(state["model"], state_rest["model"])
    # Between two checkpoints: the steps from the last one on, and the look, come again.
    first, _ = train(settings, paths, tmp_path / "later", look_of(settings, paths), stop_at=3)
    rest, _ = train(settings, paths, tmp_path / "later", look_of(settings, paths))
    assert [h for h in rest if h[0] == "rung"] == [h for h in whole if h[0] == "rung"]


def test_what_is_looked_at_is_what_evaluation_would_load(make_trial: Make, paths: Paths, tmp_path: Path) -> None:
    settings = make_trial("delta")
    _, state = train(settings, paths, tmp_path, None)
    seen = encoder_of(settings, state["model"])
    assert same(seen.state_dict(), frozen_encoder(checkpoints.load(tmp_path)).state_dict())
    assert not seen.training
    assert not any(p.requires_grad for p in seen.parameters())


def test_no_test_item_is_read(make_trial: Make, paths: Paths, tmp_path: Path) -> None:
    """The scores are there, and the same, where the test splits are not."""
    settings = make_trial()
    encoder = untrained_encoder(settings)
    expected = rung_scores(encoder, settings, paths, CPU, ITEMS)
    data = tmp_path / "data"
    shutil.copytree(paths.data, data, symlinks=True)
    for manifest in data.rglob("test.parquet"):
        manifest.unlink()
    assert rung_scores(encoder, settings, Paths(data, tmp_path / "cache"), CPU, ITEMS) == expected


def test_items_are_the_same_for_every_trial() -> None:
    rows = items_of(100, 30)
    assert (len(rows), len(set(rows))) == (30, 30)
    assert rows != sorted(rows)
    assert items_of(100, 30) == rows
    assert sorted(items_of(20, 900)) == list(range(20))
