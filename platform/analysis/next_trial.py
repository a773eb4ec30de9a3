"""What a search would try next, and why: a surrogate fitted to its finished trials."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import optuna
import scipy.stats
from optuna.trial import TrialState
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from equipoise.platform.analysis.interactions import FEWEST, LEVEL, Array, Finished, doses, finished_of
from equipoise.platform.search.proposer import OptunaProposer
from equipoise.platform.search.samplers import estimates
from equipoise.platform.search.store import SearchStore, Snapshot
from equipoise.platform.settings.search import STARTUP
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.settings.variant import Variant

NEAREST = 3


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the model expects of one run of a mix on one benchmark.

    Attributes:
        benchmark: name of the benchmark.
        accuracy: in percent.
        low: lower end of the interval in which one run lands with 95 %, its noise included.
        high: its upper end.
        gain: accuracy above the baseline in points, None where no baseline is known.
        explained: share of the variance between mixes that the model foretells of trials that it has not seen (leaving
            out one at a time); at 0 or below it knows no more than their mean.
    """

    benchmark: str
    accuracy: float
    low: float
    high: float
    gain: float | None
    explained: float


@dataclass(frozen=True, kw_only=True)
class Next:
    """What the search would try next, were nothing more to finish.

    Attributes:
        name: of the trial.
        variant: the mix.
        drawn_by: ``start`` (a starting point), ``chance`` (no model yet, or none by choice) or ``model``.
        why: sentences.
        expected: by the model, on every benchmark; empty with too few trials.
        nearest: finished trials next to it: name, distance in doses, accuracies.
    """

    name: str
    variant: Variant
    drawn_by: str
    why: tuple[str, ...]
    expected: tuple[Expected, ...]
    nearest: tuple[tuple[str, float, Mapping[str, float]], ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {
            "name": self.name,
            "objectives": {k: s.model_dump(mode="json") for k, s in self.variant.objectives.items()},
            "drawn_by": self.drawn_by,
            "why": list(self.why),
            "expected": [asdict(one) for one in self.expected],
            "nearest": [{"name": n, "distance": d, "accuracies": dict(a)} for n, d, a in self.nearest],
        }


class Surrogate:
    """A Gaussian process over doses for one benchmark, with the noise of single runs fitted along.

    Args:
        doses: ``[n, p]``.
        values: ``[n]`` accuracies in percent.
    """

    def __init__(self, doses: Array, values: Array) -> None:
        kernel = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(1.0, (0.1, 30.0), nu=2.5) + WhiteKernel(0.3, (1e-4, 1e1))
        self._model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a parameter at its bound: noise alone, or none
            self._model.fit(doses, values)
        self._left_out = self._leave_one_out(doses, values)

    def _leave_one_out(self, doses: Array, values: Array) -> float:
        """Share of variance foretold with each trial left out (Rasmussen and Williams 2006, equation 5.12)."""
        inverse = np.linalg.inv(self._model.kernel_(doses))
        centred = (values - values.mean()) / (values.std() or 1.0)
        errors = (inverse @ centred) / np.diag(inverse)
        # The mean without the trial is what there is to beat.
        plain = centred * len(centred) / (len(centred) - 1)
        total = float(plain @ plain)
        return 1 - float(errors @ errors) / total if total > 0 else 0.0

    @property
    def explained(self) -> float:
        """Share of the variance that it foretells of trials it has not seen."""
        return self._left_out

    def expects(self, at: Array) -> tuple[float, float]:
        """Mean and standard deviation of one run at doses ``[p]``, in percent; its noise is included."""
        mean, spread = self._model.predict(at[None], return_std=True)
        return float(mean[0]), float(spread[0])


def surrogates(found: Finished) -> dict[str, Surrogate]:
    """A model for every benchmark; none with fewer than ``FEWEST`` finished trials."""
    if len(found.names) < FEWEST:
        return {}
    return {b: Surrogate(found.doses, found.values[:, i]) for i, b in enumerate(found.benchmarks)}


def next_trial(
    definition: SweepDefinition,
    benchmarks: Sequence[str],
    store: SearchStore,
    owner: str,
    baseline: Mapping[str, float] | None,
) -> Next:
    """Ask the sampler what it would draw next, without booking it, and a model what to expect of it.

    Args:
        definition: the sweep.
        benchmarks: its objectives, in order.
        store: where Optuna keeps it; read only.
        owner: MLflow's parent run of the sweep.
        baseline: accuracies of the baseline in percent; None where they are not known.
    """
    copied = Snapshot(store, definition.name)
    proposer = OptunaProposer(definition, benchmarks, copied, owner, baseline=lambda: baseline)
    under_way = len(list(proposer.running()))
    seen = _seen(proposer.study, definition, benchmarks)
    proposal = proposer.ask(0)
    found = finished_of(proposer.study, definition, benchmarks)
    at = doses(definition, proposal.variant)
    models = surrogates(found)
    expected = tuple(_expected(b, model, at, baseline) for b, model in models.items())
    assert proposal.optuna_number is not None
    drawn_by = "start" if proposer.is_start(proposal.optuna_number) else _by(definition, seen)
    why = [_source(definition, drawn_by, seen, under_way)]
    why += _reasons(definition, proposal.variant, models, at) + _place(found, at)
    limits = definition.constraints
    if limits is not None and baseline is not None:
        lowest = limits.lowest(baseline)
        broken = [e.benchmark for e in expected if e.benchmark in lowest and e.accuracy < lowest[e.benchmark]]
        why += [f"The model expects it to break the constraint on {b}." for b in broken]
    return Next(
        name=proposal.name,
        variant=proposal.variant,
        drawn_by=drawn_by,
        why=tuple(why),
        expected=expected,
        nearest=_nearest(found, at),
    )


def _expected(benchmark: str, model: Surrogate, at: Array, baseline: Mapping[str, float] | None) -> Expected:
    mean, spread = model.expects(at)
    reach = float(scipy.stats.norm.ppf(1 - LEVEL / 2)) * spread
    gain = None if baseline is None or benchmark not in baseline else mean - baseline[benchmark]
    return Expected(
        benchmark=benchmark, accuracy=mean, low=mean - reach, high=mean + reach, gain=gain, explained=model.explained
    )


def _seen(study: optuna.Study, definition: SweepDefinition, benchmarks: Sequence[str]) -> int:
    """Trials that the sampler goes by: a stopped one without an estimate is news to TPE alone."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    known = estimates(ended, benchmarks)
    return sum(t.state is TrialState.COMPLETE or definition.sampler == "tpe" or t.number in known for t in ended)


def _by(definition: SweepDefinition, seen: int) -> str:
    needs = STARTUP[definition.sampler]
    return "model" if 0 < needs <= seen else "chance"


def _source(definition: SweepDefinition, drawn_by: str, seen: int, under_way: int) -> str:
    waits = f", with {under_way} trial{'s' if under_way != 1 else ''} under way" if under_way else ""
    if drawn_by == "start":
        return "It is a starting point of the search."
    if drawn_by == "model":
        return f"Drawn by {definition.sampler} from {seen} finished or stopped trials{waits}."
    needs = STARTUP[definition.sampler]
    if needs == 0:
        return f"Drawn by {definition.sampler}, which looks at no result."
    return f"Drawn at random: {definition.sampler} goes by results from {needs} trials on, and has {seen}{waits}."


def _reasons(definition: SweepDefinition, variant: Variant, models: Mapping[str, Surrogate], at: Array) -> list[str]:
    """What the model expects of each objective of the mix: with it against without it."""
    said = []
    for place, name in enumerate(definition.objectives):
        if name not in variant.objectives or not models:
            continue
        without = at.copy()
        without[place] = 0.0
        parts = [f"{m.expects(at)[0] - m.expects(without)[0]:+z.2f} on {b}" for b, m in models.items()]
        said.append(f"{name} {variant.objectives[name].weight:.3g} in it: expected {', '.join(parts)}.")
    return said


def _place(found: Finished, at: Array) -> list[str]:
    """Whether the suggestion explores or stays near what is known."""
    if len(found.names) < 3:
        return []
    apart = np.linalg.norm(found.doses[:, None] - found.doses[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    usual = float(np.median(apart.min(axis=0)))
    near = float(np.linalg.norm(found.doses - at, axis=1).min())
    word = "farther from" if near > 1.25 * usual else "nearer to" if near < 0.8 * usual else "as far from"
    said = f"It lies {word} the nearest finished mix {'as' if word == 'as far from' else 'than'} such mixes lie from"
    return [f"{said} each other (distance in doses {near:.2f}, usually {usual:.2f})."]


def _nearest(found: Finished, at: Array) -> tuple[tuple[str, float, Mapping[str, float]], ...]:
    away = np.linalg.norm(found.doses - at, axis=1)
    return tuple(
        (found.names[i], float(away[i]), dict(zip(found.benchmarks, found.values[i].tolist(), strict=True)))
        for i in np.argsort(away, kind="stable")[:NEAREST]
    )
