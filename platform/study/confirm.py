"""Confirming a study: its top variants and both controls again, with seeds that the study did not use.

The winner of a noisy search is biased upward; what it gains on fresh seeds is not. Every setting but the seed is that
of the study's own trials, as its record holds them, so an edited preset or variant changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from equipoise.platform.errors import StudyError
from equipoise.platform.record.home import Home
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.study import ConfirmationDefinition, SweepDefinition
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.settings.variant import controls_of, load_variant
from equipoise.platform.stats import power
from equipoise.platform.stats.selection import Selection
from equipoise.platform.study.run import Asked, Outcome, RunOptions, run_study

KIND = "confirmation"
CONFIRMS, CONFIRMED_BY = "confirms", "confirmed_by"  # MLflow tags: of the confirmation, of the study that it confirms
TOP, SEEDS = 3, 5
KEPT = ("regime", "preset", "set", "reading", "seed", "resources", "concurrent", "retries", "plugins")
Listed = list[tuple[str, str, TrialSettings]]


def confirm(
    study: str,
    home: Home,
    options: RunOptions = RunOptions(),
    *,
    top: int | None = None,
    seeds: int | None = None,
    name: str | None = None,
    concurrent: int | None = None,
    tolerance: float | None = None,
) -> Outcome:
    """Run the confirmation of a study to its end.

    Args:
        study: name or MLflow run id of what is confirmed.
        home: where it was written, and where the confirmation is.
        options: how to run it.
        top: how many variants, in the order of the study's selection; None for 3, or what a resumed one has.
        seeds: how many fresh seeds; None for 5, or what a resumed one has.
        name: of the confirmation; None for the study's name and ``-confirmation``.
        concurrent: trials at once; None for the study's.
        tolerance: points that the candidate may lose; None for the noise floor.

    Raises:
        StudyError: nothing to confirm, or what is asked for differs from what is resumed.
        EquipoiseError: if the trials cannot start.
    """
    source = StudyRecord.open(home, study)
    confirmed = source.name
    name = name or f"{confirmed}-{KIND}"
    booked = _booked(home, name, confirmed, top, seeds) if options.resume and home.has_book(name) else None
    definition, listed = booked or define(source, name, top or TOP, seeds or SEEDS, tolerance)
    if concurrent is not None:
        definition = definition.model_copy(update={"concurrent": concurrent})
    outcome = run_study(Asked(definition, KIND, listed), home, options)
    source.tracker.tag(outcome.parent, **{CONFIRMS: confirmed})
    names = confirmations(source)
    if name not in names:
        source.tracker.tag(source.run_id, **{CONFIRMED_BY: ",".join([*names, name])})
    return outcome


def define(
    source: StudyRecord, name: str, top: int, seeds: int, tolerance: float | None = None
) -> tuple[ConfirmationDefinition, Listed]:
    """What a confirmation asks for, and its trials: controls first.

    The fresh seeds are the next integers above every seed of the study and of its earlier confirmations.

    Raises:
        StudyError: the study has no scores, no finished baseline, or no variant that could be confirmed.
    """
    study = source.name
    if not source.benchmarks:
        raise StudyError(f"study {study!r} scores nothing, so it has no top variants to confirm")
    chosen = chosen_of(source.select(tolerance), top)
    if not chosen:
        raise StudyError(f"study {study!r} has no finished trained variant besides its controls: nothing to confirm")
    settings = source.settings
    before = [source, *(StudyRecord.open(source.home, one) for one in confirmations(source))]
    used = [int(run.data.tags["seed"]) for one in before for run in one.trials]
    fresh = tuple(range(max(used) + 1, max(used) + 1 + seeds))
    content = {key: source.definition[key] for key in KEPT if key in source.definition}
    content |= {
        "name": name,
        "description": f"The top {len(chosen)} of {study} on fresh seeds",
        "control_seeds": fresh,
        "confirms": study,
        "top": top,
        "mixes": {variant: settings[variant].variant for variant in chosen},
        "seeds": fresh,
    }
    definition = parse(ConfirmationDefinition, content, f"confirmation of {study}")
    listed: Listed = []
    for seed in fresh:
        for control in controls_of(settings[chosen[0]].preset):
            of = settings.get(control) or settings[chosen[0]].model_copy(
                update={"variant_name": control, "variant": load_variant(control)}
            )
            listed.append(("control", control, of.model_copy(update={"seed": seed})))
    listed += [(KIND, v, settings[v].model_copy(update={"seed": seed})) for seed in fresh for v in chosen]
    return definition, listed


def chosen_of(selection: Selection, top: int) -> list[str]:
    """What is confirmed of a study: its candidate, then the next in its order."""
    rows = [row.variant for row in selection.rows if row.eligible]
    first = [] if selection.candidate is None else [selection.candidate.variant]
    return [*first, *(name for name in rows if name not in first)][:top]


def forecast(selection: Selection, top: int, seeds: int, effect: float | None = None) -> str:
    """What a confirmation can find, in a sentence or two, before it starts.

    Args:
        selection: of the study.
        top: how many variants.
        seeds: how many fresh seeds.
        effect: points of a gain that should be found; None for the smallest that is expected of the candidate.
    """
    floor = {b: value for b, value in selection.noise_floor.items() if value}
    if len(floor) < len(selection.benchmarks):
        return "What it can find is not known beforehand: the study's own seeds tell too little of their spread."
    variants = len(chosen_of(selection, top))
    tests = (variants + (variants > 1)) * len(floor)
    found = ", ".join(f"{b} {power.detectable(value, seeds, tests):.1f}" for b, value in floor.items())
    said = f"With {seeds} seeds each, true gains of this many points are found in 80 % of confirmations: {found}."
    expected = selection.candidate.expected if selection.candidate is not None else None
    effect = effect or (min(e.points for e in expected.values()) if expected else 0.0)
    if effect <= 0:
        return said
    needed = [power.seeds_needed(effect, value, tests) for value in floor.values()]
    most = None if None in needed else max(n for n in needed if n is not None)
    enough = f"more than {power.MOST_SEEDS}" if most is None else str(most)
    return f"{said} A gain of {effect:.1f} points on every benchmark takes {enough} seeds."


@dataclass(frozen=True)
class Next:
    """The confirmation that a sweep asked for.

    Attributes:
        forecast: what it can find, in a sentence or two.
        run: starts it, or goes on with it; called with the home and how to run.
    """

    forecast: str
    run: Callable[[Home, RunOptions], Outcome]


def confirmation_after(definition: SweepDefinition, home: Home, tolerance: float | None = None) -> Next | None:
    """The confirmation that a sweep asked for; None where it asked for none, or nothing leads it.

    Args:
        definition: of the sweep.
        home: where it is.
        tolerance: points a candidate may lose; None for the noise floor.

    Raises:
        TrackingError: the sweep has no finished trial.
        SelectionError: its baseline is missing.
    """
    if definition.confirm is None:
        return None
    selection = StudyRecord.open(home, definition.name).select(tolerance)
    if selection.candidate is None:
        return None
    top, seeds = definition.confirm.top, definition.confirm.seeds

    def start(home: Home, options: RunOptions) -> Outcome:
        again = replace(options, resume=home.has_book(f"{definition.name}-{KIND}"))
        return confirm(definition.name, home, again, top=top, seeds=seeds, tolerance=tolerance)

    return Next(forecast(selection, top, seeds), start)


def confirmations(source: StudyRecord) -> list[str]:
    """Names of a study's confirmations, from its parent run, oldest first."""
    return [name for name in source.tags.get(CONFIRMED_BY, "").split(",") if name]


def _booked(
    home: Home, name: str, confirmed: str, top: int | None, seeds: int | None
) -> tuple[ConfirmationDefinition, Listed] | None:
    """A confirmation that was started, from its own book: the study may have gone on since.

    None where its driver died before all its trials were in the book.
    """
    with home.book(name) as book:
        content, complete, rows = book.fact("definition"), book.fact("listed"), book.rows()
    if not complete:
        return None
    if "confirms" not in content:
        raise StudyError(f"study {name!r} is no confirmation: choose another --name")
    definition = parse(ConfirmationDefinition, content, f"study {name}")
    now = {"confirms": confirmed, "top": top or definition.top, "seeds": seeds or len(definition.seeds)}
    was = {"confirms": definition.confirms, "top": definition.top, "seeds": len(definition.seeds)}
    for key, value in was.items():
        if now[key] != value:
            raise StudyError(
                f"confirmation {definition.name!r} was started with {key} {value}, now it is {now[key]}: resume it as "
                "it was, or choose another --name"
            )
    return definition, [(r.role, r.name, r.asked) for r in rows]
