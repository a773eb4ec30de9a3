"""Equipoise: Pareto-balanced training objectives for self-supervised video models.

What a notebook needs is here, and is loaded when it is first used: ``import equipoise`` alone loads neither PyTorch nor
Ray nor MLflow.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equipoise.models.objectives import Latents, Objective, ObjectiveRecord, register
    from equipoise.platform.api import (
        Study,
        ablate,
        load_ablation,
        load_encoder,
        load_sweep,
        open_study,
        published,
        read_results,
        reference,
        select,
        sweep,
    )

__version__ = version("equipoise")
__all__ = [
    "Latents",
    "Objective",
    "ObjectiveRecord",
    "Study",
    "ablate",
    "load_ablation",
    "load_encoder",
    "load_sweep",
    "open_study",
    "published",
    "read_results",
    "reference",
    "register",
    "select",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    written = name in ("Latents", "Objective", "ObjectiveRecord", "register")  # what an objective is written with
    return getattr(import_module("equipoise.models.objectives" if written else "equipoise.platform.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
