"""A selection in words: who leads, what that is worth, and what a reader must know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from equipoise.platform.stats.mixes import UNCHANGED
from equipoise.platform.stats.noise import LEAST_FREEDOM
from equipoise.platform.stats.table import BARRED, ResultTable

if TYPE_CHECKING:
    from equipoise.platform.stats.selection import Candidate, Selection

FEW = 5  # names that a sentence lists


def sentence(s: Selection, confirm: str | None = None) -> str:
    """Who leads, how often luck does as well, what to expect, and that it is not confirmed.

    Args:
        s: the selection.
        confirm: the command that confirms it.
    """
    if s.candidate is None:
        return _nothing(s)
    c = s.candidate
    parts = [_leads(s, c), _luck(s, c)]
    if c.expected is not None:
        gains = ", ".join(f"{b} {e.points:+.2f} [{e.low:+.2f}, {e.high:+.2f}]" for b, e in c.expected.items())
        parts.append(f"Expected gains in points, shrunk by what luck adds (95 %): {gains}.")
    if c.better:
        parts.append(f"It is better than {s.baseline} on every benchmark, with all {s.launched} mixes counted (5 %).")
    elif c.kept:
        parts.append(f"It keeps within the tolerance on every benchmark, with all {s.launched} mixes counted (5 %).")
    parts.append(f"Not confirmed: {confirm}." if confirm else "Not confirmed.")
    return " ".join(parts)


def _leads(s: Selection, c: Candidate) -> str:
    """Who leads how many."""
    names = (c.variant, *c.tied)
    seeds = {len(row.seeds) for row in s.rows if row.control is None}
    each = f"{_number(min(seeds))} seed{'s' if seeds != {1} else ''} each" if len(seeds) == 1 else _several(seeds)
    gains = ", ".join(f"{b} {gain:+.2f}" for b, gain in c.gains.items())
    who = c.variant if not c.tied else f"{listed(names)}, equal to the last item,"
    verb = "lead" if c.tied else "leads"
    if s.launched == 1:
        return f"{c.variant} is the only candidate ({each}): {gains} points over {s.baseline}."
    return f"{who} {verb} {s.launched} candidates ({each}): {gains} points over {s.baseline}."


def _several(seeds: set[int]) -> str:
    return f"{min(seeds)} to {max(seeds)} seeds each"


def _number(count: int) -> str:
    return {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}.get(count, str(count))


def _luck(s: Selection, c: Candidate) -> str:
    """How often mixes that do nothing have a leader this good."""
    mixes = f"{s.launched} mix{'es' if s.launched > 1 else ''} that do{'' if s.launched > 1 else 'es'} nothing"
    if c.luck is None:
        return f"How often a study of {mixes} has a leader this good is not known: no variant has two seeds everywhere."
    return f"A study of {mixes} has a leader this good in {share(c.luck)} of cases."


def share(probability: float) -> str:
    """A probability in percent, with a digit more where it is small."""
    if probability >= 0.995:
        return "more than 99 %"
    if probability < 0.0005:
        return "less than 0.1 %"
    return f"{100 * probability:.{0 if probability >= 0.1 else 1}f} %"


def _nothing(s: Selection) -> str:
    """Why there is no candidate."""
    eligible = [row for row in s.rows if row.eligible]
    if not eligible:
        return f"No candidate: the table has no complete trained variant besides {s.baseline}."
    if not any(max(row.gains.values()) > 0 for row in eligible):
        return f"No candidate: no variant improves on {s.baseline} on any benchmark."
    if not any(s.tolerance.values()):
        return f"No candidate: every variant that gains anywhere is below {s.baseline} on another benchmark."
    limits = ", ".join(f"{name} {value:.2f}" for name, value in s.tolerance.items())
    return (
        f"No candidate: every variant that gains anywhere is more than the tolerance ({limits} points) below "
        f"{s.baseline} on another benchmark."
    )


def notes(s: Selection, table: ResultTable) -> tuple[str, ...]:
    """What a reader must know, one sentence each.

    Args:
        s: the selection.
        table: what it was made from.
    """
    found = [*_seed_notes(s, table)]
    if s.hypervolume == 0:
        found.append(
            f"The mean of no variant is above that of {s.baseline} on every benchmark: the hypervolume against it is 0."
        )
    for name, meaning in table.flag_meanings:
        carriers = [row.variant for row in s.rows if name in row.flags]
        if carriers:
            barred = "; never a candidate" if name in BARRED else ""
            found.append(f"{name} ({', '.join(carriers)}): {meaning}{barred}.")
    low = [name for name, distance in s.above_random_init.items() if distance is not None and distance <= 0]
    if low:
        found.append(
            f"{s.baseline} is not above the untrained encoder on {', '.join(low)}: no gain there shows learning."
        )
    means = {row.variant: row.means for row in s.rows}
    if UNCHANGED in means:
        same = [name for name in s.benchmarks if means[s.baseline][name] <= means[UNCHANGED][name]]
        if same:
            found.append(
                f"{s.baseline} is not above the checkpoint that it starts from ({UNCHANGED}) on {', '.join(same)}: "
                "training it further added nothing there."
            )
    if all(distance is None for distance in s.above_random_init.values()):
        found.append("There is no untrained control in the table, so nothing shows how much of a score is learned.")
    found += [f"{v} is left out: no score on {', '.join(names)}." for v, names in s.incomplete.items()]
    return tuple(found)


def _seed_notes(s: Selection, table: ResultTable) -> list[str]:
    """What seeds tell, and what they do not."""
    found = []
    seeds = {b: tuple(table.values(s.baseline, b)) for b in table.benchmarks}
    if len(set(seeds.values())) > 1:
        shown = "; ".join(f"{b}: {', '.join(map(str, seeds[b]))}" for b in table.benchmarks)
        found.append(f"The seeds of {s.baseline} differ between benchmarks ({shown}); each mean is over what there is.")
    single = [row.variant for row in s.rows if len(row.seeds) == 1 and row.control is None]
    if single:
        found.append(f"One seed each, so that another may give another sign: {listed(single)}.")
    freedom = set(s.freedom.values())
    shown = f"{min(freedom)}" if len(freedom) == 1 else _by_benchmark({b: str(f) for b, f in s.freedom.items()})
    if s.scaled_by is not None:
        floors = _by_benchmark({b: f"{value:.2f}" for b, value in s.scaled_by.items()})
        found.append(f"Noise floor in points: {floors}; from all repeated variants, {shown} degrees of freedom.")
    elif min(freedom) < LEAST_FREEDOM:
        found.append(
            f"There is no noise floor: what seeds do rests on {shown} degrees of freedom, {LEAST_FREEDOM} are needed "
            f"(four seeds of {s.baseline})."
        )
    else:
        found.append("There is no noise floor: seeds that agree to the last digit show no spread.")
    return found


def _by_benchmark(values: Mapping[str, str]) -> str:
    return ", ".join(f"{b} {value}" for b, value in values.items())


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Names in a sentence; of many, the first ones and how many more there are."""
    if len(names) > FEW + 1:
        return f"{', '.join(names[:FEW])} and {len(names) - FEW} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
