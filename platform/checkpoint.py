"""Checkpoints: one folder each, complete or absent, read strictly."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import equipoise
from equipoise.platform.errors import CheckpointError
from equipoise.platform.settings import TrialSettings, parse

STATE = "state.pt"
RECORD = "record.json"
FORMAT = 1
PATTERN = "step_" + 8 * "[0-9]"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds.

    Attributes:
        path: the folder.
        settings: the trial's settings.
        step: optimiser steps done.
        record: the folder's record as stored: seed, git commit, versions, manifest hashes.
        state: ``model``, ``optimiser`` and ``sampler`` states.
    """

    path: Path
    settings: TrialSettings
    step: int
    record: dict[str, Any]
    state: dict[str, Any]


def git_commit() -> str:
    """Commit of the checkout Equipoise runs from, ``+changes`` if it has any; the version where there is none."""
    folder = Path(equipoise.__file__).resolve().parent
    try:
        head = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return f"v{equipoise.__version__}"
    return head + ("+changes" if changed else "")


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def save(
    folder: Path,
    settings: TrialSettings,
    step: int,
    state: dict[str, Any],
    manifests: dict[str, str],
    metrics: Mapping[str, float],
) -> Path:
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
        CheckpointError: if the folder cannot be written (permissions, full disk).
    """
    target = folder / f"step_{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
            content = Path(temporary) / "checkpoint"
            content.mkdir()
            _save_state(state, content / STATE)
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
            (content / RECORD).write_text(json.dumps(record, indent=1))
            for name in (STATE, RECORD):
                _sync(content / name)
            if target.exists():
                shutil.rmtree(target)
            os.replace(content, target)
    except OSError as error:
        raise CheckpointError(f"checkpoint {target} cannot be written: {error.strerror or error}") from error
    return target


def _save_state(state: dict[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:
        # A write that fails (full disk, quota) comes out of torch as an error about its archive.
        raise OSError(f"writing failed, the disk may be full ({str(error).splitlines()[0]})") from error


def _sync(path: Path) -> None:
    with path.open("rb") as f:
        os.fsync(f.fileno())


def latest(folder: Path) -> Path | None:
    """The checkpoint with the most steps in a folder, or None."""
    return max(folder.glob(PATTERN), default=None, key=lambda p: p.name)


def keep_latest(folder: Path, count: int) -> None:
    """Remove all checkpoints of a folder but the newest ``count``."""
    for path in sorted(folder.glob(PATTERN))[:-count]:
        shutil.rmtree(path)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: the folder, or a folder of checkpoints (the newest is taken), or a trial's folder.

    Raises:
        CheckpointError: if it is missing, damaged, or written by a newer format.
    """
    folder = path
    for candidate in (path, path / "checkpoints"):
        if not (candidate / RECORD).is_file() and (newest := latest(candidate)) is not None:
            folder = newest
    try:
        record = json.loads((folder / RECORD).read_text())
        if record["format"] > FORMAT:
            raise CheckpointError(
                f"{folder} has format {record['format']}; this version reads up to {FORMAT}: upgrade equipoise"
            )
        step, given = record["step"], record["settings"]
        # Anything but torch's zip archive would go to its reader of old files, which fails in every way there is.
        if (folder / STATE).exists() and not zipfile.is_zipfile(folder / STATE):
            raise ValueError(f"{STATE} is cut short or no file of tensors")
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is no checkpoint: expected a folder with {RECORD} and {STATE}") from None
    except pickle.UnpicklingError:
        raise CheckpointError(f"checkpoint {folder} is damaged: {STATE} holds more than tensors") from None
    except KeyError as error:
        raise CheckpointError(f"checkpoint {folder} is damaged: {RECORD} has no {error}") from None
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {folder} is damaged: {str(error).splitlines()[0]}") from None
    settings = parse(TrialSettings, given, f"checkpoint {folder}")
    return Checkpoint(folder, settings, step, record, state)


def load_strictly(module: nn.Module, state: dict[str, Any], origin: Path) -> None:
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
