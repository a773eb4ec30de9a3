"""Mixtures: which clip of which source comes next, drawn by weight and exactly resumable."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from equipoise.data.cache import ClipCache
from equipoise.data.errors import DataError


class MixtureError(DataError, ValueError):
    """The sources of a mixture, or the state it should continue from, do not fit."""


@dataclass(frozen=True)
class Source:
    """One data set of a mixture.

    Args:
        name: Its name, unique in the mixture.
        cache: Its clips.
        weight: Share of clips drawn from it, relative to the other sources' weights; above 0.
    """

    name: str
    cache: ClipCache
    weight: float


class Draw(NamedTuple):
    """What one batch consists of, in order.

    Attributes:
        source: Number of the source of each clip, int64 ``[B]``.
        clip: Number of the clip within its source's cache, int64 ``[B]``.
    """

    source: NDArray[np.int64]
    clip: NDArray[np.int64]


class Mixture:
    """Draws clips from several sources. A weight counts clips: each clip's source is drawn independently by weight.

    Within a source clips come without replacement, in an order that is shuffled anew for every pass. A source's order
    depends on the seed and its own name only, so adding another source does not change it.

    Args:
        sources: At least one.
        seed: Of all draws, 0 or more.

    Raises:
        MixtureError: If there is no source, a name occurs twice, a source is empty, a weight is not a positive finite
            number, or the seed is negative.
    """

    def __init__(self, sources: Sequence[Source], seed: int) -> None:
        if not sources:
            raise MixtureError("A mixture needs at least one source.")
        names = [source.name for source in sources]
        if len(set(names)) != len(names):
            raise MixtureError(f"The names of a mixture's sources must differ, got {names}.")
        for source in sources:
            if not (np.isfinite(source.weight) and source.weight > 0):
                raise MixtureError(
                    f"The weight of source {source.name!r} is {source.weight}; it must be above 0. "
                    f"Leave the source out instead."
                )
            if len(source.cache) == 0:
                raise MixtureError(f"The source {source.name!r} has no clips.")
        if seed < 0:
            raise MixtureError(f"seed is {seed}; it must be 0 or more.")
        self.sources = tuple(sources)
        self.seed = seed
        weights = np.array([source.weight for source in sources], dtype=np.float64)
        self._bounds = np.cumsum(weights / weights.sum())[:-1]
        self._step = 0
        self._taken = [0] * len(sources)
        self._orders: list[tuple[int, NDArray[np.int64]] | None] = [None] * len(sources)

    def _order(self, number: int, epoch: int) -> NDArray[np.int64]:
        """The order of a source's clips in one pass over them."""
        known = self._orders[number]
        if known is not None and known[0] == epoch:
            return known[1]
        source = self.sources[number]
        rng = np.random.default_rng([self.seed, 1, zlib.crc32(source.name.encode()), epoch])
        order: NDArray[np.int64] = rng.permutation(len(source.cache)).astype(np.int64)
        self._orders[number] = (epoch, order)
        return order

    def next(self, batch: int) -> Draw:
        """Draws the next ``batch`` clips.

        Raises:
            MixtureError: If ``batch`` is below 1.
        """
        if batch < 1:
            raise MixtureError(f"batch is {batch}; it must be at least 1.")
        rng = np.random.default_rng([self.seed, 0, self._step])
        source = np.searchsorted(self._bounds, rng.random(batch), side="right").astype(np.int64)
        clip = np.empty(batch, dtype=np.int64)
        for row, number in enumerate(source.tolist()):
            epoch, place = divmod(self._taken[number], len(self.sources[number].cache))
            clip[row] = self._order(number, epoch)[place]
            self._taken[number] += 1
        self._step += 1
        return Draw(source, clip)

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "sources": [[source.name, len(source.cache), float(source.weight)] for source in self.sources],
        }

    def state_dict(self) -> dict[str, Any]:
        """Where the mixture stands: small, JSON-able, enough to continue exactly."""
        return {**self._identity(), "step": self._step, "taken": list(self._taken)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state_dict`.

        Raises:
            MixtureError: If the state is of a mixture with another seed or other sources, sizes or weights.
        """
        for key, mine in self._identity().items():
            if state.get(key) != mine:
                raise MixtureError(f"The saved mixture has {key} {state.get(key)}, this one has {mine}.")
        self._step = int(state["step"])
        self._taken = [int(count) for count in state["taken"]]
