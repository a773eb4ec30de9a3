"""Optuna's samplers by name, and what they are shown of a study.

Samplers look at trials. Some things are known about those that Optuna does not store, and all are added to what a
sampler sees, never to the record: final accuracies that pruned trials were heading for, the constraints that trials
break, for the genetic samplers the generation of trials of an earlier study, and for TPE that all weights that mean
off are the same.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from equipoise.platform.errors import SettingsError
from equipoise.platform.settings.axes import DOT
from equipoise.platform.settings.search import POPULATION, STARTUP, Sampler

RUNGS_ATTRIBUTE = "equipoise.rungs"
WARM_ATTRIBUTE = "equipoise.warm_start"
FEWEST_PASSED = 4
"""Finished trials that passed a rung before a line over them says where accuracies at it lead."""

FIRST_GENERATION = {f"{kind.__name__}:generation": 0 for kind in (NSGAIISampler, NSGAIIISampler)}
"""Marks a trial that no genetic sampler drew as one of the first generation."""
TPE_NOTE = "tpe:relative_params"
"""Begins the names under which multivariate TPE notes on a running trial what it drew for it."""


def make_sampler(
    name: Sampler, seed: int, *, sequence: int = 0, number: int = 0, conditional: bool = False
) -> BaseSampler:
    """An Optuna sampler by name.

    Args:
        name: ``tpe``: multi-objective TPE, multivariate; ``nsga2``, ``nsga3``: genetic; ``gp``: Optuna's Gaussian
            process with expected hypervolume improvement; ``botorch``: BoTorch's through
            optuna-integration, improvement of random scalarisations (ParEGO);
            ``random``; ``qmc``: scrambled Sobol points.
        seed: of this suggestion.
        sequence: seed of the Sobol sequence, the same for all suggestions of a study.
        number: suggestions of the study before this one: the place in the Sobol sequence.
        conditional: the space has parameters that exist only where their objective is on. TPE then models every
            group of parameters that occur together. The other models need a space that never changes: they search
            the weights, and conditional parameters come from TPE, one by one, among trials that have them.

    Raises:
        SettingsError: ``botorch`` without its packages.
    """
    seed %= 2**32  # Optuna's samplers take 32-bit seeds
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "tpe":
        with _quiet():
            return TPESampler(
                seed=seed, multivariate=True, group=conditional, constant_liar=True, n_startup_trials=STARTUP["tpe"]
            )
    fixed: BaseSampler
    if name == "nsga2":
        fixed = NSGAIISampler(seed=seed, population_size=POPULATION)
    elif name == "nsga3":
        with _quiet():
            fixed = NSGAIIISampler(seed=seed, population_size=POPULATION)
    elif name == "gp":
        fixed = GPSampler(seed=seed, n_startup_trials=STARTUP["gp"], warn_independent_sampling=False)
    elif name == "qmc":
        with _quiet():
            fixed = _Sobol(number, sequence % 2**32, RandomSampler(seed=seed))
    else:
        fixed = _botorch(seed)
    if not conditional:
        return fixed
    other = RandomSampler(seed=seed) if name == "qmc" else TPESampler(seed=seed, n_startup_trials=STARTUP["tpe"])
    return _Split(fixed, other)


def _botorch(seed: int) -> BaseSampler:
    try:
        integration = importlib.import_module("optuna_integration.botorch")

        def candidates(x: Any, objectives: Any, *rest: Any) -> Any:
            several = objectives.shape[1] > 1
            # Its default for several, expected hypervolume improvement, takes minutes for 18 weights (bench/search.md).
            function = integration.qlogei_parego_candidates_func if several else integration.qlogei_candidates_func
            with _quiet():
                return function(x, objectives, *rest)

        with _quiet():
            sampler = integration.BoTorchSampler(
                seed=seed, n_startup_trials=STARTUP["botorch"], consider_running_trials=True, candidates_func=candidates
            )
    except ImportError as error:
        raise SettingsError(
            f"sampler 'botorch' needs BoTorch, and {error.name or 'a part of it'} is not installed: "
            "pip install 'equipoise[botorch]', or choose sampler gp, a Gaussian process that needs nothing more"
        ) from None
    return cast("BaseSampler", sampler)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings about experimental parts of Optuna; what we rely on is covered by the tests of samplers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


class _Sobol(QMCSampler):
    """Optuna's scrambled Sobol points, by the suggestion's number.

    Optuna counts in the study how many points it gave away, before the trial that gets one has it: a driver that dies
    in between would leave a hole in the sequence.
    """

    def __init__(self, number: int, seed: int, first: BaseSampler) -> None:
        super().__init__(scramble=True, seed=seed, independent_sampler=first, warn_independent_sampling=False)
        self.number = number

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self.number


class _Split(BaseSampler):
    """One sampler for the weights, which every trial has, and another for conditional parameters."""

    def __init__(self, fixed: BaseSampler, conditional: BaseSampler) -> None:
        self.fixed, self.conditional = fixed, conditional

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        found = self.fixed.infer_relative_search_space(study, trial)
        return {name: distribution for name, distribution in found.items() if DOT not in name}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.fixed.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        sampler = self.conditional if DOT in param_name else self.fixed
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.fixed.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self.fixed.after_trial(study, trial, state, values)


class ShownStudy(optuna.Study):
    """A stored study with its finished trials as samplers should see them.

    Args:
        name: of the study.
        storage: where it is.
        benchmarks: names of its values, in order.
    """

    def __init__(self, name: str, storage: BaseStorage, benchmarks: Sequence[str]) -> None:
        super().__init__(study_name=name, storage=storage)
        self.benchmarks = tuple(benchmarks)
        self._shown: dict[int, FrozenTrial] = {}

    def refresh(
        self,
        lowest: Mapping[str, float] | None = None,
        merged: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        """Look at the study again; called before every suggestion.

        Args:
            lowest: accuracy below which a trial breaks its constraint, by benchmark; None for no constraints.
            merged: what a trial's point is shown as; None: as it is.
        """
        self._shown = {}
        trials = super()._get_trials(deepcopy=False)
        values = estimates(trials, self.benchmarks)
        for trial in trials:
            shown = self._shown[trial.number] = copy.copy(trial)
            shown.system_attrs = dict(trial.system_attrs)
            if WARM_ATTRIBUTE in trial.user_attrs:
                shown.system_attrs |= FIRST_GENERATION
            if merged is not None:
                shown.params = merged(trial.params)
                # Of a running trial TPE would read its own note of what it drew: the same point, not merged.
                shown.system_attrs = {k: v for k, v in shown.system_attrs.items() if not k.startswith(TPE_NOTE)}
            if (estimate := values.get(trial.number)) is not None:
                shown.state, shown.values = TrialState.COMPLETE, estimate
            if shown.state is TrialState.COMPLETE:
                reached = dict(zip(self.benchmarks, shown.values, strict=True))
                for benchmark, accuracy in (lowest or {}).items():
                    shown.set_constraint(benchmark, accuracy - reached[benchmark])

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        # Optuna's samplers ask this method, as its Hyperband's own study relies on.
        trials = super()._get_trials(deepcopy=False, use_cache=use_cache)
        found = [self._shown.get(trial.number, trial) for trial in trials]
        found = [trial for trial in found if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


def rungs_of(trial: FrozenTrial) -> dict[int, dict[str, float]]:
    """Partial accuracies of a trial: training step to benchmark to accuracy; empty where none were told."""
    return {int(step): dict(partial) for step, partial in trial.user_attrs.get(RUNGS_ATTRIBUTE, {}).items()}


def estimates(trials: Sequence[FrozenTrial], benchmarks: Sequence[str]) -> dict[int, list[float]]:
    """Accuracies that pruned trials were heading for, by trial number.

    By benchmark, a straight line of least squares from accuracies at a rung to final ones, over the finished trials
    that passed it, and a pruned trial's accuracy on it at its last rung; where fewer than ``FEWEST_PASSED`` passed, at
    the rung before; where there is none, no estimate: TPE then counts the trial among the bad ones, and the other
    samplers do not see it. A line that falls counts as level. Finished trials went on because of their accuracies at
    the rung, and a line over these very accuracies is not biased by that.
    """
    passed: dict[int, list[tuple[list[float], list[float]]]] = {}
    for trial in trials:
        if trial.state is TrialState.COMPLETE:
            for step, partial in rungs_of(trial).items():
                passed.setdefault(step, []).append(([partial[b] for b in benchmarks], trial.values))
    lines = {step: _lines(np.array(found)) for step, found in passed.items() if len(found) >= FEWEST_PASSED}
    values: dict[int, list[float]] = {}
    for trial in trials:
        partial_at = rungs_of(trial) if trial.state is TrialState.PRUNED else {}
        if known := [step for step in partial_at if step in lines]:
            seen = [partial_at[max(known)][b] for b in benchmarks]
            values[trial.number] = [
                at + slope * (x - mean) for x, (mean, at, slope) in zip(seen, lines[max(known)], strict=True)
            ]
    return values


def _lines(pairs: NDArray[np.float64]) -> list[tuple[float, float, float]]:
    """By benchmark the mean at a rung, the mean at the end and the slope between them, of pairs ``[n, 2, M]``."""
    means = pairs.mean(0)
    x, y = (pairs - means).swapaxes(0, 1)
    squares = (x * x).sum(0)
    slopes = np.where(squares > 0, (x * y).sum(0).clip(0) / np.where(squares > 0, squares, 1), 0.0)
    return list(zip(*means.tolist(), slopes.tolist(), strict=True))
