"""Which objectives a search's outcomes depend on, per benchmark, by Optuna's evaluators and against chance.

Importance answers "how much do the accuracies of this search change with this objective's weight", not "is it good".
Two evaluators are asked, because they answer differently worded questions: fANOVA, the share of the variance of a
forest fitted to the trials (Hutter et al. 2014), and PED-ANOVA, how much being among the best tenth depends on it
(Watanabe et al. 2023). Both give something to objectives that do nothing, so each is asked again with the accuracies
shuffled over the trials: what does not stand out from that is chance.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)
from optuna.trial import FrozenTrial, TrialState

from equipoise.platform.errors import EquipoiseError
from equipoise.platform.search.samplers import WARM_ATTRIBUTE
from equipoise.platform.settings.axes import DOT

FEWEST = 12  # finished trials of a search below which a forest only repeats chance
PER_OBJECTIVE = 2  # and as many for each objective searched
SHUFFLES = 20  # the largest of as many shuffled answers is passed by chance about once in 21 times
TREES = 32
# Trees that end in single trials learn their noise, and take minutes where a search has hundreds of trials.
DEPTH = 5


class ImportanceError(EquipoiseError):
    """A search that importance cannot be asked of; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Importances of the objectives of one search on one benchmark, by one evaluator.

    Attributes:
        benchmark: name of the benchmark.
        evaluator: ``fANOVA`` or ``PED-ANOVA``.
        shares: objective to its share of the evaluator's total, largest first; they sum to 1.
        chance: what the largest share of all came to with shuffled accuracies, at most; None where it was not asked.
        trials: finished trials it rests on.
    """

    benchmark: str
    evaluator: str
    shares: Mapping[str, float]
    chance: float | None
    trials: int

    @property
    def clear(self) -> tuple[str, ...]:
        """Objectives above chance."""
        return tuple(name for name, share in self.shares.items() if self.chance is not None and share > self.chance)


def needed(objectives: int) -> int:
    """Finished trials that a search over so many objectives needs."""
    return max(FEWEST, PER_OBJECTIVE * objectives)


def search_importance(
    study: optuna.Study, benchmarks: Sequence[str], *, shuffles: int = SHUFFLES, seed: int = 0
) -> list[Importance]:
    """Importances on every benchmark by every evaluator.

    Trials that a warm start brought in are left out: they are another study's. So are parameters that exist only while
    their objective is on: a share of the variance over all trials would say nothing of them.

    Args:
        study: the search, its values in the order of ``benchmarks``, more being better.
        benchmarks: their names.
        shuffles: how often chance is asked; 0 for not at all.
        seed: of the forest and the shuffles.

    Returns:
        For each benchmark one per evaluator; a benchmark on which all trials agree has none.

    Raises:
        ImportanceError: fewer than :func:`needed` finished trials.
    """
    study = _own(study)
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = sorted({name for trial in trials for name in trial.params if DOT not in name})
    if len(trials) < needed(len(names)):
        raise ImportanceError(
            f"the search has {len(trials)} finished trials over {len(names)} objectives; importance needs at least "
            f"{needed(len(names))}, or it repeats chance"
        )
    found = []
    for place, benchmark in enumerate(benchmarks):
        values = {trial.number: trial.values[place] for trial in trials}
        if len(set(values.values())) < 2:
            continue
        for name, evaluator in _evaluators(seed).items():
            shares = _shares(study, evaluator, names, values)
            chance = _chance(study, evaluator, names, values, shuffles, seed)
            found.append(
                Importance(benchmark=benchmark, evaluator=name, shares=shares, chance=chance, trials=len(trials))
            )
    return found


def _evaluators(seed: int) -> dict[str, BaseImportanceEvaluator]:
    return {
        "fANOVA": FanovaImportanceEvaluator(n_trees=TREES, max_depth=DEPTH, seed=seed),
        "PED-ANOVA": PedAnovaImportanceEvaluator(),
    }


def _own(study: optuna.Study) -> optuna.Study:
    """The study without what a warm start brought in."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    own = [trial for trial in trials if WARM_ATTRIBUTE not in trial.user_attrs]
    if len(own) == len(trials):
        return study
    alone = optuna.create_study(directions=study.directions)
    alone.add_trials(own)
    return alone


def _shares(
    study: optuna.Study, evaluator: BaseImportanceEvaluator, names: Sequence[str], values: Mapping[int, float]
) -> dict[str, float]:
    def worse(trial: FrozenTrial) -> float:
        return -values[trial.number]  # PED-ANOVA takes lower values for better ones

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names of experimental features, and that a target stands for several
        shares = get_param_importances(study, evaluator=evaluator, params=list(names), target=worse)
    return {name: float(share) for name, share in sorted(shares.items(), key=lambda item: -item[1])}


def _chance(
    study: optuna.Study,
    evaluator: BaseImportanceEvaluator,
    names: Sequence[str],
    values: Mapping[int, float],
    shuffles: int,
    seed: int,
) -> float | None:
    """Largest share of any objective that shuffled values gave."""
    stream = np.random.default_rng(seed)
    highest = -math.inf
    for _ in range(shuffles):
        shuffled = dict(zip(values, stream.permutation(list(values.values())).tolist(), strict=True))
        highest = max(highest, *_shares(study, evaluator, names, shuffled).values())
    return highest if shuffles else None
