"""One search without training: the project's proposer, early stopping and repeats, on a world's made-up scores."""

from __future__ import annotations

import heapq
import json
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from search_worlds import Array, World, axes

from equipoise.platform.record.ledger import TrialRow, means
from equipoise.platform.search.early_stopping import goes_on
from equipoise.platform.search.proposer import OptunaProposer
from equipoise.platform.search.repeats import next_repeat
from equipoise.platform.search.store import SearchStore
from equipoise.platform.search.warm_start import Earlier, EarlierMix, best_mixes
from equipoise.platform.settings.search import EarlyStopping, SeedFidelity
from equipoise.platform.settings.study import load_sweep
from equipoise.platform.settings.variant import Variant
from equipoise.platform.stats.pareto import front, hypervolume

STEPS = 720  # of one training; only shares of it matter
LOOK = 0.02  # cost of the probes of one rung, as a share of a training: measured on miniature trials of `nano`


class InMemory(SearchStore):
    """Optuna's storage in this process: nothing has to outlive a replay."""

    def __init__(self) -> None:
        super().__init__("unused.journal")

    def open(self) -> BaseStorage:
        """A fresh storage."""
        return InMemoryStorage()


@dataclass(frozen=True)
class Strategy:
    """What is compared.

    Attributes:
        sampler: by name.
        stopping: early stopping, or None.
        seeds: repeats of promising variants, or None.
        source: how far the world of an earlier search goes with this one, whose best mixes are tried first; or None.
        blind: looks tell nothing of the end: the worst case for early stopping.
    """

    sampler: str
    stopping: EarlyStopping | None = None
    seeds: SeedFidelity | None = None
    source: float | None = None
    blind: bool = False

    @property
    def name(self) -> str:
        """For tables."""
        parts = [self.sampler]
        if self.stopping is not None:
            given = self.stopping.model_dump(exclude_defaults=True)
            parts.append(" ".join(["stopping", *(f"{k.split('_')[0]} {v}" for k, v in given.items())]))
        parts += ["seeds"] if self.seeds is not None else []
        parts += ["blind looks"] if self.blind else []
        return " + ".join(parts) + ("" if self.source is None else f" after a source at {self.source:g}")


@dataclass
class Search:
    """A search in progress.

    Args:
        world: what is searched.
        strategy: how.
        seed: of the search and of the noise.
        workers: trials at once.
        earlier: what an earlier search leaves to this one, or None.
    """

    world: World
    strategy: Strategy
    seed: int
    workers: int = 4
    earlier: Earlier | None = None
    rows: dict[int, TrialRow] = field(default_factory=dict)
    truths: dict[str, Array] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)
    spent: float = 0.0
    curve: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        changes: dict[str, Any] = {"sampler": self.strategy.sampler, "trials": 100_000, "seed": self.seed, "start": []}
        earlier = self.earlier
        if earlier is not None:
            changes["warm_start"] = earlier.study
        self.definition = load_sweep("quickstart", changes)
        self.proposer = OptunaProposer(
            self.definition,
            self.world.benchmarks,
            InMemory(),
            "bench",
            earlier=None if earlier is None else lambda: earlier,
        )
        self.noise = np.random.default_rng([self.seed, 1])
        self.stopping = self.strategy.stopping
        self.rungs = self.stopping.steps(STEPS) if self.stopping is not None else ()
        self.plays: dict[int, tuple[Array, Array]] = {}

    def run(self, budget: float) -> list[tuple[float, float]]:
        """Search until so many trainings' steps are spent; returns steps and hypervolume after every finished trial."""
        events: list[tuple[float, int, int]] = []
        clock = 0.0
        while self.spent < budget or events:
            while len(events) < self.workers and self.spent < budget:
                row = self.start()
                heapq.heappush(events, (clock + self.until(row, 0), row.number, 0))
            clock, number, leg = heapq.heappop(events)
            row = self.rows[number]
            self.spent += self.until(row, leg) / STEPS
            if row.role == "search" and leg < len(self.rungs):
                if self.look(row, leg):
                    heapq.heappush(events, (clock + self.until(row, leg + 1), number, leg + 1))
            else:
                self.finish(row)
        return self.curve

    def until(self, row: TrialRow, leg: int) -> float:
        """Steps of a trial's next leg, to a rung or to the end, the probes of the rung included."""
        if row.role != "search":
            return float(STEPS)
        marks = [0, *self.rungs, STEPS]
        return marks[leg + 1] - marks[leg] + (LOOK * STEPS if leg < len(self.rungs) else 0.0)

    def start(self) -> TrialRow:
        """The next trial, with the scores that it will be found to have."""
        number = len(self.rows) + 1
        earned = None
        if self.strategy.seeds is not None:
            earned = next_repeat(list(self.rows.values()), self.world.benchmarks, self.strategy.seeds)
        if earned is not None:
            first, seed = earned
            row = replace(first, number=number, role="repeat", status="running", result=None, optuna_number=None)
            row = replace(row, settings=json.dumps({"seed": seed}), rungs={})
        else:
            proposal = self.proposer.ask(number)
            self.variants[proposal.name] = proposal.variant
            self.truths[proposal.name] = self.world.truth(axes(self.definition, proposal.variant))
            settings = json.dumps({"seed": 0})
            optuna_number = proposal.optuna_number
            row = TrialRow(
                number, proposal.name, "search", "running", settings, optuna_number, None, None, 1, None, {}, None, None
            )
        shares = [s / STEPS for s in self.rungs]
        rungs, final = self.world.play(self.truths[row.name], shares, self.noise)
        if self.strategy.blind:
            rungs, _ = self.world.play(self.world.truth(np.zeros(len(self.definition.objectives))), shares, self.noise)
        self.plays[number] = (rungs, final)
        self.rows[number] = row
        return row

    def look(self, row: TrialRow, leg: int) -> bool:
        """A trial at a rung: whether it goes on, by the project's own decision."""
        assert self.stopping is not None
        step = self.rungs[leg]
        scores = dict(zip(self.world.benchmarks, self.plays[row.number][0][leg].tolist(), strict=True))
        row = self.rows[row.number] = replace(row, rungs={**row.rungs, step: scores})
        there = {n: list(r.rungs[step].values()) for n, r in self.rows.items() if step in r.rungs}
        if goes_on(there, row.number, self.stopping):
            return True
        self.rows[row.number] = replace(row, status="stopped")
        assert row.optuna_number is not None
        self.proposer.prune(row.optuna_number, row.rungs)
        return False

    def finish(self, row: TrialRow) -> None:
        """A trial at its end."""
        final = dict(zip(self.world.benchmarks, self.plays[row.number][1].tolist(), strict=True))
        self.rows[row.number] = replace(row, status="finished", result={"accuracies": final})
        if row.optuna_number is not None:
            self.proposer.tell(row.optuna_number, final, row.rungs)
        # What the search would report: the front of what it saw, valued at what it did not see.
        reported = front(means(list(self.rows.values()), self.world.benchmarks))
        volume = hypervolume([self.truths[name].tolist() for name in reported], self.world.reference)
        self.curve.append((self.spent, volume))


def left_by(search: Search) -> Earlier:
    """What a search on another regime leaves to the next one, as the project's warm start takes it: by its scores."""
    benchmarks = search.world.benchmarks
    found = [
        EarlierMix(f"source/{n}", f"source.{n}", search.variants[n], dict(zip(benchmarks, scores, strict=True)))
        for n, scores in means(list(search.rows.values()), benchmarks).items()
    ]
    return Earlier("source", starts=best_mixes(found, search.definition.trials), differs="another world")


def replayed(
    world: World, strategy: Strategy, seed: int, budget: float, earlier: Earlier | None = None
) -> dict[str, Any]:
    """One repetition, as a JSON-able record."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    began = time.process_time()
    search = Search(world, strategy, seed, earlier=earlier)
    curve = search.run(budget)
    statuses = [r.status for r in search.rows.values()]
    return {
        "strategy": strategy.name,
        "seed": seed,
        "curve": [[round(s, 4), v] for s, v in curve],
        "trials": len(statuses),
        "stopped": statuses.count("stopped"),
        "repeats": sum(r.role == "repeat" for r in search.rows.values()),
        "seconds": time.process_time() - began,
    }
