"""The error of the models: a configuration that cannot work, or an input of another shape."""

from __future__ import annotations


class ModelError(ValueError):
    """What a person can mend: a size, mask, weight or shape that the models cannot take."""
