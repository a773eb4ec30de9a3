"""Device and compute threads of a process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from equipoise.platform.errors import EquipoiseError, StudyError
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


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 by itself: GPUs that emulate it are slower with it than without."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


class OutOfMemoryError(EquipoiseError):
    """What a trial needs does not fit; trying again would end alike."""


@contextlib.contextmanager
def enough_memory(device: torch.device, doing: str, lower: str) -> Iterator[None]:
    """Say in one sentence that memory ran out, and what to lower.

    Args:
        device: where it is computed.
        doing: what was done, ``step 12 of the training``.
        lower: what takes less.

    Raises:
        OutOfMemoryError: it ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # The CPU's allocator has no error of its own; whatever else is a RuntimeError is something else.
        ran_out = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not ran_out:
            raise
        where = "the machine's memory"
        if device.type == "cuda":
            there = torch.cuda.get_device_properties(device).total_memory / 2**30
            peak = torch.cuda.max_memory_allocated(device) / 2**30
            where = f"memory of {torch.cuda.get_device_name(device)} ({there:.1f} GiB, {peak:.1f} GiB used at most)"
        raise OutOfMemoryError(f"{doing} does not fit into {where}: lower {lower}") from error


@contextlib.contextmanager
def compute_threads(count: int) -> Iterator[None]:
    """Use ``count`` compute threads: more than the CPUs a trial was given make it many times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)
