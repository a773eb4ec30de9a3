"""Replicating a study: its mixes and both controls again, in this home, with seeds that the study did not use.

Every setting but the seed is that of the study's own trials, as its bundle holds them. Items are of the same part.
"""

from __future__ import annotations

from collections.abc import Sequence

from equipoise.platform.errors import StudyError, nearest
from equipoise.platform.record.home import Home
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.study import ReplicationDefinition
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.settings.variant import CONTROLS, controls_of, load_variant
from equipoise.platform.study.confirm import KEPT, TOP, Listed, chosen_of
from equipoise.platform.study.run import Asked, Outcome, RunOptions, run_study

KIND = "replication"
FEWEST = 2  # seeds: with one nothing is known of what a seed does


def replicate(
    source: StudyRecord,
    home: Home,
    options: RunOptions = RunOptions(),
    *,
    variants: Sequence[str] = (),
    seeds: int | None = None,
    name: str | None = None,
    concurrent: int | None = None,
) -> Outcome:
    """Run the replication of a study to its end.

    Args:
        source: the study, of a bundle or of a home.
        home: where the replication goes.
        options: how to run it.
        variants: to run again; none given: all that the study compares, of a search its leading three.
        seeds: how many fresh ones; None for as many as the study has of its baseline.
        name: of the replication; None for the study's name and ``-replication``.
        concurrent: trials at once; None for the study's.

    Raises:
        StudyError: a variant that the study does not have, or nothing to replicate.
        EquipoiseError: the trials cannot start.
    """
    definition, listed = define(source, variants, seeds, name or f"{source.name}-{KIND}", concurrent)
    return run_study(Asked(definition, KIND, listed, source.part), home, options)


def define(
    source: StudyRecord, variants: Sequence[str], seeds: int | None, name: str, concurrent: int | None = None
) -> tuple[ReplicationDefinition, Listed]:
    """What a replication asks for, and its trials: controls first; arguments as of :func:`replicate`."""
    if not source.benchmarks:
        raise StudyError(f"study {source.name!r} scores nothing, so it has no differences to replicate")
    settings = source.settings
    known = [variant for variant in settings if variant not in CONTROLS]
    for variant in variants:
        if variant not in known:
            raise StudyError(f"study {source.name!r} has no finished {variant!r}; {nearest(variant, known)}")
    searched = "sampler" in source.definition
    chosen = tuple(variants) or tuple(chosen_of(source.select(), TOP) if searched else known)
    if not chosen:
        raise StudyError(f"study {source.name!r} has no finished trained variant besides its controls")
    used = [int(run.data.tags["seed"]) for run in source.trials]
    count = seeds or max(FEWEST, len(source.table.seeds("baseline")))
    fresh = tuple(range(max(used) + 1, max(used) + 1 + count))
    content = {key: source.definition[key] for key in KEPT if key in source.definition}
    content |= {
        "name": name,
        "description": f"{source.name} again, on fresh seeds",
        "control_seeds": fresh,
        "replicates": source.name,
        "mixes": {variant: settings[variant].variant for variant in chosen},
        "seeds": fresh,
        "concurrent": concurrent or source.definition.get("concurrent"),
    }
    definition = parse(ReplicationDefinition, content, f"replication of {source.name}")
    listed: Listed = []
    for seed in fresh:
        for control in controls_of(settings[chosen[0]].preset):
            of = settings.get(control) or _control(settings[chosen[0]], control)
            listed.append(("control", control, of.model_copy(update={"seed": seed})))
    listed += [(KIND, v, settings[v].model_copy(update={"seed": seed})) for seed in fresh for v in chosen]
    return definition, listed


def _control(like: TrialSettings, control: str) -> TrialSettings:
    return like.model_copy(update={"variant_name": control, "variant": load_variant(control)})
