"""An encoder for people who have no Equipoise: loaded by transformers and timm, with the features it has here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file

from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths
from equipoise.platform.trial import checkpoint as checkpoints
from equipoise.platform.trial.encoders import frozen_encoder
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer

Make = Callable[..., TrialSettings]
Call = Callable[..., tuple[int, str, str]]
TINY = ("optimisation.steps=2", "checkpoint_every=2")
LOAD = """
import sys
sys.modules["equipoise"] = None  # whoever loads it does not have it
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
clips = torch.load(sys.argv[2])
with torch.no_grad():
    found = {kind: model(clip.transpose(1, 2), output_hidden_states=True) for kind, clip in clips.items()}
kept = {kind: (out.last_hidden_state, torch.cat(out.hidden_states, dim=-1)) for kind, out in found.items()}
torch.save(kept, sys.argv[3])
"""


def trained(settings: TrialSettings, paths: Paths, folder: Path) -> Path:
    Trainer(settings, paths, LocalReporter(folder)).run()
    kept = checkpoints.latest(folder / "checkpoints")
    assert kept is not None
    return Path(str(kept))


@pytest.mark.parametrize(
    "changes",
    [(), ("model.encoder.rope_frequencies=tiled",), ("model.encoder.rope_side=9", "model.encoder.rope_theta=30")],
    ids=["as it ships", "as V-JEPA 2", "as V-JEPA 2.1"],
)
def test_transformers_loads_it_with_the_same_features(
    changes: tuple[str, ...], make_trial: Make, paths: Paths, call: Call, tmp_path: Path
) -> None:
    folder = trained(make_trial("hw", overrides=(*TINY, *changes)), paths, tmp_path / "trial")
    encoder = frozen_encoder(checkpoints.load(folder))
    code, out, err = call("export", folder, tmp_path / "out", "--license", "apache-2.0", "--json")
    assert code == 0, err
    assert set(json.loads(out)["files"]) == {
        "README.md", "config.json", "model.safetensors", "modeling_equipoise_vit.py", "preprocessor_config.json"
    }  # fmt: skip
    grid, c = encoder.grid, encoder.config
    side = grid.height * c.patch
    clips = {"video": torch.randn(2, 3, grid.time * c.tubelet, side, side), "image": torch.randn(2, 3, 1, side, side)}
    torch.save(clips, tmp_path / "clips.pt")
    words = [sys.executable, "-c", LOAD, *(str(tmp_path / name) for name in ("out", "clips.pt", "found.pt"))]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for kind, (last, levels) in torch.load(tmp_path / "found.pt").items():
        patches, found = encoder.patches(clips[kind])
        assert found == kind
        with torch.no_grad():
            expected = encoder(patches, found)
        torch.testing.assert_close(levels, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(last, expected[..., -c.width :], rtol=1e-4, atol=1e-4)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "nothing is said of how good it is" in card
    assert yaml.safe_load(card.split("---")[1])["license"] == "apache-2.0"


def test_timm_loads_the_network_of_images(make_trial: Make, paths: Paths, call: Call, tmp_path: Path) -> None:
    encoder_of = (
        "model.encoder={name: timm, params: {model: vit_tiny_patch16_224}, levels: 2}",
        "probes.attentive.heads=3",
    )
    folder = trained(make_trial("hw", overrides=(*TINY, *encoder_of)), paths, tmp_path / "trial")
    encoder = frozen_encoder(checkpoints.load(folder))
    code, _, err = call("export", folder, tmp_path / "out")
    assert code == 0, err
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    side = encoder.grid.height * 16
    image = torch.randn(2, 3, 1, side, side)
    with torch.no_grad():
        expected = encoder(*encoder.patches(image), last_only=True)
        found = model.forward_features(image[:, :, 0])[:, model.num_prefix_tokens :]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    rest = load_file(tmp_path / "out" / "video.safetensors")
    assert torch.equal(rest["time"], encoder.get_parameter("time"))
    assert "library_name: timm" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("nothing", "'nothing' is neither STUDY@balanced"),
        ("own@balanced", "there is no MLflow store"),
    ],
)
def test_what_is_no_encoder_is_a_sentence(target: str, sentence: str, call: Call, tmp_path: Path) -> None:
    code, _, err = call("export", target, tmp_path / "out", "--home", tmp_path / "home")
    assert code == 1
    assert sentence in err
    assert not (tmp_path / "out").exists()
