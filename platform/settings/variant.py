"""A variant: which objectives are on, and how strongly; the shipped ones by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from equipoise.models import objectives
from equipoise.models.schedules import SCHEDULES
from equipoise.platform.errors import SettingsError, nearest
from equipoise.platform.settings.base import Settings, parse
from equipoise.platform.settings.files import load_yaml
from equipoise.platform.settings.plugins import failures, installed
from equipoise.platform.settings.preset import Preset

UNCHANGED = "unchanged"
CONTROLS = ("baseline", "random_init", UNCHANGED)


@cache
def variants() -> Mapping[str, Variant]:
    """The shipped variants by name, aliases included."""
    origin = "search_spaces/variants.yaml"
    data = load_yaml(Path(str(resources.files("equipoise.search_spaces"))) / "variants.yaml")
    found: dict[str, Variant] = {}
    for name, entry in data.items():
        aliases = entry.pop("aliases", [])
        variant = parse(Variant, entry, f"{origin}: {name}")
        for key in (name, *aliases):
            found[key] = variant
    return found


def load_variant(name: str) -> Variant:
    """A shipped variant by name or alias.

    Raises:
        SettingsError: for an unknown name, naming the nearest.
    """
    known = variants()
    if name not in known:
        raise SettingsError(f"unknown variant {name!r}; {nearest(name, known)}")
    return known[name]


BASELINE = CONTROLS[0]


def controls_of(preset: Preset) -> tuple[str, ...]:
    """Names of the controls of a study: of one that starts from a checkpoint, also the encoder as that holds it."""
    return tuple(name for name in CONTROLS if name != UNCHANGED or preset.initial_encoder is not None)


def describe(variant: Variant) -> str:
    """``hard_region 0.3, delta 0.5``: a variant's weights on one line."""
    parts = [f"{name} {setting.weight:.3g}" for name, setting in variant.objectives.items() if setting.weight]
    return ", ".join(parts) or ("untrained" if variant.untrained else "no auxiliary objective")


Reading = Literal["as_described", "as_published"]


installed()
RECORDS = objectives.RECORDS
"""Every objective that is known, by name: shipped, or of an installed package; what a file brings appears in it."""


def unknown_objective(name: str) -> str:
    """That there is no such objective, what is nearest, and which plug-ins could not be loaded."""
    broken = "".join(f"; plug-in {plugin}: {why}" for plugin, why in failures().items())
    return f"unknown objective {name!r}; {nearest(name, RECORDS)}{broken}"


class ObjectiveSetting(Settings):
    """Weight of one objective, how it changes over training, and the objective's own parameters.

    For the two mask policies the weight is the share of clips whose masks follow the policy, at most 1.
    """

    short_forms = ({"type": "number", "minimum": 0},)

    weight: float = Field(ge=0, allow_inf_nan=False)
    schedule: Literal["constant", "linear_warmup", "cosine_decay"] = "constant"
    params: dict[str, Any] = Field(default_factory=dict)


class Variant(Settings):
    """A named set of objective weights.

    Attributes:
        description: one line for tables and pages.
        regimes: regimes it was published in; empty for variants of our own.
        objectives: what is on, and how strongly; everything else is off.
        teacher: ``ema`` or ``self``; the published code calls the second "no EMA".
        published_teacher: what ``teacher`` is in the ``as_published`` reading, where it differs.
        untrained: no training at all: the control ``random_init``.
        unchanged: of an untrained one: as the checkpoint that others start from holds it, not random numbers.
    """

    description: str = ""
    regimes: tuple[str, ...] = ()
    objectives: dict[str, ObjectiveSetting] = Field(default_factory=dict)
    teacher: Literal["ema", "self"] = "ema"
    published_teacher: Literal["ema", "self"] | None = None
    untrained: bool = False
    unchanged: bool = Field(False, exclude_if=lambda unchanged: not unchanged)  # so that trials keep their keys

    @field_validator("objectives", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"objectives is {value!r}; expected a mapping from objective to weight")
        return {k: v if isinstance(v, Mapping | ObjectiveSetting) else {"weight": v} for k, v in value.items()}

    @model_validator(mode="after")
    def _known(self) -> Variant:
        for name, setting in self.objectives.items():
            record = RECORDS.get(name)
            if record is None:
                raise ValueError(unknown_objective(name))
            for key in setting.params:
                if key not in record.params:
                    raise ValueError(f"unknown parameter {key!r} of {name}; {nearest(key, record.params)}")
            if record.kind == "mask" and setting.weight > 1:
                raise ValueError(
                    f"{name} is a mask policy: its weight is a share of clips, at most 1; {setting.weight} given"
                )
            if record.kind == "mask" and setting.schedule != "constant":
                raise ValueError(f"{name} is a mask policy: schedule {setting.schedule!r} cannot take effect")
        if self.untrained and self.objectives:
            raise ValueError("an untrained variant has no objectives: they could not take effect")
        if self.unchanged and not self.untrained:
            raise ValueError("unchanged says of an untrained variant where it starts: add untrained: true")
        return self


SCHEDULE_NAMES = tuple(SCHEDULES)
assert set(get_args(ObjectiveSetting.model_fields["schedule"].annotation)) == set(SCHEDULE_NAMES)
