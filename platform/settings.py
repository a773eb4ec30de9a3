"""Typed settings of a trial: read from YAML, checked whole before anything starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from equipoise.models.jepa import JepaConfig
from equipoise.models.objectives import list_objectives
from equipoise.models.schedules import SCHEDULES, LinearWarmup, weight_at
from equipoise.platform.errors import SettingsError, nearest

Reading = Literal["as_described", "as_published"]
Pooling = Literal["attentive", "linear"]
RECORDS = {record.name: record for record in list_objectives()}

M = TypeVar("M", bound="Settings")


class Settings(BaseModel):
    """Base of every settings record: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class ObjectiveSetting(Settings):
    """Weight of one objective, how it changes over training, and the objective's own parameters.

    For the two mask policies the weight is the share of clips whose masks follow the policy, at most 1.
    """

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
    """

    description: str = ""
    regimes: tuple[str, ...] = ()
    objectives: dict[str, ObjectiveSetting] = Field(default_factory=dict)
    teacher: Literal["ema", "self"] = "ema"
    published_teacher: Literal["ema", "self"] | None = None
    untrained: bool = False

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
                raise ValueError(f"unknown objective {name!r}; {nearest(name, RECORDS)}")
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
        return self


class Optimisation(Settings):
    """AdamW and its schedule; one step is one batch."""

    steps: int = Field(30_000, ge=1, description="training steps")
    batch: int = Field(32, ge=1, description="clips in a step over all workers")
    lr: float = Field(6e-4, gt=0)
    lr_start: float = Field(1e-4, ge=0, description="learning rate at step 0 of the warm-up")
    warmup_steps: int = Field(300, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(0.04, ge=0, description="none on biases and 1-D parameters")
    clip_gradient: float | None = Field(None, gt=0, description="largest gradient norm")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on a GPU that has it")


class ContextLoss(Settings):
    """Weight of the context loss: 0 until ``start``, linear up to ``weight`` at ``full`` (shares of training)."""

    weight: float = Field(0.5, ge=0)
    start: float = Field(0.0, ge=0, le=1)
    full: float = Field(0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> ContextLoss:
        if self.start >= self.full:
            raise ValueError(f"context start {self.start} is not before full {self.full}")
        return self

    def at(self, step: int, steps: int) -> float:
        """Weight at a step, 0-based."""
        return weight_at(LinearWarmup(self.full - self.start, self.start), self.weight, step, steps)


class Sampling(Settings):
    """How training clips are cut out of the cached frames."""

    stride: int = Field(2, ge=1, description="source frames from one clip frame to the next")
    scale: tuple[float, float] = Field((0.3, 1.0), description="share of the frame area a random crop covers")
    ratio: tuple[float, float] = Field((0.75, 1.35), description="aspect ratio of a random crop")
    hflip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    images: Literal["frame", "repeat"] = Field("frame", description="a still image as one frame, or as a still clip")

    @model_validator(mode="after")
    def _ordered(self) -> Sampling:
        for name, top in (("scale", 1.0), ("ratio", None)):
            low, high = getattr(self, name)
            if not 0 < low <= high or (top is not None and high > top):
                raise ValueError(f"{name} is {[low, high]}; expected 0 < low <= high" + (f" <= {top}" if top else ""))
        return self


class ProbeSetting(Settings):
    """A probe bank: every learning rate with every weight decay, trained side by side."""

    pooling: Pooling
    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)
    lr: tuple[float, ...] = (1e-3,)
    weight_decay: tuple[float, ...] = (0.01,)
    heads: int = Field(8, ge=1, description="attention heads of an attentive probe")
    holdout: float = Field(0.15, gt=0, lt=1, description="share of training items that chooses the winner")

    @field_validator("lr", "weight_decay")
    @classmethod
    def _non_negative(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(v < 0 for v in value):
            raise ValueError(f"{list(value)} given; expected at least one value, none negative")
        return value


class Preset(Settings):
    """Size of the model and how it is trained and probed: what differs between a laptop and a cluster."""

    name: str
    description: str = ""
    model: JepaConfig
    optimisation: Optimisation
    context: ContextLoss = ContextLoss()
    sampling: Sampling = Sampling()
    cache_size: int = Field(description="short side in pixels of the cached frames", ge=8)
    cache_frames: int | None = Field(None, ge=1, description="cached frames of a clip, spread evenly; null keeps all")
    cache_storage: Literal["raw", "jpeg"] = Field(
        "raw",
        description="raw frames, or JPEG images of them: a tenth of the space, decoded at every reading",
        exclude_if=lambda storage: storage == "raw",  # so that trials keep the keys they had before this existed
    )
    probes: dict[Pooling, ProbeSetting]
    checkpoint_every: int = Field(300, ge=1, description="steps between checkpoints")
    log_every: int = Field(50, ge=1, description="steps between logged metrics")

    @model_validator(mode="after")
    def _fits(self) -> Preset:
        if self.cache_size < self.model.size:
            raise ValueError(
                f"cache_size {self.cache_size} is below the clip size {self.model.size}: cache larger frames"
            )
        attentive = self.probes.get("attentive")
        if attentive and self.model.encoder.width % attentive.heads:
            raise ValueError(
                f"probes.attentive.heads {attentive.heads} does not divide width {self.model.encoder.width}"
            )
        return self


class SourceSetting(Settings):
    """One source of a regime's mixture."""

    manifest: str = Field(description="Parquet manifest, relative to the data folder")
    weight: float = Field(gt=0, description="share of clips")


class BenchmarkSetting(Settings):
    """A labelled data set with its probe."""

    train: str
    test: str
    pooling: Pooling
    title: str = Field(description="name on plots and tables")


class Regime(Settings):
    """What is pretrained on, and the benchmarks that score the result."""

    name: str
    description: str = ""
    sources: dict[str, SourceSetting] = Field(min_length=1)
    benchmarks: dict[str, BenchmarkSetting] = Field(min_length=1)


class Resources(Settings):
    """What one trial occupies."""

    workers: int = Field(1, ge=1)
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: float = Field(0, ge=0, description="0, 1, or a share: trials of one worker share a GPU")
    launcher: Literal["auto", "process", "train"] = Field(
        "auto", description="process: in the trial's own process; train: Ray Train; auto: process for one worker"
    )
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = Field(
        "PACK", description="how the workers are placed on nodes: close together, or apart; strict: or not at all"
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="ddp: every worker holds the model; fsdp: parameters and optimiser state are sharded (FSDP2)"
    )

    @model_validator(mode="after")
    def _possible(self) -> Resources:
        if self.launcher == "process" and self.workers > 1:
            raise ValueError(f"launcher 'process' runs one worker; {self.workers} given: use 'auto' or 'train'")
        if self.gpus_per_worker > 1:
            raise ValueError(f"gpus_per_worker is {self.gpus_per_worker:g}; a worker drives one GPU: raise workers")
        if self.workers > 1 and 0 < self.gpus_per_worker < 1:
            raise ValueError(
                f"gpus_per_worker is {self.gpus_per_worker:g} with {self.workers} workers, but NCCL allows one on "
                "a GPU: use 1, or one worker per trial, so that trials share a GPU"
            )
        for key in ("placement", "parallel"):
            default = type(self).model_fields[key].default
            if self.workers == 1 and getattr(self, key) != default:
                raise ValueError(f"{key} {getattr(self, key)!r} cannot take effect with 1 worker: raise workers")
        return self

    @property
    def uses_train(self) -> bool:
        """Whether Ray Train runs the loop."""
        return self.launcher == "train" or (self.launcher == "auto" and self.workers > 1)


class TrialSettings(Settings):
    """Everything one trial depends on; its key is a hash of this."""

    variant_name: str
    variant: Variant
    reading: Reading = "as_described"
    seed: int = Field(0, ge=0, lt=2**32)
    preset: Preset
    regime: Regime
    resources: Resources = Resources()
    benchmarks: tuple[str, ...] = Field((), description="benchmarks to score; empty: all of the regime's")

    @model_validator(mode="after")
    def _joined(self) -> TrialSettings:
        for name in self.benchmarks:
            if name not in self.regime.benchmarks:
                raise ValueError(
                    f"unknown benchmark {name!r} of regime {self.regime.name}; {nearest(name, self.regime.benchmarks)}"
                )
        for name, b in self.regime.benchmarks.items():
            if b.pooling not in self.preset.probes:
                raise ValueError(
                    f"benchmark {name} needs a {b.pooling} probe, which preset {self.preset.name} does not define"
                )
        if self.preset.optimisation.batch % self.resources.workers:
            raise ValueError(
                f"batch {self.preset.optimisation.batch} does not divide among {self.resources.workers} workers"
            )
        return self

    @property
    def key(self) -> str:
        """Sixteen hex digits that identify these settings; resources do not count, they do not change the result."""
        content = self.model_dump(mode="json", exclude={"resources", "benchmarks"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def scored(self) -> tuple[str, ...]:
        """Benchmarks this trial is scored on."""
        return self.benchmarks or tuple(self.regime.benchmarks)


SCHEDULE_NAMES = tuple(SCHEDULES)
if set(get_args(ObjectiveSetting.model_fields["schedule"].annotation)) != set(SCHEDULE_NAMES):
    raise RuntimeError("ObjectiveSetting.schedule and equipoise.models.schedules name different schedules")


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


def load_yaml(path: Path) -> Any:
    """Read a YAML file.

    Args:
        path: the file.

    Returns:
        Its content.

    Raises:
        SettingsError: for a missing file, one that cannot be read, or broken YAML (with the line).
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist; give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{path} is not valid YAML{line}: {getattr(error, 'problem', error)}") from None


def shipped(folder: str) -> dict[str, Path]:
    """YAML files that ship in a folder of ``search_spaces/``, by stem."""
    root = Path(str(resources.files("equipoise.search_spaces"))) / folder
    return {p.stem: p for p in sorted(root.glob("*.yaml"))}


def find(folder: str, name_or_path: str, what: str) -> Path:
    """Path of a shipped YAML by name, or of the person's own by path.

    Args:
        folder: folder of ``search_spaces/``.
        name_or_path: ``nano`` or ``my/preset.yaml``.
        what: the word for the error sentence.

    Returns:
        The file.

    Raises:
        SettingsError: where neither exists, with the nearest shipped name.
    """
    known = shipped(folder)
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise SettingsError(f"{what} file {path} does not exist; shipped: {', '.join(known)}")
    raise SettingsError(f"unknown {what} {name_or_path!r}; {nearest(name_or_path, known)}")


def load_preset(name_or_path: str, overrides: Sequence[str] = ()) -> Preset:
    """A preset by name or path, with ``key.sub=value`` overrides applied before the check."""
    path = find("presets", name_or_path, "preset")
    data = load_yaml(path)
    for item in overrides:
        apply_override(data, item)
    return parse(Preset, data, f"preset {name_or_path}" + (f" with {list(overrides)}" if overrides else ""))


def load_regime(name_or_path: str) -> Regime:
    """A regime by name or path."""
    return parse(Regime, load_yaml(find("regimes", name_or_path, "regime")), f"regime {name_or_path}")


def apply_override(data: Any, item: str) -> None:
    """Set one nested key of parsed YAML in place from ``a.b.c=value``.

    Args:
        data: nested mappings.
        item: key path and a YAML value.

    Raises:
        SettingsError: if the item has no ``=``, passes through what is not a mapping, or its value is no YAML.
    """
    path, sign, text = item.partition("=")
    if not sign or not path:
        raise SettingsError(f"override {item!r} has no value; write it as optimisation.steps=200")
    *parents, last = path.split(".")
    for part in parents:
        data = data.setdefault(part, {}) if isinstance(data, dict) else None
    if not isinstance(data, dict):
        raise SettingsError(f"override {item!r}: {'.'.join(parents) or 'the file'} is not a group of settings")
    try:
        data[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise SettingsError(f"override {item!r}: {text!r} is not a valid YAML value") from None
