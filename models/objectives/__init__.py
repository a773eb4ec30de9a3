"""The auxiliary objectives of the design, loss terms and mask policies, and what is registered beside them."""

from equipoise.models.objectives.base import Objective
from equipoise.models.objectives.latents import Latents
from equipoise.models.objectives.registry import (
    RECORDS,
    ObjectiveRecord,
    create,
    list_objectives,
    published_objectives,
    register,
)

__all__ = [
    "RECORDS",
    "Latents",
    "Objective",
    "ObjectiveRecord",
    "create",
    "list_objectives",
    "published_objectives",
    "register",
]
