"""The vocabulary in which claims are written down as YAML: what a file of claims may say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from equipoise.platform.errors import SettingsError, nearest
from equipoise.platform.settings.base import Settings, parse
from equipoise.platform.settings.files import find, load_yaml
from equipoise.platform.settings.variant import RECORDS, unknown_objective

PUBLISHED_CLAIMS = "factorized_latent_dynamics"
Direction = Literal["up", "down"]
Names = tuple[str, ...]


class GainCheck(Settings):
    """Each of ``variants`` moves in ``direction`` against the baseline, or loses at most ``within`` points.

    Attributes:
        variants: who.
        benchmark: the claim's own benchmark; a counterpart may stand in.
        direction: ``up`` or ``down``.
        within: margin in points, 0 or more, in place of a direction.
        claimed: the published points, or their lowest and highest.
    """

    variants: Names = Field(min_length=1)
    benchmark: str
    direction: Direction | None = None
    within: float | None = Field(None, ge=0, allow_inf_nan=False)
    claimed: float | tuple[float, float] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> GainCheck:
        if (self.direction is None) == (self.within is None):
            raise ValueError("a gain has a direction (up or down) or a margin (within), one of the two")
        if isinstance(self.claimed, tuple) and self.claimed[0] > self.claimed[1]:
            raise ValueError(f"claimed {list(self.claimed)} runs backwards; expected the lowest value first")
        return self


class LargestCheck(Settings):
    """The move in ``direction`` of each of ``variants`` is larger than that of every other of ``among``."""

    variants: Names = Field(min_length=1)
    benchmark: str
    direction: Direction
    among: Names = Field(min_length=2)

    @model_validator(mode="after")
    def _inside(self) -> LargestCheck:
        for name in self.variants:
            if name not in self.among:
                raise ValueError(f"{name!r} is not in among; {nearest(name, self.among)}")
        if set(self.variants) == set(self.among):
            raise ValueError("among holds nobody to compare variants with; name the others too")
        return self


class CountCheck(Settings):
    """At least ``claimed`` of ``among`` lose more than ``lose_more_than`` points against the baseline."""

    benchmark: str
    lose_more_than: float = Field(ge=0, allow_inf_nan=False)
    claimed: int = Field(ge=1)
    among: Names = Field(min_length=1)

    @model_validator(mode="after")
    def _possible(self) -> CountCheck:
        if self.claimed > len(self.among):
            raise ValueError(f"claimed {self.claimed} of {len(self.among)} variants; expected at most all of them")
        return self


class BalancedCheck(Settings):
    """The smallest gain of ``variant`` over ``benchmarks`` is larger than that of every other of ``among``."""

    variant: str
    among: Names = Field(min_length=2)
    benchmarks: Names = Field(min_length=2)

    @model_validator(mode="after")
    def _inside(self) -> BalancedCheck:
        if self.variant not in self.among:
            raise ValueError(f"{self.variant!r} is not in among; {nearest(self.variant, self.among)}")
        return self


class AssociationCheck(Settings):
    """Variants with one of ``objectives`` score lower than the baseline, and than variants with none of them.

    Attributes:
        objectives: what makes a variant one of the group.
        benchmark: where the group is said to be weaker.
        order: another benchmark, whose rank correlation with ``benchmark`` over all variants is reported beside it.
    """

    objectives: Names = Field(min_length=1)
    benchmark: str
    order: str | None = None

    @model_validator(mode="after")
    def _known(self) -> AssociationCheck:
        for name in self.objectives:
            if name not in RECORDS:
                raise ValueError(unknown_objective(name))
        return self


class EmbeddingCheck(Settings):
    """One and the same encoder of this ``width`` is scored on all of ``benchmarks``."""

    width: int = Field(ge=1)
    benchmarks: Names = Field(min_length=1)


class Check(Settings):
    """One check; exactly one of its kinds."""

    gain: GainCheck | None = None
    largest: LargestCheck | None = None
    count: CountCheck | None = None
    balanced: BalancedCheck | None = None
    association: AssociationCheck | None = None
    embedding: EmbeddingCheck | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Check:
        given = [kind for kind in type(self).model_fields if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a check has one kind, {', '.join(given) or 'none'} given; known: {', '.join(type(self).model_fields)}"
            )
        return self

    @property
    def kind(self) -> str:
        """Name of its kind."""
        return next(kind for kind in type(self).model_fields if getattr(self, kind) is not None)

    @property
    def content(self) -> GainCheck | LargestCheck | CountCheck | BalancedCheck | AssociationCheck | EmbeddingCheck:
        """The check itself."""
        found: GainCheck | LargestCheck | CountCheck | BalancedCheck | AssociationCheck | EmbeddingCheck = getattr(
            self, self.kind
        )
        return found

    @property
    def benchmarks(self) -> Names:
        """Every benchmark it names."""
        content = self.content
        if isinstance(content, BalancedCheck | EmbeddingCheck):
            return content.benchmarks
        order = content.order if isinstance(content, AssociationCheck) else None
        return (content.benchmark,) if order is None else (content.benchmark, order)


class Claim(Settings):
    """A claim: words, and the checks that must all hold.

    Attributes:
        id: its number.
        title: a few words for a table.
        statement: the claim in a sentence.
        regime: the regime it speaks of.
        caveat: what a reader of any verdict must know.
        caveat_published: what a reader must know where the regime is the claim's own.
        checks: what must hold.
    """

    id: int = Field(ge=1)
    title: str = Field(min_length=1, max_length=72)
    statement: str = Field(min_length=1)
    regime: str
    caveat: str = ""
    caveat_published: str = ""
    checks: tuple[Check, ...] = Field(min_length=1)


class Counterparts(Settings):
    """What may stand in for a regime or benchmark that a table does not have; the first there is counts."""

    regimes: dict[str, Names] = Field(default_factory=dict)
    benchmarks: dict[str, Names] = Field(default_factory=dict)


class ClaimFile(Settings):
    """A file of claims.

    Attributes:
        source: where the claims were made.
        quoted_baseline: by regime, the seed of the baseline that gains are quoted against where variants ran another.
        counterparts: stand-ins.
        claims: the claims, each with its own number.
    """

    source: str
    quoted_baseline: dict[str, int] = Field(default_factory=dict)
    counterparts: Counterparts = Counterparts()
    claims: tuple[Claim, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _numbered_once(self) -> ClaimFile:
        numbers = [claim.id for claim in self.claims]
        twice = sorted({n for n in numbers if numbers.count(n) > 1})
        if twice:
            raise ValueError(f"claim {twice[0]} is there twice; give every claim a number of its own")
        return self

    def regimes(self) -> Names:
        """Every regime a claim speaks of, and every stand-in."""
        named = [claim.regime for claim in self.claims]
        return tuple(dict.fromkeys([*named, *(s for n in named for s in self.counterparts.regimes.get(n, ()))]))

    def benchmarks(self) -> Names:
        """Every benchmark a check names, and every stand-in."""
        named = [b for claim in self.claims for check in claim.checks for b in check.benchmarks]
        return tuple(dict.fromkeys([*named, *(s for n in named for s in self.counterparts.benchmarks.get(n, ()))]))


def load_claims(name_or_path: str = PUBLISHED_CLAIMS) -> ClaimFile:
    """Claims by the name of a shipped file, or by the path of one's own.

    Raises:
        SettingsError: no such file, a key or kind of check that does not exist, a check that cannot be made.
    """
    data = load_yaml(find("claims", name_or_path, "claims"))
    if not isinstance(data, dict):
        raise SettingsError(f"claims {name_or_path} hold no mapping; expected source and claims")
    return parse(ClaimFile, data, f"claims {name_or_path}")
