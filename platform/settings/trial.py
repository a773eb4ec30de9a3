"""Typed settings of a trial: read from YAML, checked whole before anything starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from equipoise.platform.errors import nearest
from equipoise.platform.settings.base import Settings, parse
from equipoise.platform.settings.benchmarks import BENCHMARKS
from equipoise.platform.settings.files import find, load_yaml
from equipoise.platform.settings.names import Name, check_names
from equipoise.platform.settings.plugins import Plugin, installed, origin_of, use, used_by
from equipoise.platform.settings.preset import Preset, renamed
from equipoise.platform.settings.variant import Reading, Variant


class SourceSetting(Settings):
    """One source of a regime's mixture."""

    manifest: str = Field(description="Parquet manifest, relative to the data folder")
    weight: float = Field(gt=0, description="share of clips")


class BenchmarkSetting(Settings):
    """A labelled data set with its probe."""

    train: str
    select: str | None = Field(None, description="what everything that chooses is scored on; null: cut from train")
    test: str
    probe: str = Field(description="of the preset's probes, by name")
    title: str = Field(description="name on plots and tables")

    @model_validator(mode="before")
    @classmethod
    def _earlier(cls, data: Any) -> Any:
        return renamed(data, "pooling", "probe")


class Regime(Settings):
    """What is pretrained on, and the benchmarks that score the result."""

    name: Name
    description: str = ""
    sources: dict[str, SourceSetting] = Field(min_length=1)
    benchmarks: dict[str, BenchmarkSetting] = Field(
        min_length=1, description="by name; one of a plug-in needs no more than its name"
    )

    @model_validator(mode="before")
    @classmethod
    def _brought(cls, data: Any) -> Any:
        given = data.get("benchmarks") if isinstance(data, Mapping) else None
        if not isinstance(given, Mapping) or None not in given.values():
            return data
        installed()
        for name in (name for name, setting in given.items() if setting is None and name not in BENCHMARKS):
            known = nearest(str(name), BENCHMARKS) if BENCHMARKS else "no plug-in brings any"
            raise ValueError(f"benchmark {name!r} has no settings here, and is of no plug-in: {known}")
        whole = {name: BENCHMARKS[name].setting() if setting is None else setting for name, setting in given.items()}
        return {**data, "benchmarks": whole}

    @field_validator("sources", "benchmarks")
    @classmethod
    def _named(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_names(value)
        return value


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
    plugins: tuple[Plugin, ...] = Field(
        (),
        description="where objectives and encoders come from that do not ship; found by name where it is not given",
        exclude_if=lambda plugins: not plugins,  # so that trials keep the keys they had before this existed
    )

    @model_validator(mode="before")
    @classmethod
    def _brought(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        use(data.get("plugins", ()))  # before the variant is checked, which names what they bring
        variant = data.get("variant")
        named = variant.objectives if isinstance(variant, Variant) else dict(variant or {}).get("objectives", {})
        return {"plugins": used_by(named, *_named_in(data.get("preset"))), **data}

    @model_validator(mode="after")
    def _joined(self) -> TrialSettings:
        for name in self.benchmarks:
            if name not in self.regime.benchmarks:
                raise ValueError(
                    f"unknown benchmark {name!r} of regime {self.regime.name}; {nearest(name, self.regime.benchmarks)}"
                )
        for name, b in self.regime.benchmarks.items():
            if b.probe not in self.preset.probes:
                raise ValueError(
                    f"benchmark {name} is scored by the probe {b.probe!r}, which preset {self.preset.name} does not "
                    f"define; {nearest(b.probe, self.preset.probes)}"
                )
        if self.variant.unchanged and self.preset.initial_encoder is None:
            raise ValueError(
                f"variant {self.variant_name} is what a checkpoint holds, and preset {self.preset.name} starts from "
                "none: name one in its initial_encoder, or take random_init"
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
        if self.preset.initial_encoder is not None:  # which one it is, wherever it lies
            content["preset"]["initial_encoder"] = self.preset.initial_encoder.sha256
        if self.plugins:
            content["plugins"] = [plugin.sha256 for plugin in self.plugins]
        for benchmark in content["regime"]["benchmarks"].values():
            del benchmark["select"]  # as little as what is scored does it change the training
            benchmark["pooling"] = benchmark.pop("probe")  # as it was called first
        for probe in content["preset"]["probes"].values():
            probe["pooling"] = probe.pop("kind")
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def protocol(self, benchmark: str) -> str:
        """What an accuracy on a benchmark means, for tables: accuracies of two protocols are never compared."""
        probe = self.regime.benchmarks[benchmark].probe
        origin = origin_of(self.preset.probes[probe].kind, "probes")
        return self.preset.protocol(probe, *([origin.sha256] if origin is not None else []))

    @property
    def scored(self) -> tuple[str, ...]:
        """Benchmarks this trial is scored on."""
        return self.benchmarks or tuple(self.regime.benchmarks)


def _named_in(preset: Any) -> tuple[str, list[str]]:
    """Name of the encoder, and kinds of the probes, of a preset that may not have been checked yet."""
    if isinstance(preset, Preset):
        return preset.model.encoder.name, [probe.kind for probe in preset.probes.values()]

    def inside(of: Any, *path: str) -> Any:
        for key in path:
            of = of.get(key) if isinstance(of, Mapping) else None
        return of

    probes = inside(preset, "probes")
    kinds = [inside(probe, "kind") for probe in probes.values()] if isinstance(probes, Mapping) else []
    return str(inside(preset, "model", "encoder", "name")), [str(kind) for kind in kinds]


def load_regime(name_or_path: str) -> Regime:
    """A regime by name or path."""
    return parse(Regime, load_yaml(find("regimes", name_or_path, "regime")), f"regime {name_or_path}")
