"""The base of every error of the data: files, manifests, caches and builds that cannot be used."""

from __future__ import annotations


class DataError(Exception):
    """What a person can mend in the data, or in what was asked of it."""


class ArgumentError(DataError, ValueError):
    """An argument or option out of its range."""
