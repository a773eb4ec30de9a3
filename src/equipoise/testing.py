"""What every objective and every encoder promises: Equipoise runs it on its own, a plug-in's tests run it on theirs.

    from equipoise.testing import check_encoder, check_mask_policy, check_objective

    def test_objective() -> None:
        check_objective(record)

    def test_encoder() -> None:
        check_encoder(EncoderConfig(name="mine", width=24, depth=2, heads=2, patch=4, levels=2))
"""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from equipoise.models.encoders import Encoder, EncoderConfig, create_encoder
from equipoise.models.geometry import TokenGrid
from equipoise.models.jepa import Part, values_together
from equipoise.models.masking import MaskSampler
from equipoise.models.objectives import Latents, Objective, ObjectiveRecord
from equipoise.models.workers import Workers

Out = TypeVar("Out")
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


class _Meeting:
    """Two workers that are threads of this process; as each of them sees the other."""

    world = 2

    def __init__(self, rank: int, place: list[Tensor | None], barrier: threading.Barrier) -> None:
        self.rank, self.place, self.barrier = rank, place, barrier

    def _met(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        self.place[self.rank] = tensor.clone()
        self.barrier.wait()
        one, other = self.place
        self.barrier.wait()
        assert one is not None
        assert other is not None
        if one.shape != other.shape:  # they met at different sums
            raise threading.BrokenBarrierError
        return one, other

    def sum(self, tensor: Tensor) -> Tensor:
        one, other = self._met(tensor)
        return tensor.copy_(one + other)

    def largest(self, tensor: Tensor) -> Tensor:
        one, other = self._met(tensor)
        return tensor.copy_(torch.maximum(one, other))


def two_workers(compute: Callable[[Workers, slice], Out], rows: tuple[slice, slice]) -> list[Out]:
    """What two workers that share a batch compute, each of its rows; they meet wherever they add up.

    Raises:
        AssertionError: one waits for a sum to which the other adds nothing.
    """
    place: list[Tensor | None] = [None, None]
    barrier = threading.Barrier(2, timeout=60)

    def run(rank: int) -> Out:
        try:
            return compute(_Meeting(rank, place, barrier), rows[rank])
        except threading.BrokenBarrierError:
            raise AssertionError(
                "a worker waits for a sum to which the other adds nothing: latents.lacks(), and no count of one "
                "worker's rows, says whether a term that adds up over the workers is None"
            ) from None
        except Exception:
            barrier.abort()
            raise

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, range(2)))


def check_objective(record: ObjectiveRecord, *, fixed: tuple[str, ...] = (), **params: Any) -> None:
    """Check that a loss keeps what training and the audit rely on, on small random latents.

    It is one finite number in single precision. Features of hidden tokens change nothing, and get no gradient. It reads
    what the record ``needs`` and nothing else, and its gradient reaches what the record ``moves``. It is None where
    nothing is visible. Where it has no meaning in a single time slot, still clips take no part in it. Workers that share
    the batch get its value and its gradient. A pass without gradient leaves the next one its gradient, and under
    autocast its value is the same to 5 %.

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
    for promise in (
        _is_a_number,
        _leaves_hidden_tokens_out,
        _reads,
        _is_none_of_nothing,
        _leaves_still_clips_out,
        _adds_up_over_workers,
    ):
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


def _adds_up_over_workers(record: ObjectiveRecord, objective: Objective) -> None:
    for still in (None, torch.tensor([False, False, True])):  # the second worker may have nothing that counts
        given = random_latents(still=still)
        read = [x for x in (given.student, given.target, given.predicted) if x.requires_grad]
        alone = _value(record, objective, given)
        wanted = torch.autograd.grad(alone, read, allow_unused=True)

        def of_worker(workers: Workers, rows: slice, given: Latents = given) -> tuple[Tensor, list[Tensor | None]]:
            tensors = ("student", "visible", "target", "predicted", "masked", "clip", "still")
            part: dict[str, Any] = {k: x if (x := getattr(given, k)) is None else x[rows] for k in tensors}
            mine = dataclasses.replace(given, **part, workers=workers)
            value = objective(mine)
            parts: dict[str, list[Part]] = {
                "there": [(given.student.sum() * 0, 1)],
                record.name: [(value, 0 if value is None else objective.elements(mine))],
            }
            together, _ = values_together([rows.stop - rows.start], [parts], workers)[record.name]
            inputs = [x for x in (given.student, given.target, given.predicted) if x.requires_grad]
            return together, list(torch.autograd.grad(together, inputs, allow_unused=True))

        both = two_workers(of_worker, (slice(0, 2), slice(2, 3)))
        for value, _ in both:
            assert torch.allclose(value, alone, rtol=1e-4, atol=1e-6), (
                f"{record.name} is {value.item():.6g} where two workers share the batch, {alone.item():.6g} where one has "
                "it: its mean runs over the pairs, or its elements() says over how many things it does; what is no mean "
                "adds up by latents.total(), and its elements() is None"
            )
        for one, other, expected in zip(both[0][1], both[1][1], wanted, strict=True):
            averaged = sum(g for g in (one, other) if g is not None) / 2
            assert expected is None or torch.allclose(torch.as_tensor(averaged), expected, rtol=1e-3, atol=1e-6), (
                f"{record.name} sends another gradient where two workers share the batch: where the value is of the "
                "whole batch its elements() is None, and a total that enters another total is detached"
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


def check_mask_policy(record: ObjectiveRecord, **params: Any) -> None:
    """Check that a mask policy keeps what drawing masks relies on, on a small grid.

    Where a block's first corner lies is a distribution of each clip: the places that there are, none negative, the sum
    one. It is the same for the same motion, of each clip by itself. It is not uniform for every motion and block,
    which no policy would be needed for.

    Args:
        record: of the policy.
        params: of the policy, where the defaults do not fit.

    Raises:
        AssertionError: the first promise that is not kept, in a sentence.
    """
    policy, grid = record.factory(**params), TokenGrid(3, 6, 5, patch=4, tubelet=2)
    motion = torch.rand(4, *grid.shape, generator=torch.Generator().manual_seed(7))
    placed = False
    for block in ((3, 1, 1), (3, 2, 3), (3, 5, 4)):
        places = tuple(n - size + 1 for n, size in zip(grid.shape, block, strict=True))
        found = policy.origin_probabilities(motion, block)
        assert found.shape == (4, *places), (
            f"{record.name}: probabilities are {tuple(found.shape)} for a block of {block}; expected {(4, *places)}"
        )
        assert bool((found >= 0).all()), f"{record.name}: a probability is negative"
        sums = found.flatten(1).sum(1).double()
        assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5), (
            f"{record.name}: probabilities of a clip sum to {float(sums[0]):.4g}; expected 1"
        )
        assert torch.equal(found, policy.origin_probabilities(motion, block)), f"{record.name} places by chance"
        alone = policy.origin_probabilities(motion[:1], block)
        assert _close(alone.double(), found[:1].double()), f"{record.name}: a clip's places depend on other clips"
        placed |= not _close(found.double(), torch.full_like(found.double(), 1 / found[0].numel()))
    assert placed, f"{record.name} places every block anywhere with the same probability, as no policy does"


def check_encoder(config: EncoderConfig, *, time: int = 2, side: int = 2) -> None:
    """Check that an encoder keeps what training, objectives and evaluation rely on, on small random clips.

    Its features have the shapes that its configuration says, of videos and of images, of all tokens and of any subset.
    It never reads a hidden patch, knows a token by its index and not by its place in the row, and treats every clip
    of a batch by itself. The deepest level alone is the last of all levels. A gradient arrives at every parameter.
    Its ``blocks`` are its own, and a copy of it computes the same.

    Args:
        config: small: the check builds it twice.
        time: time slots of the grid.
        side: rows and columns of the grid.

    Raises:
        AssertionError: the first promise that is not kept, in a sentence.
    """
    torch.manual_seed(7)
    encoder = create_encoder(config, TokenGrid(time, side, side, patch=config.patch, tubelet=config.tubelet)).eval()
    assert isinstance(encoder, Encoder), f"{config.name} builds {type(encoder).__name__}; expected an Encoder"
    with torch.no_grad():
        for p in encoder.parameters():  # nothing hides behind a zero or a one that it starts with
            p.add_(torch.randn_like(p) * 0.05)
    pixels = side * config.patch
    video, image = (torch.randn(3, 3, frames, pixels, pixels) for frames in (time * config.tubelet, 1))
    loss = torch.zeros(())
    for clip in (video, image):
        _encodes(encoder, clip)
        patches, kind = encoder.patches(clip)
        loss = loss + encoder(patches, kind).square().mean()
    loss.backward()
    idle = [name for name, p in encoder.named_parameters() if p.grad is None]
    assert not idle, f"{config.name}: no gradient arrives at {', '.join(idle[:5])} from videos and images"
    own = {id(module) for module in encoder.modules()}
    blocks = list(encoder.blocks)
    assert blocks and all(id(block) in own for block in blocks), f"{config.name}: its blocks are not its own modules"


@torch.no_grad()
def _encodes(encoder: Encoder, clip: Tensor) -> None:
    c = encoder.config
    patches, kind = encoder.patches(clip)
    tokens = encoder.grid.count if kind == "video" else encoder.grid.height * encoder.grid.width
    whole, last = encoder(patches, kind), encoder(patches, kind, last_only=True)
    for features, width in ((whole, c.channels), (last, c.width)):
        assert features.shape == (len(clip), tokens, width), (
            f"{c.name}: features of a {kind} are {tuple(features.shape)}; expected {(len(clip), tokens, width)}"
        )
    assert _close(whole[..., -c.width :], last), f"{c.name}: last_only is not the last level of a {kind}"
    order = torch.stack([torch.randperm(tokens) for _ in clip])
    shuffled = encoder(patches, kind, order)
    assert _close(shuffled, _rows(whole, order)), f"{c.name}: a token's features depend on its place in the index"
    some = order[:, : max(tokens // 2, 1)]
    hidden = torch.ones(len(clip), tokens, dtype=torch.bool).scatter(1, some, False)
    seen = encoder(patches, kind, some)
    assert seen.isfinite().all(), f"{c.name}: features of a {kind} are not finite"
    without = patches.masked_fill(hidden.unsqueeze(-1), torch.nan)
    assert torch.equal(encoder(without, kind, some), seen), f"{c.name} reads patches of a {kind} that are hidden"
    assert _close(encoder(patches[:1], kind, some[:1]), seen[:1]), f"{c.name}: a clip's features depend on other clips"
    assert torch.equal(copy.deepcopy(encoder)(patches, kind, some), seen), f"{c.name}: a copy computes something else"
    changed = patches.clone()
    changed[:, -1] += 1
    assert not _close(encoder(changed, kind), whole), f"{c.name} does not read the last patch of a {kind}"


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def _rows(features: Tensor, index: Tensor) -> Tensor:
    return features.gather(1, index.unsqueeze(-1).expand(-1, -1, features.shape[-1]))
