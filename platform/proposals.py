"""Where trials come from: a list, or Optuna's ask and tell."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from equipoise.platform.definitions import Sampler, SweepDefinition
from equipoise.platform.mix import load_variant
from equipoise.platform.seeds import stream
from equipoise.platform.settings import Variant

optuna.logging.set_verbosity(optuna.logging.ERROR)
TRIAL_ATTRIBUTE = "equipoise.trial"


@dataclass(frozen=True)
class Proposal:
    """A trial to run.

    Attributes:
        name: variant name.
        variant: its weights.
        seed: seed to train with.
        optuna_number: number of the Optuna trial, None for a trial from a list.
    """

    name: str
    variant: Variant
    seed: int
    optuna_number: int | None = None


def make_sampler(name: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    """An Optuna sampler by name."""
    seed %= 2**32  # Optuna's samplers take 32-bit seeds
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


class OptunaProposer:
    """The thin adapter over Optuna's ask and tell for one sweep.

    The sampler is made afresh for every suggestion, from the study's seed and the suggestion's number: a resumed sweep
    draws what it would have drawn.

    Args:
        definition: the sweep.
        benchmarks: objectives of the search, all maximised, in this order.
        folder: the study's folder; the journal file lies there.
    """

    def __init__(self, definition: SweepDefinition, benchmarks: Sequence[str], folder: Path) -> None:
        self.definition = definition
        self.benchmarks = tuple(benchmarks)
        storage: BaseStorage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
        self.study = optuna.create_study(
            study_name=definition.name,
            storage=storage,
            directions=["maximize"] * len(self.benchmarks),
            load_if_exists=True,
        )
        with warnings.catch_warnings():
            # Only the names on plots depend on it; its signature is covered by the sweep tests.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names(list(self.benchmarks))
        # By name, not "if the study is new": a driver that died between two of them left the rest out.
        queued = {t.user_attrs.get("start") for t in self.study.get_trials(deepcopy=False)}
        for name in definition.start[: definition.trials]:
            if name not in queued:
                self.study.enqueue_trial(definition.point(load_variant(name)), user_attrs={"start": name})

    def ask(self, trial: int) -> Proposal:
        """The next point of the search.

        Args:
            trial: the trial's number in the ledger, stored with Optuna's trial so that each finds the other.
        """
        number = sum(t.state != TrialState.WAITING for t in self.study.get_trials(deepcopy=False))
        self.study.sampler = make_sampler(self.definition.sampler, stream(self.definition.seed, "sampler", number))
        asked = self.study.ask()
        asked.set_user_attr(TRIAL_ATTRIBUTE, trial)
        weights = {
            name: asked.suggest_float(name, r.floor, r.high, log=True) for name, r in self.definition.objectives.items()
        }
        start = asked.user_attrs.get("start")
        variant = self.definition.variant(weights)
        return Proposal(start or f"mix-{asked.number:03d}", variant, self.definition.trial_seed, asked.number)

    def tell(self, optuna_number: int, accuracies: Mapping[str, float] | None) -> None:
        """Tell a trial's accuracies, or that it failed; telling again changes nothing."""
        if accuracies is None:
            self.study.tell(optuna_number, state=TrialState.FAIL, skip_if_finished=True)
        else:
            self.study.tell(optuna_number, [accuracies[b] for b in self.benchmarks], skip_if_finished=True)

    def running(self) -> Iterator[int]:
        """Numbers of trials that Optuna believes to be running."""
        for t in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            yield t.number


def describe(variant: Variant) -> str:
    """``hard_region 0.3, delta 0.5``: a variant's weights on one line."""
    parts = [f"{name} {setting.weight:.3g}" for name, setting in variant.objectives.items() if setting.weight]
    return ", ".join(parts) or ("untrained" if variant.untrained else "no auxiliary objective")
