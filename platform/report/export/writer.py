"""Write an encoder as safetensors, with a configuration that `transformers` or timm reads and a card."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import timm.models
from safetensors.torch import save_file

import equipoise
from equipoise.data.transforms import MEAN, STD
from equipoise.models.encoders import Encoder, VideoEncoder
from equipoise.models.encoders.backbones import TimmEncoder
from equipoise.platform.analysis.confirmation import confirmation_of
from equipoise.platform.errors import StudyError
from equipoise.platform.record.client import RESULT_TAG
from equipoise.platform.record.home import Home
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.record.registry import fetch_model, run_of_model
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.settings.variant import BASELINE, describe
from equipoise.platform.trial import checkpoint as checkpoints
from equipoise.platform.trial.checkpoint import Checkpoint
from equipoise.platform.trial.encoders import frozen_encoder

CODE = "modeling_equipoise_vit"
BY_TRANSFORMERS = """```python
from transformers import AutoModel

model = AutoModel.from_pretrained("{folder}", trust_remote_code=True).eval()
features = model(clips).last_hidden_state  # clips [B, F, 3, S, S]; F = 1 is an image
```

The code that this runs is the file `{code}.py` beside this card; it needs PyTorch and transformers."""
BY_TIMM = """```python
import timm

image_model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
features = image_model.forward_features(images)  # [B, 3, S, S]
```

`model.safetensors` is the network of images. What it has for videos, an embedding of tubelets and positions in time,
is in `video.safetensors`."""
BY_EQUIPOISE = """```python
from safetensors.torch import load_file

state = load_file("{folder}/model.safetensors")  # of the encoder {name} of Equipoise, with the sizes in config.json
```"""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        files: their names.
        variant: whose encoder it is.
        verdict: what its card says of it.
    """

    folder: Path
    files: tuple[str, ...]
    variant: str
    verdict: str


def export(target: str, folder: Path, home: Home, *, licence: str | None = None) -> Exported:
    """Write the encoder of a study, or of a checkpoint, into a folder of its own.

    Args:
        target: ``STUDY@balanced``, ``STUDY@candidate``, ``STUDY@baseline``, or a checkpoint's folder.
        folder: that is not there yet.
        home: of the study.
        licence: an identifier as ``apache-2.0``; None: the card says that none was stated.

    Raises:
        StudyError: the folder is there, or the target names neither.
        TrackingError: the study has no such encoder.
        CheckpointError: its files are damaged.
    """
    if folder.exists():
        raise StudyError(f"{folder} exists: name a folder that is not there, or move it away")
    study, sign, alias = target.rpartition("@")
    with tempfile.TemporaryDirectory() as temporary:
        record = None
        if sign and not Path(target).exists():
            model = f"models:/{study}@{alias}"
            found = checkpoints.load(fetch_model(model, home.uri(), Path(temporary)))
            run = run_of_model(model, home.uri())
            record = StudyRecord.open(home, run.data.tags[RESULT_TAG])
        elif Path(target).exists() or "://" in target:
            found = checkpoints.load(target)
        else:
            raise StudyError(
                f"{target!r} is neither STUDY@balanced, STUDY@candidate or STUDY@baseline nor a checkpoint's folder"
            )
        encoder = frozen_encoder(found)
        said = _verdict(record, found.settings)
        folder.mkdir(parents=True)
        use, library = _write_model(encoder, found.settings, folder)
        (folder / "README.md").write_text(_card(found, record, said, use, library, licence))
    files = tuple(sorted(path.name for path in folder.iterdir()))
    return Exported(folder, files, found.settings.variant_name, said["verdict"])


def _write_model(encoder: Encoder, settings: TrialSettings, folder: Path) -> tuple[str, str]:
    """Write parameters and configuration; returns how they are used, and the library that reads them."""
    model, c = settings.preset.model, encoder.config
    normalised = {"image_mean": list(MEAN), "image_std": list(STD)}
    clip = {"num_frames": model.frames, "size": {"height": model.size, "width": model.size}}
    if isinstance(encoder, TimmEncoder):
        data = {"input_size": (3, model.size, model.size), "mean": MEAN, "std": STD}
        timm.models.save_for_hf(encoder.vit, str(folder), safe_serialization=True, data_config=data)
        rest = {k: v.contiguous() for k, v in encoder.state_dict().items() if not k.startswith("vit.")}
        save_file(rest, folder / "video.safetensors")
        return BY_TIMM.format(folder=folder.name), "timm"
    state = {k: v.contiguous() for k, v in encoder.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    if not isinstance(encoder, VideoEncoder):
        content = {"encoder": settings.preset.model_dump(mode="json")["model"]["encoder"], **normalised, **clip}
        _write_json(folder / "config.json", content)
        return BY_EQUIPOISE.format(folder=folder.name, name=c.name), "equipoise"
    config = {
        "architectures": ["EquipoiseViTModel"],
        "auto_map": {"AutoConfig": f"{CODE}.EquipoiseViTConfig", "AutoModel": f"{CODE}.EquipoiseViTModel"},
        "model_type": "equipoise_vit",
        "dtype": "float32",
        "hidden_size": c.width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "mlp_ratio": c.mlp_ratio,
        "patch_size": c.patch,
        "tubelet_size": c.tubelet,
        "frames_per_clip": model.frames,
        "crop_size": model.size,
        "levels": c.levels,
        "rope_theta": c.rope_theta,
        "rope_frequencies": c.rope_frequencies,
        "rope_side": c.rope_side,
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "preprocessor_config.json", {**normalised, **clip, "do_rescale": True, "do_normalize": True})
    (folder / f"{CODE}.py").write_text(_asset(f"{CODE}.py.txt"))
    return BY_TRANSFORMERS.format(folder=folder.name, code=CODE), "transformers"


def _verdict(record: StudyRecord | None, settings: TrialSettings) -> dict[str, Any]:
    """What is known of a variant: a sentence, and its accuracies with their uncertainty."""
    variant = settings.variant_name
    if record is None:
        return {"verdict": "It was exported from a checkpoint, outside a study: nothing is said of how good it is."}
    table, titles = record.table, {name: b.title for name, b in settings.regime.benchmarks.items()}
    means, protocols = table.mean_of(variant), table.protocols
    rows = [
        {
            "title": titles.get(name, name),
            "part": table.part,
            "accuracy": f"{means[name]:.1f}",
            "protocol": protocols.get(name, "unknown"),
        }
        for name in table.benchmarks
        if name in means
    ]
    seeds = table.seeds(variant)
    gains: dict[str, tuple[float | None, float | None]]
    said: dict[str, Any] = {"rows": rows, "seeds": f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"}
    confirmed = confirmation_of(record) if "confirms" in record.definition else None
    if confirmed is not None:
        fresh = (
            {name: gains.fresh for name, gains in confirmed.of(variant).items()}
            if variant in confirmed.variants
            else {}
        )
        gains = {name: (one.estimate, one.low) for name, one in fresh.items()}
        said["verdict"] = " ".join(confirmed.sentences)
    else:
        # What was kept when the encoder got its name, not what would be selected by another tolerance.
        selection = record.artifact("front.json", "the selection of the study")
        ranked = next((row for row in selection["rows"] if row["variant"] == variant), None)
        gains = {} if ranked is None else {n: (ranked["gains"][n], ranked["at_least"][n]) for n in ranked["gains"]}
        said["verdict"] = selection["sentence"]
    for row, name in zip(rows, (n for n in table.benchmarks if n in means), strict=True):
        gain, least = gains.get(name, (None, None))
        own = variant == BASELINE
        row["gain"] = "" if gain is None or own else f"{gain:+.1f}"
        row["least"] = "" if least is None or own else f"{least:+.1f}"
    return said


def _card(
    found: Checkpoint,
    record: StudyRecord | None,
    said: Mapping[str, Any],
    use: str,
    library: str,
    licence: str | None,
) -> str:
    settings, preset = found.settings, found.settings.preset
    encoder, initial = preset.model.encoder, preset.initial_encoder
    weights = describe(settings.variant)
    trained = f"with the objectives {weights}" if settings.variant.objectives else "without auxiliary objectives"
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(_asset("card.md.j2")).render(
        name=f"{settings.variant_name} ({settings.regime.name}, {preset.name})",
        license=licence or "other",
        licensed=f"{licence}." if licence else "none was stated by those who trained it.",
        library=library,
        objectives=trained,
        version=equipoise.__version__,
        verdict=said["verdict"],
        rows=said.get("rows", ()),
        seeds=said.get("seeds", ""),
        seed=settings.seed,
        use=use,
        frames=preset.model.frames,
        size=preset.model.size,
        mean=list(MEAN),
        std=list(STD),
        variant=settings.variant_name,
        weights=weights,
        sources=", ".join(f"{name} ({source.weight:g})" for name, source in settings.regime.sources.items()),
        encoder=f"{encoder.name}: width {encoder.width}, depth {encoder.depth}, {encoder.heads} heads, patches of "
        f"{encoder.tubelet} frames of {encoder.patch}x{encoder.patch} px",
        start="random numbers" if initial is None else f"a checkpoint with sha256 {initial.sha256}",
        step=f"{found.step:,}",
        batch=preset.optimisation.batch,
        study="none" if record is None else f"`{record.name}`, {record.launched} mixes launched",
        commit=found.record.get("git_commit", "unknown"),
        manifests=sorted(found.record.get("manifests", {}).items()),
        limits="The data sets that it was trained and scored on have licences and biases of their own.",
    )


def _asset(name: str) -> str:
    return (resources.files("equipoise.platform.report.export") / name).read_text(encoding="utf-8")


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
