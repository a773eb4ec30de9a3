"""What every objective promises, over the registry: a new entry is tested the moment it exists."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equipoise.models.masking import FuturePredictive, MotionGuided
from equipoise.models.objectives import Latents, Objective, create, published_objectives, sigreg
from equipoise.models.objectives.factorised import cross_covariance
from equipoise.models.objectives.sigreg import SIGReg, epps_pulley
from equipoise.testing import CHANNELS, STILL, check_objective, random_latents

D = CHANNELS
RECORDS = {r.name: r for r in published_objectives()}
LOSSES = [r.name for r in published_objectives() if r.kind == "loss"]
STATIC = ("hard_region", "cross_covariance", "sigreg")  # these have no temporal term
TEMPORAL = [n for n in LOSSES if n not in STATIC]
SMALL: dict[str, dict[str, Any]] = {"sigreg": {"slices": 32}}


def build(name: str, **params: Any) -> Objective:
    torch.manual_seed(7)
    built: Objective = create(name, channels=D, **{**SMALL.get(name, {}), **params})
    return built


def fresh(given: Latents, **changes: Any) -> Latents:
    return dataclasses.replace(given, **changes)


def value_of(objective: Objective, given: Latents) -> Tensor:
    value = objective.eval()(given)
    assert value is not None
    return value


# --- registry ---


def test_the_published_ones_are_in_the_order_of_the_design() -> None:
    assert [r.name for r in published_objectives()] == [
        "hard_region",
        "static_appearance",
        "cross_covariance",
        "delta",
        "latent_dynamics",
        "temporal_contrast",
        "spectral",
        "action",
        "factorized_action",
        "kinematic_velocity",
        "kinematic_huber",
        "kinematic_acceleration",
        "kinematic_split",
        "sigreg",
        "hamiltonian",
        "velocity_gate",
        "motion_guided",
        "future_predictive",
    ]


def test_parameters_and_defaults_are_the_designs() -> None:
    split = {"app_ratio": 0.5, "split": "channels", "levels": 4}
    expected: dict[str, dict[str, Any]] = {
        "hard_region": {"tau": 1.0},
        "static_appearance": split,
        "cross_covariance": split,
        "delta": {},
        "latent_dynamics": {"hidden": 256, "weighting": "none", "tau": 1.0, "subspace": "all", **split},
        "temporal_contrast": {"margin": 0.5},
        "spectral": {"low": 0.1, "high": 1.0},
        "action": {"hidden": 256},
        "factorized_action": {"hidden": 256, **split},
        "kinematic_velocity": {"on": "student"},
        "kinematic_huber": {"on": "student", "delta": 0.1},
        "kinematic_acceleration": {"on": "student"},
        "kinematic_split": {"on": "student", "ratio": 0.5},
        "sigreg": {"slices": 1024, "nodes": 17, "t_max": 3.0, "per_token": True},
        "hamiltonian": {"hidden": 256, "dt": 0.1},
        "velocity_gate": {"percentile": 0.5},
        "motion_guided": {"strength": 2.0, "random_rate": 0.1},
        "future_predictive": {"keep": 0.5},
    }
    assert {n: dict(r.params) for n, r in RECORDS.items()} == expected


def test_policies_are_created_without_channels() -> None:
    assert create("motion_guided", strength=5.0, random_rate=0.0) == MotionGuided(strength=5.0, random_rate=0.0)
    assert create("future_predictive", channels=D) == FuturePredictive(keep=0.5)


@pytest.mark.parametrize(
    ("name", "channels", "params", "message"),
    [
        ("hard_regoin", D, {}, "nearest is 'hard_region'"),
        ("delta", D, {"tau": 1.0}, "it has no parameters"),
        ("hard_region", D, {"taau": 1.0}, "nearest is 'tau'"),
        ("hard_region", D, {"tau": 0.0}, "tau is 0.0; expected a number above 0"),
        ("hard_region", D, {"tau": "1"}, "tau is '1'"),
        ("hard_region", D, {"tau": float("nan")}, "tau is nan"),
        ("delta", None, {}, "delta needs channels"),
        ("static_appearance", 18, {}, "18 channels do not divide into 4 levels"),
        ("static_appearance", D, {"app_ratio": 0.1}, "at least one for app"),
        ("static_appearance", D, {"split": "halves"}, "expected one of channels, levels"),
        ("latent_dynamics", D, {"weighting": "soft"}, "expected one of none, hard"),
        ("latent_dynamics", D, {"hidden": 0}, "hidden is 0"),
        ("kinematic_velocity", D, {"on": "teacher"}, "expected one of student, target"),
        ("kinematic_split", D, {"ratio": 0.01}, "leaves no channel"),
        ("sigreg", D, {"nodes": 1}, "nodes is 1"),
        ("sigreg", D, {"slices": 1.5}, "slices is 1.5"),
        ("sigreg", D, {"per_token": 1}, "per_token is 1"),
        ("hamiltonian", 15, {}, "even number"),
        ("velocity_gate", D, {"percentile": 50}, "at most 1.0"),
        ("motion_guided", D, {"strength": -1.0}, "strength is -1.0"),
        ("motion_guided", D, {"random_rate": 1.1}, "random_rate is 1.1"),
        ("future_predictive", D, {"keep": 1.0}, "set it below 1"),
        ("future_predictive", D, {"keep": "half"}, "keep is 'half'"),
    ],
)
def test_mistakes_are_named(name: str, channels: int | None, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(name, channels=channels, **params)


# --- every loss ---


# The additive constant of an energy has no effect on motion.
FIXED = {"hamiltonian": ("head.4.bias",)}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_keeps_the_contract(name: str) -> None:
    check_objective(RECORDS[name], fixed=FIXED.get(name, ()), **SMALL.get(name, {}))


@pytest.mark.parametrize("name", LOSSES)
def test_one_slot_has_no_temporal_term(name: str) -> None:
    given = random_latents(grid=STILL)
    assert (build(name)(given) is None) == (name in TEMPORAL)


@pytest.mark.parametrize("name", [n for n in LOSSES if n.startswith("kinematic")])
def test_kinematic_on_target_of_one_slot_is_none(name: str) -> None:
    assert build(name, on="target")(random_latents(grid=STILL)) is None


@pytest.mark.parametrize("name", [n for n in LOSSES if n.startswith("kinematic")])
def test_still_clips_take_no_part_in_the_target_either(name: str) -> None:
    given = random_latents()
    objective = build(name, on="target")
    assert objective(fresh(given, still=torch.ones(3, dtype=torch.bool))) is None
    one_out = value_of(objective, fresh(given, still=torch.tensor([False, True, False])))
    keep = torch.tensor([0, 2])
    tensors = ("student", "visible", "target", "predicted", "masked", "clip")
    without = value_of(objective, fresh(given, **{k: getattr(given, k)[keep] for k in tensors}))
    assert torch.allclose(one_out, without)


@pytest.mark.parametrize("name", ["hard_region", "delta", "spectral", "static_appearance", "velocity_gate"])
def test_zero_at_equality(name: str) -> None:
    given = random_latents()
    h = given.target if name in ("hard_region", "delta", "spectral") else given.target[:, :1].expand_as(given.target)
    index = given.masked.unsqueeze(-1).expand(-1, -1, D)
    same = fresh(given, student=h, target=h, predicted=h.flatten(1, 3).gather(1, index))
    assert value_of(build(name), same).item() == 0.0


@pytest.mark.parametrize("name", [n for n in LOSSES if n.startswith("kinematic")])
@pytest.mark.parametrize("on", ["student", "target"])
def test_kinematic_zero_at_rest_and_at_constant_speed(name: str, on: str) -> None:
    given = random_latents()
    place = given.target[:, :1].detach().round(decimals=1)
    drift = torch.arange(4.0).reshape(1, 4, 1, 1, 1)
    rest, moving = place.expand_as(given.target), (place * 8).round() + drift
    objective = build(name, on=on)
    assert value_of(objective, fresh(given, student=rest, target=rest)).item() == 0.0
    constant = value_of(objective, fresh(given, student=moving, target=moving)).item()
    assert (constant == 0.0) == (name in ("kinematic_acceleration", "kinematic_split"))


def test_acceleration_without_three_in_a_row_is_none() -> None:
    given = random_latents()
    alternating = torch.zeros_like(given.visible)
    alternating[:, :2] = True
    assert build("kinematic_acceleration")(fresh(given, visible=alternating)) is None
    assert build("kinematic_velocity")(fresh(given, visible=alternating)) is not None


# --- single ones ---


@pytest.mark.parametrize("name", [n for n in LOSSES if "head" in RECORDS[n].needs])
def test_heads_load_with_and_without_prefix(name: str) -> None:
    source, a, b = build(name), create(name, channels=D), create(name, channels=D)
    assert [type(m) for m in source.head][:3] == [nn.Linear, nn.GELU, nn.Linear]  # type: ignore[union-attr]
    a.load_state_dict({k.removeprefix("head."): v for k, v in source.state_dict().items()})
    b.load_state_dict(source.state_dict())
    mix = nn.ModuleDict({name: create(name, channels=D)})
    mix.load_state_dict({f"{name}.{k}": v for k, v in source.state_dict().items()})
    for other in (a, b, mix[name]):
        for p, q in zip(source.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)
    with pytest.raises(RuntimeError, match="Missing key"):
        a.load_state_dict({"0.weight": source.state_dict()["head.0.weight"]})


@pytest.mark.parametrize("name", ["action", "factorized_action"])
def test_action_terms_refuse_a_missing_or_wrong_clip(name: str) -> None:
    given = random_latents()
    with pytest.raises(ValueError, match="need the clip"):
        build(name)(fresh(given, clip=None))
    with pytest.raises(ValueError, match="expected for this token grid"):
        build(name)(fresh(given, patch=4))


def test_hard_weighting_leaves_the_weights_out_of_the_gradient() -> None:
    given = random_latents()
    objective = build("hard_region", tau=0.05)
    value_of(objective, given).backward()
    error = given.masked_error.detach().mean(-1)
    weight = error.shape[1] * torch.softmax(error / 0.05, dim=-1)
    expected = (weight / error.numel())[..., None].expand(-1, -1, D) / D
    assert given.predicted.grad is not None
    torch.testing.assert_close(given.predicted.grad.abs(), expected)


def test_cross_covariance_of_independent_parts_is_small_and_of_copies_large() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(20_000, 4, generator=g), torch.randn(20_000, 4, generator=g)
    assert cross_covariance(a, b).abs().max() < 0.05
    torch.testing.assert_close(cross_covariance(a, a), torch.cov(a.T), rtol=1e-4, atol=1e-5)


def test_sigreg_tells_a_gaussian_from_others() -> None:
    x = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    gaussian, wide, collapsed = (epps_pulley(v).item() for v in (x, 3 * x, torch.zeros_like(x)))
    assert gaussian < 1e-3 < 0.1 < wide
    assert collapsed > 0.1


def test_sigreg_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(11, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = []
    for cached in (1, 22, 10**6):
        monkeypatch.setattr(sigreg, "CACHED", cached)
        value = epps_pulley(x)
        found.append((value.detach(), *torch.autograd.grad(value.square().sum(), x)))
    for other in found[:-1]:
        torch.testing.assert_close(other, found[-1])


def test_sigreg_gradient() -> None:
    x = torch.randn(11, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: epps_pulley(v, 5, 2.0), (x,))


def test_sigreg_directions_repeat_from_a_seed_and_go_on_after_a_resume() -> None:
    given = random_latents()

    def training_value(objective: Objective) -> float:
        value = objective(given)
        assert value is not None
        return value.item()

    def three() -> tuple[SIGReg, list[float]]:
        torch.manual_seed(3)
        objective = create("sigreg", channels=D, slices=8)
        return objective, [training_value(objective) for _ in range(3)]

    first, values = three()
    _, again = three()
    assert values == again
    assert len(set(values)) == 3
    torch.manual_seed(99)
    resumed = create("sigreg", channels=D, slices=8)
    resumed.load_state_dict(first.state_dict())
    assert training_value(resumed) == training_value(first)
    assert training_value(first.eval()) == training_value(first)  # evaluation does not count


def test_hamiltonian_under_no_grad_of_features_without_gradient() -> None:
    given = random_latents()
    plain = fresh(given, student=given.student.detach(), target=given.target.detach())
    objective = build("hamiltonian")
    with torch.no_grad():
        value = value_of(objective, plain)
    trained = value_of(objective, plain)
    torch.testing.assert_close(value, trained.detach())
    trained.backward()
    assert all(p.grad is not None for p in list(objective.parameters())[:-1])


def test_directions_of_neighbouring_seeds_and_of_calls_are_all_their_own() -> None:
    drawn = []
    for seed in (7, 8, 9):
        torch.manual_seed(seed)
        objective = SIGReg(D, slices=4)
        for _ in range(3):
            drawn.append(objective.directions(D, torch.device("cpu")))
            objective(random_latents())
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
