"""Fixtures shared by all tests: a tiny miniature data set on disk, and settings to match."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from equipoise.data import importers, miniature
from equipoise.models import probe_records
from equipoise.models.encoders import base
from equipoise.models.objectives import registry
from equipoise.platform.cli import main as cli
from equipoise.platform.record.home import Home
from equipoise.platform.settings import benchmarks, plugins
from equipoise.platform.settings.preset import load_preset
from equipoise.platform.settings.trial import TrialSettings, load_regime
from equipoise.platform.settings.variant import load_variant
from equipoise.platform.storage import Paths

# Commands that are printed are called by their name where the path leads to them: as it does for most people.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

SIZES = miniature.Sizes(
    frames=8, train_clips=48, test_clips=24, select_clips=24, train_stills=60, test_stills=40, select_stills=40
)
TINY = {
    "name": "tiny",
    "description": "for tests",
    "model": {
        "frames": 4,
        "size": 64,
        "encoder": {"width": 24, "depth": 4, "heads": 2, "patch": 16, "tubelet": 2, "levels": 4, "rope_theta": 100},
        "predictor": {"width": 24, "depth": 1, "heads": 2, "rope_theta": 100},
        "teacher": {"momentum": 0.9},
    },
    "optimisation": {"steps": 6, "batch": 8, "lr": 1e-3, "lr_start": 1e-4, "warmup_steps": 2},
    "sampling": {"stride": 2},
    "cache_size": 64,
    "probes": {
        "attentive": {"kind": "attentive", "epochs": 2, "batch": 16, "lr": [1e-3, 1e-2], "heads": 2},
        "linear": {"kind": "linear", "epochs": 2, "batch": 16, "lr": [1e-3, 1e-2], "weight_decay": [0.0]},
    },
    "checkpoint_every": 2,
    "log_every": 1,
}


@pytest.fixture
def own_objectives() -> Iterator[None]:
    """Objectives and encoders that a test brings along are known to it alone."""
    registries: tuple[Any, ...] = (
        registry._known,
        base._known,
        probe_records._known,
        benchmarks._known,
        importers.RELEASES,
        plugins._origins,
    )
    kept = [(of, dict(of)) for of in registries]
    plugins.installed.cache_clear()
    yield
    for of, before in kept:
        of.clear()
        of.update(before)
    for name in [name for name in sys.modules if name.startswith("equipoise_plugin_")]:
        del sys.modules[name]
    plugins.installed.cache_clear()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start a Ray cluster come first, because they take longest.

    Those of a file go to one process, one after the other, and those that share the study that ran once do too.
    """
    items.sort(key=lambda item: item.get_closest_marker("cluster") is None)
    for item in items:
        if item.get_closest_marker("cluster"):
            shared = "studied" in getattr(item, "fixturenames", ())
            item.add_marker(pytest.mark.xdist_group("studied" if shared else item.path.stem))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder whose ``data/`` holds a small build of the miniature data sets."""
    root = tmp_path_factory.mktemp("tiny")
    miniature.build(root / "data" / "miniature", seed=0, workers=1, sizes=SIZES)
    (root / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return root


@pytest.fixture(scope="session")
def paths(tiny_data: Path) -> Paths:
    """Where trials read."""
    return Paths(tiny_data / "data", tiny_data / "cache")


@pytest.fixture
def home(tiny_data: Path, tmp_path: Path) -> Home:
    """A fresh home folder over the shared data and caches."""
    root = tmp_path / "home"
    root.mkdir()
    (root / "data").symlink_to(tiny_data / "data")
    (tiny_data / "cache").mkdir(exist_ok=True)
    (root / "cache").symlink_to(tiny_data / "cache")
    return Home(root)


Call = Callable[..., tuple[int, str, str]]
Make = Callable[..., TrialSettings]


@pytest.fixture(scope="session")
def make_trial(tiny_data: Path) -> Make:
    """Builds tiny trial settings: ``make_trial("hw", seed=1, reading="as_published", overrides=["..."])``."""

    def make(variant: str = "baseline", *, overrides: tuple[str, ...] = (), **more: object) -> TrialSettings:
        content = {
            "variant_name": variant,
            "variant": load_variant(variant),
            "preset": load_preset(str(tiny_data / "tiny.yaml"), overrides),
            "regime": load_regime("miniature"),
            **more,
        }
        return TrialSettings.model_validate(content)

    return make


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Run the command in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["equipoise", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        out = capsys.readouterr()
        assert "Traceback" not in out.err
        return code, out.out, out.err

    return run


def _clip(path: Path, codec: str, number: int, frames: int = 12) -> None:
    """A real video of a drifting gradient, different for every number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:48, :64]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25 if codec == "mpeg4" else 12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        if codec == "libvpx-vp9":
            stream.options = {"deadline": "realtime", "cpu-used": "8"}
        for t in range(frames):
            picture = np.stack([3 * x + 9 * t + 17 * number, 4 * y + 5 * number, x + y + 31 * number], axis=2) % 256
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode())


def _ucf101(root: Path) -> None:
    classes = ("ApplyEyeMakeup", "HandstandPushups", "YoYo")
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for number, name in enumerate(classes, start=1):
        for group, part in ((8, "train"), (9, "train"), (1, "test")):
            file = f"v_{name.replace('Handstand', 'HandStand')}_g{group:02d}_c01.avi"
            _clip(root / "UCF-101" / name / file, "mpeg4", 10 * number + group)
            lists[part].append(f"{name}/{file}{f' {number}' if part == 'train' else ''}")
    folder = root / "ucfTrainTestlist"
    folder.mkdir()
    content = {"classInd": [f"{number} {name}" for number, name in enumerate(classes, start=1)]}
    for split in (1, 2, 3):
        content |= {f"{part}list{split:02d}": lines for part, lines in lists.items()}
    for file, lines in content.items():  # the official lists have DOS line ends
        (folder / f"{file}.txt").write_bytes("".join(f"{line}\r\n" for line in lines).encode())


def _ssv2(root: Path) -> None:
    templates = ("Holding [something] next to [something]", "Turning [something] upside down", "Opening [something]")
    splits: dict[str, list[dict[str, object]]] = {"train": [], "validation": [], "test": []}
    for number in range(10):
        split = "train" if number < 6 else "validation" if number < 9 else "test"
        file = str(78_687 + number)
        _clip(root / "20bn-something-something-v2" / f"{file}.webm", "libvpx-vp9", number)
        entry: dict[str, object] = {"id": file}
        if split != "test":
            template = templates[number % 3]
            entry |= {
                "label": template.replace("[something]", "a cup"),
                "template": template,
                "placeholders": ["a cup"],
            }
        splits[split].append(entry)
    labels = {template.replace("[", "").replace("]", ""): str(2 - i) for i, template in enumerate(templates)}
    (root / "labels").mkdir()
    for name, content in {**splits, "labels": labels}.items():
        (root / "labels" / f"{name}.json").write_text(json.dumps(content))


def _imagenet100(root: Path) -> None:
    names = {
        "n02869837": "bonnet, poke bonnet",
        "n01749939": "green mamba",
        "n02488291": "langur",
        "n02107142": "Doberman",
    }
    rng = np.random.default_rng(0)
    for part, folder in enumerate(names, start=1):
        for split, count in ((f"train.X{part}", 3), ("val.X", 2)):
            (root / split / folder).mkdir(parents=True)
            for number in range(count):
                picture = Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))
                file = f"{folder}_{number}.JPEG" if "train" in split else f"ILSVRC2012_val_{part}{number:07d}.JPEG"
                picture.save(root / split / folder / file)
    (root / "Labels.json").write_text(json.dumps(names))


def _diving48(root: Path) -> None:
    words = [
        ["Back", "15som", "05Twis", "FREE"],
        ["Back", "15som", "15Twis", "FREE"],
        ["Reverse", "Dive", "NoTwis", "PIKE"],
    ]
    (root / "Diving48_vocab.json").write_text(json.dumps(words))
    for part, numbers in (("train", range(6)), ("test", range(6, 9))):
        entries = []
        for number in numbers:
            name = f"-mmq0PT-u8k_{number:05d}"
            _clip(root / "rgb" / f"{name}.mp4", "libx264", number)
            entries.append({"vid_name": name, "label": number % 3, "start_frame": 0, "end_frame": 12})
        (root / f"Diving48_V2_{part}.json").write_text(json.dumps(entries))


Release = Callable[[str], Path]
RELEASE_COUNTS = {"ucf101": (3, 6, 3), "ssv2": (3, 6, 3), "imagenet100": (4, 12, 8), "diving48": (3, 6, 3)}


@pytest.fixture(scope="session")
def small_releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four releases of a few real files each, laid out as the official ones are. Do not change them."""
    roots = {}
    for name, write in (("ucf101", _ucf101), ("ssv2", _ssv2), ("imagenet100", _imagenet100), ("diving48", _diving48)):
        roots[name] = tmp_path_factory.mktemp(name)
        write(roots[name])
    return roots


@pytest.fixture
def release(small_releases: dict[str, Path], tmp_path: Path) -> Release:
    """A copy of a small release that a test may damage."""

    def copy(name: str) -> Path:
        return shutil.copytree(small_releases[name], tmp_path / f"{name}_release")

    return copy


@pytest.fixture
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small releases' numbers are the official ones."""
    for name, (classes, train, test) in RELEASE_COUNTS.items():
        official = importers.RELEASES[name]
        small = dataclasses.replace(official, classes=classes, counts=dict.fromkeys(official.counts, (train, test)))
        monkeypatch.setitem(cast("dict[str, object]", importers.RELEASES), name, small)
