"""The options of `equipoise ablate` that describe a design."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

KINDS = ("add_one_in", "leave_one_out", "factorial", "dose_response")
KEYS = {"factors": "factor", "fraction": "fraction", "cells": "cells", "objective": "objective", "weights": "dose"}
DEFAULTS = {"regime": "miniature", "preset": "nano", "seeds": [0, 1, 2]}  # of a design without a YAML file
# What a resumed study without a YAML file needs to be told again, besides its design.
TOLD_AGAIN = {"preset": "preset", "regime": "regime", "reading": "reading", "seeds": "seed", "set": "set"}
LONGEST_NAME = 64


def design_options(command: F) -> F:
    """``--design`` and what belongs to it."""
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
    for option in reversed(options):
        command = option(command)
    return command


def ablation_of(definition: str | None, options: dict[str, Any], changes: dict[str, Any]) -> tuple[Any, str]:
    """The ablation that was asked for, and the words that ask for it again.

    Args:
        definition: shipped study or YAML file; None where the design is on the command line.
        options: of the command; those of the design are taken out.
        changes: what else the command line changes.
    """
    from equipoise.platform.definitions import AblationDefinition, load_ablation
    from equipoise.platform.settings import parse

    kind = options.pop("kind")
    given = {key: value for key in KEYS if (value := options.pop(key)) not in (None, ())}
    if kind is None and given:
        raise click.UsageError(f"--{KEYS[next(iter(given))]} belongs to a design: add --design")
    if kind is None and definition is None:
        raise click.UsageError("give a DEFINITION (a shipped study or a YAML file), or a design with --design")
    again = "ablate" if definition is None else f"ablate {shlex.quote(definition)}"
    if kind is not None:
        changes = {**changes, "design": {"kind": kind, **given}}
        again += _words({KEYS[key]: value for key, value in given.items()} | {"design": kind})
    if definition is not None:
        return load_ablation(definition, changes), again
    told = {key: value for key, value in changes.items() if value not in (None, ())}
    again += _words({option: told[key] for key, option in TOLD_AGAIN.items() if key in told})
    content = {**DEFAULTS, "name": _name(kind, given), **told}
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
