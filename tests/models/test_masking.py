from __future__ import annotations

import math
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equipoise.models.geometry import TokenGrid
from equipoise.models.masking import (
    BlockSpec,
    FuturePredictive,
    Mask,
    MaskConfig,
    MaskSampler,
    MotionGuided,
    motion_map,
)

REFERENCE = Path(__file__).parents[1] / "reference"
CUTS: tuple[Literal["random", "tail"], ...] = ("random", "tail")
GRIDS = {"14x14x8": TokenGrid(8, 14, 14), "8x8x4": TokenGrid(4, 8, 8)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def statistics(mask: Mask, grid: TokenGrid) -> dict[str, list[int]]:
    """Counts of every sample, as the recorded file names them."""
    visible = grid.visible(mask.visible)
    return {
        "K_enc": visible.flatten(1).sum(1).tolist(),
        "K_pred": grid.visible(mask.masked).flatten(1).sum(1).tolist(),
        "full_tubes": visible.all(1).flatten(1).sum(1).tolist(),
        "valid_pairs": (visible[:, 1:] & visible[:, :-1]).flatten(1).sum(1).tolist(),
        "last_frame_ctx": visible[:, -1].flatten(1).sum(1).tolist(),
    }


@cache
def drawn(policy: str, size: str, batch: int) -> list[dict[str, list[int]]]:
    """Statistics of 800 batches of each mask, rows cut as in the published code."""
    future = FuturePredictive() if policy == "future" else None
    sampler = MaskSampler(GRIDS[size], MaskConfig(cut="tail"), future_predictive=future)
    g = generator(1)
    found: list[dict[str, list[int]]] = [{}, {}]
    for _ in range(800):
        for one, mask in zip(found, sampler.sample(batch, g), strict=True):
            for k, v in statistics(mask, GRIDS[size]).items():
                # One number a batch: its samples share the block size, and so are not independent.
                one.setdefault(k, []).append(sum(v) / len(v))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("mask", [0, 1])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("size", list(GRIDS))
@pytest.mark.parametrize("policy", ["default", "future"])
def test_recorded_statistics(policy: str, size: str, batch: int, mask: int) -> None:
    """Means agree within 4 standard errors of the difference (5 quantities, 16 settings: 0.5 % to fail by chance)."""
    with np.load(REFERENCE / "mask_stats.npz", allow_pickle=False) as data:
        for name, ours in drawn(policy, size, batch)[mask].items():
            recorded = data[f"{policy}_{size}_bs{batch}_mask{mask}_{name}"].reshape(-1, batch).mean(1)
            error = math.sqrt(np.var(recorded) / len(recorded) + np.var(ours) / len(ours))
            assert abs(np.mean(ours) - recorded.mean()) <= 4 * error + 1e-9, name


@pytest.mark.parametrize("size", list(GRIDS))
@pytest.mark.parametrize("mask", [0, 1])
def test_recorded_block_sizes(size: str, mask: int) -> None:
    with np.load(REFERENCE / "mask_stats.npz", allow_pickle=False) as data:
        recorded = Counter(tuple(r[1:]) for r in data[f"block_size_{size}_mask{mask}_by_counter"].tolist())
    sampler, g = MaskSampler(GRIDS[size]), generator(2)
    ours = Counter(sampler._block_size(sampler.config.blocks[mask], g, whole_frame=False) for _ in range(4000))
    assert set(recorded) <= set(ours)
    for block, count in ours.items():
        p = count / 4000
        assert abs(recorded[block] - 64 * p) <= 4 * math.sqrt(64 * p * (1 - p)) + 1, block


# --- sets ---

grids = st.builds(TokenGrid, st.integers(1, 5), st.integers(3, 6), st.integers(3, 6))


@settings(max_examples=60, deadline=None)
@given(
    grid=grids,
    batch=st.integers(1, 5),
    seed=st.integers(0, 2**31),
    cut=st.sampled_from(["random", "tail"]),
    guided=st.booleans(),
    future=st.booleans(),
)
def test_sets_are_sorted_disjoint_and_never_empty(
    grid: TokenGrid, batch: int, seed: int, cut: Any, guided: bool, future: bool
) -> None:
    sampler = MaskSampler(
        grid,
        MaskConfig(cut=cut),
        MotionGuided() if guided else None,
        FuturePredictive() if future else None,
    )
    motion = torch.rand(batch, *grid.shape, generator=generator(seed))
    masks = sampler.sample(batch, generator(seed), motion)
    assert len(masks) == 2
    for mask in masks:
        for index in (mask.visible, mask.masked):
            assert index.dtype == torch.int64
            assert index.shape[0] == batch
            assert index.shape[1] > 0
            assert (index.diff(dim=1) > 0).all()
            assert index.min() >= 0
            assert index.max() < grid.count
        assert not (grid.visible(mask.visible) & grid.visible(mask.masked)).any()
    again = sampler.sample(batch, generator(seed), motion)
    for a, b in zip(masks, again, strict=True):
        assert torch.equal(a.visible, b.visible)
        assert torch.equal(a.masked, b.masked)


def test_a_block_has_at_most_its_share_of_the_frame() -> None:
    """A share that is no whole number of tokens is rounded down: 0.7 of five are three, not four."""
    g = torch.Generator().manual_seed(0)
    tall = MaskSampler(TokenGrid(1, 5, 1), MaskConfig(blocks=(BlockSpec(1, 0.7),), aspect=(4.0, 4.0)))
    assert {int(mask.masked.shape[1]) for _ in range(5) for mask in tall.sample(1, g)} == {3}


def test_blocks_span_all_of_time_and_one_clip_is_not_cut() -> None:
    grid = GRIDS["8x8x4"]
    for mask in MaskSampler(grid).sample(1, generator()):
        visible = grid.visible(mask.visible)
        assert (visible == visible[:, :1]).all()
        assert mask.visible.shape[1] + mask.masked.shape[1] == grid.count


def test_rows_are_cut_to_the_shortest() -> None:
    """Under ``random`` no frame loses more than the others, under ``tail`` the last ones do."""
    grid = GRIDS["14x14x8"]
    per_frame = {}
    for cut in CUTS:
        sampler = MaskSampler(grid, MaskConfig(cut=cut))
        g = generator(5)
        visible = torch.cat([grid.visible(sampler.sample(8, g)[0].visible) for _ in range(60)])
        per_frame[cut] = visible.float().sum(dim=(2, 3)).mean(0)
    assert per_frame["random"].std() < 0.02 * per_frame["random"].mean()
    assert per_frame["tail"][-1] < 0.25 * per_frame["tail"][0]
    torch.testing.assert_close(per_frame["tail"].sum(), per_frame["random"].sum(), rtol=0.05, atol=0)


@pytest.mark.parametrize("cut", ["random", "tail"])
def test_future_predictive_shows_the_first_half_and_predicts_the_rest(cut: Any) -> None:
    grid = GRIDS["14x14x8"]
    for mask in MaskSampler(grid, MaskConfig(cut=cut), future_predictive=FuturePredictive()).sample(8, generator()):
        assert not grid.visible(mask.visible)[:, 4:].any()
        assert mask.visible.shape[1] + mask.masked.shape[1] == grid.count


def test_shares_mix_policies_within_a_batch() -> None:
    grid = GRIDS["8x8x4"]
    sampler = MaskSampler(grid, future_predictive=FuturePredictive(keep=0.25))
    share = torch.cat(
        [
            ~grid.visible(m[0].visible)[:, 1:].flatten(1).any(1)
            for m in (sampler.sample(16, generator(s), shares={"future_predictive": 0.25}) for s in range(40))
        ]
    )
    assert abs(share.float().mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 640)
    none = sampler.sample(16, generator(0), shares={"future_predictive": 0.0})
    assert grid.visible(none[0].visible)[:, -1].any()


@pytest.mark.parametrize(("time", "keep", "slots"), [(8, 0.5, 4), (4, 0.5, 2), (2, 0.5, 1), (4, 0.01, 1), (4, 0.99, 3)])
def test_future_slots(time: int, keep: float, slots: int) -> None:
    assert FuturePredictive(keep).slots(time) == slots


def test_a_still_image_of_one_slot() -> None:
    """Neither policy has a meaning there: masks are the ordinary ones, and no motion is asked for."""
    grid = TokenGrid(1, 4, 4, tubelet=1)
    plain = MaskSampler(grid).sample(6, generator(3))
    both = MaskSampler(grid, motion_guided=MotionGuided(), future_predictive=FuturePredictive())
    for a, b in zip(plain, both.sample(6, generator(3)), strict=True):
        assert torch.equal(a.visible, b.visible)
        assert torch.equal(a.masked, b.masked)


def test_never_empty_or_a_clear_error() -> None:
    """Two blocks of 3x4 cover a 4x4 frame half of the time: drawn again. A block of all of it is refused."""
    tiny = MaskSampler(TokenGrid(4, 4, 4), MaskConfig(blocks=(BlockSpec(count=2, area=0.7),)))
    assert all(m.visible.shape[1] > 0 for s in range(50) for m in tiny.sample(8, generator(s)))
    with pytest.raises(ValueError, match="covers all of it"):
        MaskSampler(TokenGrid(4, 1, 1)).sample(1, generator())
    crowded = MaskConfig(blocks=(BlockSpec(count=400, area=0.3),))
    with pytest.raises(ValueError, match=r"400 blocks of .* nothing visible in 100 draws; lower the block count"):
        MaskSampler(TokenGrid(4, 4, 4), crowded).sample(2, generator())


def test_settings_mistakes_are_named() -> None:
    for build, message in (
        (lambda: BlockSpec(count=0, area=0.1), "block count is 0"),
        (lambda: BlockSpec(count=1, area=1.0), "block area is 1.0"),
        (lambda: MaskConfig(blocks=()), "blocks is empty"),
        (lambda: MaskConfig(aspect=(1.5, 0.75)), "lowest <= highest"),
        (lambda: MaskConfig(cut="head"), "expected random or tail"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=message):
            build()
    grid = TokenGrid(2, 4, 4)
    sampler = MaskSampler(grid, motion_guided=MotionGuided())
    with pytest.raises(ValueError, match="need the motion of the clips"):
        sampler.sample(2, generator())
    with pytest.raises(ValueError, match=r"motion has shape \(1, 2, 4, 4\)"):
        sampler.sample(2, generator(), torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match="no such policy"):
        sampler.sample(2, generator(), shares={"future_predictive": 1.0})
    with pytest.raises(ValueError, match="expected a probability"):
        sampler.sample(2, generator(), shares={"motion_guided": 1.5})
    with pytest.raises(ValueError, match="batch is 0"):
        sampler.sample(0, generator())
    assert len(sampler.sample(2, generator(), shares={"motion_guided": 0.0})) == 2


# --- motion ---


def brute_distribution(motion: Tensor, block: tuple[int, int, int], strength: float, rate: float) -> Tensor:
    (T, H, W), (t, h, w) = motion.shape, block
    scores = torch.zeros(T - t + 1, H - h + 1, W - w + 1, dtype=torch.float64)
    for i in range(T - t + 1):
        for j in range(H - h + 1):
            for k in range(W - w + 1):
                scores[i, j, k] = motion[i : i + t, j : j + h, k : k + w].double().mean() ** strength
    uniform = torch.full_like(scores, 1 / scores.numel())
    if motion.max() == 0:
        return uniform
    return (1 - rate) * scores / scores.sum() + rate * uniform


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 2**31),
    strength=st.sampled_from([0.0, 1.0, 2.0, 5.0]),
    rate=st.sampled_from([0.0, 0.1, 1.0]),
    still=st.booleans(),
)
def test_origin_distribution(shape: tuple[int, int, int], seed: int, strength: float, rate: float, still: bool) -> None:
    g = generator(seed)
    t, h, w = (int(torch.randint(1, n + 1, (), generator=g)) for n in shape)
    block = (t, h, w)
    motion = torch.zeros(shape) if still else torch.rand(shape, generator=g) ** 3
    found = MotionGuided(strength, rate).origin_probabilities(motion, block)
    torch.testing.assert_close(
        found,
        brute_distribution(motion, block, strength, rate),
        rtol=1e-9,
        atol=1e-12,
    )
    assert found.sum().item() == pytest.approx(1.0)
    even = FuturePredictive().origin_probabilities(motion, block)
    torch.testing.assert_close(even, torch.full_like(found, 1 / found.numel()))


def test_origin_distribution_of_a_batch_and_of_tiny_motion() -> None:
    motion = torch.rand(3, 2, 5, 5, generator=generator())
    policy = MotionGuided(5.0, 0.0)
    each = torch.stack([policy.origin_probabilities(m, (1, 2, 3)) for m in motion])
    torch.testing.assert_close(policy.origin_probabilities(motion, (1, 2, 3)), each)
    torch.testing.assert_close(policy.origin_probabilities(motion * 1e-30, (1, 2, 3)), each, rtol=1e-4, atol=1e-9)
    with pytest.raises(ValueError, match="does not fit a motion map"):
        policy.origin_probabilities(motion, (3, 1, 1))


def test_guided_blocks_hide_what_moves() -> None:
    grid = GRIDS["8x8x4"]
    motion = torch.zeros(8, *grid.shape)
    motion[:, :, 1:3, 5:7] = 1.0
    config = MaskConfig(blocks=(BlockSpec(count=1, area=0.15),))

    def hidden_share(policy: MotionGuided | None) -> float:
        sampler, g = MaskSampler(grid, config, policy), generator()
        return float(
            torch.cat(
                [grid.visible(sampler.sample(8, g, motion)[0].masked)[:, 0, 1:3, 5:7].flatten() for _ in range(50)]
            )
            .float()
            .mean()
        )

    assert hidden_share(None) < 0.3 < hidden_share(MotionGuided()) < hidden_share(MotionGuided(5.0, 0.0))


def clip_of(motion: str) -> Tensor:
    """One clip of 4 frames of 8x8 px, black but for one 2x2 px square."""
    clip = torch.zeros(1, 3, 4, 8, 8)
    if motion == "blinks in the last frame":
        clip[:, :, 3, 4:6, 0:2] = 1.0
    if motion == "blinks in frame 1":
        clip[:, :, 1, 0:2, 0:2] = 1.0
    return clip


def test_motion_map_by_hand() -> None:
    grid = TokenGrid(2, 2, 2, patch=4, tubelet=2)
    expected = torch.zeros(1, 2, 2, 2)
    assert torch.equal(motion_map(clip_of("nothing"), grid), expected)
    late = expected.clone()
    late[0, 1, 1, 0] = 1.0
    assert torch.equal(motion_map(clip_of("blinks in the last frame"), grid), late)
    early = expected.clone()
    # Differences 1, 1 (the first frame takes the first difference) and 1, 0.
    early[0, 0, 0, 0], early[0, 1, 0, 0] = 1.0, 0.5
    assert torch.equal(motion_map(clip_of("blinks in frame 1"), grid), early)


def test_motion_map_of_bytes_and_of_one_frame() -> None:
    grid = TokenGrid(2, 2, 2, patch=4, tubelet=2)
    clip = torch.randint(0, 256, (3, 3, 4, 8, 8), generator=generator(), dtype=torch.uint8)
    torch.testing.assert_close(motion_map(clip, grid), motion_map(clip.float() / 255, grid))
    assert torch.equal(motion_map(clip, grid).amax(dim=(1, 2, 3)), torch.ones(3))
    image = TokenGrid(1, 2, 2, patch=4, tubelet=1)
    assert torch.equal(motion_map(clip[:, :, :1], image), torch.zeros(3, 1, 2, 2))
    with pytest.raises(ValueError, match="this token grid expects"):
        motion_map(clip[:, :, :3], grid)
    with pytest.raises(ValueError, match="expected clip or published"):
        motion_map(clip, grid, scale="batch")  # type: ignore[arg-type]


def test_published_scale_divides_slots_by_other_clips() -> None:
    """A still clip at batch position 1 makes slot 1 of all the others outweigh everything."""
    grid = TokenGrid(3, 2, 2, patch=4, tubelet=2)
    clip = torch.rand(3, 3, 6, 8, 8, generator=generator())
    clip[1] = clip[1, :, :1].clone()
    own, published = motion_map(clip, grid), motion_map(clip, grid, scale="published")
    torch.testing.assert_close(published[0, 0], own[0, 0])
    torch.testing.assert_close(published[2, 2], own[2, 2])
    assert published[[0, 2], 1].min() > 1000 * published[[0, 2]][:, [0, 2]].max()
    origins = MotionGuided(2.0, 0.0).origin_probabilities(published[0], (1, 1, 1))
    assert origins[1].sum() > 0.999


@pytest.mark.parametrize("slots", [4, 8])
def test_blocks_that_span_part_of_time_hide_one_run_of_slots(slots: int) -> None:
    grid, half = TokenGrid(slots, 4, 4), slots // 2
    config = MaskConfig(blocks=(BlockSpec(count=1, area=0.99, time=0.5),))
    g = torch.Generator().manual_seed(0)
    starts = set()
    whole = 0
    for _ in range(40):
        (mask,) = MaskSampler(grid, config).sample(3, g)
        hidden = ~grid.visible(mask.visible)
        masked = grid.visible(mask.masked)
        assert not (masked & ~hidden).any()
        for row in masked:
            run = row.flatten(1).any(1).nonzero().flatten().tolist()
            assert run == list(range(run[0], run[0] + half))
            starts.add(run[0])
            # The same places in all of its slots.
            whole += int(row[run].all())
    assert starts == set(range(half + 1))
    assert whole > 0


def test_part_of_time_means_nothing_in_one_slot() -> None:
    grid = TokenGrid(1, 4, 4)
    part, all_ = (MaskConfig(blocks=(BlockSpec(count=1, area=0.4, time=t),)) for t in (0.5, 1.0))
    first = MaskSampler(grid, part).sample(4, torch.Generator().manual_seed(1))[0]
    other = MaskSampler(grid, all_).sample(4, torch.Generator().manual_seed(1))[0]
    assert torch.equal(first.visible, other.visible)
    assert torch.equal(first.masked, other.masked)


@pytest.mark.parametrize("time", [0.0, -0.5, 1.5])
def test_share_of_time_is_checked(time: float) -> None:
    with pytest.raises(ValueError, match="block time"):
        BlockSpec(count=1, area=0.5, time=time)


def test_hidden_future_and_hidden_slots_together_leave_something_visible() -> None:
    config = MaskConfig(blocks=(BlockSpec(count=1, area=0.99, time=0.5),))
    sampler = MaskSampler(TokenGrid(4, 4, 4), config, future_predictive=FuturePredictive())
    g = torch.Generator().manual_seed(0)
    for _ in range(100):
        (mask,) = sampler.sample(4, g, shares={"future_predictive": 0.7})
        assert mask.visible.shape[1] > 0
        assert mask.masked.shape[1] > 0
