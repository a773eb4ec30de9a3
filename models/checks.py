"""Checks of parameters: each message says what was given and what is expected."""

from __future__ import annotations

from collections.abc import Sequence

from equipoise.models.errors import ModelError


def number(name: str, value: object, low: float, high: float = float("inf"), *, low_open: bool = False) -> float:
    """Check a real parameter.

    Raises:
        ValueError: if it is no number from ``low`` (left out with ``low_open``) to ``high``.
    """
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not real or not (low < value if low_open else low <= value) or not value <= high:  # type: ignore[operator]
        above = f"above {low}" if low_open else f"of at least {low}"
        raise ModelError(
            f"{name} is {value!r}; expected a number {above}" + (f", at most {high}" if high < 1e30 else "")
        )
    return float(value)  # type: ignore[arg-type]


def integer(name: str, value: object, low: int) -> int:
    """Check a whole parameter.

    Raises:
        ValueError: if it is no integer of at least ``low``.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ModelError(f"{name} is {value!r}; expected an integer of at least {low}")
    return value


def choice(name: str, value: object, known: Sequence[str]) -> str:
    """Check a parameter that is one of a few words.

    Raises:
        ValueError: if it is none of them.
    """
    if value not in known:
        raise ModelError(f"{name} is {value!r}; expected one of {', '.join(known)}")
    return str(value)


def flag(name: str, value: object) -> bool:
    """Check a boolean parameter.

    Raises:
        ValueError: if it is not one.
    """
    if not isinstance(value, bool):
        raise ModelError(f"{name} is {value!r}; expected true or false")
    return value
