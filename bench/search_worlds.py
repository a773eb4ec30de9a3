"""Worlds without training, in which searches are replayed: mixes have true accuracies, and noise hides them.

Two kinds. Test functions have a known front: ``dtlz2`` (Deb, Thiele, Laumanns, Zitzler, "Scalable multi-objective
optimization test problems", 2002; concave front) and ``dtlz7`` (the same; a front in pieces), on the 18 axes of the
shipped space, with the optimum at a mix of a few objectives. ``surrogate`` is a Bayesian linear model of the collected
miniature trials; every repetition draws its coefficients from the posterior, so that the worlds are as different from
one another as the data leave open.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.linear_model import BayesianRidge

from equipoise.platform.settings.study import SweepDefinition, load_sweep
from equipoise.platform.settings.variant import Variant

Array = NDArray[np.float64]
FRACTIONS = (1 / 8, 1 / 4, 1 / 2)  # of a training, where test functions say how scores tell of the end


class World(Protocol):
    """One repetition's truth.

    Attributes:
        benchmarks: what is scored.
        reference: point against which hypervolume is measured.
    """

    benchmarks: tuple[str, ...]
    reference: Array

    def truth(self, place: Array) -> Array:
        """Accuracies without noise of a mix, from its place on the axes [18], 0 where an objective is off."""

    def play(self, truth: Array, fractions: Sequence[float], draw: np.random.Generator) -> tuple[Array, Array]:
        """Scores of one training at fractions of it ``[rungs, M]`` and at its end ``[M]``, noise included."""


def axes(definition: SweepDefinition, variant: Variant) -> Array:
    """Place of a variant on the axes of a space: 0 where an objective is off, else from 0.1 to 1 by its log weight."""
    found = np.zeros(len(definition.objectives))
    for k, (name, r) in enumerate(definition.objectives.items()):
        setting = variant.objectives.get(name)
        if setting is not None:
            found[k] = 0.1 + 0.9 * math.log(setting.weight / r.low) / math.log(r.high / r.low)
    return found.clip(0.0, 1.0)


@dataclass(frozen=True)
class Learning:
    """How scores on the way tell of the end: ``offset + slope * truth + noise`` at a fraction of training.

    Attributes:
        fractions: of training, ascending; between them everything is interpolated in the logarithm.
        offset: ``[fractions, M]``.
        slope: ``[fractions, M]``.
        spread: standard deviation of what the truth does not explain ``[fractions, M]``.
        shared: share of that variance which a trial's rungs have in common.
        final: standard deviation of a final score over seeds ``[M]``.
    """

    fractions: tuple[float, ...]
    offset: Array
    slope: Array
    spread: Array
    shared: float
    final: Array

    def play(self, truth: Array, fractions: Sequence[float], draw: np.random.Generator) -> tuple[Array, Array]:
        """Scores at fractions of a training ``[rungs, M]`` and at its end ``[M]``."""
        own, common = draw.standard_normal((len(fractions), len(truth))), draw.standard_normal(len(truth))
        noise = math.sqrt(self.shared) * common + math.sqrt(1 - self.shared) * own
        rungs = np.empty_like(noise)
        for k, f in enumerate(fractions):
            rungs[k] = self._at(self.offset, f) + self._at(self.slope, f) * truth + self._at(self.spread, f) * noise[k]
        return rungs, truth + self.final * draw.standard_normal(len(truth))

    def _at(self, values: Array, fraction: float) -> Array:
        known = np.log(self.fractions)
        return np.array([np.interp(math.log(fraction), known, values[:, m]) for m in range(values.shape[1])])


class TestFunction:
    """A test function on the axes of a space, turned round so that more is better.

    Args:
        name: ``dtlz2`` or ``dtlz7``.
        seed: of the repetition: which objectives the best mixes have, and at what weight.
        noise: standard deviation of a final score, in percent of the range.
    """

    __test__ = False
    benchmarks = ("one", "two", "three")

    def __init__(self, name: str, seed: int, noise: float = 2.0) -> None:
        draw = np.random.default_rng([seed, *name.encode()])
        self.name = name
        order = draw.permutation(18)
        self.position, self.distance = order[:2], order[2:]
        # A quarter of the others help, each at a weight of its own; the rest should stay off.
        helps = draw.random(16) < 0.25
        self.best = np.where(helps, draw.uniform(0.1, 1.0, 16), 0.0)
        self.reference = np.zeros(3)
        rise, spread = (0.5, 0.7, 0.85), (6.0, 4.0, 2.5)
        self.learning = Learning(
            FRACTIONS,
            np.zeros((3, 3)),
            np.repeat(np.array(rise)[:, None], 3, 1),
            np.repeat(np.array(spread)[:, None], 3, 1) * noise / 2.0,
            0.5,
            np.full(3, noise),
        )

    def truth(self, place: Array) -> Array:
        """100 at the ideal point on each benchmark, 0 at 2 in the function's own units."""
        position = place[self.position]
        apart = (place[self.distance] - self.best) ** 2
        if self.name == "dtlz2":
            g, (a, b) = float(apart.sum()) / 2, position * math.pi / 2
            f = (1 + g) * np.array([math.cos(a) * math.cos(b), math.cos(a) * math.sin(b), math.sin(a)])
        else:
            g = 1 + 9 * float(np.sqrt(apart).mean())
            f1, f2 = position
            h = 3 - sum(f / (1 + g) * (1 + math.sin(3 * math.pi * f)) for f in (f1, f2))
            f = np.array([2 * f1, 2 * f2, (1 + g) * h / 6])
        return np.asarray((100 * (1 - f / 2)).clip(0, 100))

    def play(self, truth: Array, fractions: Sequence[float], draw: np.random.Generator) -> tuple[Array, Array]:
        """Scores on the way and at the end."""
        return self.learning.play(truth, fractions, draw)


class Collected:
    """The collected trials, and the models fitted to them.

    Args:
        path: the table that ``collect`` writes.
    """

    benchmarks = ("mini_dive", "mini_ssv2", "mini_in")

    def __init__(self, path: Path) -> None:
        self.rows: list[dict[str, Any]] = [r for r in pq.read_table(path).to_pylist() if r["variant"] != "random_init"]
        self.definition = load_sweep("quickstart", {})
        self.steps = sorted({int(k.split("@")[1]) for k in self.rows[0] if "@" in k})
        self.places = np.stack([self._place(r) for r in self.rows])
        self.final = np.array([[r[b] for b in self.benchmarks] for r in self.rows])

    def _place(self, row: Mapping[str, Any]) -> Array:
        weights = {k: {"weight": row[f"w.{k}"]} for k in self.definition.objectives if row[f"w.{k}"] > 0}
        return axes(self.definition, Variant.model_validate({"objectives": weights}))

    @cached_property
    def noise(self) -> Array:
        """Standard deviation over seeds ``[M]``, pooled over the variants that have several."""
        groups: dict[str, list[Array]] = {}
        for row, final in zip(self.rows, self.final, strict=True):
            groups.setdefault(row["variant"], []).append(final)
        several = [np.stack(g) for g in groups.values() if len(g) > 1]
        squares = sum(((g - g.mean(0)) ** 2).sum(0) for g in several)
        return np.asarray(np.sqrt(squares / sum(len(g) - 1 for g in several)))

    @cached_property
    def models(self) -> list[BayesianRidge]:
        """One linear model per benchmark, of which objectives are on and how heavily."""
        return [BayesianRidge().fit(features(self.places), self.final[:, m]) for m in range(3)]

    @cached_property
    def learning(self) -> Learning:
        """How the rungs of these trials tell of their ends, by regression on the final scores."""
        offset, slope, spread, residuals = [], [], [], []
        for step in self.steps:
            seen = np.array([[r[f"{b}@{step}"] for b in self.benchmarks] for r in self.rows])
            a, b, e = [], [], []
            for m in range(3):
                # Finals are noisy, which flattens the line: the slope is corrected for it.
                var = max(self.final[:, m].var() - self.noise[m] ** 2, 0.1 * self.final[:, m].var())
                line = np.cov(seen[:, m], self.final[:, m])[0, 1] / var
                line = float(np.clip(line, 0.0, min(1.0, seen[:, m].std() / math.sqrt(var))))
                a.append(seen[:, m].mean() - line * self.final[:, m].mean())
                b.append(line)
                e.append(math.sqrt(max(seen[:, m].var() - line**2 * var, 0.05 * seen[:, m].var())))
            residuals.append(seen - np.array(a) - np.array(b) * self.final)
            offset.append(a)
            slope.append(b)
            spread.append(e)
        pairs = [np.corrcoef(one[:, m], two[:, m])[0, 1] for one, two in _pairs(residuals) for m in range(3)]
        shared = float(np.clip(np.mean(pairs), 0.0, 0.95))
        fractions = tuple(step / self.rows[0]["steps"] for step in self.steps)
        return Learning(fractions, np.array(offset), np.array(slope), np.array(spread), shared, self.noise)


def _pairs(items: Sequence[Array]) -> list[tuple[Array, Array]]:
    return list(itertools.pairwise(items))


def features(places: Array) -> Array:
    """``[V, 36]``: whether each objective is on, and its log weight where it is, from -0.5 to 0.5."""
    on = places > 0
    return np.concatenate([on, np.where(on, (places - 0.55) / 0.9, 0.0)], axis=1).astype(np.float64)


class Surrogate:
    """A world drawn from what the collected trials leave open.

    Attributes:
        coefficients: by benchmark ``[36]``, of :func:`features`.

    Args:
        collected: the trials.
        seed: of the repetition.
    """

    benchmarks = Collected.benchmarks

    def __init__(self, collected: Collected, seed: int) -> None:
        draw = np.random.default_rng([seed, 7])
        self.learning = collected.learning
        self.coefficients = [draw.multivariate_normal(m.coef_, m.sigma_, method="eigh") for m in collected.models]
        self.intercepts = [float(m.intercept_) for m in collected.models]
        # Two standard deviations of noise below the baseline, so that mixes which equal it count a little.
        self.reference = np.array(self.intercepts) - 2 * collected.noise

    def truth(self, place: Array) -> Array:
        """Accuracies without noise."""
        x = features(place[None])[0]
        return np.array([c @ x + i for c, i in zip(self.coefficients, self.intercepts, strict=True)])

    def play(self, truth: Array, fractions: Sequence[float], draw: np.random.Generator) -> tuple[Array, Array]:
        """Scores on the way and at the end."""
        return self.learning.play(truth, fractions, draw)


def source_of(target: Surrogate, collected: Collected, seed: int, correlation: float) -> Surrogate:
    """Another regime: a world whose coefficients are those of a target world to a degree.

    What an objective does when it is on, and what its weight does, each deviates from the mean over objectives. On
    every benchmark the source's deviations have exactly the given correlation with the target's, and the same size.
    The rest of them is another draw from the same posterior, its objectives in another order, because all draws share
    the posterior's mean. At 0 what is left in common is about how much objectives help or hurt on the average.

    Args:
        target: the world that will be searched.
        collected: the trials.
        seed: of the repetition.
        correlation: from 0 to 1, where both are the same.
    """
    made = Surrogate(collected, 10_000 + seed)
    order = np.random.default_rng([seed, 8]).permutation(18)
    coefficients = []
    for wanted, drawn in zip(target.coefficients, made.coefficients, strict=True):
        parts = []
        for mine, other in zip(np.split(wanted, 2), np.split(drawn, 2), strict=True):
            own = mine - mine.mean()
            rest = other[order] - other.mean()
            rest = rest - own * (rest @ own) / (own @ own)
            rest = rest * np.linalg.norm(own) / np.linalg.norm(rest)
            mean = correlation * mine.mean() + (1 - correlation) * other.mean()
            parts.append(mean + correlation * own + math.sqrt(1 - correlation**2) * rest)
        coefficients.append(np.concatenate(parts))
    made.coefficients = coefficients
    return made
