"""Equipoise: Pareto-balanced training objectives for self-supervised video models."""

from importlib.metadata import version

__version__ = version("equipoise")
