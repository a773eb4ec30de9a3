"""Checkpoints: one folder each, on a disk or in an object store, complete or absent, read strictly."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.platform.errors import CheckpointError, DamagedError, StorageError
from equipoise.platform.provenance import git_commit
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Place, Where

STATE = "state.pt"
RECORD = "record.json"
FORMAT = 1
PATTERN = re.compile(r"step_\d{8}")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds.

    Attributes:
        path: where the folder is.
        settings: the trial's settings.
        step: optimiser steps done.
        record: the folder's record as stored: seed, git commit, versions, manifest hashes.
        state: ``model``, ``optimiser`` and ``sampler`` states.
    """

    path: Place
    settings: TrialSettings
    step: int
    record: dict[str, Any]
    state: dict[str, Any]


def save(
    folder: Where,
    settings: TrialSettings,
    step: int,
    state: dict[str, Any],
    manifests: dict[str, str],
    metrics: Mapping[str, float],
) -> Place:
    """Write a checkpoint so that it is either whole or not there.

    Args:
        folder: parent of the checkpoints; the new one is ``step_00000300`` below it.
        settings: the trial's settings.
        step: optimiser steps done.
        state: ``model``, ``optimiser`` and ``sampler`` states.
        manifests: manifest hash by source.
        metrics: what is reported at this step, so that a resumed run can report it again.

    Returns:
        The new folder.

    Raises:
        CheckpointError: if the folder cannot be written (permissions, full disk, unreachable store).
    """
    target = Place.at(folder) / f"step_{step:08d}"
    record = {
        "format": FORMAT,
        "step": step,
        "seed": settings.seed,
        "settings": settings.model_dump(mode="json"),
        "git_commit": git_commit(),
        "versions": {name: version(name) for name in ("equipoise", "torch", "timm")},
        "manifests": manifests,
        "metrics": dict(metrics),
    }
    try:
        with target.put(last=RECORD) as content:
            _save_state(state, content / STATE)
            (content / RECORD).write_text(json.dumps(record, indent=1))
    except StorageError as error:
        raise CheckpointError(f"checkpoint {error}") from error
    return target


def _save_state(state: dict[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:
        # A write that fails (full disk, quota) comes out of torch as an error about its archive, without a number.
        full = shutil.disk_usage(path.parent).free < 2**20
        words = os.strerror(errno.ENOSPC) if full else f"writing failed ({str(error).splitlines()[0]})"
        raise OSError(errno.ENOSPC if full else errno.EIO, words) from error


def latest(folder: Where) -> Place | None:
    """The whole checkpoint with the most steps in a folder, or None.

    Raises:
        StorageError: if the folder cannot be read.
    """
    place = Place.at(folder)
    # The record is written last and removed first: without it a folder is being written, or being removed.
    whole = (place / name for name in _steps(place)[::-1] if (place / name / RECORD).exists())
    return next(whole, None)


def load_latest(folder: Where) -> Checkpoint | None:
    """The newest checkpoint of a folder that can be read; None where there is none.

    One that is damaged is set aside as ``step_00000300.damaged``, where it can be looked at and is never taken again: a
    trial goes on from the one before, or begins anew.

    Raises:
        CheckpointError: the newest is whole, and of a later version or of other settings.
        StorageError: if the folder cannot be read.
    """
    while (newest := latest(folder)) is not None:
        try:
            return load(newest)
        except DamagedError:
            newest.set_aside(".damaged", first=RECORD)
    return None


def keep_latest(folder: Where, count: int) -> None:
    """Remove all checkpoints of a folder but the newest ``count``."""
    place = Place.at(folder)
    for name in _steps(place)[:-count]:
        (place / name).remove(first=RECORD)


def _steps(folder: Place) -> list[str]:
    return [name for name in folder.names() if PATTERN.fullmatch(name)]


def find(where: Where) -> Place:
    """The checkpoint that a path means: itself, the newest of a folder of checkpoints, or of a trial's folder."""
    place = Place.at(where)
    if (place / RECORD).exists():
        return place
    return latest(place / "checkpoints") or latest(place) or place


def load(where: Where) -> Checkpoint:
    """Read a checkpoint.

    Args:
        where: the folder, or a folder of checkpoints (the newest is taken), or a trial's folder; a path or a URI.

    Raises:
        CheckpointError: if it is missing, damaged, or written by a newer format.
        StorageError: if its store cannot be read.
    """
    folder = find(where)
    try:
        # The record first: it says that the rest is there.
        record = json.loads((folder / RECORD).read())
        if record["format"] > FORMAT:
            raise CheckpointError(
                f"{folder} has format {record['format']}; this version reads up to {FORMAT}: upgrade equipoise"
            )
        step, given = record["step"], record["settings"]
        with (folder / STATE).fetched() as file:
            # Anything but torch's zip archive would go to its reader of old files, which fails in every way there is.
            if not zipfile.is_zipfile(file):
                raise ValueError(f"{STATE} is cut short or no file of tensors")
            state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{where} is no checkpoint: expected a folder with {RECORD} and {STATE}") from None
    except pickle.UnpicklingError:
        raise DamagedError(f"checkpoint {folder} is damaged: {STATE} holds more than tensors") from None
    except KeyError as error:
        raise DamagedError(f"checkpoint {folder} is damaged: {RECORD} has no {error}") from None
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedError(f"checkpoint {folder} is damaged: {str(error).splitlines()[0]}") from None
    settings = parse(TrialSettings, given, f"checkpoint {folder}")
    return Checkpoint(folder, settings, step, record, state)


def load_strictly(module: nn.Module, state: dict[str, Any], origin: Where) -> None:
    """Load a state dict; anything missing, left over or of another shape is an error.

    Raises:
        CheckpointError: naming the first differing entry and both shapes.
    """
    own = module.state_dict()
    for key, value in own.items():
        if key not in state:
            raise CheckpointError(f"checkpoint {origin} has no {key}: it is of another model")
        # Extra state (the count of an objective's random draws) is no tensor and has no shape.
        shapes = [tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for v in (state[key], value)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(f"checkpoint {origin}: {key} is {shapes[0]}, these settings need {shapes[1]}")
    extra = sorted(set(state) - set(own))
    if extra:
        raise CheckpointError(f"checkpoint {origin} has {extra[0]}, which these settings do not build")
    module.load_state_dict(state)
