"""Probes by name: what ships, and those that are brought along."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

from equipoise.models.errors import ModelError


@dataclass(frozen=True)
class ProbeRecord:
    """A probe of one's own that settings can ask for, beside ``attentive``, ``linear`` and ``knn``.

    Attributes:
        name: how settings call its kind.
        description: one line.
        fit: from features ``[N, D]`` (``[N, K, D]`` unless ``pooled``), labels int64 ``[N]``, the number of classes C,
            a generator, and its parameters by name: a function that gives items ``[n, ...]`` scores ``[n, C]``.
        pooled: whether it reads the mean over tokens.
    """

    name: str
    description: str
    fit: Callable[..., Callable[[Tensor], Tensor]]
    pooled: bool = True

    @property
    def factory(self) -> Callable[..., Any]:
        """What defines it."""
        return self.fit

    @property
    def params(self) -> tuple[str, ...]:
        """Names of its parameters."""
        return tuple(inspect.signature(self.fit).parameters)[4:]


_known: dict[str, ProbeRecord] = {}
PROBES: Mapping[str, ProbeRecord] = MappingProxyType(_known)
"""Every known probe that does not ship, by name."""
SHIPPED = {
    "attentive": "a class token attends to all tokens of an item; with blocks, as V-JEPA 2 scores",
    "linear": "a linear map of the mean over tokens",
    "knn": "votes of the nearest training items",
}


def register_probe(record: ProbeRecord) -> ProbeRecord:
    """Make a probe known to settings; one of the same name is replaced, unless it ships.

    Raises:
        ValueError: a probe that ships has this name, or it is no name, or it does not take what it is given.
    """
    if not record.name.isidentifier() or record.name in SHIPPED:
        names = ", ".join(SHIPPED)
        raise ModelError(f"probe {record.name!r}: expected letters, digits and _ for a name, none of {names}")
    if len(inspect.signature(record.fit).parameters) < 4:
        raise ModelError(f"probe {record.name!r}: its fit takes features, labels, classes, generator, then parameters")
    _known[record.name] = record
    return record
