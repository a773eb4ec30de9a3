"""The options of `equipoise ablate` that describe a design."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from equipoise.platform.cli.options import gathered

if TYPE_CHECKING:
    from equipoise.platform.settings.study import AblationDefinition

F = TypeVar("F", bound=Callable[..., Any])

KINDS = ("add_one_in", "leave_one_out", "factorial", "dose_response")
KEYS = {"factors": "factor", "fraction": "fraction", "cells": "cells", "objective": "objective", "weights": "dose"}
DEFAULTS = {"regime": "miniature", "preset": "nano", "seeds": [0, 1, 2]}  # of a design without a YAML file
# What a resumed study without a YAML file needs to be told again, besides its design.
ASKED_AGAIN = {"preset": "preset", "regime": "regime", "reading": "reading", "seeds": "seed", "set": "set"}
LONGEST_NAME = 64


@dataclass(frozen=True)
class DesignOptions:
    """A design as it was asked for on the command line; None and () where an option was not given."""

    kind: str | None = None
    factors: tuple[str, ...] = ()
    fraction: str | None = None
    cells: str | None = None
    objective: str | None = None
    weights: tuple[float, ...] = ()

    @property
    def given(self) -> dict[str, Any]:
        """What was given besides the kind."""
        return {key: value for key in KEYS if (value := getattr(self, key)) not in (None, ())}


def design_options(command: F) -> F:
    """``--design`` and what belongs to it, as ``design``."""
    options = [
        click.option("--design", "kind", type=click.Choice(KINDS), help="Run the cells of a design; see --factor."),
        click.option(
            "--factor",
            "factors",
            multiple=True,
            metavar="NAME|OBJECTIVE=WEIGHT",
            help="What the design switches on and off: fwm, or delta=0.5; given once for each.",
        ),
        click.option("--fraction", type=click.Choice(["full", "half", "quarter", "eighth", "sixteenth"])),
        click.option(
            "--cells",
            type=click.Choice(["constant", "published"]),
            help="A factor's weights are the same in every cell (default), or combinations have their published ones.",
        ),
        click.option("--objective", help="Objective of a dose_response."),
        click.option("--dose", "weights", type=float, multiple=True, help="Weight in a dose_response; once for each."),
    ]
    command = gathered(DesignOptions, "design")(command)
    for option in reversed(options):
        command = option(command)
    return command


def ablation_of(
    definition: str | None, design: DesignOptions, changes: Mapping[str, Any]
) -> tuple[AblationDefinition, str]:
    """The ablation that was asked for, and the words that ask for it again.

    Args:
        definition: shipped study or YAML file; None where the design is on the command line.
        design: what the command line says of it.
        changes: what else the command line changes.
    """
    from equipoise.platform.settings.base import parse
    from equipoise.platform.settings.study import AblationDefinition, load_ablation

    kind, given = design.kind, design.given
    if kind is None and given:
        raise click.UsageError(f"--{KEYS[next(iter(given))]} belongs to a design: add --design")
    if kind is None and definition is None:
        raise click.UsageError("give a DEFINITION (a shipped study or a YAML file), or a design with --design")
    again = "ablate" if definition is None else f"ablate {shlex.quote(definition)}"
    if kind is not None:
        changes = {**changes, "design": {"kind": kind, **given}}
        again += _words({KEYS[key]: value for key, value in given.items()} | {"design": kind})
    if definition is not None or kind is None:
        assert definition is not None
        return load_ablation(definition, changes), again
    changed = {key: value for key, value in changes.items() if value not in (None, ())}
    again += _words({option: changed[key] for key, option in ASKED_AGAIN.items() if key in changed})
    content = {**DEFAULTS, "name": _name(kind, given), **changed}
    return parse(AblationDefinition, content, f"ablate --design {kind}"), again


def _words(options: dict[str, Any]) -> str:
    """Options as they are typed."""
    pairs = [(k, one) for k, value in options.items() for one in (value if isinstance(value, tuple) else (value,))]
    return "".join(f" --{key} {shlex.quote(str(value))}" for key, value in pairs)


def _name(kind: str, given: dict[str, Any]) -> str:
    """A name for a study whose design is on the command line."""
    parts = [str(part).replace("=", "-") for part in (*given.get("factors", ()), given.get("objective")) if part]
    name = "-".join([kind, *parts, *([given["fraction"]] if "fraction" in given else [])])
    return name if len(name) <= LONGEST_NAME else kind
