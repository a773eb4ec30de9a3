"""Every loss against values and gradients recorded from the published loss code (tests/reference)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from equipoise.models.geometry import TokenGrid
from equipoise.models.losses import context_loss, prediction_loss
from equipoise.models.objectives import Latents, Objective, create
from equipoise.models.objectives.action import token_colour

REFERENCE = Path(__file__).parents[1] / "reference"
GRID = TokenGrid(4, 4, 4, patch=4, tubelet=2)
D = 24
CASES = ("c0", "c1")


def load(name: str) -> dict[str, Tensor]:
    with np.load(REFERENCE / f"{name}.npz", allow_pickle=False) as data:
        return {k: torch.from_numpy(np.array(data[k])) for k in data.files if k != "meta"}


def leaf(data: Mapping[str, Tensor], key: str) -> Tensor:
    return data[key].clone().requires_grad_()


def check(loss: Tensor, expected: Tensor, gradients: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-5, atol=0)
    loss.backward()
    for name, (x, recorded) in gradients.items():
        assert x.grad is not None, name
        torch.testing.assert_close(x.grad, recorded, rtol=1e-4, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")  # type: ignore[misc]


def latents(data: Mapping[str, Tensor], case: str, i: int, leaves: Mapping[str, Tensor]) -> Latents:
    """The latents of mask i; what a file does not hold is filled with zeros, which the term does not read."""
    student = torch.zeros(2, *GRID.shape, D)
    visible = torch.zeros(2, *GRID.shape, dtype=torch.bool)
    if f"z_enc_{i}" in leaves:
        index = data[f"{case}_masks_enc_{i}"]
        student, visible = GRID.scatter(leaves[f"z_enc_{i}"], index), GRID.visible(index)
    masked = data.get(f"{case}_masks_pred_{i}", torch.zeros(2, 0, dtype=torch.int64))
    return Latents(
        student=student,
        visible=visible,
        target=data.get(f"{case}_h", torch.zeros(2, 64, D)).reshape(2, *GRID.shape, D),
        predicted=leaves.get(f"z_pred_{i}", torch.zeros(2, masked.shape[1], D)),
        masked=masked,
        clip=data.get(f"{case}_clip"),
        patch=4,
        tubelet=2,
    )


def run(file: str, case: str, run_name: str, objective: Objective, leaf_name: str, head: str = "") -> None:
    data = load(file)
    if head:
        weights = {k.removeprefix(head + "."): v for k, v in data.items() if k.startswith(head + ".")}
        objective.load_state_dict(weights)
    leaves = {f"{leaf_name}_{i}": leaf(data, f"{case}_{leaf_name}_{i}") for i in range(2)}
    terms = [objective(latents(data, case, i, leaves)) for i in range(2)]
    loss = torch.stack([t for t in terms if t is not None]).mean()
    gradients = {k: (x, data[f"{case}_{run_name}_grad_{k}"]) for k, x in leaves.items()}
    if head:
        for k, p in objective.named_parameters():
            gradients[k] = (p, data[f"{case}_{run_name}_grad_{head}_{k.removeprefix('head.')}"])
    check(loss, data[f"{case}_{run_name}_loss"], gradients)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("file", "run_name", "name", "params", "leaf_name", "head"),
    [
        ("hw", "t1", "hard_region", {}, "z_pred", ""),
        ("hw", "t01", "hard_region", {"tau": 0.1}, "z_pred", ""),
        ("fwm_static", "r05", "static_appearance", {"split": "levels"}, "z_enc", ""),
        ("fwm_static", "r03", "static_appearance", {"split": "levels", "app_ratio": 0.3}, "z_enc", ""),
        ("delta", "d", "delta", {}, "z_enc", ""),
        ("ld", "ld", "latent_dynamics", {"hidden": 16}, "z_enc", "dyn_head"),
        ("ac", "ac", "action", {"hidden": 16}, "z_enc", "action_head"),
    ],
)
def test_recorded(
    case: str, file: str, run_name: str, name: str, params: dict[str, Any], leaf_name: str, head: str
) -> None:
    run(file, case, run_name, create(name, channels=D, **params), leaf_name, head)


@pytest.mark.parametrize("case", CASES)
def test_action_target(case: str) -> None:
    data = load("ac")
    colour = token_colour(latents(data, case, 0, {}))
    torch.testing.assert_close(colour.diff(dim=1), data[f"{case}_target_action"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("run_name", "power"), [("exp1", 1.0), ("exp2", 2.0)])
def test_prediction_loss(case: str, run_name: str, power: float) -> None:
    data = load("jepa")
    leaves = [leaf(data, f"{case}_z_pred_{i}") for i in range(2)]
    index = [data[f"{case}_masks_pred_{i}"].unsqueeze(-1).expand(-1, -1, D) for i in range(2)]
    terms = [prediction_loss(x, data[f"{case}_h"].gather(1, k), power) for x, k in zip(leaves, index, strict=True)]
    gradients = {f"z_pred_{i}": (x, data[f"{case}_{run_name}_grad_z_pred_{i}"]) for i, x in enumerate(leaves)}
    check(torch.stack(terms).mean(), data[f"{case}_{run_name}_loss"], gradients)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("run_name", "weighted"), [("w", True), ("now", False), ("w_it22500", True)])
def test_context_loss(case: str, run_name: str, weighted: bool) -> None:
    data = load("context")
    leaves = [leaf(data, f"{case}_z_context_{i}") for i in range(2)]
    target = data[f"{case}_h"].reshape(2, *GRID.shape, D)
    terms = [
        context_loss(x, target, data[f"{case}_masks_enc_{i}"], data[f"{case}_masks_pred_{i}"], GRID, weighted)
        for i, x in enumerate(leaves)
    ]
    gradients = {f"z_context_{i}": (x, data[f"{case}_{run_name}_grad_z_context_{i}"]) for i, x in enumerate(leaves)}
    check(torch.stack(terms).mean(), data[f"{case}_{run_name}_loss"], gradients)


KINEMATIC: dict[str, Callable[[], Objective]] = {
    "l1": lambda: create("kinematic_velocity", channels=D, on="target"),
    "huber": lambda: create("kinematic_huber", channels=D, on="target"),
    "accel": lambda: create("kinematic_acceleration", channels=D, on="target"),
    "split": lambda: create("kinematic_split", channels=D, on="target"),
}


def normalised(raw: Tensor) -> Tensor:
    """Layer norm of each of four levels, without affine parameters."""
    levels = raw.reshape(2, 64, 4, 6)
    return torch.nn.functional.layer_norm(levels, (6,), eps=1e-5).reshape(2, *GRID.shape, D)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("run_name", [*KINEMATIC, "l1_ema"])
def test_kinematic(case: str, run_name: str) -> None:
    data = load("kinematic")
    raw = leaf(data, f"{case}_h_raw")
    h = normalised(raw)
    if run_name == "l1_ema":
        h = h.detach()
    none = torch.zeros(2, *GRID.shape, D), torch.zeros(2, *GRID.shape, dtype=torch.bool)
    given = Latents(*none, h, torch.zeros(2, 0, D), torch.zeros(2, 0, dtype=torch.int64))
    loss = KINEMATIC[run_name.removesuffix("_ema")]()(given)
    assert loss is not None
    if run_name == "l1_ema":
        torch.testing.assert_close(loss, data[f"{case}_{run_name}_loss"], rtol=1e-5, atol=0)
        assert not loss.requires_grad
    else:
        check(loss, data[f"{case}_{run_name}_loss"], {"h_raw": (raw, data[f"{case}_{run_name}_grad_h_raw"])})


@pytest.mark.parametrize("case", CASES)
def test_kinematic_velocity_on_leading_channels(case: str) -> None:
    """The recorded run ``split03`` is the velocity on the first 30 % of the channels."""
    data = load("kinematic")
    raw = leaf(data, f"{case}_h_raw")
    objective = create("kinematic_velocity", channels=D, on="target")
    objective.used = int(D * 0.3)
    none = torch.zeros(2, *GRID.shape, D), torch.zeros(2, *GRID.shape, dtype=torch.bool)
    loss = objective(Latents(*none, normalised(raw), torch.zeros(2, 0, D), torch.zeros(2, 0, dtype=torch.int64)))
    check(loss, data[f"{case}_split03_loss"], {"h_raw": (raw, data[f"{case}_split03_grad_h_raw"])})
