"""Equipoise: Pareto-balanced training objectives for self-supervised video models.

What a notebook needs is here, and is loaded when it is first used: ``import equipoise`` alone loads neither PyTorch nor
Ray nor MLflow.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    "Study",
    "ablate",
    "load_ablation",
    "load_encoder",
    "load_sweep",
    "open_study",
    "published",
    "read_results",
    "reference",
    "select",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("equipoise.platform.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
