from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from equipoise.models.objectives import Latents, list_objectives, published_objectives
from equipoise.models.objectives.temporal import Delta, LatentDynamics
from equipoise.platform.cli.audit import audit as audit_command
from equipoise.platform.cli.audit import audit_settings
from equipoise.platform.errors import SettingsError
from equipoise.platform.report.plots.gradients import heatmap
from equipoise.platform.report.plots.style import PlotError
from equipoise.platform.settings.study import load_sweep, space_settings
from equipoise.platform.settings.variant import UNCHANGED, variants
from equipoise.platform.storage import Paths
from equipoise.platform.trial.audit import AuditError, AuditResult, audit, refuse_dead
from equipoise.platform.trial.audit_checks import ObjectiveAudit
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer

RECORDS = {r.name: r for r in list_objectives()}


def of(result: AuditResult, name: str) -> ObjectiveAudit:
    return next(o for o in result.objectives if o.name == name)


@pytest.fixture(scope="module")
def everything(tiny_settings: Any, miniature_paths: Paths) -> AuditResult:
    """All at once; half of the clips keep their future, so that no temporal term is without tokens."""
    weights = {n: r.published_weight for n, r in RECORDS.items()} | {"motion_guided": 0.5, "future_predictive": 0.5}
    return audit(tiny_settings(weights), miniature_paths)


def test_all_reach_what_they_move(everything: AuditResult) -> None:
    assert [o.name for o in everything.objectives] == list(RECORDS)
    assert {o.name: o.reason for o in everything.dead} == {}
    refuse_dead(everything)
    for found in everything.objectives:
        record = RECORDS[found.name]
        assert found.value is not None
        for part in ("encoder", "predictor", "head"):
            norm = found.gradient[part]
            if record.kind == "mask" or (part == "head" and "head" not in record.needs):
                assert norm is None
            else:
                assert norm is not None
                assert (norm > 0) == (part in record.moves), (found.name, part)
    assert everything.evaluated.moves
    assert everything.evaluated.encoder == "target"


def test_cosines_are_cosines(everything: AuditResult) -> None:
    losses = [n for n, r in RECORDS.items() if r.kind == "loss"]
    assert everything.names == ("jepa", "context", *losses)
    assert np.isfinite(everything.cosine).all()
    np.testing.assert_array_equal(everything.cosine, everything.cosine.T)
    np.testing.assert_array_equal(np.diag(everything.cosine), 1.0)
    assert np.abs(everything.cosine).max() <= 1.0
    assert np.linalg.eigvalsh(everything.cosine).min() > -1e-5, "a matrix of cosines has no negative eigenvalue"
    assert everything.with_jepa("hard_region") > 0.9, "hard region is the prediction loss with other weights"


def test_norms_and_cosines_add_up_to_the_gradient_of_the_step(
    tiny_settings: Any, miniature_paths: Paths, tmp_path: Path
) -> None:
    """``|sum g|^2 = sum |g_i| |g_j| cos_ij``, with the sum from one ordinary backward pass."""
    settings = tiny_settings({"delta": 0.5, "hamiltonian": 1.0, "latent_dynamics": 2.0})
    found = audit(settings, miniature_paths)
    norms = np.array([part.gradient["encoder"] for part in (*found.losses, *found.objectives)])
    expected = math.sqrt(norms @ found.cosine @ norms)
    trainer = Trainer(settings, miniature_paths, LocalReporter(tmp_path, device=torch.device("cpu")))
    with trainer.batches.open() as batches:
        groups = trainer.batches.groups(next(batches), trainer.step)
    out = trainer.model(groups, {"delta": 0.5, "hamiltonian": 1.0, "latent_dynamics": 2.0}, trainer.mix.context.weight)
    out.loss.backward()
    squares = [float(p.grad.square().sum()) for p in trainer.model.encoder.parameters() if p.grad is not None]
    assert math.sqrt(sum(squares)) == pytest.approx(expected, rel=1e-4)


def test_same_seed_same_audit_and_the_callers_randomness_is_left_alone(
    tiny_settings: Any, miniature_paths: Paths
) -> None:
    settings = tiny_settings("fwm_ld")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = audit(settings, miniature_paths).to_dict()
    assert torch.equal(torch.get_rng_state(), before)
    second = audit(settings, miniature_paths).to_dict()
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


# --- what is dead, and why


def detached_student(self: Any, latents: Latents) -> Tensor | None:
    return (latents.dz.detach() - latents.dh).abs().mean() if len(latents.pairs) else None


def times_zero(self: Any, latents: Latents) -> Tensor | None:
    return 0.0 * (latents.dz - latents.dh).abs().mean() if len(latents.pairs) else None


def not_a_number(self: Any, latents: Latents) -> Tensor | None:
    return (latents.dz - latents.dh).abs().mean() * math.nan if len(latents.pairs) else None


def head_only(self: Any, latents: Latents) -> Tensor | None:
    return (self.head(latents.z_now.detach()) - latents.dh).abs().mean() if len(latents.pairs) else None


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        (detached_student, "detached: its value carries no gradient"),
        (times_zero, "gradient does not arrive: it must move the encoder"),
        (not_a_number, "not finite: its value is nan"),
    ],
)
def test_a_planted_dead_objective_is_caught(
    planted: Any, reason: str, tiny_settings: Any, miniature_paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Delta, "forward", planted)
    found = audit(tiny_settings({"delta": 0.5, "spectral": 1.0}), miniature_paths)
    assert [o.name for o in found.dead] == ["delta"]
    assert of(found, "delta").reason.startswith(reason)
    with pytest.raises(AuditError, match=r"objective 'delta' of variant 'made_up' trains nothing: " + reason):
        refuse_dead(found)


def test_a_head_that_learns_alone_is_dead(
    tiny_settings: Any, miniature_paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LatentDynamics, "forward", head_only)
    found = of(audit(tiny_settings("ld"), miniature_paths), "latent_dynamics")
    assert found.verdict == "dead"
    assert "must move the encoder, where its norm is 0" in found.reason
    assert found.gradient["encoder"] == 0
    assert found.gradient["head"]


def test_weights_that_are_always_zero(tiny_settings: Any, miniature_paths: Paths) -> None:
    variant = {
        "delta": 0.0,
        "motion_guided": 0.0,
        "spectral": {"weight": 1.0, "schedule": "linear_warmup"},
        "velocity_gate": {"weight": 1.0, "schedule": "cosine_decay"},
    }
    found = audit(tiny_settings(variant, "as_described", "optimisation.steps=1"), miniature_paths)
    assert {o.name: o.reason.split(":")[0] for o in found.dead} == {
        "delta": "weight overridden",
        "motion_guided": "weight overridden",
        "spectral": "weight overridden",
    }
    assert of(found, "velocity_gate").verdict == "reaches"


def test_a_warm_up_is_not_dead_because_it_begins_at_zero(tiny_settings: Any, miniature_paths: Paths) -> None:
    variant = {"delta": {"weight": 0.5, "schedule": "linear_warmup"}}
    found = of(audit(tiny_settings(variant), miniature_paths), "delta")
    assert (found.verdict, found.weight) == ("reaches", 0.5)


def test_no_place_is_visible_at_every_time_with_the_future_hidden(tiny_settings: Any, miniature_paths: Paths) -> None:
    found = audit(tiny_settings({"future_predictive": 1.0, "spectral": 1.0, "delta": 0.5}), miniature_paths)
    assert {o.name: o.reason.split(":")[0] for o in found.dead} == {"spectral": "no qualifying token"}
    assert math.isnan(found.with_jepa("spectral"))


def test_policies_without_effect(tiny_settings: Any, miniature_paths: Paths) -> None:
    uniform = {"motion_guided": {"weight": 1.0, "params": {"random_rate": 1.0}}, "future_predictive": 0.5}
    found = audit(tiny_settings(uniform), miniature_paths)
    assert of(found, "motion_guided").reason.startswith("policy without effect")
    assert of(found, "motion_guided").value == 0
    assert of(found, "future_predictive").verdict == "reaches"
    assert of(audit(tiny_settings("motion_guided"), miniature_paths), "motion_guided").verdict == "reaches"


def test_every_dead_objective_is_named(everything: AuditResult) -> None:
    two = tuple(
        dataclasses.replace(o, verdict="dead", reason="detached: so") if o.name in ("delta", "sigreg") else o
        for o in everything.objectives
    )
    described = dataclasses.replace(everything, objectives=two)
    with pytest.raises(AuditError, match=r"'delta' .* \(and 1 more: sigreg\): detached: so"):
        refuse_dead(described)
    refuse_dead(dataclasses.replace(described, reading="as_published"))


def test_controls(tiny_settings: Any, miniature_paths: Paths) -> None:
    baseline = audit(tiny_settings("baseline"), miniature_paths)
    assert (baseline.objectives, baseline.evaluated.moves) == ((), True)
    untrained = audit(tiny_settings("random_init"), miniature_paths)
    assert (untrained.objectives, untrained.evaluated.moves) == ((), False)
    refuse_dead(untrained)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(variants()) - {UNCHANGED}))
def test_no_published_variant_is_dead_as_described(name: str, tiny_settings: Any, miniature_paths: Paths) -> None:
    found = audit(tiny_settings(name), miniature_paths)
    assert {o.name: o.reason for o in found.dead} == {}
    assert found.evaluated.moves is (name != "random_init")


# --- how it is shown


def test_heat_map(everything: AuditResult, tmp_path: Path) -> None:
    path = heatmap(everything, tmp_path / "new" / "cosines.png")
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 100
    with pytest.raises(PlotError, match=r"expected a name ending in \.png"):
        heatmap(everything, tmp_path / "cosines.txt")


def test_a_space_is_audited_at_the_geometric_mean_of_its_ranges() -> None:
    definition = load_sweep("quickstart", {})
    settings = space_settings(definition, seed=5)
    assert settings.seed == 5
    assert set(settings.variant.objectives) == {record.name for record in published_objectives()}
    low, high = definition.objectives["sigreg"].low, definition.objectives["sigreg"].high
    assert settings.variant.objectives["sigreg"].weight == pytest.approx(math.sqrt(low * high))
    assert audit_settings("quickstart", seed=5) == settings
    assert audit_settings("fwm", reading="as_published").reading == "as_published"
    with pytest.raises(SettingsError, match=r"neither a variant nor a search space; did you mean 'quickstart'"):
        audit_settings("quikstart")


def test_command(miniature_home: Path, tiny_overrides: tuple[str, ...], tmp_path: Path) -> None:
    arguments = ["fwm_hw_ld", "--home", str(miniature_home)]
    for override in tiny_overrides:
        arguments += ["--set", override]
    picture = tmp_path / "map.png"
    done = CliRunner().invoke(audit_command, [*arguments, "--json", "--out", str(picture)], catch_exceptions=False)
    assert done.exit_code == 0
    content = json.loads(done.stdout)
    assert {o["name"]: o["verdict"] for o in content["objectives"]} == dict.fromkeys(
        ("hard_region", "static_appearance", "cross_covariance", "latent_dynamics"), "reaches"
    )
    assert set(content["objectives"][0]) >= {"name", "verdict", "reason", "value", "gradient"}
    assert len(content["cosine"]["matrix"]) == len(content["cosine"]["names"]) == 6
    assert content["evaluated_encoder"]["moves"] is True
    assert picture.is_file()
    shown = CliRunner().invoke(audit_command, [*arguments, "--reading", "as_published"], catch_exceptions=False)
    assert "detached" in shown.stdout
    assert "3 of 4 objectives reach what they move, 1 dead" in shown.stdout
    assert shown.exit_code == 0
    strict = CliRunner().invoke(audit_command, [*arguments, "--reading", "as_published", "--strict"])
    assert strict.exit_code == 1
    assert strict.stdout.splitlines()[:-1] == shown.stdout.splitlines()[:-1], "the last line has its seconds"
    assert CliRunner().invoke(audit_command, [*arguments, "--strict"]).exit_code == 0
