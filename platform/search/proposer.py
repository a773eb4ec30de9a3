"""Where trials come from: a list, or Optuna's ask and tell."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from equipoise.platform.errors import StudyError
from equipoise.platform.search.realign import TRIAL_ATTRIBUTE, Booked, realign
from equipoise.platform.search.samplers import RUNGS_ATTRIBUTE, WARM_ATTRIBUTE, ShownStudy, make_sampler
from equipoise.platform.search.store import OWNER_ATTRIBUTE, SearchStore
from equipoise.platform.search.warm_start import Earlier
from equipoise.platform.seeds import stream
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.settings.variant import BASELINE, Variant, load_variant

WARMED_ATTRIBUTE = "equipoise.warm_started"


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


class OptunaProposer:
    """The thin adapter over Optuna's ask and tell for one sweep.

    The sampler is made afresh for every suggestion, from the study's seed and the suggestion's number: a resumed sweep
    draws what it would have drawn.

    Args:
        definition: the sweep.
        benchmarks: objectives of the search, all maximised, in this order.
        store: where Optuna keeps the sweep.
        owner: MLflow's parent run of the sweep: a shared store may hold another home's study of the same name.
        baseline: the baseline's accuracies by benchmark in percent, or None while none is known; asked for before
            every suggestion of a search with constraints.
        earlier: what a sweep with ``warm_start`` begins with; asked for once, until all of it is in the store.

    Raises:
        StorageError: if the store cannot be used.
        StudyError: if the store's study of this name is another's, or nothing says what a warm start begins with.
    """

    def __init__(
        self,
        definition: SweepDefinition,
        benchmarks: Sequence[str],
        store: SearchStore,
        owner: str,
        baseline: Callable[[], Mapping[str, float] | None] = lambda: None,
        earlier: Callable[[], Earlier] | None = None,
    ) -> None:
        self.definition = definition
        self.benchmarks = tuple(benchmarks)
        self.store = store
        self._baseline = baseline
        storage = store.open()
        with store.errors_in_words():
            self.study = optuna.create_study(
                study_name=definition.name,
                storage=storage,
                directions=["maximize"] * len(self.benchmarks),
                load_if_exists=True,
            )
            self._storage = storage
            self._shown = ShownStudy(definition.name, storage, self.benchmarks)
            self._own(owner)
            cold = definition.warm_start is not None and not self.study.user_attrs.get(WARMED_ATTRIBUTE)
        found = None
        if cold:
            if earlier is None:
                raise StudyError(f"the warm start of {definition.name!r} needs the record of the earlier study")
            found = earlier()
        with store.errors_in_words():
            if found is not None:
                self._warm(found)
            self._queue()

    def _own(self, owner: str) -> None:
        found = self.study.user_attrs.get(OWNER_ATTRIBUTE)
        # A study without an owner and without trials: its driver died between creating and marking it.
        if found is None and not self.study.get_trials(deepcopy=False):
            self.study.set_user_attr(OWNER_ATTRIBUTE, owner)
        elif found != owner:
            raise StudyError(
                f"Optuna's storage {self.store.name} holds a study {self.definition.name!r} of another home: "
                "choose another --name"
            )

    def _warm(self, found: Earlier) -> None:
        """Add what an earlier study found, each mix once, also where a driver dies in between."""
        d = self.definition
        trials = self.study.get_trials(deepcopy=False)
        added = {t.user_attrs.get(WARM_ATTRIBUTE) for t in trials}
        for mix in found.done:
            if mix.key not in added:
                point = d.point(mix.variant)
                self.study.add_trial(
                    optuna.create_trial(
                        params=point,
                        distributions={a.name: a.distribution for a in d.dimensions if a.name in point},
                        values=[mix.accuracies[b] for b in self.benchmarks],
                        user_attrs={WARM_ATTRIBUTE: mix.key},
                    )
                )
        queued = {t.user_attrs.get("start") for t in trials}
        for mix in found.starts:
            if mix.name not in queued:
                self.study.enqueue_trial(d.point(mix.variant), user_attrs={"start": mix.name, "from": mix.key})
        self.study.set_user_attr(WARMED_ATTRIBUTE, True)

    def _queue(self) -> None:
        with warnings.catch_warnings():
            # Only the names on plots depend on it; its signature is covered by the sweep tests.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names(list(self.benchmarks))
        # By name, not "if the study is new": a driver that died between two of them left the rest out.
        queued = {t.user_attrs.get("start") for t in self.study.get_trials(deepcopy=False)}
        for name in self.definition.starts:
            if name not in queued:
                self.study.enqueue_trial(self.definition.point(load_variant(name)), user_attrs={"start": name})

    def ask(self, trial: int) -> Proposal:
        """The next point of the search.

        Args:
            trial: the trial's number in the ledger, stored with Optuna's trial so that each finds the other.

        Raises:
            StorageError: if the store cannot be used.
        """
        with self.store.errors_in_words():
            return self._ask(trial)

    def _ask(self, trial: int) -> Proposal:
        number = sum(t.state != TrialState.WAITING for t in self.study.get_trials(deepcopy=False))
        self._prepare(number)
        asked = self._shown.ask()
        asked.set_user_attr(TRIAL_ATTRIBUTE, trial)
        return self._proposal(asked)

    def _prepare(self, number: int) -> None:
        """Make the sampler of a suggestion, from how many were asked for before it."""
        d = self.definition
        # Only TPE: of a Gaussian process the rest of the off part would be unknown land to explore.
        self._shown.refresh(self._lowest(), d.merged if d.sampler == "tpe" else None)
        self._shown.sampler = make_sampler(
            d.sampler,
            stream(d.seed, "sampler", number),
            sequence=stream(d.seed, "sequence"),
            number=number,
            conditional=d.conditional,
        )

    def _proposal(self, asked: optuna.trial.Trial) -> Proposal:
        variant = self.definition.variant(self.definition.suggest(asked))
        return Proposal(name_of(asked, variant), variant, self.definition.trial_seed, asked.number)

    def recover(self, optuna_number: int, trial: int) -> Proposal:
        """The suggestion of a driver that died before it wrote down what it got, as it would have got it.

        What was drawn is in Optuna's storage. The rest is drawn now, from where the stream was.

        Args:
            optuna_number: of the trial that was asked for; it has to be the newest, and running.
            trial: the trial's number in the ledger.

        Raises:
            StorageError: if the store cannot be used.
        """
        with self.store.errors_in_words():
            self._prepare(sum(t.state != TrialState.WAITING for t in self.study.get_trials(deepcopy=False)) - 1)
            study = self._storage.get_study_id_from_name(self.definition.name)
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(study, optuna_number)
            stored = self._storage.get_trial(trial_id)
            asked = optuna.trial.Trial(self._shown, trial_id)
            asked.set_user_attr(TRIAL_ATTRIBUTE, trial)
            given = {*stored.system_attrs.get("fixed_params", {}), *asked.relative_params}
            for name, distribution in stored.distributions.items():
                if name not in given:
                    self._shown.sampler.sample_independent(self._shown, stored, name, distribution)
            return self._proposal(asked)

    def restore(self, booked: Sequence[Booked]) -> None:
        """Give Optuna the trials of the book that its record lost, see :mod:`equipoise.platform.search.realign`.

        Raises:
            StorageError: if the store cannot be used.
            StudyError: Optuna's record is of other trials than the book.
        """
        with self.store.errors_in_words():
            realign(self.study, self._storage, self.definition, booked, self.store.name)

    def proposed(self) -> dict[int, int]:
        """Number in the ledger to number of the Optuna trial, of every trial that was asked for."""
        with self.store.errors_in_words():
            trials = self.study.get_trials(deepcopy=False)
        return {t.user_attrs[TRIAL_ATTRIBUTE]: t.number for t in trials if TRIAL_ATTRIBUTE in t.user_attrs}

    def is_start(self, optuna_number: int) -> bool:
        """Whether a trial was enqueued by name, and not drawn by the sampler."""
        with self.store.errors_in_words():
            return "start" in self.study.get_trials(deepcopy=False)[optuna_number].user_attrs

    def trial_of(self, optuna_number: int) -> int | None:
        """Number in the ledger of an Optuna trial; None if its driver died before it stored that."""
        with self.store.errors_in_words():
            found: int | None = self.study.get_trials(deepcopy=False)[optuna_number].user_attrs.get(TRIAL_ATTRIBUTE)
        return found

    def _lowest(self) -> dict[str, float] | None:
        """Accuracies below which trials break a constraint; None without one, or before the baseline is known."""
        limits = self.definition.constraints
        baseline = self._baseline() if limits is not None else None
        return None if limits is None or baseline is None else limits.lowest(baseline)

    def tell(
        self,
        optuna_number: int,
        accuracies: Mapping[str, float] | None,
        rungs: Mapping[int, Mapping[str, float]] | None = None,
    ) -> None:
        """Tell a trial's accuracies, or that it failed; telling again changes nothing.

        Args:
            optuna_number: of the trial.
            accuracies: final ones by benchmark; None for a trial that failed.
            rungs: partial ones on the way, by training step: from them samplers learn how far accuracies rise.
        """
        with self.store.errors_in_words():
            self._keep_rungs(optuna_number, rungs)
            if accuracies is None:
                self.study.tell(optuna_number, state=TrialState.FAIL, skip_if_finished=True)
            else:
                self.study.tell(optuna_number, [accuracies[b] for b in self.benchmarks], skip_if_finished=True)

    def prune(self, optuna_number: int, rungs: Mapping[int, Mapping[str, float]]) -> None:
        """Tell that a trial was stopped early: PRUNED, without final values; telling again changes nothing.

        Its partial accuracies are kept apart from final ones, in the attribute ``equipoise.rungs``. Samplers see what
        it was heading for, see :func:`equipoise.platform.search.samplers.estimates`.

        Args:
            optuna_number: of the trial.
            rungs: training step to benchmark to accuracy in percent.

        Raises:
            StudyError: a rung lacks a benchmark.
        """
        with self.store.errors_in_words():
            self._keep_rungs(optuna_number, rungs)
            self.study.tell(optuna_number, state=TrialState.PRUNED, skip_if_finished=True)

    def _keep_rungs(self, optuna_number: int, rungs: Mapping[int, Mapping[str, float]] | None) -> None:
        for step, partial in (rungs or {}).items():
            lacking = [b for b in self.benchmarks if b not in partial]
            if lacking:
                raise StudyError(
                    f"rung {step} of Optuna trial {optuna_number} has no accuracy on {lacking[0]}: "
                    f"expected one on each of {', '.join(self.benchmarks)}"
                )
        study = self._storage.get_study_id_from_name(self.definition.name)
        trial = self._storage.get_trial_id_from_study_id_trial_number(study, optuna_number)
        if rungs and not self._storage.get_trial(trial).state.is_finished():
            kept = {str(step): {b: float(partial[b]) for b in self.benchmarks} for step, partial in rungs.items()}
            self._storage.set_trial_user_attr(trial, RUNGS_ATTRIBUTE, kept)

    def running(self) -> Iterator[int]:
        """Numbers of trials that Optuna believes to be running."""
        with self.store.errors_in_words():
            found = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        yield from (t.number for t in found)


def name_of(trial: optuna.trial.BaseTrial, variant: Variant) -> str:
    """What a suggestion is called: as it was enqueued; with nothing on, what it is; any other by its number."""
    given = trial.user_attrs.get("start") or trial.user_attrs.get(WARM_ATTRIBUTE)
    return str(given or (f"mix-{trial.number:03d}" if variant.objectives else BASELINE))
