"""Studies as data: what a sweep, an ablation or a single pretraining asks for."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, field_validator, model_validator

from equipoise.platform.errors import SettingsError, nearest
from equipoise.platform.settings.base import Settings, parse
from equipoise.platform.settings.design import Design
from equipoise.platform.settings.files import beside, find, load_yaml, shipped
from equipoise.platform.settings.names import Name, check_names
from equipoise.platform.settings.plan import Plan, plan
from equipoise.platform.settings.plugins import Plugin, plugin_of, use
from equipoise.platform.settings.preset import Preset, load_preset
from equipoise.platform.settings.search import (
    STARTUP,
    Budget,
    ConfirmSetting,
    Constraints,
    EarlyStopping,
    Prices,
    Sampler,
    SeedFidelity,
)
from equipoise.platform.settings.space import SearchSpace
from equipoise.platform.settings.trial import Regime, Resources, TrialSettings, load_regime
from equipoise.platform.settings.variant import CONTROLS, Reading, Variant, controls_of, load_variant, variants

LEAST_SEEDS = 4  # of the controls: their spread then has the three degrees of freedom that a noise floor needs
PUBLISHED = "published"
"""Stands in ``start`` for all published variants that lie in the space."""
S = TypeVar("S", bound="StudyBase")


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
        prices: what an hour of a CPU and of a GPU costs; null: nobody asks.
        plugins: Python files that register objectives of one's own.
    """

    name: Name
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
    prices: Prices | None = None
    plugins: tuple[Plugin, ...] = Field((), exclude_if=lambda plugins: not plugins)

    @model_validator(mode="before")
    @classmethod
    def _brought(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not data.get("plugins"):
            return data
        given = data["plugins"]
        if not isinstance(given, list | tuple):
            raise ValueError(f"plugins is {given!r}; expected a list of Python files")
        found = [plugin_of(one) if isinstance(one, str) else one for one in given]
        use(one for one in found if not isinstance(one, str))  # before what names their objectives is checked
        return {**data, "plugins": found}

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

    def lacking(self) -> str | None:
        """What its result will not be able to say for want of seeds, in a sentence; None where nothing is missing."""
        if self.refuse_controls:
            return "Without controls nothing is compared: only accuracies will be shown."
        if len(self.control_seeds) >= LEAST_SEEDS:
            return None
        seeds = len(self.control_seeds)
        return (
            f"With {seeds} control seed{'s' if seeds > 1 else ''} there may be no noise floor: gains are then not "
            f"measured in it, and a candidate may lose nothing; {LEAST_SEEDS} are needed (control_seeds: [0, 1, 2, 3])."
        )

    def controls(self) -> list[tuple[str, Variant, int]]:
        """The controls this study runs first."""
        if self.refuse_controls:
            return []
        return [(c, load_variant(c), seed) for seed in self.control_seeds for c in controls_of(self.load()[0])]


class SweepDefinition(SearchSpace, StudyBase):
    """A search over objective weights and their conditional parameters.

    Attributes:
        trials: trials of the search, controls not counted.
        sampler: Optuna sampler.
        trial_seed: seed every searched trial is trained with.
        start: shipped variants whose weights are tried first; ``published`` stands for all published ones that lie in
            the space.
        constraints: what a mix may lose against the baseline; samplers steer away from those that lose more.
        warm_start: an earlier study of the same record, whose finished trials the search starts from.
        early_stopping: when trials stop early; null: never.
        seeds: how promising variants earn more seeds; null: they do not.
        budget: hours at which the search stops, ``40gpu-h`` or ``200cpu-h``; null: ``trials`` decides.
        confirm: the confirmation that follows, for which the budget keeps hours back; null: none does.
    """

    trials: int = Field(ge=1)
    sampler: Sampler = "tpe"
    trial_seed: int = Field(0, ge=0, lt=2**32)
    start: tuple[str, ...] = ()
    constraints: Constraints | None = None
    warm_start: str | None = Field(None, min_length=1)
    early_stopping: EarlyStopping | None = None
    seeds: SeedFidelity | None = None
    budget: Budget | None = None
    confirm: ConfirmSetting | None = None

    @field_validator("start", mode="before", json_schema_input_type=str | tuple[str, ...])
    @classmethod
    def _one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known(self) -> SweepDefinition:
        for name in self.start:
            if name == PUBLISHED:
                continue
            why = self.refuses(load_variant(name))
            if why is not None:
                raise ValueError(f"start variant {name!r} {why}")
        if self.budget is not None:
            self.budget.check(self.resources)
        if self.warm_start == self.name:
            raise ValueError(f"warm_start names the study itself, {self.name!r}: name an earlier one")
        if self.constraints is not None:
            self._check_constraints(self.constraints)
        return self

    def _check_constraints(self, constraints: Constraints) -> None:
        if not STARTUP[self.sampler]:
            raise ValueError(
                f"constraints: sampler {self.sampler} looks at no result and cannot keep to them: "
                "choose tpe, nsga2, nsga3, gp or botorch, or leave them out"
            )
        if self.refuse_controls:
            raise ValueError("constraints are measured against the baseline: leave refuse_controls out")
        if isinstance(constraints.max_loss, dict):
            known = load_regime(self.regime).benchmarks
            for benchmark in constraints.max_loss:
                if benchmark not in known:
                    raise ValueError(
                        f"constraints: unknown benchmark {benchmark!r} of regime {self.regime}; "
                        f"{nearest(benchmark, known)}"
                    )

    def refuses(self, variant: Variant) -> str | None:
        """Why a variant under its own name is no point of the space, or None: what comes after its name."""
        teacher = (self.reading == "as_published" and variant.published_teacher) or variant.teacher
        if variant.untrained or teacher != "ema":
            return "is no mix of objectives alone: the search space cannot hold it"
        return self.lacks(variant)

    @property
    def starts(self) -> tuple[str, ...]:
        """Names of the variants that are tried first, no more than there are trials."""
        found: dict[str, Variant] = {}
        for name in self.start:
            if name != PUBLISHED:
                found[name] = load_variant(name)
                continue
            for known, variant in variants().items():
                # Aliases come after the name they stand for.
                if (
                    variant.regimes
                    and variant.objectives
                    and variant not in found.values()
                    and not self.refuses(variant)
                ):
                    found[known] = variant
        return tuple(found)[: self.trials]


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
        check_names(self.custom)
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


def load_sweep(name_or_path: str, changes: Mapping[str, Any]) -> SweepDefinition:
    """A sweep by shipped name or path, with command-line changes applied before the check."""
    return _load(SweepDefinition, "spaces", name_or_path, "search space", changes)


def variant_in(name_or_path: str, variant: str, changes: Mapping[str, Any]) -> tuple[StudyBase, Variant]:
    """One variant of an ablation, or a shipped one in the setting of a search, and the study that it is of.

    Args:
        name_or_path: shipped study or search space, or YAML file.
        variant: one of its own (``variants``, ``custom``, cells of its design), or any shipped one.
        changes: keys of the file to replace.

    Raises:
        SettingsError: for a name that is neither in the file nor shipped, naming the nearest.
    """
    if _holds_space(name_or_path):
        definition: StudyBase = load_sweep(name_or_path, changes)
        own: dict[str, Variant] = {}
    else:
        definition = load_ablation(name_or_path, changes)
        own = {name: mix for name, mix, _ in definition.members()} | dict(definition.custom)
    known = {**variants(), **own}
    if variant not in known:
        raise SettingsError(f"{name_or_path} has no variant {variant!r}; {nearest(variant, known)}")
    return definition, known[variant]


def is_study_file(target: str) -> bool:
    """Whether a word names a file of settings, shipped or one's own, and not a variant."""
    return Path(target).suffix in (".yaml", ".yml") or target in {**shipped("spaces"), **shipped("studies")}


def _holds_space(name_or_path: str) -> bool:
    """Whether a file describes a search: it names ranges of objectives."""
    if name_or_path in shipped("studies"):
        return False
    content = load_yaml(find("spaces", name_or_path, "search space or study"))
    return isinstance(content, dict) and "objectives" in content


def name_in_space(name_or_path: str) -> str | None:
    """The name that a search space gives to its study."""
    content = load_yaml(find("spaces", name_or_path, "search space"))
    return content.get("name") if isinstance(content, dict) else None


def load_ablation(name_or_path: str, changes: Mapping[str, Any]) -> AblationDefinition:
    """An ablation by shipped name or path, with command-line changes applied before the check."""
    return _load(AblationDefinition, "studies", name_or_path, "study", changes)


def _load(model: type[S], folder: str, name_or_path: str, what: str, changes: Mapping[str, Any]) -> S:
    path = find(folder, name_or_path, what)
    data = load_yaml(path)
    if not isinstance(data, dict):
        raise SettingsError(f"{what} {path} holds {type(data).__name__}; expected a mapping of settings")
    _check_kind(model, data, name_or_path)
    data |= {key: beside(path, data[key]) for key in ("preset", "regime") if key in data}
    if isinstance(data.get("plugins"), list):
        data["plugins"] = [str(path.resolve().parent / one) if isinstance(one, str) else one for one in data["plugins"]]
    given = {k: v for k, v in changes.items() if v is not None and v != ()}
    if "plugins" in given:
        given["plugins"] = [*data.get("plugins", ()), *given["plugins"]]
    if "set" in given:
        given["set"] = [*data.get("set", ()), *given["set"]]
    if "resources" in given:
        given["resources"] = {**data.get("resources", {}), **given["resources"]}
    return parse(model, {**data, **given}, f"{what} {name_or_path}")


def _check_kind(model: type[StudyBase], data: Mapping[str, Any], file: str) -> None:
    """Refuse a file of the other kind by what it is, not by each key that it has or lacks.

    Raises:
        SettingsError: with the command that runs it.
    """
    searches = "objectives" in data
    lists = next((key for key in ("variants", "custom", "design") if key in data), None)
    if model is SweepDefinition and not searches and lists is not None:
        raise SettingsError(
            f"{file} has {lists} and no objectives to search: equipoise ablate {shlex.quote(file)} runs it"
        )
    if model is AblationDefinition and searches and lists is None:
        raise SettingsError(f"{file} is a search space, of objectives: equipoise sweep {shlex.quote(file)} runs it")


def space_settings(definition: SweepDefinition, seed: int | None = None) -> TrialSettings:
    """All objectives of a search space on at once, each at the geometric mean of its range."""
    preset, regime = definition.load()
    name = f"{definition.name}: all at once"
    return definition.trial(name, definition.middle(), definition.trial_seed if seed is None else seed, preset, regime)


class ReplicationDefinition(StudyBase):
    """Mixes of a study and both controls, with fresh seeds.

    Attributes:
        replicates: the study.
        mixes: its mixes that run again.
        seeds: of every mix and control; none of the study's own.
    """

    replicates: str
    mixes: dict[str, Variant] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)


class ConfirmationDefinition(StudyBase):
    """The top variants of a study and both controls, with fresh seeds.

    Attributes:
        confirms: the study.
        top: how many variants were asked for; a smaller study has fewer.
        mixes: the variants, best first.
        seeds: of every variant and control; none of the study's own.
    """

    confirms: str
    top: int = Field(ge=1)
    mixes: dict[str, Variant] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
