"""Encoders that start from a checkpoint: which one, what fits, and what is said of what does not."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from equipoise.models.encoders import Encoder
from equipoise.platform.errors import CheckpointError, SettingsError
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.mix import resolve
from equipoise.platform.settings.preset import InitialEncoder, Preset, load_preset
from equipoise.platform.settings.study import load_ablation
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.settings.variant import load_variant
from equipoise.platform.storage import Paths
from equipoise.platform.trial import checkpoint as checkpoints
from equipoise.platform.trial.encoders import build_model, frozen_encoder
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer

Settings = Callable[[str], TrialSettings]


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def starting(settings: TrialSettings, file: Path, digest: str | None = None) -> TrialSettings:
    initial = InitialEncoder(file=str(file), sha256=digest or sha256(file))
    preset = settings.preset.model_copy(update={"initial_encoder": initial})
    return settings.model_copy(update={"preset": preset})


def encoder(settings: TrialSettings) -> Encoder:
    return build_model(settings, resolve(settings)).encoder


def same(one: Encoder, other: Encoder) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def trained(settings: TrialSettings, paths: Paths, folder: Path) -> Path:
    """The last checkpoint of a short training."""
    Trainer(settings, paths, LocalReporter(folder)).run()
    local = checkpoints.load(folder).path.local
    assert local is not None
    return local


@pytest.fixture
def other(tiny_settings: Settings) -> Encoder:
    """An encoder of the same shapes from another seed."""
    return encoder(tiny_settings("baseline").model_copy(update={"seed": 99}))


@pytest.mark.parametrize("form", ["safetensors", "torch", "wrapped"])
def test_an_encoder_and_its_target_start_from_a_file(
    form: str, tiny_settings: Settings, other: Encoder, tmp_path: Path
) -> None:
    state = other.state_dict()
    file = tmp_path / ("encoder.safetensors" if form == "safetensors" else "encoder.pt")
    if form == "safetensors":
        save_file(state, file)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}} if form == "wrapped" else state, file)
    settings = tiny_settings("baseline")
    assert not same(encoder(settings), other)
    model = build_model(starting(settings, file), resolve(starting(settings, file)))
    assert same(model.encoder, other)
    assert same(model.target_encoder, other)
    # What is not of the encoder is as the seed makes it.
    plain = build_model(settings, resolve(settings))
    predictors = zip(model.predictor.parameters(), plain.predictor.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in predictors)
    # One untrained control is an untrained encoder, whatever the others start from; the other is what they start from.
    control = starting(tiny_settings("random_init"), file)
    assert same(encoder(control), encoder(tiny_settings("random_init")))
    unchanged = starting(settings, file).model_dump() | {"variant": load_variant("unchanged"), "variant_name": "own"}
    assert same(encoder(parse(TrialSettings, unchanged, "a trial")), other)
    with pytest.raises(SettingsError, match="own is what a checkpoint holds, and preset nano starts from none"):
        parse(TrialSettings, {**unchanged, "preset": settings.preset}, "a trial")


def test_a_study_that_starts_from_a_checkpoint_scores_it_as_a_control(tmp_path: Path) -> None:
    preset = {"base": "nano", "name": "own", "initial_encoder": {"file": "vit.pt", "sha256": "a" * 64}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(preset))
    study = {"name": "own", "regime": "miniature", "variants": ["hw"], "seeds": [0]}
    for name, controls in (("nano", 2), (str(tmp_path / "own.yaml"), 3)):
        (tmp_path / "study.yaml").write_text(yaml.safe_dump({**study, "preset": name}))
        definition = load_ablation(str(tmp_path / "study.yaml"), {})
        assert [c for c, _, _ in definition.controls()] == ["baseline", "random_init", "unchanged"][:controls]
        assert [m for m, _, _ in definition.members()] == ["hw"]


def test_a_training_goes_on_from_a_checkpoint_of_another(
    tiny_settings: Settings, miniature_paths: Paths, tmp_path: Path
) -> None:
    first = tiny_settings("hw")
    local = trained(first, miniature_paths, tmp_path / "one")
    scored = frozen_encoder(checkpoints.load(local))
    settings = starting(tiny_settings("baseline"), local, sha256(local / checkpoints.STATE))
    assert same(encoder(settings), scored)
    second = checkpoints.load(trained(settings, miniature_paths, tmp_path / "two"))
    moved = frozen_encoder(second)
    assert not same(moved, scored)
    still = {**second.state, "model": build_model(settings, resolve(settings)).state_dict()}
    with pytest.raises(CheckpointError, match="still equals its initialisation"):
        frozen_encoder(dataclasses.replace(second, state=still))
    # A trained encoder can be used where what it started from is gone.
    shutil.rmtree(tmp_path / "one")
    assert same(frozen_encoder(second), moved)


def test_an_image_vit_is_inflated_over_time(tiny_settings: Settings, tmp_path: Path) -> None:
    settings = tiny_settings("baseline")
    config = settings.preset.model.encoder
    torch.manual_seed(3)
    vit = timm.models.VisionTransformer(
        img_size=4 * config.patch,
        patch_size=config.patch,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
    )
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    found = encoder(starting(settings, tmp_path / "vit.safetensors"))
    name = "blocks.0.attn.qkv.weight"
    assert torch.equal(found.get_parameter(name), vit.get_parameter(name))
    still = torch.randn(1, 3, 1, settings.preset.model.size, settings.preset.model.size)
    clip = still.expand(-1, -1, config.tubelet * found.grid.time, -1, -1)
    pairs = {"image": still, "video": clip}
    image, video = (found.get_submodule(f"embed.{kind}")(found.patches(x)[0]) for kind, x in pairs.items())
    torch.testing.assert_close(video[:, : image.shape[1]], image)


def test_which_checkpoint_it_is_belongs_to_the_key_and_where_it_lies_does_not(
    tiny_settings: Settings, other: Encoder, tmp_path: Path
) -> None:
    settings = tiny_settings("baseline")
    for name in ("a.safetensors", "b.safetensors"):
        save_file(other.state_dict(), tmp_path / name)
    one, two = (starting(settings, tmp_path / name) for name in ("a.safetensors", "b.safetensors"))
    assert one.key == two.key != settings.key
    assert "initial_encoder" not in settings.model_dump(mode="json")["preset"]
    assert parse(TrialSettings, one.model_dump(mode="json"), "kept") == one


def test_a_preset_names_it_beside_its_own_file(tmp_path: Path) -> None:
    digest = "a" * 64
    content = {"base": "nano", "name": "own", "initial_encoder": {"file": "weights/vit.pt", "sha256": digest}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    found = load_preset(str(tmp_path / "own.yaml")).initial_encoder
    assert found == InitialEncoder(file=str(tmp_path / "weights" / "vit.pt"), sha256=digest)
    content["initial_encoder"] = {"file": "s3://bucket/vit.pt", "sha256": digest}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    assert load_preset(str(tmp_path / "own.yaml")).initial_encoder == InitialEncoder(
        file="s3://bucket/vit.pt", sha256=digest
    )
    with pytest.raises(SettingsError, match=r"initial_encoder.sha256 is 'abc'"):
        parse(Preset, {**load_preset("nano").model_dump(), "initial_encoder": {"file": "x", "sha256": "abc"}}, "own")


def _without(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != "norms.0.weight"}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda state, file: None, "is not there; give a file, or the folder of a checkpoint"),
        (lambda state, file: file.write_bytes(b"nothing"), "is no file of tensors alone"),
        (lambda state, file: file.mkdir(), "is no file, and no folder of a checkpoint"),
        (lambda state, file: torch.save([1], file), "holds list; expected a state dict"),
        (
            lambda state, file: torch.save(_without(state), file),
            "it is of another vit encoder: 1 entries .*: norms.0.weight",
        ),
        (
            lambda state, file: torch.save({**state, "more": torch.ones(1)}, file),
            "it is of another vit encoder: 1 entries .*: more",
        ),
        (
            lambda state, file: torch.save({"patch_embed.proj.weight": torch.ones(24, 3, 5, 5)}, file),
            r"does not fit: it is an image transformer whose patch embedding is \(24, 3, 5, 5\); expected \(\d+, 3, ",
        ),
        (
            lambda state, file: torch.save({"patch_embed.proj.weight": torch.ones(24, 3, 2, 16, 16)}, file),
            "does not fit: it is V-JEPA 2, whose rotary frequencies are tiled",
        ),
        (lambda state, file: torch.save({"x": torch.ones(1)}, file), "has no patch embedding that is known"),
    ],
)
def test_what_cannot_be_a_start_is_a_sentence(
    make: Callable[[dict[str, torch.Tensor], Path], None],
    sentence: str,
    tiny_settings: Settings,
    other: Encoder,
    tmp_path: Path,
) -> None:
    file = tmp_path / "encoder.pt"
    make(other.state_dict(), file)
    digest = sha256(file) if file.is_file() else "0" * 64
    with pytest.raises(CheckpointError, match=sentence) as raised:
        encoder(starting(tiny_settings("baseline"), file, digest))
    assert "\n" not in str(raised.value)


def test_another_file_than_was_asked_for_is_refused(tiny_settings: Settings, other: Encoder, tmp_path: Path) -> None:
    file = tmp_path / "encoder.safetensors"
    save_file(other.state_dict(), file)
    with pytest.raises(CheckpointError, match=f"has the sha256 {sha256(file)}, and {'0' * 64} was asked for"):
        encoder(starting(tiny_settings("baseline"), file, "0" * 64))
