"""Studies as data: what a sweep, an ablation or a single pretraining asks for."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from equipoise.platform.designs import Design, Plan, plan
from equipoise.platform.errors import SettingsError, nearest
from equipoise.platform.mix import CONTROLS, load_variant
from equipoise.platform.settings import (
    RECORDS,
    ObjectiveSetting,
    Preset,
    Reading,
    Regime,
    Resources,
    Settings,
    TrialSettings,
    Variant,
    find,
    load_preset,
    load_regime,
    load_yaml,
    parse,
)

Sampler = Literal["tpe", "nsga2", "random"]
S = TypeVar("S", bound="StudyBase")


class Range(Settings):
    """Search range of one objective's weight.

    The weight is log-uniform in ``[low, high]``; under the prior the objective is off with ``off_probability``.
    """

    low: float = Field(gt=0, allow_inf_nan=False)
    high: float = Field(gt=0, allow_inf_nan=False)
    off_probability: float = Field(0.7, ge=0, lt=1)
    params: dict[str, Any] = Field(default_factory=dict)
    schedule: Literal["constant", "linear_warmup", "cosine_decay"] = "constant"

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        return self

    @property
    def floor(self) -> float:
        """Lower end of the sampled axis: below ``low`` is off, a share ``off_probability`` of the log axis."""
        span = math.log(self.high / self.low)
        return self.low * math.exp(-span * self.off_probability / (1 - self.off_probability))


class StudyBase(Settings):
    """What every study says.

    Attributes:
        name: name of the study, of its folder and of its parent run.
        regime: shipped regime or path.
        preset: shipped preset or path.
        set: overrides of the preset, ``optimisation.steps=200``.
        reading: how the variants are read.
        seed: seed of the search; trials have seeds of their own.
        control_seeds: seeds of each control.
        refuse_controls: leave the controls out; nothing can then be compared with them.
        resources: what a trial occupies.
        concurrent: trials at once; null: as many as fit.
        retries: how often a trial whose process died is started again from its last checkpoint.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    description: str = ""
    regime: str
    preset: str
    set: tuple[str, ...] = ()
    reading: Reading = "as_described"
    seed: int = Field(0, ge=0, lt=2**32)
    control_seeds: tuple[int, ...] = (0,)
    refuse_controls: bool = False
    resources: Resources = Resources()
    concurrent: int | None = Field(None, ge=1)
    retries: int = Field(3, ge=0)

    @field_validator("control_seeds")
    @classmethod
    def _some(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value) or any(v < 0 for v in value):
            raise ValueError(f"{list(value)} given; expected different seeds, none negative")
        return value

    @model_validator(mode="after")
    def _controls(self) -> StudyBase:
        if not self.control_seeds and not self.refuse_controls:
            raise ValueError(
                "no control_seeds: a study without controls cannot be read; to insist, set refuse_controls: true"
            )
        return self

    def load(self) -> tuple[Preset, Regime]:
        """The preset with its overrides, and the regime."""
        return load_preset(self.preset, self.set), load_regime(self.regime)

    def trial(self, name: str, variant: Variant, seed: int, preset: Preset, regime: Regime) -> TrialSettings:
        """Settings of one trial of this study."""
        data = {
            "variant_name": name,
            "variant": variant,
            "reading": self.reading,
            "seed": seed,
            "preset": preset,
            "regime": regime,
            "resources": self.resources,
        }
        return parse(TrialSettings, data, f"study {self.name}, variant {name}")

    def controls(self) -> list[tuple[str, Variant, int]]:
        """The controls this study runs first."""
        if self.refuse_controls:
            return []
        return [(c, load_variant(c), seed) for seed in self.control_seeds for c in CONTROLS]


class SweepDefinition(StudyBase):
    """A search over objective weights.

    Attributes:
        trials: trials of the search, controls not counted.
        sampler: Optuna sampler.
        trial_seed: seed every searched trial is trained with.
        objectives: search range of every objective; those not named stay off.
        start: shipped variants whose weights are tried first.
    """

    trials: int = Field(ge=1)
    sampler: Sampler = "tpe"
    trial_seed: int = Field(0, ge=0, lt=2**32)
    objectives: dict[str, Range] = Field(min_length=1)
    start: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> SweepDefinition:
        for name, r in self.objectives.items():
            if name not in RECORDS:
                raise ValueError(f"unknown objective {name!r} in the search space; {nearest(name, RECORDS)}")
            for key in r.params:
                if key not in RECORDS[name].params:
                    raise ValueError(f"unknown parameter {key!r} of {name}; {nearest(key, RECORDS[name].params)}")
            if RECORDS[name].kind == "mask" and r.high > 1:
                raise ValueError(
                    f"{name} is a mask policy: its weight is a share of clips; high is {r.high}, expected at most 1"
                )
        for name in self.start:
            self._check_start(name, load_variant(name))
        return self

    def _check_start(self, name: str, variant: Variant) -> None:
        """A start variant runs under its own name, so its point must give exactly its mix."""
        for objective in variant.objectives:
            if objective not in self.objectives:
                raise ValueError(f"start variant {name!r} uses {objective}, which the search space does not name")
        teacher = (self.reading == "as_published" and variant.published_teacher) or variant.teacher
        if variant.untrained or teacher != "ema":
            raise ValueError(f"start variant {name!r} is no mix of objectives alone: the search space cannot hold it")
        back = self.variant(self.point(variant)).objectives
        for objective in sorted({*back, *variant.objectives}):
            if back.get(objective) != variant.objectives.get(objective):
                raise ValueError(
                    f"start variant {name!r} differs from the search space in {objective}: give that range its weight, "
                    "schedule and params, or leave the variant out"
                )

    def variant(self, weights: dict[str, float]) -> Variant:
        """The variant of a point of the space: what lies below an objective's ``low`` is off."""
        chosen = {
            name: ObjectiveSetting(
                weight=w, schedule=self.objectives[name].schedule, params=self.objectives[name].params
            )
            for name, w in weights.items()
            if w >= self.objectives[name].low
        }
        return Variant(description="found by search", objectives=chosen)

    def point(self, variant: Variant) -> dict[str, float]:
        """The point of the space that stands for a variant, its weights moved into their ranges."""
        point: dict[str, float] = {}
        for name, r in self.objectives.items():
            setting = variant.objectives.get(name)
            # The middle of the off part, on the log axis.
            off = math.sqrt(r.floor * r.low) if r.off_probability > 0 else r.low
            point[name] = off if setting is None else min(max(setting.weight, r.low), r.high)
        return point


class AblationDefinition(StudyBase):
    """Named variants, each with every seed.

    Attributes:
        variants: names of shipped variants.
        custom: further variants, defined here.
        seeds: seeds of each variant; controls run with the same ones unless ``control_seeds`` is given.
        design: further variants, the cells of a design; a custom variant that is a factor of it runs in its cells only.
    """

    variants: tuple[str, ...] = ()
    custom: dict[str, Variant] = Field(default_factory=dict)
    design: Design | None = None
    seeds: tuple[int, ...] = Field((0,), min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _same_seeds(cls, data: Any) -> Any:
        if isinstance(data, dict) and "control_seeds" not in data and "seeds" in data:
            return {**data, "control_seeds": data["seeds"]}
        return data

    @model_validator(mode="after")
    def _known(self) -> AblationDefinition:
        for name in self.variants:
            load_variant(name)
        twice = sorted(set(self.custom) & set(self.variants) | set(self.custom) & set(CONTROLS))
        if twice:
            raise ValueError(f"variant {twice[0]!r} is shipped already: give yours another name")
        if self.design is not None:
            self._check_design(self.design)
        elif not self.variants and not self.custom:
            raise ValueError("no variants: name at least one, e.g. variants: [hw, fwm]")
        return self

    def _check_design(self, design: Design) -> None:
        if self.refuse_controls and design.kind != "leave_one_out":
            raise ValueError(f"a design of kind {design.kind} has the baseline as a cell: leave refuse_controls out")
        plan(design, self.custom, self.reading)

    def plan(self) -> Plan | None:
        """The design worked out, None for a study without one."""
        return None if self.design is None else plan(self.design, self.custom, self.reading)

    def members(self) -> list[tuple[str, Variant, int]]:
        """Every variant with every seed, controls left to :meth:`controls`."""
        factors = {f.name for f in self.design.factors} if self.design is not None else set()
        named = {n: load_variant(n) for n in self.variants if n not in CONTROLS or self.refuse_controls}
        named |= {n: variant for n, variant in self.custom.items() if n not in factors}
        worked_out = self.plan()
        if worked_out is not None:
            named |= {c.variant_name: c.variant for c in worked_out.cells if c.variant_name not in CONTROLS}
        return [(name, variant, seed) for seed in self.seeds for name, variant in named.items()]


def load_sweep(name_or_path: str, changes: dict[str, Any]) -> SweepDefinition:
    """A sweep by shipped name or path, with command-line changes applied before the check."""
    return _load(SweepDefinition, "spaces", name_or_path, "search space", changes)


def load_ablation(name_or_path: str, changes: dict[str, Any]) -> AblationDefinition:
    """An ablation by shipped name or path, with command-line changes applied before the check."""
    return _load(AblationDefinition, "studies", name_or_path, "study", changes)


def _load(model: type[S], folder: str, name_or_path: str, what: str, changes: dict[str, Any]) -> S:
    path = find(folder, name_or_path, what)
    data = load_yaml(path)
    if not isinstance(data, dict):
        raise SettingsError(f"{what} {path} holds {type(data).__name__}; expected a mapping of settings")
    given = {k: v for k, v in changes.items() if v is not None and v != ()}
    if "set" in given:
        given["set"] = [*data.get("set", ()), *given["set"]]
    if "resources" in given:
        given["resources"] = {**data.get("resources", {}), **given["resources"]}
    return parse(model, {**data, **given}, f"{what} {name_or_path}")
