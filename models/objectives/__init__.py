"""The 18 auxiliary objectives of the design: 16 loss terms and 2 mask policies."""

from equipoise.models.objectives.base import Objective
from equipoise.models.objectives.latents import Latents
from equipoise.models.objectives.registry import ObjectiveRecord, create, list_objectives

__all__ = ["Latents", "Objective", "ObjectiveRecord", "create", "list_objectives"]
