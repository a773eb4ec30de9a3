"""A preset: size of the model, and how it is trained and probed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_serializer, field_validator, model_validator

from equipoise.models.encoders import EncoderConfig
from equipoise.models.jepa import JepaConfig
from equipoise.models.probe_records import PROBES
from equipoise.models.schedules import LinearWarmup, weight_at
from equipoise.platform.errors import SettingsError, nearest
from equipoise.platform.settings.base import Settings, parse
from equipoise.platform.settings.files import apply_override, beside, find, load_yaml
from equipoise.platform.settings.names import Name

VIT = EncoderConfig()
ADDED_TO_ENCODERS = ("name", "params", "rope_frequencies", "rope_side")
"""Not written where they are as ever, so that trials keep the keys they had before these existed."""


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


def _absent(value: object) -> bool:
    """So that trials keep the keys they had before a setting existed."""
    return value is None


def _one(value: int) -> bool:
    return value == 1


def renamed(data: Any, before: str, now: str) -> Any:
    """Content of a file or a record of an earlier version, in which a key had another name."""
    if isinstance(data, dict) and before in data and now not in data:
        return {now if key == before else key: value for key, value in data.items()}
    return data


class ProbeSetting(Settings):
    """How a frozen encoder is scored: what of its features is read, and by which classifier.

    Of ``attentive`` and ``linear`` probes a bank is trained side by side, every learning rate with every weight decay;
    of ``knn`` every ``neighbours`` is tried. Select items choose among them.
    """

    kind: str = Field(
        description="attentive: a class token attends to all tokens; linear: on their mean; knn: nearest neighbours; "
        "or one of your own"
    )
    params: dict[str, tuple[Any, ...]] = Field(
        default_factory=dict,
        description="of a probe of your own: values to try, by name; select items choose among all combinations",
        exclude_if=lambda params: not params,
    )
    epochs: int = Field(1, ge=1, description="passes over the training items; knn: none is made")
    batch: int = Field(256, ge=1)
    lr: tuple[float, ...] = (1e-3,)
    weight_decay: tuple[float, ...] = (0.01,)
    heads: int = Field(8, ge=1, description="attention heads of an attentive probe")
    holdout: float = Field(
        0.15,
        gt=0,
        lt=1,
        description="share of the training split that is cut off where a benchmark has no select part of its own",
    )
    blocks: int | None = Field(
        None,
        ge=1,
        description="of an attentive probe: transformer blocks as V-JEPA 2 has, 4 there; null: one attention, no MLP",
        exclude_if=_absent,
    )
    clips: int = Field(
        1, ge=1, description="clips of an item, one after the other in time, read together", exclude_if=_one
    )
    views: int = Field(
        1,
        ge=1,
        description="crops of a clip along its longer side: each is fitted, their probabilities are averaged",
        exclude_if=_one,
    )
    levels: Literal["last", "all"] = Field(
        "last",
        description="the deepest level alone, or all: an attentive probe sees their tokens, others their channels",
        exclude_if=lambda levels: levels == "last",
    )
    neighbours: tuple[int, ...] = Field(
        (10, 20), description="of knn", min_length=1, exclude_if=lambda neighbours: neighbours == (10, 20)
    )
    labels_per_class: int | None = Field(
        None, ge=1, description="training items that are fitted of each class; null: all", exclude_if=_absent
    )
    labels_share: float | None = Field(
        None, gt=0, lt=1, description="share of each class that is fitted, at least one item", exclude_if=_absent
    )

    @model_validator(mode="before")
    @classmethod
    def _earlier(cls, data: Any) -> Any:
        return renamed(data, "pooling", "kind")

    @field_validator("lr", "weight_decay")
    @classmethod
    def _non_negative(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(v < 0 for v in value):
            raise ValueError(f"{list(value)} given; expected at least one value, none negative")
        return value

    @model_validator(mode="after")
    def _takes_effect(self) -> ProbeSetting:
        bank = ("epochs", "batch", "lr", "weight_decay")
        only = {"attentive": ("blocks", "heads", *bank), "linear": bank, "knn": ("neighbours",)}
        if self.kind not in only and self.kind not in PROBES:
            raise ValueError(f"unknown kind of probe {self.kind!r}; {nearest(self.kind, [*only, *PROBES])}")
        own = PROBES[self.kind].params if self.kind in PROBES else ()
        for name in self.params:
            if name not in own:
                raise ValueError(f"unknown parameter {name!r} of {self.kind}; known: {', '.join(own) or 'none'}")
        mine = only.get(self.kind, ())
        for name in ("blocks", "heads", "neighbours", *bank):
            if name not in mine and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} {getattr(self, name)!r} cannot take effect on a probe of kind {self.kind}")
        if "epochs" in mine and "epochs" not in self.model_fields_set:
            raise ValueError(f"epochs is missing: how often a probe of kind {self.kind} sees the training items")
        if min(self.neighbours) < 1:
            raise ValueError(f"neighbours are {list(self.neighbours)}; expected whole numbers of at least 1")
        if self.labels_per_class is not None and self.labels_share is not None:
            raise ValueError("labels_per_class and labels_share both say how many labels are used: give one")
        return self

    @property
    def pooled(self) -> bool:
        """Whether it reads the mean over tokens."""
        return PROBES[self.kind].pooled if self.kind in PROBES else self.kind != "attentive"


class InitialEncoder(Settings):
    """A checkpoint that the encoder starts from, instead of random numbers; ``random_init`` does not.

    Attributes:
        file: a file or a folder, here or in an object store; relative to the preset's own file.
        sha256: of the file (of ``state.pt`` in a folder): which one it is, for the trial's key and for every node.
    """

    file: str = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Preset(Settings):
    """Size of the model and how it is trained and probed: what differs between a laptop and a cluster."""

    name: Name
    description: str = ""
    model: JepaConfig
    optimisation: Optimisation
    context: ContextLoss = ContextLoss()
    sampling: Sampling = Sampling()
    cache_size: int = Field(description="short side in pixels of the cached frames", ge=8)
    cache_frames: int | None = Field(None, ge=1, description="cached frames of a clip, spread evenly; null keeps all")
    cache_storage: Literal["raw", "jpeg", "none"] = Field(
        "raw",
        description="raw frames; jpeg: images of them, a tenth of the space, decoded at every reading; none: no cache, "
        "files are decoded at every reading",
        exclude_if=lambda storage: storage == "raw",  # so that trials keep the keys they had before this existed
    )
    initial_encoder: InitialEncoder | None = Field(
        None,
        description="a checkpoint that training starts from; null: random numbers",
        exclude_if=lambda initial: initial is None,  # so that trials keep the keys they had before this existed
    )
    probes: dict[Name, ProbeSetting] = Field(description="by the name that benchmarks call them")
    checkpoint_every: int = Field(300, ge=1, description="steps between checkpoints")
    log_every: int = Field(50, ge=1, description="steps between logged metrics")

    @field_serializer("model", mode="wrap")
    def _as_before(self, model: JepaConfig, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = plain(model)
        for name in ADDED_TO_ENCODERS:
            if getattr(model.encoder, name) == getattr(VIT, name):
                del content["encoder"][name]
        return content

    @classmethod
    def file_schema(cls) -> dict[str, Any]:
        """JSON schema of a preset's file: one with a base says only what differs."""
        schema = cls.model_json_schema()
        groups = [schema, *schema["$defs"].values()]
        inherits: dict[str, Any] = {"required": ["base"]}
        whole = {"required": schema["required"]}
        for group in groups:
            group.pop("required", None)
        base = {"type": "string", "description": "a shipped preset or a file, of which this one says what differs"}
        schema["properties"] = {"base": base, **schema["properties"]}
        return {**schema, "anyOf": [inherits, whole]}

    @model_validator(mode="after")
    def _fits(self) -> Preset:
        if self.cache_size < self.model.size:
            raise ValueError(
                f"cache_size {self.cache_size} is below the clip size {self.model.size}: cache larger frames"
            )
        for name, probe in self.probes.items():
            if probe.kind == "attentive" and self.model.encoder.width % probe.heads:
                raise ValueError(f"probes.{name}.heads {probe.heads} does not divide width {self.model.encoder.width}")
        return self

    def protocol(self, probe: str, *code: str) -> str:
        """What an accuracy by one of the probes means, ``attentive 1f3a9c02``: equal where nothing of it differs.

        Args:
            probe: by name.
            code: sha256 of what defines it, where it does not ship.
        """
        setting, model = self.probes[probe], self.model
        meant = [setting.model_dump(mode="json"), model.frames, model.size, self.sampling.images, *code]
        digest = hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()
        return f"{probe} {digest[:8]}"


def load_preset(name_or_path: str, overrides: Sequence[str] = ()) -> Preset:
    """A preset by name or path, with what it inherits and ``key.sub=value`` overrides applied before the check.

    A file that names another preset as its ``base`` says only what differs: groups are joined key by key.

    Raises:
        SettingsError: it, or one that it is based on, does not exist or is no preset; or they are based on each other.
    """
    data = _inherited(find("presets", name_or_path, "preset"), ())
    for item in overrides:
        apply_override(data, item)
    return parse(Preset, data, f"preset {name_or_path}" + (f" with {list(overrides)}" if overrides else ""))


def _inherited(path: Path, heirs: tuple[Path, ...]) -> Any:
    """The content of a preset's file, joined with that of its bases."""
    path = path.resolve()
    if path in heirs:
        raise SettingsError(f"preset {path} is based on itself: {' <- '.join(map(str, (*heirs, path)))}")
    data = load_yaml(path)
    initial = data.get("initial_encoder") if isinstance(data, dict) else None
    if isinstance(initial, dict) and isinstance(initial.get("file"), str) and "://" not in initial["file"]:
        initial["file"] = str(path.parent / initial["file"])
    if not isinstance(data, dict) or "base" not in data:
        return data
    base = data.pop("base")
    if not isinstance(base, str):
        raise SettingsError(f"preset {path}: base is {base!r}; expected the name or the file of a preset")
    return _joined(_inherited(find("presets", beside(path, base), "preset"), (*heirs, path)), data)


def _joined(base: Any, own: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(own, dict):
        return own
    return base | {key: _joined(base.get(key), value) for key, value in own.items()}
