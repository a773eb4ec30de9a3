from __future__ import annotations

import itertools

import torch

from equipoise.platform.seeds import generator, stream


def test_streams_are_stable_over_versions() -> None:
    # Recorded once: other numbers would break the resumption and the repetition of every stored study.
    assert stream(0, "initialisation") == 5455777220220879381
    assert stream(7, "step", 3, 1) == 319404177118867744
    assert stream(2**32 - 1, "masks.video", 29_999, 63) == 2816608664391827928


def test_streams_differ_by_seed_name_and_index() -> None:
    keys = [
        (seed, name, *index)
        for seed in range(5)
        for name in ("crops", "masks.video", "masks.image", "step")
        for index in [(), *itertools.product(range(4)), *itertools.product(range(4), range(4))]
    ]
    values = {stream(*k) for k in keys}  # type: ignore[arg-type]
    # SeedSequence pads with zeros: a missing index and index 0 are the same stream; every other key has its own.
    distinct = {tuple(itertools.chain(k[:2], (*k[2:], 0, 0)[:2])) for k in keys}
    assert len(values) == len(distinct)
    assert all(0 <= v < 2**63 for v in values)


def test_generator_starts_the_stream_anew() -> None:
    a, b = (torch.rand(4, generator=generator(3, "crops", 5)) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, torch.rand(4, generator=generator(3, "crops", 6)))
    assert generator(3, "crops", 5).initial_seed() == stream(3, "crops", 5)


def test_neighbouring_streams_are_not_correlated() -> None:
    draws = torch.stack([torch.randn(500, generator=generator(0, "masks", step)) for step in range(20)])
    correlation = torch.corrcoef(draws) - torch.eye(20)
    assert correlation.abs().max() < 0.25
