"""What ``as_published`` repeats: where the published code differs from its description, by number in the design."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from equipoise.models.encoders import Encoder
from equipoise.models.geometry import TokenGrid
from equipoise.models.jepa import StepOutput
from equipoise.models.masking import MaskSampler, MotionGuided, motion_map
from equipoise.models.objectives import Latents, create
from equipoise.platform.settings.mix import resolve
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.settings.variant import variants
from equipoise.platform.storage import Paths
from equipoise.platform.trial.audit import AuditError, audit, refuse_dead
from equipoise.platform.trial.encoders import build_model
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer

READINGS = ("as_described", "as_published")
UNTRAINED = (*(n for n in variants() if n.startswith("kinematic")), "sigreg_no_ema")


def trainer_of(settings: TrialSettings, paths: Paths, folder: Path) -> Trainer:
    return Trainer(settings, paths, LocalReporter(folder, device=torch.device("cpu")))


def evaluated(trainer: Trainer) -> Encoder:
    return trainer.model.target_encoder if trainer.mix.evaluated == "target" else trainer.model.encoder


def forward(trainer: Trainer) -> StepOutput:
    torch.manual_seed(0)
    with trainer.batches.open() as batches:
        groups = trainer.batches.groups(next(batches), trainer.step)
    out: StepOutput = trainer.model(groups, trainer.mix.weights_at(0, trainer.o.steps), 0.5)
    return out


def equal(ones: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return all(torch.equal(ones[k], others[k]) for k in others)


# --- 1. untrained encoders


@pytest.mark.parametrize("name", UNTRAINED)
def test_1_the_evaluated_encoder_is_the_initialisation(
    name: str, tiny_settings: Any, miniature_paths: Paths, tmp_path: Path
) -> None:
    assert len(UNTRAINED) == 7
    for reading, moves in (("as_described", True), ("as_published", False)):
        settings = tiny_settings(name, reading, "optimisation.steps=3")
        trainer = trainer_of(settings, miniature_paths, tmp_path / reading)
        start = build_model(settings, trainer.mix).encoder.state_dict()
        trainer.run()
        assert equal(evaluated(trainer).state_dict(), start) is not moves
        assert not equal(trainer.model.encoder.state_dict(), start), "the encoder that is trained moves in both"


@pytest.mark.parametrize("name", ["kinematic", "kinematic_anneal", "sigreg_no_ema"])
def test_1_the_audit_says_so(name: str, tiny_settings: Any, miniature_paths: Paths) -> None:
    published = audit(tiny_settings(name, "as_published"), miniature_paths)
    assert not published.evaluated.moves
    assert "equals its initialisation" in published.evaluated.why
    assert {o.reason.split(":")[0] for o in published.objectives} == {"teacher not updated"}
    described = audit(tiny_settings(name), miniature_paths)
    assert described.evaluated.moves
    assert described.dead == ()


# --- 2. the dead loss


@pytest.mark.parametrize("name", ["hw_ld", "fwm_hw_ld"])
def test_2_latent_dynamics_is_dead_beside_hard_region(name: str, tiny_settings: Any, miniature_paths: Paths) -> None:
    published = audit(tiny_settings(name, "as_published"), miniature_paths)
    (dead,) = published.dead
    assert dead.name == "latent_dynamics"
    assert dead.reason.startswith("detached: it is computed without gradient beside hard_region")
    assert dead.value is not None
    assert dead.gradient == {"encoder": 0.0, "predictor": 0.0, "head": 0.0}
    refuse_dead(published)
    assert audit(tiny_settings(name), miniature_paths).dead == ()


def test_2_the_headline_is_fwm_and_hw_bit_for_bit(tiny_settings: Any, miniature_paths: Paths, tmp_path: Path) -> None:
    without = {"static_appearance": 0.05, "cross_covariance": 0.01, "hard_region": 1.0}
    for reading in READINGS:
        trained = []
        for name, variant in (("headline", "fwm_hw_ld"), ("without", without)):
            settings = tiny_settings(variant, reading, "optimisation.steps=3")
            trainer = trainer_of(settings, miniature_paths, tmp_path / reading / name)
            forward(trainer).loss.backward()
            gradients = {k: p.grad for k, p in trainer.model.encoder.named_parameters() if p.grad is not None}
            trainer.optimiser.zero_grad()
            trainer = trainer_of(settings, miniature_paths, tmp_path / reading / name)
            trainer.run()
            state = trainer.model.target_encoder.state_dict() | {
                f"predictor.{k}": v for k, v in trainer.model.predictor.state_dict().items()
            }
            trained.append((gradients, state))
        same = reading == "as_published"
        assert equal(trained[0][0], trained[1][0]) is same
        assert equal(trained[0][1], trained[1][1]) is same


# --- 3. kinematic terms on the target, and a target without stop-gradient


def test_3_kinematic_terms_on_the_target_train_nothing_with_the_moving_average(
    tiny_settings: Any, miniature_paths: Paths
) -> None:
    on_target = {"kinematic_velocity": {"weight": 1.0, "params": {"on": "target"}}}
    found = audit(tiny_settings(on_target), miniature_paths)
    assert found.objectives[0].reason.startswith("detached: it acts on target features, which carry no gradient")
    with pytest.raises(AuditError, match=r"'kinematic_velocity' .* trains nothing"):
        refuse_dead(found)
    assert resolve(tiny_settings("kinematic")).terms[0].params["on"] == "student"
    assert resolve(tiny_settings("kinematic", "as_published")).terms[0].params["on"] == "target"


def test_3_without_the_moving_average_the_target_has_no_stop_gradient(
    tiny_settings: Any, miniature_paths: Paths, tmp_path: Path
) -> None:
    for reading in READINGS:
        trainer = trainer_of(tiny_settings("sigreg_no_ema", reading), miniature_paths, tmp_path / reading)
        with trainer.batches.open() as batches:
            group = trainer.batches.groups(next(batches), trainer.step)[0]
        targets = trainer.model.targets(*trainer.model.encoder.patches(group.clip))
        assert targets.requires_grad is (reading == "as_published")


# --- 5. halves of four concatenated levels


def test_5_appearance_is_the_shallow_levels(tiny_settings: Any) -> None:
    found = {}
    for reading in READINGS:
        (term,) = (t for t in resolve(tiny_settings("fwm", reading)).terms if t.name == "static_appearance")
        objective = create(term.name, channels=96, **term.params)
        # Only the two deep levels (48 of 96 channels) change along time.
        student = torch.zeros(2, 4, 3, 3, 96)
        student[..., 48:] = torch.randn(2, 4, 3, 3, 48, generator=torch.Generator().manual_seed(0))
        seen = torch.ones(2, 4, 3, 3, dtype=torch.bool)
        empty = torch.zeros(2, 0, dtype=torch.int64)
        found[reading] = float(objective(Latents(student, seen, student, torch.zeros(2, 0, 96), empty)))
    assert found["as_published"] == 0
    assert found["as_described"] > 0.1


# --- 6. the scale of motion maps


def test_6_one_still_clip_draws_all_blocks_to_one_time_slot(tiny_settings: Any) -> None:
    grid = TokenGrid(4, 4, 4, patch=8, tubelet=2)
    clip = torch.rand(4, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    clip[2] = clip[2, :, :1].clone()
    share = {}
    for reading in READINGS:
        motion = motion_map(clip, grid, scale=resolve(tiny_settings("motion_guided", reading)).motion_scale)
        origins = MotionGuided().origin_probabilities(motion, (1, 2, 2))
        share[reading] = float(origins[[0, 1, 3], 2].sum() / 3)
    assert share["as_published"] > 0.9
    assert share["as_described"] == pytest.approx(0.25, abs=0.05)


# --- 7. cutting to the shortest row


def test_7_the_cut_drops_the_end_of_the_clip(tiny_settings: Any) -> None:
    last = {}
    for reading in READINGS:
        model = resolve(tiny_settings("baseline", reading, "model.size=112", "cache_size=112")).model
        grid = model.grid()
        sampler, draw = MaskSampler(grid, model.masks), torch.Generator().manual_seed(0)
        seen = torch.cat([grid.visible(sampler.sample(8, draw)[0].visible) for _ in range(20)]).float()
        last[reading] = float(seen[:, -1].mean() / seen[:, 0].mean())
    assert last["as_described"] == pytest.approx(1.0, abs=0.05)
    assert last["as_published"] < 0.5


# --- 8. the context loss


def test_8_the_context_loss_begins_in_the_second_half(tiny_settings: Any) -> None:
    published, described = (resolve(tiny_settings("baseline", r)).context for r in ("as_published", "as_described"))
    steps = 1000
    assert {published.at(step, steps) for step in range(501)} == {0.0}
    assert published.at(750, steps) == pytest.approx(0.25)
    assert published.at(999, steps) == pytest.approx(0.499)
    assert described.at(50, steps) == pytest.approx(0.25)
    assert described.at(100, steps) == described.at(999, steps) == pytest.approx(0.5)


def test_8_the_third_of_six_steps_has_none(tiny_settings: Any, miniature_paths: Paths, tmp_path: Path) -> None:
    for reading, later in (("as_published", False), ("as_described", True)):
        trainer = trainer_of(tiny_settings("baseline", reading), miniature_paths, tmp_path / reading)
        with trainer.batches.open() as batches:
            for trainer.step in range(3):
                metrics = trainer.train_step(next(batches))
        assert ("context" in metrics) is later


# --- 9. the token count in SIGReg


def test_9_sigreg_carries_the_number_of_tokens(tiny_settings: Any) -> None:
    student = torch.randn(2, 4, 3, 3, 96, generator=torch.Generator().manual_seed(0))
    seen = torch.rand(2, 4, 3, 3, generator=torch.Generator().manual_seed(1)) < 0.6
    empty = torch.zeros(2, 0, dtype=torch.int64)
    value = {}
    for reading in READINGS:
        (term,) = resolve(tiny_settings("sigreg", reading)).terms
        torch.manual_seed(4)
        objective = create(term.name, channels=96, **term.params)
        value[reading] = float(objective(Latents(student, seen, student, torch.zeros(2, 0, 96), empty)))
    assert value["as_published"] == pytest.approx(int(seen.sum()) * value["as_described"], rel=1e-5)


def test_9_its_gradient_outweighs_the_jepa_loss(tiny_settings: Any, miniature_paths: Paths) -> None:
    ratio = {}
    for reading in READINGS:
        found = audit(tiny_settings("sigreg", reading), miniature_paths)
        jepa, sigreg = found.losses[0].gradient["encoder"], found.objectives[0].gradient["encoder"]
        assert jepa
        assert sigreg
        ratio[reading] = sigreg / jepa
    assert ratio["as_published"] > 20 * ratio["as_described"]
