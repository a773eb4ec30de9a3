from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.data.transforms import (
    Augment,
    AugmentParams,
    TransformError,
    center_crop_resize,
    normalise,
    sample_frames,
)

MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])


def clips(*shape: int) -> Tensor:
    """Smooth random uint8 frames ``[B, T, H, W, 3]``."""
    B, T, H, W = shape
    coarse = torch.rand((B * T, 3, 5, 6), generator=torch.Generator().manual_seed(0)) * 255
    fine = F.interpolate(coarse, (H, W), mode="bicubic").clamp(0, 255).to(torch.uint8)
    return fine.view(B, T, 3, H, W).permute(0, 1, 3, 4, 2).contiguous()


def slowly_normalised(frame: Tensor) -> Tensor:
    """``[H, W, 3]`` to ``[3, H, W]``, channel by channel."""
    return torch.stack([(frame[..., c].float() / 255 - MEAN[c]) / STD[c] for c in range(3)])


def test_normalise_against_one_frame_at_a_time() -> None:
    frames = clips(2, 3, 8, 10)
    out = normalise(frames)
    assert out.shape == (2, 3, 3, 8, 10)
    assert out.dtype == torch.float32
    assert out.is_contiguous()
    for b in range(2):
        for t in range(3):
            torch.testing.assert_close(out[b, :, t], slowly_normalised(frames[b, t]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bad", [torch.zeros(1, 2, 4, 4, 3), torch.zeros((2, 4, 4, 3), dtype=torch.uint8)])
def test_frames_of_another_kind_are_refused(bad: Tensor) -> None:
    for call in (normalise, lambda x: center_crop_resize(x, 4)):
        with pytest.raises(TransformError, match=r"Frames must be uint8 \[B, T, H, W, 3\]"):
            call(bad)


def triangle(length: int, size: int) -> Tensor:
    """Weights ``[size, length]`` of antialiased linear resampling, from its definition."""
    scale = length / size
    reach = max(scale, 1.0)
    weights = torch.zeros(size, length, dtype=torch.float64)
    for i in range(size):
        for j in range(length):
            weights[i, j] = max(0.0, 1 - abs(j + 0.5 - (i + 0.5) * scale) / reach)
        weights[i] /= weights[i].sum()
    return weights


@pytest.mark.parametrize("shape", [(24, 24), (40, 30)])
def test_augment_against_a_slow_reference_per_clip(shape: tuple[int, int]) -> None:
    frames = clips(6, 3, *shape)
    augment = Augment(16)
    params = augment.draw(6, torch.Generator().manual_seed(3))
    assert params.flip.any()
    assert not params.flip.all()
    out = augment(frames, params)
    assert out.shape == (6, 3, 3, 16, 16)
    H, W = shape
    for b in range(6):
        area, ratio = float(params.area[b]), float(params.ratio[b])
        h = min(H, round((area / ratio * H * W) ** 0.5))
        w = min(W, round((area * ratio * H * W) ** 0.5))
        top, left = round(float(params.top[b]) * (H - h)), round(float(params.left[b]) * (W - w))
        for t in range(3):
            crop = frames[b, t, top : top + h, left : left + w].double()
            small = torch.einsum("yh,hwc,xw->yxc", triangle(h, 16), crop, triangle(w, 16))
            if params.flip[b]:
                small = small.flip(1)
            want = slowly_normalised(small)
            assert (out[b, :, t] - want).abs().max() < 2 / 255 / 0.224  # within two grey levels
            assert (out[b, :, t] - want).abs().mean() < 0.6 / 255 / 0.224


def test_augment_of_a_whole_frame_of_its_own_size_only_normalises() -> None:
    frames = clips(2, 2, 16, 16)
    augment = Augment(16, scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0)
    out = augment(frames, augment.draw(2, torch.Generator()))
    assert torch.equal(out, normalise(frames))
    mirrored = Augment(16, scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=1.0)
    assert torch.equal(mirrored(frames, mirrored.draw(2, torch.Generator())), out.flip(-1))


def test_one_crop_for_all_frames_of_a_clip() -> None:
    still = clips(3, 1, 20, 20).expand(-1, 5, -1, -1, -1)
    augment = Augment(12)
    out = augment(still, augment.draw(3, torch.Generator().manual_seed(1)))
    for t in range(1, 5):
        assert torch.equal(out[:, :, t], out[:, :, 0])
    assert not torch.equal(out[0], out[1])


def test_drawn_parameters_stay_in_their_ranges_and_repeat() -> None:
    augment = Augment(8, scale=(0.3, 0.9), ratio=(0.75, 1.35))
    params = augment.draw(2000, torch.Generator().manual_seed(0))
    assert 0.3 <= params.area.min() < 0.32
    assert 0.88 < params.area.max() <= 0.9
    assert 0.75 - 1e-6 <= params.ratio.min() < 0.76
    assert 1.33 < params.ratio.max() <= 1.35 + 1e-6
    assert 0.46 < params.flip.float().mean() < 0.54
    for top, left, h, w in params.boxes(64, 48):
        assert 0 <= top <= top + h <= 64
        assert 0 <= left <= left + w <= 48
        assert h >= 1
        assert w >= 1
    # Every choice is its own draw: none tells of another.
    choices = torch.stack([params.area, params.ratio, params.top, params.left, params.flip.float()])
    assert (torch.corrcoef(choices) - torch.eye(5)).abs().max() < 4 / math.sqrt(2000)
    again = augment.draw(2000, torch.Generator().manual_seed(0))
    assert torch.equal(again.area, params.area)
    assert torch.equal(again.flip, params.flip)


def test_aspect_ratios_are_drawn_evenly_on_a_log_scale() -> None:
    """Half of the crops are upright: a ratio and its inverse are as likely."""
    drawn = Augment(8, ratio=(0.25, 4.0)).draw(4000, torch.Generator().manual_seed(0)).ratio
    share = float((drawn < 1).float().mean())
    assert abs(share - 0.5) < 4 * math.sqrt(0.25 / 4000)
    assert float(drawn.log().mean()) == pytest.approx(0.0, abs=4 * math.log(4) / math.sqrt(3 * 4000))


def test_selected_rows_give_the_rows_of_the_global_batch() -> None:
    frames = clips(6, 2, 20, 24)
    augment = Augment(12)
    params = augment.draw(6, torch.Generator().manual_seed(2))
    rows = np.array([1, 3, 5])
    part = augment(frames[rows], params.select(rows))
    assert torch.equal(part, augment(frames, params)[rows])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"scale": (0.0, 1.0)}, "scale is"),
        ({"scale": (0.5, 0.3)}, "scale is"),
        ({"ratio": (1.5, 1.0)}, "ratio is"),
        ({"hflip": 1.5}, "hflip is 1.5"),
    ],
)
def test_augment_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(TransformError, match=message):
        Augment(**{"size": 8, **settings})  # type: ignore[arg-type]


def test_parameters_for_another_batch_are_refused() -> None:
    augment = Augment(8)
    params: AugmentParams = augment.draw(3, torch.Generator())
    with pytest.raises(TransformError, match="for 3 clips, the batch has 2"):
        augment(clips(2, 1, 8, 8), params)


def test_evaluation_takes_the_centre_square() -> None:
    frames = clips(2, 3, 16, 28)
    out = center_crop_resize(frames, 16)
    assert torch.equal(out, normalise(frames[:, :, :, 6:22]))
    tall = frames.transpose(2, 3)
    assert torch.equal(center_crop_resize(tall, 16), out.transpose(3, 4))
    half = center_crop_resize(frames, 8)
    crop = frames[0, 1, :, 6:22].double()
    want = slowly_normalised(torch.einsum("yh,hwc,xw->yxc", triangle(16, 8), crop, triangle(16, 8)))
    assert (half[0, :, 1] - want).abs().max() < 2 / 255 / 0.224
    with pytest.raises(TransformError, match="size is 0"):
        center_crop_resize(frames, 0)


def test_uniform_frames() -> None:
    assert sample_frames(16, 8).tolist() == [1, 3, 5, 7, 9, 11, 13, 15]
    assert sample_frames(16, 16).tolist() == list(range(16))
    assert sample_frames(3, 6).tolist() == [0, 0, 1, 1, 2, 2]


def test_random_frames() -> None:
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(300):
        indices = sample_frames(16, 4, "random", 3, rng)
        assert np.diff(indices).tolist() == [3, 3, 3]
        starts.add(int(indices[0]))
    assert starts == set(range(7))  # 0 to 16 - 1 - 9
    assert sample_frames(5, 4, "random", 2, rng).tolist() == [0, 2, 4, 4]  # the last frame repeats
    assert sample_frames(1, 4, "random", None, rng).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4), "at least 1"),
        ((4, 0), "at least 1"),
        ((8, 4, "uniform", 2), "stride 2 cannot take effect"),
        ((8, 4, "random", 2), "needs a generator"),
        ((8, 4, "random", 0, np.random.default_rng(0)), "stride is 0"),
        ((8, 4, "middle"), "mode is 'middle'"),
    ],
)
def test_sampling_settings(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(TransformError, match=message):
        sample_frames(*arguments)  # type: ignore[arg-type]
