from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equipoise.data.cache import ClipCache
from equipoise.data.loader import Batch, ClipStream, LoaderError
from equipoise.data.manifest import Manifest
from equipoise.data.mixture import Mixture, MixtureError, Source

Caches = dict[str, ClipCache]
WEIGHTS = {"mini_ucf": 0.2, "mini_ssv2": 0.5, "mini_in": 0.3}


def stream(caches: Caches, seed: int = 0, **other: Any) -> ClipStream:
    mixture = Mixture([Source(name, caches[name], weight) for name, weight in WEIGHTS.items()], seed)
    settings = {"frames": 4, "stride": 2, "batch": 12, "seed": seed, **other}
    return ClipStream(mixture, **settings)


def rows(batches: list[Batch]) -> dict[int, torch.Tensor]:
    """Frames by row of the global batch, over the parts of one step."""
    found: dict[int, torch.Tensor] = {}
    for batch in batches:
        for frames, numbers in ((batch.video, batch.video_rows), (batch.image, batch.image_rows)):
            if frames is not None:
                assert len(frames) == len(numbers)
                found.update(zip(numbers.tolist(), frames, strict=True))
    return found


def same(left: Batch, right: Batch) -> bool:
    a, b = rows([left]), rows([right])
    return left.step == right.step and a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_batches_hold_videos_and_images_apart(tiny_caches: Caches) -> None:
    with stream(tiny_caches) as clips:
        for step, batch in enumerate(itertools.islice(clips, 6)):
            assert batch.step == step
            assert sorted([*batch.video_rows, *batch.image_rows]) == list(range(12))
            assert batch.video is not None
            assert batch.video.dtype == torch.uint8
            assert batch.video.shape == (len(batch.video_rows), 4, 32, 32, 3)
            assert set(batch.video_source) <= {0, 1}
            if batch.image is not None:
                assert batch.image.shape == (len(batch.image_rows), 1, 32, 32, 3)
                assert set(batch.image_source) == {2}


def test_frames_are_those_of_the_cache_at_the_stride(tiny_caches: Caches) -> None:
    plan = Mixture([Source(name, tiny_caches[name], weight) for name, weight in WEIGHTS.items()], 0)
    starts = set()
    with stream(tiny_caches) as clips:
        for batch in itertools.islice(clips, 8):
            draw = plan.next(12)
            for row, frames in rows([batch]).items():
                cache = plan.sources[int(draw.source[row])].cache
                clip = cache.clip(int(draw.clip[row]))
                if cache.kinds[int(draw.clip[row])] == "image":
                    np.testing.assert_array_equal(frames.numpy(), clip)
                    continue
                fits = [s for s in range(2) if np.array_equal(frames.numpy(), clip[s : s + 7 : 2])]
                assert fits  # 8 stored frames, 4 frames 2 apart: the start is 0 or 1
                starts.update(fits)
    assert starts == {0, 1}


@pytest.mark.parametrize("world", [2, 3, 4])
def test_every_world_size_sees_the_same_global_batches(tiny_caches: Caches, world: int) -> None:
    whole = stream(tiny_caches)
    parts = [stream(tiny_caches, rank=rank, world=world) for rank in range(world)]
    for _ in range(5):
        expected, got = rows([next(whole)]), rows([next(part) for part in parts])
        assert expected.keys() == got.keys()
        for row, frames in expected.items():
            assert torch.equal(frames, got[row])
    for each in (whole, *parts):
        each.close()


def test_resume_continues_with_the_next_batch(tiny_caches: Caches) -> None:
    with stream(tiny_caches) as clips:
        before = [next(clips) for _ in range(5)]
        text = json.dumps(clips.state_dict())
        after = [next(clips) for _ in range(5)]
    assert len(text) < 1000
    assert before[-1].step == 4
    with stream(tiny_caches) as clips:
        next(clips)  # one is being prepared while the state is loaded
        clips.load_state_dict(json.loads(text))
        assert clips.state_dict() == json.loads(text)
        assert all(same(next(clips), want) for want in after)


def test_resume_with_another_world_size(tiny_caches: Caches) -> None:
    with stream(tiny_caches) as clips:
        for _ in range(3):
            next(clips)
        state = clips.state_dict()
        want = rows([next(clips)])
    parts = [stream(tiny_caches, rank=rank, world=2) for rank in range(2)]
    for part in parts:
        part.load_state_dict(state)
    got = rows([next(part) for part in parts])
    assert got.keys() == want.keys()
    assert all(torch.equal(got[row], want[row]) for row in want)
    for part in parts:
        part.close()


def test_a_fresh_state_starts_from_the_beginning(tiny_caches: Caches) -> None:
    with stream(tiny_caches) as first, stream(tiny_caches) as second:
        state = first.state_dict()
        want = next(first)
        next(second)
        second.load_state_dict(state)
        assert same(next(second), want)


def test_the_seed_changes_the_stream(tiny_caches: Caches) -> None:
    with stream(tiny_caches, 0) as first, stream(tiny_caches, 1) as second:
        assert not same(next(first), next(second))


def test_closing_ends_the_thread(tiny_caches: Caches) -> None:
    before = threading.active_count()
    clips = stream(tiny_caches)
    next(clips)
    assert threading.active_count() == before + 1
    clips.close()
    clips.close()
    assert threading.active_count() == before
    with pytest.raises(LoaderError, match="This stream is closed"):
        next(clips)


def test_sources_of_different_shapes_share_a_square(
    tiny: dict[str, dict[str, Manifest]], tiny_caches: Caches, tmp_path: Path
) -> None:
    smaller = ClipCache.open(tiny["mini_dive"]["test"], tmp_path, size=24, workers=0)
    mixture = Mixture([Source("large", tiny_caches["mini_ucf"], 1.0), Source("small", smaller, 1.0)], 0)
    with ClipStream(mixture, frames=4, stride=1, batch=8, seed=0) as clips:
        batch = next(clips)
    assert batch.image is None
    assert batch.video is not None
    assert set(batch.video_source) == {0, 1}
    assert batch.video.shape == (8, 4, 24, 24, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": 0}, "frames is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"rank": 2, "world": 2}, "rank is 2; with world 2"),
        ({"world": 5}, "cannot be shared equally by 5 ranks"),
    ],
)
def test_settings_out_of_range(tiny_caches: Caches, settings: dict[str, int], message: str) -> None:
    with pytest.raises(LoaderError, match=message):
        stream(tiny_caches, **settings)


def test_a_state_of_another_stream_is_refused(tiny_caches: Caches) -> None:
    with stream(tiny_caches) as clips, stream(tiny_caches, stride=1) as other:
        with pytest.raises(LoaderError, match="The saved stream has stride 1, this one has 2"):
            clips.load_state_dict(other.state_dict())
        state = {**clips.state_dict(), "mixture": {**clips.state_dict()["mixture"], "seed": 9}}
        with pytest.raises(MixtureError, match="The saved mixture has seed 9"):
            clips.load_state_dict(state)
