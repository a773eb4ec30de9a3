"""What every objective promises, as a function: Equipoise runs it on its own, a plug-in's tests run it on theirs.

    from equipoise.testing import check_objective

    def test_contract() -> None:
        check_objective(record)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from equipoise.models.geometry import TokenGrid
from equipoise.models.masking import MaskSampler
from equipoise.models.objectives import Latents, Objective, ObjectiveRecord

CHANNELS = 16
GRID = TokenGrid(4, 4, 3, patch=2, tubelet=2)
STILL = TokenGrid(1, 4, 3, patch=2, tubelet=1)


def random_latents(seed: int = 0, batch: int = 3, grid: TokenGrid = GRID, **changes: Any) -> Latents:
    """Random latents of ``CHANNELS`` channels on a drawn mask; every float tensor is a leaf with gradient.

    Args:
        seed: of all of it.
        batch: clips.
        grid: of tokens.
        changes: fields to replace.
    """
    g = torch.Generator().manual_seed(seed)
    mask = MaskSampler(grid).sample(batch, g)[0]

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g).requires_grad_()

    values: dict[str, Any] = {
        "student": leaf(batch, *grid.shape, CHANNELS),
        "visible": grid.visible(mask.visible),
        "target": leaf(batch, *grid.shape, CHANNELS),
        "predicted": leaf(*mask.masked.shape, CHANNELS),
        "masked": mask.masked,
        "clip": leaf(batch, 3, grid.time * grid.tubelet, grid.height * grid.patch, grid.width * grid.patch),
        "patch": grid.patch,
        "tubelet": grid.tubelet,
    }
    return Latents(**{**values, **changes})


def check_objective(record: ObjectiveRecord, *, fixed: tuple[str, ...] = (), **params: Any) -> None:
    """Check that a loss keeps what training and the audit rely on, on small random latents.

    It is one finite number in single precision. Features of hidden tokens change nothing, and get no gradient. It reads
    what the record ``needs`` and nothing else, and its gradient reaches what the record ``moves``. It is None where
    nothing is visible. Where it has no meaning in a single time slot, still clips take no part in it. A pass without
    gradient leaves the next one its gradient, and under autocast its value is the same to 5 %.

    Args:
        record: of the objective.
        fixed: parameters of its head that no gradient can reach, by name, such as an additive constant.
        params: of the objective, where the defaults do not fit ``CHANNELS`` channels or are slow.

    Raises:
        AssertionError: the first promise that is not kept, in a sentence.
    """
    torch.manual_seed(7)
    objective: Objective = record.factory(CHANNELS, **params)
    objective.eval()
    for promise in (_is_a_number, _leaves_hidden_tokens_out, _reads, _is_none_of_nothing, _leaves_still_clips_out):
        promise(record, objective)
    _moves(record, objective, fixed)
    _keeps_the_gradient(record, objective)
    _works_in_half_precision(record, objective)


def _value(record: ObjectiveRecord, objective: Objective, given: Latents) -> Tensor:
    value = objective(given)
    assert value is not None, f"{record.name} is None on clips of four time slots with visible tokens"
    return value


def _is_a_number(record: ObjectiveRecord, objective: Objective) -> None:
    value = _value(record, objective, random_latents())
    assert value.shape == (), f"{record.name} has the shape {tuple(value.shape)}; a loss is one number"
    assert value.dtype == torch.float32, f"{record.name} is of {value.dtype}; expected torch.float32"
    assert torch.isfinite(value), f"{record.name} is {value.item()} on random features"
    assert value.requires_grad, f"{record.name} carries no gradient: it is detached from everything that it reads"
    given = random_latents()
    hosted = dataclasses.replace(given, visible_host=given.visible.clone())
    assert torch.equal(_value(record, objective, hosted), value), (
        f"{record.name} differs where visible_host says on the CPU which tokens are visible"
    )


def _leaves_hidden_tokens_out(record: ObjectiveRecord, objective: Objective) -> None:
    given = random_latents()
    noise = torch.full_like(given.student, torch.nan)
    noisy = torch.where(given.visible.unsqueeze(-1), given.student, noise).detach().requires_grad_()
    value = _value(record, objective, dataclasses.replace(given, student=noisy))
    assert torch.equal(value, _value(record, objective, given)), (
        f"{record.name} depends on the student's features of hidden tokens, which the encoder never computes"
    )
    gradient = torch.autograd.grad(value, noisy, allow_unused=True)[0]
    assert gradient is None or not gradient[~given.visible].any(), (
        f"{record.name} sends a gradient to features of hidden tokens"
    )


def _reads(record: ObjectiveRecord, objective: Objective) -> None:
    given = random_latents()
    value = _value(record, objective, given)
    changes: dict[str, dict[str, Any]] = {
        "teacher": {"target": given.target.detach().flip(1) * 2},
        "predictor": {"predicted": given.predicted.detach() * 2},
        "clip": {"clip": given.clip.detach().flip(2) * 2 if given.clip is not None else None},
    }
    for need, change in changes.items():
        changed = not torch.equal(value, _value(record, objective, dataclasses.replace(given, **change)))
        says = "needs" if need in record.needs else "does not need"
        assert changed == (need in record.needs), (
            f"{record.name} {'changes' if changed else 'does not change'} with the {need}; its record says it {says} it"
        )


def _is_none_of_nothing(record: ObjectiveRecord, objective: Objective) -> None:
    given = random_latents()
    empty = dataclasses.replace(
        given,
        visible=torch.zeros_like(given.visible),
        masked=given.masked[:, :0],
        predicted=given.predicted[:, :0],
    )
    assert objective(empty) is None, f"{record.name} has a value where no token is visible or masked; expected None"


def _leaves_still_clips_out(record: ObjectiveRecord, objective: Objective) -> None:
    temporal = objective(random_latents(grid=STILL)) is None
    given = random_latents()
    all_still = objective(dataclasses.replace(given, still=torch.ones(3, dtype=torch.bool)))
    assert (all_still is None) == temporal, (
        f"{record.name} is {'None' if temporal else 'a number'} in a single time slot, and with still clips alone it "
        f"is {'None' if all_still is None else 'a number'}: what has no meaning in one slot has none for still clips"
    )
    one_out = _value(record, objective, dataclasses.replace(given, still=torch.tensor([False, True, False])))
    keep = torch.tensor([0, 2])
    tensors = ("student", "visible", "target", "predicted", "masked", "clip")
    without = _value(record, objective, dataclasses.replace(given, **{k: getattr(given, k)[keep] for k in tensors}))
    assert torch.allclose(one_out, without) == temporal, (
        f"{record.name} {'counts' if temporal else 'leaves out'} a clip that is marked as still"
    )


def _moves(record: ObjectiveRecord, objective: Objective, fixed: tuple[str, ...]) -> None:
    given = random_latents()
    _value(record, objective, given).backward()
    # A loss of the predictor's output reaches the encoder through the predictor.
    what = "predicted" if "predictor" in record.moves else "student"
    gradient = getattr(given, what).grad
    reaches = gradient is not None and bool(gradient.abs().sum() > 0)
    assert reaches == ("encoder" in record.moves), (
        f"{record.name}: a gradient {'arrives' if reaches else 'does not arrive'} at the {what} features, and its "
        f"record says it moves {', '.join(record.moves)}"
    )
    head = dict(objective.named_parameters())
    assert bool(head) == ("head" in record.moves) == ("head" in record.needs), (
        f"{record.name} has {'a' if head else 'no'} head of its own; its record says it needs "
        f"{', '.join(record.needs) or 'nothing'} and moves {', '.join(record.moves)}"
    )
    idle = [name for name, p in head.items() if name not in fixed and (p.grad is None or not p.grad.abs().sum() > 0)]
    assert not idle, f"{record.name}: no gradient arrives at {', '.join(idle)} of its head"
    objective.zero_grad()


def _keeps_the_gradient(record: ObjectiveRecord, objective: Objective) -> None:
    given = random_latents()
    with torch.no_grad():
        first = _value(record, objective, given)
    again = _value(record, objective, given)
    assert not first.requires_grad, f"{record.name} carries a gradient where none is wanted"
    assert again.requires_grad, f"{record.name} carries no gradient after a pass without one: something is kept detached"
    assert torch.allclose(first, again.detach()), f"{record.name} differs between two passes over the same features"


def _works_in_half_precision(record: ObjectiveRecord, objective: Objective) -> None:
    given = random_latents()
    exact = _value(record, objective, given).item()
    half = dataclasses.replace(given, student=given.student.detach().bfloat16().requires_grad_())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = _value(record, objective, half)
    assert value.dtype == torch.float32, f"{record.name} is of {value.dtype} under autocast; expected torch.float32"
    assert abs(value.item() - exact) <= 0.05 * abs(exact), (
        f"{record.name} is {value.item():.4g} under autocast with features in bfloat16, {exact:.4g} without"
    )
