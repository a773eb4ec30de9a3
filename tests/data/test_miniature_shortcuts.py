"""Each miniature label is out of reach of the shortcut it excludes, and within reach of the right information.

Classifiers of growing information on the encoded and decoded clips: linear on the mean over time, a small CNN on one
frame, on shuffled frames and on frames in order. The thresholds leave room around what was measured
(docs/miniature.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeClassifierCV
from torch import Tensor, nn

from equipoise.data.cache import ClipCache
from equipoise.data.manifest import Manifest
from equipoise.data.miniature import Sizes, build

# The fixture renders thousands of clips, minutes under load: one process runs these tests, so that it does so once.
# They take minutes, and test_miniature.py notices every change of what is rendered: run `make long` after one.
pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800), pytest.mark.xdist_group("shortcuts")]


@dataclass(frozen=True)
class Items:
    """Clips at 32 px: uint8 ``[N, T, 3, 32, 32]``, and their labels."""

    clips: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Score:
    """Accuracy over all classes, and between the two classes of the right pair (2k, 2k+1); shares."""

    accuracy: float
    within_pair: float


def load_items(manifest: Manifest, folder: Path, workers: int = 0) -> Items:
    cache = ClipCache.open(manifest, folder, size=manifest.height[0].item(), workers=workers)
    clips = []
    for index in range(len(cache)):
        pixels = torch.from_numpy(cache.clip(index).copy()).permute(0, 3, 1, 2)
        clips.append(F.interpolate(pixels, (32, 32), mode="bilinear", antialias=True))
    return Items(torch.stack(clips), torch.from_numpy(cache.labels))


def scored(logits: Tensor, labels: Tensor) -> Score:
    pairs = logits.view(len(labels), -1, 2)[torch.arange(len(labels)), labels // 2]
    return Score(
        (logits.argmax(1) == labels).float().mean().item(), (pairs.argmax(1) == labels % 2).float().mean().item()
    )


def linear(train: Items, test: Items, feature: str) -> Score:
    def features(items: Items) -> Tensor:
        clips = items.clips.float()
        if feature == "mean":
            return clips.mean(1).flatten(1)
        return (clips[:, 1:] - clips[:, :-1]).abs().mean((1, 2)).flatten(1)

    x, u = features(train), features(test)
    mean, std = x.mean(0), x.std(0) + 0.1
    model = RidgeClassifierCV(np.logspace(1, 6, 11)).fit(((x - mean) / std).numpy(), train.labels.numpy())
    return scored(torch.from_numpy(model.decision_function(((u - mean) / std).numpy())), test.labels)


class SmallCNN(nn.Module):
    """Frames stacked as channels, four convolutions, mean and maximum over space."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
            )

        self.body = nn.Sequential(
            block(channels, width), block(width, width), block(width, 2 * width), block(2 * width, 2 * width)
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y = torch.cat([y.mean((2, 3)), y.amax((2, 3))], dim=1)
        out: Tensor = self.head(F.dropout(y, 0.2, self.training))
        return out


def frames_seen(clips: Tensor, sees: str, training: bool, generator: torch.Generator) -> Tensor:
    """Grey frames as channels ``[B, T, 32, 32]``; one frame in colour ``[B, 3, 32, 32]``. Normalised per clip."""
    B, T = clips.shape[:2]
    rows = torch.arange(B)
    if sees == "one":
        x = clips[rows, torch.randint(T, (B,), generator=generator) if training else torch.full((B,), T // 2)].float()
    elif sees == "shuffled":
        order = torch.rand((B, T), generator=generator).argsort(1)
        x = clips[rows[:, None], order].float().mean(2)
    else:
        x = clips.float().mean(2)
    return (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 1)


def cnn(train: Items, test: Items, sees: str, epochs: int = 20, width: int = 48) -> Score:
    classes = int(train.labels.max()) + 1
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    net = SmallCNN(3 if sees == "one" else train.clips.shape[1], classes, width)
    steps = len(train.clips) // 50 * epochs
    optimiser = torch.optim.AdamW(net.parameters(), 4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps + 1)
    for _ in range(epochs):
        order = torch.randperm(len(train.clips), generator=generator)
        for start in range(0, len(order) - 49, 50):
            rows = order[start : start + 50]
            x = frames_seen(train.clips[rows], sees, True, generator)
            x = torch.roll(x, torch.randint(-3, 4, (2,), generator=generator).tolist(), (2, 3))
            optimiser.zero_grad()
            F.cross_entropy(net(x), train.labels[rows]).backward()
            optimiser.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        logits = [
            net(frames_seen(test.clips[start : start + 100], sees, False, generator))
            for start in range(0, len(test.clips), 100)
        ]
    return scored(torch.cat(logits), test.labels)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Items, Items]]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("shortcuts")
    sizes = Sizes(train_clips=1000, test_clips=400, train_stills=1500, test_stills=500, select_clips=1, select_stills=1)
    built = build(folder / "miniature", seed=3, workers=1, sizes=sizes)
    return {
        name: (load_items(parts["train"], folder / "cache"), load_items(parts["test"], folder / "cache"))
        for name, parts in built.items()
    }


def test_ssv2_label_needs_the_order_of_frames(sets: dict[str, tuple[Items, Items]]) -> None:
    train, test = sets["mini_ssv2"]
    assert linear(train, test, "mean").accuracy < 0.16  # chance 0.083
    for shortcut in (linear(train, test, "difference"), cnn(train, test, "one"), cnn(train, test, "shuffled")):
        assert shortcut.accuracy < 0.56  # knowing the pair and nothing else gives 0.5
        assert 0.41 < shortcut.within_pair < 0.59
    ordered = cnn(train, test, "ordered")
    assert ordered.accuracy > 0.85
    assert ordered.within_pair > 0.9


def test_dive_label_needs_the_rotation_over_time(sets: dict[str, tuple[Items, Items]]) -> None:
    train, test = sets["mini_dive"]
    assert linear(train, test, "mean").accuracy < 0.13  # chance 0.0625
    assert cnn(train, test, "one").accuracy < 0.13
    assert cnn(train, test, "shuffled").accuracy < 0.3
    assert cnn(train, test, "ordered").accuracy > 0.85


@pytest.mark.parametrize("name", ["tempo", "sense"])
@pytest.mark.parametrize("frames", [1, 16])
def test_dive_codec_does_not_tell_the_label(sets: dict[str, tuple[Items, Items]], name: str, frames: int) -> None:
    # With rate control on, the first frame's quality told the tempo (76 %), and pixels dragged along by motion
    # compensation told the sense of the turn in the mean over time (85 %).
    def reduced(items: Items) -> Items:
        return Items(items.clips[:, :frames], items.labels % 2 if name == "tempo" else items.labels // 8)

    train, test = sets["mini_dive"]
    model = RidgeClassifierCV(np.logspace(1, 6, 11))
    x, u = (reduced(items).clips.float().mean(1).flatten(1) for items in (train, test))
    model.fit(((x - x.mean(0)) / (x.std(0) + 0.1)).numpy(), reduced(train).labels.numpy())
    told = (model.predict(((u - x.mean(0)) / (x.std(0) + 0.1)).numpy()) == reduced(test).labels.numpy()).mean()
    assert told < 0.6


def test_in_label_needs_shape(sets: dict[str, tuple[Items, Items]]) -> None:
    train, test = sets["mini_in"]
    assert linear(train, test, "mean").accuracy < 0.2  # chance 0.05
    assert cnn(train, test, "one").accuracy > 0.6


def test_ucf_label_is_in_the_motion_and_half_in_the_scene(sets: dict[str, tuple[Items, Items]]) -> None:
    train, test = sets["mini_ucf"]
    assert linear(train, test, "mean").accuracy < 0.3  # chance 0.083
    one, ordered = cnn(train, test, "one"), cnn(train, test, "ordered")
    assert 0.2 < one.accuracy < 0.65
    assert ordered.accuracy > 0.85
