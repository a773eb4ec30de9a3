"""Equipoise: Pareto-balanced training objectives for self-supervised video models.

What a notebook needs is here, and is loaded when it is first used: ``import equipoise`` alone loads neither PyTorch nor
Ray nor MLflow.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equipoise.data._lists import Release, ReleaseListing
    from equipoise.data.importers_layouts import register_importer
    from equipoise.models.encoders import Encoder, EncoderConfig, EncoderRecord, register_encoder
    from equipoise.models.geometry import TokenGrid
    from equipoise.models.objectives import Latents, Objective, ObjectiveRecord, register
    from equipoise.models.probe_records import ProbeRecord, register_probe
    from equipoise.platform.settings.benchmarks import BenchmarkRecord, register_benchmark
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
    "Encoder",
    "EncoderConfig",
    "EncoderRecord",
    "Latents",
    "Objective",
    "ObjectiveRecord",
    "ProbeRecord",
    "Release",
    "ReleaseListing",
    "Study",
    "TokenGrid",
    "BenchmarkRecord",
    "ablate",
    "load_ablation",
    "load_encoder",
    "load_sweep",
    "open_study",
    "published",
    "read_results",
    "reference",
    "register",
    "register_benchmark",
    "register_encoder",
    "register_importer",
    "register_probe",
    "select",
    "sweep",
]
# What objectives and encoders are written with, and where it is.
_WRITTEN_WITH = {
    **dict.fromkeys(("Latents", "Objective", "ObjectiveRecord", "register"), "equipoise.models.objectives"),
    **dict.fromkeys(("Encoder", "EncoderConfig", "EncoderRecord", "register_encoder"), "equipoise.models.encoders"),
    **dict.fromkeys(("ProbeRecord", "register_probe"), "equipoise.models.probe_records"),
    **dict.fromkeys(("Release", "ReleaseListing"), "equipoise.data._lists"),
    **dict.fromkeys(("BenchmarkRecord", "register_benchmark"), "equipoise.platform.settings.benchmarks"),
    "register_importer": "equipoise.data.importers_layouts",
    "TokenGrid": "equipoise.models.geometry",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WRITTEN_WITH.get(name, "equipoise.platform.api")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
