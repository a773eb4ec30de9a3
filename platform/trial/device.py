"""Device and compute threads of a process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from equipoise.platform.errors import StudyError
from equipoise.platform.settings.trial import Resources


def default_device() -> torch.device:
    """The GPU of this process, or the CPU: for a command that computes alone on its machine."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(resources: Resources) -> torch.device:
    """Where a trial computes: on a GPU if it asked for one, and else never, whatever its process sees.

    Ray hides no GPU from a process that asked for none, so that all such trials would meet on the first one.

    Raises:
        StudyError: it asked for a GPU, and its process sees none.
    """
    if not resources.gpus_per_worker:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise StudyError(
            f"the trial asks for {resources.gpus_per_worker:g} GPU a worker, and its process sees none: look at the "
            "driver and the CUDA build of PyTorch on the node, or leave --gpus-per-worker out"
        )
    return torch.device("cuda")


@contextlib.contextmanager
def compute_threads(count: int) -> Iterator[None]:
    """Use ``count`` compute threads: more than the CPUs a trial was given make it many times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)
