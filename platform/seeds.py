"""Every random stream of a trial, derived from its seed.

A stream is named and may be indexed (by step, by rank), so a draw depends on what it is for and never on what was
drawn before it: a resumed run needs no saved generator state, and adding a stream changes no other.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def stream(seed: int, name: str, *index: int) -> int:
    """Seed of a named stream.

    Args:
        seed: the trial's or the study's seed.
        name: what the stream is for.
        index: further keys, such as step and rank; none negative.

    Returns:
        An integer below 2**63.
    """
    sequence = np.random.SeedSequence([seed, zlib.crc32(name.encode()), *index])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, name: str, *index: int) -> torch.Generator:
    """CPU generator at the start of a named stream."""
    return torch.Generator().manual_seed(stream(seed, name, *index))
