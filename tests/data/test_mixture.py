from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import pytest

from equipoise.data.cache import ClipCache
from equipoise.data.mixture import Mixture, MixtureError, Source


class Clips:
    """As much of a cache as a mixture looks at."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


def source(name: str, count: int, weight: float) -> Source:
    return Source(name, cast(ClipCache, Clips(count)), weight)


def mixture(seed: int = 0, **weights: float) -> Mixture:
    chosen = weights or {"a": 0.2, "b": 0.6, "c": 0.2}
    return Mixture([source(name, 37 + 10 * n, weight) for n, (name, weight) in enumerate(chosen.items())], seed)


def test_weights_count_clips() -> None:
    mixed = mixture()
    source_numbers = np.concatenate([mixed.next(32).source for _ in range(400)])
    share = np.bincount(source_numbers, minlength=3) / len(source_numbers)
    expected = np.array([0.2, 0.6, 0.2])
    spread = np.sqrt(expected * (1 - expected) / len(source_numbers))
    assert (np.abs(share - expected) < 4 * spread).all()
    scaled = mixture(a=1.0, b=3.0, c=1.0)
    np.testing.assert_array_equal(scaled.next(500).source, mixture().next(500).source)


def test_a_pass_shows_every_clip_once_in_a_fresh_order() -> None:
    mixed = mixture()
    draws = [mixed.next(16) for _ in range(60)]
    for number, count in enumerate((37, 47, 57)):
        clips = np.concatenate([draw.clip[draw.source == number] for draw in draws])
        passes = [clips[start : start + count] for start in range(0, len(clips) - count + 1, count)]
        assert len(passes) >= 2
        for one in passes:
            assert sorted(one.tolist()) == list(range(count))
        assert not np.array_equal(passes[0], passes[1])
        assert not np.array_equal(passes[0], np.arange(count))


def test_resume_is_exact_and_its_state_small() -> None:
    whole, first, second = mixture(5), mixture(5), mixture(5)
    expected = [whole.next(12) for _ in range(40)]
    for _ in range(17):
        first.next(12)
    text = json.dumps(first.state_dict())
    assert len(text) < 400
    second.next(99)  # whatever it did before
    second.load_state_dict(json.loads(text))
    for want in expected[17:]:
        got = second.next(12)
        np.testing.assert_array_equal(got.source, want.source)
        np.testing.assert_array_equal(got.clip, want.clip)


def test_seed_matters_and_sources_do_not_disturb_each_other() -> None:
    assert not np.array_equal(mixture(0).next(64).source, mixture(1).next(64).source)
    alone = Mixture([source("b", 47, 1.0)], 3).next(20).clip
    draw = Mixture([source("a", 10, 1.0), source("b", 47, 1.0)], 3).next(60)
    among = draw.clip[draw.source == 1]
    np.testing.assert_array_equal(among[:20], alone[: len(among[:20])])


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "at least one source"),
        ([("a", 3, 1.0), ("a", 4, 1.0)], "must differ"),
        ([("a", 0, 1.0)], "'a' has no clips"),
        ([("a", 3, 0.0)], r"weight of source 'a' is 0\.0"),
        ([("a", 3, float("nan"))], "weight of source 'a' is nan"),
    ],
)
def test_bad_sources(sources: list[tuple[str, int, float]], message: str) -> None:
    with pytest.raises(MixtureError, match=message):
        Mixture([source(*each) for each in sources], 0)


def test_bad_numbers() -> None:
    with pytest.raises(MixtureError, match="batch is 0"):
        mixture().next(0)
    with pytest.raises(MixtureError, match="seed is -1"):
        mixture(-1)


@pytest.mark.parametrize("other", [{"seed": 1}, {"a": 0.2, "b": 0.6, "d": 0.2}, {"a": 0.3, "b": 0.5, "c": 0.2}])
def test_a_state_of_another_mixture_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(MixtureError, match="The saved mixture has"):
        mixture(**other).load_state_dict(mixture().state_dict())


def test_a_state_of_a_mixture_with_fewer_clips_is_refused() -> None:
    """Another number of clips is another order of them."""
    state = mixture().state_dict()
    name, clips, weight = state["sources"][0]
    state["sources"] = [[name, clips - 1, weight], *state["sources"][1:]]
    with pytest.raises(MixtureError, match="The saved mixture has"):
        mixture().load_state_dict(state)
