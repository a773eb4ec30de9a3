"""A search space for the eye: a tree of its axes, and what a search does with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from equipoise.platform.settings.axes import SCHEDULE, Choice, Range, Span
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.settings.variant import CONTROLS, RECORDS, Variant, variants

MANY_OFF = 0.05  # share of mixes with nothing on from which on it is worth a word


def published_of(definition: SweepDefinition) -> tuple[dict[str, Variant], dict[str, str]]:
    """Published variants that lie in the space, and for the others why they do not."""
    inside: dict[str, Variant] = {}
    outside: dict[str, str] = {}
    seen: list[Variant] = []
    for name, variant in variants().items():
        if name in CONTROLS or not variant.regimes or variant in seen:
            continue
        seen.append(variant)
        why = definition.refuses(variant)
        if why is None:
            inside[name] = variant
        else:
            outside[name] = why
    return inside, outside


def space_record(definition: SweepDefinition) -> dict[str, Any]:
    """JSON-able explanation of a space."""
    inside, outside = published_of(definition)
    d = definition
    return {
        "name": d.name,
        "description": d.description,
        "dimensions": {
            "all": len(d.dimensions),
            "weights": len(d.objectives),
            "conditional": len(d.dimensions) - len(d.objectives),
        },
        "expected_on": math.fsum(1 - r.off_probability for r in d.objectives.values()),
        "all_off": math.prod(r.off_probability for r in d.objectives.values()),
        "objectives": {name: _objective(name, r) for name, r in d.objectives.items()},
        "max_total_weight": d.max_total_weight,
        "constraints": None if d.constraints is None else d.constraints.model_dump(mode="json"),
        "sampler": d.sampler,
        "trials": d.trials,
        "start": list(d.starts),
        "warm_start": d.warm_start,
        "early_stopping": None if d.early_stopping is None else d.early_stopping.model_dump(mode="json"),
        "seeds": None if d.seeds is None else d.seeds.model_dump(mode="json"),
        "budget": None if d.budget is None else str(d.budget),
        "published_inside": list(inside),
        "published_outside": outside,
    }


def _objective(name: str, r: Range) -> dict[str, Any]:
    return {
        "kind": RECORDS[name].kind,
        "low": r.low,
        "high": r.high,
        "off_probability": r.off_probability,
        "conditional": {k: axis.model_dump(mode="json") for k, axis in r.conditional.items()},
        "fixed": _fixed(r),
    }


def _fixed(r: Range) -> dict[str, Any]:
    found = {k: v for k, v in r.params.items() if not isinstance(v, Span | Choice)}
    return found | ({SCHEDULE: r.schedule} if isinstance(r.schedule, str) else {})


def show_space(definition: SweepDefinition, console: Console) -> None:
    """Print the tree of a space, then what a search of it begins with."""
    d = definition
    record = space_record(d)
    count = record["dimensions"]
    title = Text(d.name, style="bold")
    title.append(f"  {_some(count['all'], 'dimension')}: {_some(count['weights'], 'weight')}", style="default")
    if count["conditional"]:
        title.append(f" and {count['conditional']} that exist while their objective is on", style="default")
    tree = Tree(title)
    for kind, label in (("loss", "losses"), ("mask", "mask policies (the weight is a share of clips)")):
        named = {name: r for name, r in d.objectives.items() if RECORDS[name].kind == kind}
        if named:
            branch = tree.add(label)
            _branch(branch, named)
    console.print(tree, highlight=False)
    for line in _sentences(d, record):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _branch(branch: Tree, named: Mapping[str, Range]) -> None:
    width = max(map(len, named))
    for name, r in named.items():
        off = f"off {r.off_probability:.0%}, or " if r.off_probability else ""
        node = Text(f"{name:{width}}  ")
        node.append(f"{off}weight {r.low:g} to {r.high:g}, log")
        leaf = branch.add(node)
        for key, axis in r.conditional.items():
            leaf.add(Text(f"{key}: {axis}"))
        for key, value in _fixed(r).items():
            if (key, value) != (SCHEDULE, "constant"):
                leaf.add(Text(f"{key}: always {value}", style="dim"))


def _sentences(d: SweepDefinition, record: Mapping[str, Any]) -> list[str]:
    said = [f"A random mix has {record['expected_on']:.1f} of {len(d.objectives)} objectives on."]
    if record["all_off"] > MANY_OFF:
        said.append(
            f"{record['all_off']:.0%} of random mixes have none on and train the baseline with one more seed: "
            "a lower off_probability makes them fewer."
        )
    if d.max_total_weight is not None:
        said.append(f"The weights of the losses sum to at most {d.max_total_weight:g}: a mix with more is scaled down.")
    if d.constraints is not None:
        limit = d.constraints.max_loss
        parts = [f"{points:g} on {name}" for name, points in limit.items()] if isinstance(limit, dict) else None
        text = ", ".join(parts) if parts is not None else f"{limit:g} on every benchmark"
        said.append(f"Steered away from: mixes that lose more than {text} (points against the baseline).")
    said.append(f"Searched by {d.sampler}, {_some(d.trials, 'trial')}.")
    if d.early_stopping is not None:
        e = d.early_stopping
        places = ", ".join(f"1/{e.reduction_factor**k:g}" for k in range(e.rungs, 0, -1))
        said.append(f"Stopped early at {places} of the training: all but the best one in {e.reduction_factor:g} there.")
    if d.seeds is not None:
        said.append(
            f"Mixes on the front earn up to {d.seeds.most} seeds, in at most {d.seeds.share:.0%} of the trials."
        )
    if d.budget is not None:
        said.append(f"Stops at {d.budget}.")
    if d.starts:
        said.append(f"Tried first: {', '.join(d.starts)}.")
    if d.warm_start is not None:
        said.append(
            f"Warm start from study {d.warm_start}: its finished trials count; from another regime, its best mixes are "
            "tried first."
        )
    inside, outside = record["published_inside"], record["published_outside"]
    said.append(f"{len(inside)} of {len(inside) + len(outside)} published variants lie in the space.")
    said += [f"  not {name}: it {why}" for name, why in outside.items()]
    return said


def _some(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
