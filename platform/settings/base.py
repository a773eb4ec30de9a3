"""The base of every settings record, and its errors in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from equipoise.platform.errors import SettingsError, nearest

M = TypeVar("M", bound="Settings")


class Settings(BaseModel):
    """Base of every settings record: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def parse(model: type[M], data: Any, origin: str) -> M:
    """Check data against a settings record.

    Args:
        model: the record.
        data: parsed YAML or JSON.
        origin: where the data came from, for the error sentence.

    Returns:
        The checked record.

    Raises:
        SettingsError: naming the file, the key, what was given, and the nearest known key where a key is unknown.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise SettingsError(f"{origin}: " + "; ".join(_sentence(model, e) for e in error.errors()[:3])) from None


def _sentence(model: type[BaseModel], error: Any) -> str:
    path = [str(p) for p in error["loc"]]
    where = ".".join(path)
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {where!r}; {nearest(path[-1], _keys(model, error['loc'][:-1]))}"
    if error["type"] in ("missing", "missing_keyword_only_argument"):
        return f"{where} is missing"
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
        return f"{where}: {message}" if where else message
    if error["type"] == "model_type" and where:
        return f"{where} is {error['input']!r}: expected a mapping with keys of {', '.join(_keys(model, error['loc']))}"
    return f"{where or 'the content'} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _keys(model: Any, path: Sequence[str | int]) -> list[str]:
    """Known keys of the record at ``path`` below ``model``."""
    annotation = model
    for step in path:
        fields = _fields(annotation)
        if isinstance(step, str) and step in fields:
            annotation = fields[step]
        else:
            arguments = [a for a in get_args(annotation) if a not in (type(None), Ellipsis)]
            annotation = arguments[-1] if arguments else None
        arguments = [a for a in get_args(annotation) if _fields(a)]
        if (
            not _fields(annotation)
            and len(arguments) == 1
            and len(get_args(annotation)) == 2
            and type(None) in get_args(annotation)
        ):
            annotation = arguments[0]
    return list(_fields(annotation))


def _fields(annotation: Any) -> dict[str, Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields: dict[str, FieldInfo] = annotation.model_fields
        return {k: f.annotation for k, f in fields.items()}
    if isinstance(annotation, type) and hasattr(annotation, "__dataclass_fields__"):
        import typing

        return typing.get_type_hints(annotation)
    return {}
