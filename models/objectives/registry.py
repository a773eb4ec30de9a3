"""Every objective as an immutable record: the published ones, and those that are brought along."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal, get_args, overload

from equipoise.models.errors import ModelError
from equipoise.models.masking import FuturePredictive, MotionGuided
from equipoise.models.objectives.action import Action, FactorizedAction
from equipoise.models.objectives.factorised import CrossCovariance, StaticAppearance
from equipoise.models.objectives.hamiltonian import Hamiltonian
from equipoise.models.objectives.hard_region import HardRegion
from equipoise.models.objectives.kinematic import (
    KinematicAcceleration,
    KinematicHuber,
    KinematicSplit,
    KinematicVelocity,
)
from equipoise.models.objectives.sigreg import SIGReg
from equipoise.models.objectives.temporal import Delta, LatentDynamics, Spectral, TemporalContrast, VelocityGate

Need = Literal["teacher", "clip", "head", "predictor"]
Part = Literal["encoder", "predictor", "head"]


@dataclass(frozen=True)
class ObjectiveRecord:
    """One objective.

    Attributes:
        name: how settings call it: small letters, digits and ``_``.
        description: one line.
        published_weight: weight in the published variants, the usual one of several; 1 for mask policies. Of an
            objective that was not published, the weight around which a search should look.
        needs: what it reads besides the student: ``teacher`` features, ``predictor`` output, the ``clip``, a ``head``.
        moves: what its gradient must reach (kinematic terms: with ``on`` "student").
        source: where its definition comes from.
        factory: builds it; losses take ``channels`` first.
        kind: a ``loss`` term or a ``mask`` policy.
        search: lowest and highest weight that a search over all objectives tries; None for a tenth and three times
            ``published_weight``.
    """

    name: str
    description: str
    published_weight: float
    needs: tuple[Need, ...]
    moves: tuple[Part, ...]
    source: str
    factory: Callable[..., Any]
    kind: Literal["loss", "mask"] = "loss"
    search: tuple[float, float] | None = None

    @property
    def span(self) -> tuple[float, float]:
        """Lowest and highest weight that a search over all objectives tries."""
        low, high = self.published_weight / 10, self.published_weight * 3
        high = min(high, 1.0) if self.kind == "mask" else high
        return self.search or (float(f"{low:.3g}"), float(f"{high:.3g}"))

    @property
    def params(self) -> Mapping[str, Any]:
        """Parameters and their defaults."""
        found = inspect.signature(self.factory).parameters
        return MappingProxyType({k: p.default for k, p in found.items() if p.default is not p.empty})


_PAPER = "Factorized Latent Dynamics for Video JEPA, arXiv 2605.17165"

_PUBLISHED = (
    ObjectiveRecord(
        "hard_region", "prediction loss that counts badly predicted tokens more", 0.3,
        ("teacher", "predictor"), ("encoder", "predictor"), _PAPER, HardRegion, search=(0.1, 2.0),
    ),
    ObjectiveRecord(
        "static_appearance", "appearance channels stay the same along time", 0.05,
        (), ("encoder",), _PAPER, StaticAppearance, search=(0.01, 0.3),
    ),
    ObjectiveRecord(
        "cross_covariance", "appearance and dynamics channels are uncorrelated", 0.01,
        (), ("encoder",), _PAPER, CrossCovariance, search=(0.003, 0.1),
    ),
    ObjectiveRecord(
        "delta", "the student changes along time as the target does", 0.5,
        ("teacher",), ("encoder",), _PAPER, Delta, search=(0.1, 2.0),
    ),
    ObjectiveRecord(
        "latent_dynamics", "a head reads the target's coming change out of the student", 1.0,
        ("teacher", "head"), ("encoder", "head"), _PAPER, LatentDynamics, search=(0.1, 2.0),
    ),
    ObjectiveRecord(
        "temporal_contrast", "the student is nearer to the target now than to the next one", 0.5,
        ("teacher",), ("encoder",), _PAPER, TemporalContrast, search=(0.1, 2.0),
    ),
    ObjectiveRecord(
        "spectral", "student and target agree in their spectra along time, high frequencies first", 1.0,
        ("teacher",), ("encoder",), _PAPER, Spectral, search=(0.1, 2.0),
    ),
    ObjectiveRecord(
        "action", "a head reads the coming change of colour out of the student", 1.0,
        ("clip", "head"), ("encoder", "head"), _PAPER, Action, search=(0.1, 2.0),
    ),
    ObjectiveRecord(
        "factorized_action", "action read from the dynamics channels only", 1.0,
        ("clip", "head"), ("encoder", "head"), _PAPER, FactorizedAction, search=(0.1, 2.0),
    ),
    ObjectiveRecord(
        "kinematic_velocity", "features change little along time", 1.0,
        (), ("encoder",), _PAPER, KinematicVelocity, search=(0.01, 0.3),
    ),
    ObjectiveRecord(
        "kinematic_huber", "features change little along time, Huber penalty", 0.1,
        (), ("encoder",), _PAPER, KinematicHuber, search=(0.01, 0.3),
    ),
    ObjectiveRecord(
        "kinematic_acceleration", "features change at constant speed", 0.1,
        (), ("encoder",), _PAPER, KinematicAcceleration, search=(0.01, 0.3),
    ),
    ObjectiveRecord(
        "kinematic_split", "the first channels change at constant speed", 0.1,
        (), ("encoder",), _PAPER, KinematicSplit, search=(0.01, 0.3),
    ),
    ObjectiveRecord(
        "sigreg", "visible tokens are distributed as a standard Gaussian", 1.0,
        (), ("encoder",), "LeJEPA, arXiv 2511.08544", SIGReg, search=(0.01, 1.0),
    ),
    ObjectiveRecord(
        "hamiltonian", "a learned energy carries the student to the next target", 1.0,
        ("teacher", "head"), ("encoder", "head"), _PAPER, Hamiltonian, search=(0.03, 1.0),
    ),
    ObjectiveRecord(
        "velocity_gate", "features stay the same where the target hardly moves", 1.0,
        ("teacher",), ("encoder",), _PAPER, VelocityGate, search=(0.03, 1.0),
    ),
    ObjectiveRecord(
        "motion_guided", "masking: blocks lie where the clip moves", 1.0,
        ("clip",), (), _PAPER, MotionGuided, "mask", search=(0.25, 1.0),
    ),
    ObjectiveRecord(
        "future_predictive", "masking: only the first part of time can be visible", 1.0,
        (), (), _PAPER, FuturePredictive, "mask", search=(0.25, 1.0),
    ),
)  # fmt: skip
_OTHERS: tuple[ObjectiveRecord, ...] = ()  # that ship and were not published
_known: dict[str, ObjectiveRecord] = {r.name: r for r in (*_PUBLISHED, *_OTHERS)}
RECORDS: Mapping[str, ObjectiveRecord] = MappingProxyType(_known)
"""Every objective that is known, by name: those of the design's table first. What is registered later appears in it."""


def published_objectives() -> tuple[ObjectiveRecord, ...]:
    """The records of the published objectives, in the order of the design's table."""
    return _PUBLISHED


def list_objectives() -> tuple[ObjectiveRecord, ...]:
    """Every record that is known: the published ones, then those that were registered."""
    return tuple(_known.values())


def register(record: ObjectiveRecord) -> ObjectiveRecord:
    """Make an objective known, in the place of one that was registered under its name before.

    Args:
        record: of a loss, whose factory takes the channels first and gives an :class:`Objective`; or of a mask policy,
            whose factory takes its parameters and gives an :class:`OriginPolicy`.

    Returns:
        The record.

    Raises:
        ModelError: for a name that is none or is a published objective's, a kind or a part that does not exist, or a
            factory that does not take channels.
    """
    name = record.name
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
        raise ModelError(f"an objective is called {name!r}; expected small letters, digits and _, a letter first")
    if any(name == r.name for r in (*_PUBLISHED, *_OTHERS)):
        raise ModelError(f"{name} is an objective that ships: give yours another name")
    if record.kind not in ("loss", "mask"):
        raise ModelError(f"{name} is of kind {record.kind!r}; expected 'loss' or 'mask'")
    for what, given, known in (("needs", record.needs, get_args(Need)), ("moves", record.moves, get_args(Part))):
        unknown = [one for one in given if one not in known]
        if unknown:
            raise ModelError(f"{name} {what} {unknown[0]!r}; {_nearest(unknown[0], known)}")
    if not record.moves:
        raise ModelError(f"{name} moves nothing: say what its gradient reaches, e.g. moves=('encoder',)")
    weight = record.published_weight
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise ModelError(f"{name} has the weight {weight!r}; expected a number above 0")
    low, high = record.span
    if not 0 < low < high < math.inf:
        raise ModelError(f"{name} is searched from {low} to {high}; expected two weights above 0, the lower one first")
    if record.kind == "mask" and high > 1:
        raise ModelError(f"{name} is searched up to {high}; the weight of a mask policy is a share of clips, at most 1")
    first = next(iter(inspect.signature(record.factory).parameters.values()), None)
    if record.kind == "loss" and (first is None or first.default is not first.empty):
        raise ModelError(f"the factory of {name} takes no channels; its first argument is the width of the features")
    _known[name] = record
    return record


@overload
def create(name: Literal["motion_guided"], channels: int | None = None, **params: Any) -> MotionGuided: ...
@overload
def create(name: Literal["future_predictive"], channels: int | None = None, **params: Any) -> FuturePredictive: ...
@overload
def create(name: str, channels: int | None = None, **params: Any) -> Any: ...


def create(name: str, channels: int | None = None, **params: Any) -> Any:
    """Build an objective.

    Args:
        name: one of ``list_objectives()``.
        channels: D, channels of the features; mask policies do without.
        params: its parameters; ``ObjectiveRecord.params`` has the defaults.

    Returns:
        An ``Objective`` (an ``nn.Module``), or for the two mask policies a frozen record for ``MaskSampler``.

    Raises:
        ValueError: for an unknown name or parameter, naming the nearest; for a bad value; without ``channels``.
    """
    record = _known.get(name)
    if record is None:
        raise ModelError(f"unknown objective {name!r}; {_nearest(name, _known)}")
    for key in params:
        if key not in record.params:
            raise ModelError(f"unknown parameter {key!r} of {name}; {_nearest(key, record.params)}")
    if record.kind == "mask":
        return record.factory(**params)
    if not isinstance(channels, int) or channels < 1:
        raise ModelError(f"{name} needs channels, the width of the features; {channels!r} given, expected at least 1")
    return record.factory(channels, **params)


def _nearest(word: str, known: Iterable[str]) -> str:
    names = list(known)
    near = get_close_matches(word, names, n=1, cutoff=0.0)
    return f"nearest is {near[0]!r}, known are {', '.join(names)}" if near else "it has no parameters"
