"""Two-level factorial designs: which combinations of k factors are run, and which effects they cannot tell apart.

A cell says of every factor whether it is off (0) or on (1). The cells of a regular fraction are a linear code over
GF(2): a generated factor is on where an odd number of the factors it is made of are on. So the cell with everything off
is in every fraction. The defining words, products of generators, are the codes' dual: in each of them every cell has an
even number of factors on (Box, Hunter and Hunter, "Statistics for Experimenters", 2005, chapter 6, with the sign that
keeps the cell with everything off).

Sets of factors are bit masks: bit i is factor i. Effects are in points of what switching factors on adds: a main effect
is the mean with the factor on minus the mean with it off; an interaction of two is what the one adds with the other on
minus what it adds with the other off (twice what textbooks on coded units call the interaction).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

MOST_SEARCHED = 400_000  # defining words of all sets of generators that are tried: a second


@dataclass(frozen=True)
class Fraction:
    """A regular two-level design.

    Attributes:
        factors: number of factors, k.
        generators: for each generated factor, the last of the k, the mask of earlier ones that it is made of.
    """

    factors: int
    generators: tuple[int, ...] = ()

    @property
    def base(self) -> int:
        """Number of factors that are free."""
        return self.factors - len(self.generators)

    @property
    def cells(self) -> tuple[int, ...]:
        """Mask of the factors that are on, of every cell; the first has none."""
        found = []
        for free in range(2**self.base):
            on = free
            for place, generator in enumerate(self.generators):
                on |= ((free & generator).bit_count() % 2) << (self.base + place)
            found.append(on)
        return tuple(sorted(found, key=lambda on: (on.bit_count(), order(on))))

    @property
    def words(self) -> tuple[int, ...]:
        """Defining words, shortest first; none for a full factorial."""
        words = [0]
        for place, generator in enumerate(self.generators):
            words += [word ^ generator ^ (1 << (self.base + place)) for word in words]
        return tuple(sorted(words[1:], key=lambda word: (word.bit_count(), order(word))))

    @property
    def resolution(self) -> int | None:
        """Length of the shortest defining word; None for a full factorial, where no effects are confused."""
        return min((word.bit_count() for word in self.words), default=None)

    def aliases(self, effect: int) -> dict[int, float]:
        """Effects that the contrast of ``effect`` holds besides it, each with its factor.

        Args:
            effect: mask of the factors of a main effect or an interaction.

        Returns:
            Mask to factor: the contrast estimates ``effect`` plus the sum of factor times alias.
        """
        others = sorted((effect ^ word for word in self.words), key=lambda mask: (mask.bit_count(), order(mask)))
        return {
            other: (-1.0) ** (effect.bit_count() + other.bit_count()) * 2.0 ** (effect.bit_count() - other.bit_count())
            for other in others
        }

    def coefficients(self, effect: int) -> dict[int, float]:
        """What every cell's mean counts in the contrast of ``effect``."""
        scale = 2.0 ** effect.bit_count() / len(self.cells)
        return {cell: scale * (-1.0) ** (effect & ~cell).bit_count() for cell in self.cells}


def order(mask: int) -> tuple[int, ...]:
    """Members of a mask, ascending: the order in which effects and cells are listed."""
    return tuple(i for i in range(mask.bit_length()) if mask >> i & 1)


@functools.cache
def best_fraction(factors: int, generated: int) -> Fraction | None:
    """The regular fraction of ``2 ** (factors - generated)`` cells that confuses least, None where there is none.

    That is the one of minimum aberration: fewest defining words of length 3, among those fewest of length 4, and so on
    (Fries and Hunter, Technometrics, 1980), found by trying every set of generators. At least resolution III: no main
    effect is confused with another.

    Raises:
        ValueError: too many sets of generators to try.
    """
    if generated == 0:
        return Fraction(factors)
    base = factors - generated
    choices = [mask for mask in range(2 ** max(base, 0)) if mask.bit_count() >= 2]
    if len(choices) < generated:
        return None
    if math.comb(len(choices), generated) * 2**generated > MOST_SEARCHED:
        raise ValueError(f"{factors} factors with {generated} generated leave too many fractions to search")
    # Long generators first: among equals the textbooks' choice, D = ABC.
    choices.sort(key=lambda mask: (-mask.bit_count(), order(mask)))
    return min(
        (Fraction(factors, chosen) for chosen in itertools.combinations(choices, generated)),
        key=lambda fraction: _pattern(fraction.words, factors),
    )


def _pattern(words: Sequence[int], factors: int) -> tuple[int, ...]:
    """How many defining words have each length from 1 on."""
    counts = [0] * factors
    for word in words:
        counts[word.bit_count() - 1] += 1
    return tuple(counts)
