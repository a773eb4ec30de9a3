"""The base of every settings record, and its errors in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

from equipoise.platform.errors import SettingsError, nearest

M = TypeVar("M", bound="Settings")


class Settings(BaseModel):
    """Base of every settings record: frozen, unknown keys refused.

    Attributes:
        short_forms: JSON schemas of what else stands for such a record in a file, as ``0.5`` for ``{weight: 0.5}``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
    short_forms: ClassVar[tuple[dict[str, Any], ...]] = ()

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        whole = handler(core)
        return {"anyOf": [whole, *cls.short_forms]} if cls.short_forms else whole

    @classmethod
    def file_schema(cls) -> dict[str, Any]:
        """JSON schema of YAML files that hold such a record."""
        return cls.model_json_schema()


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
        return f"unknown key {where!r}; {_meant(model, error['loc'])}"
    if error["type"] in ("missing", "missing_keyword_only_argument"):
        return f"{where} is missing"
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
        return f"{where}: {message}" if where else message
    if error["type"] == "model_type" and where:
        return f"{where} is {error['input']!r}: expected a mapping with keys of {', '.join(_keys(model, error['loc']))}"
    return f"{where or 'the content'} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _meant(model: type[BaseModel], path: Sequence[str | int]) -> str:
    """The key that an unknown one may stand for: one of its own group, or one of the same name in a group below."""
    *group, last = path
    known = _keys(model, group)
    below = [".".join([*map(str, group), *found]) for key in known for found in _below(model, [*group, key], str(last))]
    return f"did you mean {' or '.join(map(repr, below))}?" if below else nearest(str(last), known)


def _below(model: type[BaseModel], path: list[str | int], name: str) -> list[list[str]]:
    """Paths, from the last of ``path`` on, of the keys of this name in the groups below it."""
    keys = _keys(model, path)
    own = [[str(path[-1]), name]] if name in keys else []
    return own + [[str(path[-1]), *found] for key in keys for found in _below(model, [*path, key], name)]


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
