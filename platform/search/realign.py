"""Optuna's record of a search, brought up to what the study's book holds where it lost its end, or all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from equipoise.platform.errors import StudyError
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.settings.variant import Variant

TRIAL_ATTRIBUTE = "equipoise.trial"


@dataclass(frozen=True)
class Booked:
    """A trial of the book that Optuna proposed.

    Attributes:
        optuna_number: of Optuna's trial.
        number: in the book.
        variant: what was proposed.
    """

    optuna_number: int
    number: int
    variant: Variant


def realign(
    study: optuna.Study, storage: BaseStorage, definition: SweepDefinition, booked: Sequence[Booked], where: str
) -> None:
    """Give Optuna every trial of the book that it lacks, as one that runs: it is told what became of it afterwards.

    Nothing happens where nothing was lost. What the sampler had noted of a lost trial is not known again.

    Args:
        study: Optuna's.
        storage: where it is kept.
        definition: of the search.
        booked: trials that Optuna proposed.
        where: name of the storage, for the sentence.

    Raises:
        StudyError: Optuna's trial is another one than the book's.
    """
    kept = study.get_trials(deepcopy=False)
    count = len(kept)
    for one in sorted(booked, key=lambda b: b.optuna_number):
        if one.optuna_number < count:
            _complete(kept[one.optuna_number], storage, definition, one, where)
            continue
        for _ in range(count, one.optuna_number):  # asked for and never booked
            study.add_trial(optuna.create_trial(state=TrialState.FAIL))
        point = definition.point(one.variant)
        study.add_trial(
            optuna.create_trial(
                state=TrialState.RUNNING,
                params=point,
                distributions=_distributions(definition, point),
                user_attrs={TRIAL_ATTRIBUTE: one.number},
            )
        )
        count = one.optuna_number + 1


def _complete(kept: FrozenTrial, storage: BaseStorage, definition: SweepDefinition, one: Booked, where: str) -> None:
    """What a trial lacks that Optuna has."""
    said = kept.user_attrs.get(TRIAL_ATTRIBUTE, one.number)
    if said != one.number:
        raise StudyError(
            f"Optuna's storage {where} is damaged: its trial {one.optuna_number} is of t{said:04d}, in the study's "
            f"book it is of t{one.number:04d}; put a copy of it back, or move it away and go on with --resume, which "
            "writes it anew from the book"
        )
    if kept.state.is_finished():
        return
    trial = kept._trial_id
    if kept.state == TrialState.WAITING:
        storage.set_trial_state_values(trial, TrialState.RUNNING)
    point = {k: v for k, v in definition.point(one.variant).items() if k not in kept.params}
    for name, distribution in _distributions(definition, point).items():
        storage.set_trial_param(trial, name, distribution.to_internal_repr(point[name]), distribution)
    if TRIAL_ATTRIBUTE not in kept.user_attrs:
        storage.set_trial_user_attr(trial, TRIAL_ATTRIBUTE, one.number)


def _distributions(
    definition: SweepDefinition, point: Mapping[str, object]
) -> dict[str, optuna.distributions.BaseDistribution]:
    return {axis.name: axis.distribution for axis in definition.dimensions if axis.name in point}
