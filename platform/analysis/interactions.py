"""Why a search found what it found, and what it would try next.

Questions beyond importances (:mod:`equipoise.platform.analysis.importance`): do two objectives add up, do early looks
tell the end, what does a model of the finished trials expect of a mix, and what comes next. All are answered from few,
noisy trials, so each answer carries its interval and says how many trials it rests on.

A mix is seen through its doses: 0 where an objective is off, 1 at the highest weight of its range, and 0.5 at the
lowest (0 for an objective that is never off), even in the logarithm between.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
import scipy.stats
from numpy.typing import NDArray
from optuna.trial import TrialState

from equipoise.platform.search.proposer import name_of
from equipoise.platform.search.samplers import WARM_ATTRIBUTE, rungs_of
from equipoise.platform.settings.space import SearchSpace
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.settings.variant import Variant
from equipoise.platform.stats.uncertainty import Difference, holm

LEVEL = 0.05
TOGETHER = 4  # trials that have both of a pair on, below which their interaction is not asked for
ALONE = 1e-3  # share of a product that the doses must leave unexplained
SPARE = 5  # trials beyond the parameters of a fit
FEWEST = 8  # finished trials below which a model only repeats them


Array = NDArray[np.float64]


@dataclass(frozen=True)
class Finished:
    """The finished trials of a search: n trials, p objectives, m benchmarks.

    Attributes:
        names: of the trials.
        variants: their mixes.
        doses: ``[n, p]``.
        values: ``[n, m]``, accuracies in percent.
        own: ``[n]`` bool; False where a warm start brought a trial in from an earlier study.
        objectives: the p names.
        benchmarks: the m names.
    """

    names: tuple[str, ...]
    variants: tuple[Variant, ...]
    doses: Array
    values: Array
    own: NDArray[np.bool_]
    objectives: tuple[str, ...]
    benchmarks: tuple[str, ...]

    def only_own(self) -> Finished:
        """Without the trials of an earlier study."""
        kept = np.flatnonzero(self.own)
        return Finished(
            tuple(self.names[i] for i in kept),
            tuple(self.variants[i] for i in kept),
            self.doses[kept],
            self.values[kept],
            self.own[kept],
            self.objectives,
            self.benchmarks,
        )


@dataclass(frozen=True, kw_only=True)
class Interaction:
    """What two objectives do together beyond what each does alone, on one benchmark.

    Attributes:
        first: an objective.
        second: another.
        benchmark: name of the benchmark.
        estimate: points that the mix with both at their highest weight lies above the sum of both effects alone.
        low: lower end of the 95 % interval, of this pair alone.
        high: its upper end.
        p_adjusted: Holm's, over the pairs of the benchmark.
        together: trials that have both on.
        trials: trials the fit rests on.
    """

    first: str
    second: str
    benchmark: str
    estimate: float
    low: float
    high: float
    p_adjusted: float
    together: int
    trials: int

    @property
    def clear(self) -> bool:
        """Whether it is more than chance."""
        return self.p_adjusted < LEVEL


@dataclass(frozen=True, kw_only=True)
class Look:
    """How much accuracies at a rung tell of final ones, on one benchmark.

    Attributes:
        step: of training, where early stopping looked.
        benchmark: name of the benchmark.
        correlation: Pearson's, over finished trials; None where one of the two never changes.
        low: lower end of its 95 % interval; None with it.
        high: its upper end; None with it.
        trials: finished trials that passed the rung.
    """

    step: int
    benchmark: str
    correlation: float | None
    low: float | None
    high: float | None
    trials: int


def doses(space: SearchSpace, variant: Variant) -> Array:
    """``[p]``: how much of every objective of a space a mix has."""
    found = np.zeros(len(space.objectives))
    for place, (name, r) in enumerate(space.objectives.items()):
        setting = variant.objectives.get(name)
        if setting is not None and setting.weight > 0:
            height = math.log(setting.weight / r.low) / math.log(r.high / r.low)
            found[place] = height if r.off_probability == 0 else 0.5 + 0.5 * height
    return found


def finished_of(study: optuna.Study, definition: SweepDefinition, benchmarks: Sequence[str]) -> Finished:
    """The finished trials of a search, those of a warm start included."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    mixes = tuple(definition.variant(trial.params) for trial in trials)
    return Finished(
        tuple(name_of(trial, mix) for trial, mix in zip(trials, mixes, strict=True)),
        mixes,
        np.array([doses(definition, mix) for mix in mixes]).reshape(len(trials), len(definition.objectives)),
        np.array([trial.values for trial in trials]).reshape(len(trials), len(benchmarks)),
        np.array([WARM_ATTRIBUTE not in trial.user_attrs for trial in trials], dtype=bool),
        tuple(definition.objectives),
        tuple(benchmarks),
    )


def interactions(found: Finished) -> list[Interaction]:
    """Interactions of all pairs that enough trials have on together, the least likely to be chance first.

    For each pair and benchmark, a linear fit to all doses and the pair's product, by ordinary least squares; the
    product's coefficient with Student's interval. A pair whose product the other doses nearly make up is left out.
    """
    n, p = found.doses.shape
    if n < p + 2 + SPARE:
        return []
    left, sizes, _ = np.linalg.svd(np.column_stack([np.ones(n), found.doses]), full_matrices=False)
    span = left[:, sizes / sizes[0] > 1e-10]
    products: dict[tuple[int, int], Array] = {}
    for i, j in itertools.combinations(range(p), 2):
        product = found.doses[:, i] * found.doses[:, j]
        rest = product - span @ (span.T @ product)
        if (product > 0).sum() >= TOGETHER and rest @ rest > ALONE * (product @ product):
            products[i, j] = rest
    kept: list[Interaction] = []
    for place, benchmark in enumerate(found.benchmarks):
        values = found.values[:, place] - span @ (span.T @ found.values[:, place])
        named = {pair: _coefficient(rest, values, n - span.shape[1] - 1, benchmark) for pair, rest in products.items()}
        for (i, j), one in zip(named, holm(list(named.values())), strict=True):
            kept.append(
                Interaction(
                    first=found.objectives[i],
                    second=found.objectives[j],
                    benchmark=benchmark,
                    estimate=one.estimate,
                    low=one.low,
                    high=one.high,
                    p_adjusted=1.0 if one.p_adjusted is None else one.p_adjusted,
                    together=int(((found.doses[:, i] > 0) & (found.doses[:, j] > 0)).sum()),
                    trials=n,
                )
            )
    return sorted(kept, key=lambda one: (one.p_adjusted, -abs(one.estimate)))


def _coefficient(product: Array, values: Array, free: int, benchmark: str) -> Difference:
    """Least-squares coefficient of ``product`` [n] in ``values`` [n], both cleared of all else."""
    size = float(product @ product)
    estimate = float(product @ values) / size
    error = values - estimate * product
    spread = math.sqrt(float(error @ error) / free / size)
    reach = float(scipy.stats.t.ppf(1 - LEVEL / 2, free)) * spread
    return Difference(
        variant="both",
        against="each alone",
        benchmark=benchmark,
        estimate=estimate,
        low=estimate - reach,
        high=estimate + reach,
        level=LEVEL,
        p_value=float(2 * scipy.stats.t.sf(abs(estimate) / spread, free)) if spread > 0 else 1.0,
        seeds=(len(values), len(values)),
        paired_seeds=0,
        items=None,
        source="seeds",
    )


def looks(study: optuna.Study, benchmarks: Sequence[str]) -> list[Look]:
    """By rung and benchmark; rungs that fewer than ``FEWEST`` finished trials passed are left out.

    Most finished trials went on because of what was seen at the rung: over all trials a correlation would be higher.
    """
    pairs: dict[int, list[tuple[list[float], list[float]]]] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        for step, seen in rungs_of(trial).items():
            pairs.setdefault(step, []).append(([seen[b] for b in benchmarks], trial.values))
    found = []
    for step, passed in sorted(pairs.items()):
        if len(passed) < FEWEST:
            continue
        early, final = np.array(passed).swapaxes(0, 1)
        for benchmark, x, y in zip(benchmarks, early.T, final.T, strict=True):
            correlation = low = high = None
            if np.ptp(x) > 0 and np.ptp(y) > 0:
                one = scipy.stats.pearsonr(x, y)
                correlation, low, high = map(float, (one.statistic, *one.confidence_interval(1 - LEVEL)))
            found.append(
                Look(step=step, benchmark=benchmark, correlation=correlation, low=low, high=high, trials=len(x))
            )
    return found
