"""The synthetic set: what carries the label is the motion, and nothing else knows the class."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from equipoise.data import synthetic
from equipoise.data._art import SHAPES, Studio
from equipoise.data._rendering import Look
from equipoise.data.decode import decode
from equipoise.data.synthetic import CLASSES, SCENE, Sizes, SyntheticError, build

TINY = Sizes(train_clips=20, test_clips=9, pixels=32, frames=6)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "synthetic"
    build(root, seed=3, workers=1, sizes=TINY)
    return root


def test_size_balance_and_files(built: Path) -> None:
    manifests = build(built, seed=3, sizes=TINY)
    for split, manifest in manifests.items():
        assert len(manifest) == {"train": 20, "test": 9}[split]
        assert manifest.classes == CLASSES
        assert (manifest.name, manifest.root) == ("synthetic", built)
        counts = np.bincount(manifest.label, minlength=8)
        assert counts.max() - counts.min() <= 1
        for row in (0, 8):
            frames, label = SCENE.render(split, row, seed=3, size=32, frames=6)
            assert label == manifest.label[row]
            decoded = decode(manifest.file(row), "video")
            assert decoded.shape == (6, 32, 32, 3)
            assert np.abs(decoded.astype(int) - frames.astype(int)).mean() < 7  # 4:2:0


def test_worker_count_does_not_change_a_byte_and_the_seed_does(built: Path, tmp_path: Path) -> None:
    build(tmp_path / "two", seed=3, workers=2, sizes=TINY)
    assert contents(tmp_path / "two") == contents(built)
    build(tmp_path / "other", seed=4, workers=1, sizes=TINY)
    ours, theirs = contents(built), contents(tmp_path / "other")
    clips = [name for name in ours if name.endswith(".mp4")]
    assert len(clips) == 29
    assert not any(ours[name] == theirs[name] for name in clips)


def drawn(label: int, seed: int = 5, size: int = 64, frames: int = 9) -> np.ndarray:
    studio = Studio(np.random.default_rng(seed), split="train")
    return np.stack([np.asarray(picture) for picture in synthetic._draw(studio, label, size, frames)])


@pytest.mark.parametrize("pair", range(4))
def test_pairs_are_exact_reversals_before_encoding(pair: int) -> None:
    np.testing.assert_array_equal(drawn(2 * pair), drawn(2 * pair + 1)[::-1])
    assert not np.array_equal(drawn(2 * pair)[0], drawn(2 * pair)[-1])


def test_appearance_is_drawn_before_the_class_has_a_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment for which poses are drawn, all classes show the very same picture."""
    original = synthetic._Mover.drawn.__func__  # type: ignore[attr-defined]

    def halfway(cls: type[synthetic._Mover], studio: Studio) -> synthetic._Mover:
        mover = original(cls, studio)
        object.__setattr__(mover, "when", 0.5)
        return mover  # type: ignore[no-any-return]

    monkeypatch.setattr(synthetic._Mover, "drawn", classmethod(halfway))
    for seed in range(3):
        clips = [drawn(label, seed) for label in range(8)]
        for clip in clips[1:]:
            np.testing.assert_array_equal(clip[4], clips[0][4])
        assert not np.array_equal(clips[0][0], clips[4][0])


def poses(label: int, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Place, angle and size of 40 shapes in 9 frames, ``[40, 9, 4]``, as they are pasted; NaN where out of sight."""
    seen: list[tuple[float, float, float, float]] = []

    def note(canvas: Image.Image, sprite: object, x: float, y: float, *, angle: float, size: float) -> None:
        seen.append((x, y, angle, size))

    monkeypatch.setattr(synthetic, "paste", note)
    clips = []
    for item in range(40):
        mover = synthetic._Mover.drawn(Studio(np.random.default_rng([label, item]), split="train"))
        frames = []
        for number in range(9):
            seen.clear()
            mover.show(Image.new("RGB", (64, 64)), CLASSES[label - label % 2], number / 8)
            frames.append(seen[0] if seen else (np.nan,) * 4)
        clips.append(frames if label % 2 == 0 else frames[::-1])
    return np.array(clips)


def lap(values: np.ndarray) -> np.ndarray:
    """Steps from frame to frame, across the seam where a shape leaves and re-enters."""
    period = 1.2 * 64
    return (np.diff(values, axis=1) + period / 2) % period - period / 2


@pytest.mark.parametrize("label", range(8))
def test_each_class_moves_as_its_name_says_and_in_no_other_way(label: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, angle, size = np.moveaxis(poses(label, monkeypatch), 2, 0)
    sign = 1 if label % 2 == 0 else -1
    steps = {"x": lap(x), "y": lap(y), "angle": np.diff(angle, axis=1), "size": np.diff(np.log(size), axis=1)}
    moving = ("x", "y", "angle", "size")[label // 2]
    assert np.isnan(x).mean() < 0.1
    for name, values in steps.items():
        seen = values[~np.isnan(values)]
        if name == moving:
            assert set(np.sign(seen)) == {sign}
            assert np.nanmax(np.nanstd(values, axis=1)) < 1e-9, "steady"
        else:
            np.testing.assert_allclose(seen, 0, atol=1e-9)


def test_a_ring_never_turns() -> None:
    assert SHAPES[next(iter(set(range(len(SHAPES))) - set(synthetic._TURNABLE)))] == "ring"


@pytest.mark.parametrize("size", [16, 112, 114, 256])
def test_any_resolution_and_length(size: int) -> None:
    frames, _ = SCENE.render("test", 1, seed=0, size=size, frames=5)
    assert frames.shape == (5, size, size, 3)
    assert frames.std() > 10
    assert SCENE.render("test", 1, seed=0, size=16, frames=40)[0].shape[0] == 40


def test_other_settings_or_folders_are_refused(built: Path, tmp_path: Path) -> None:
    with pytest.raises(SyntheticError, match=r"was built with seed 3 \(asked: 4\); use --force"):
        build(built, seed=4, sizes=TINY)
    other = Sizes(train_clips=21, test_clips=9, pixels=32, frames=6)
    with pytest.raises(SyntheticError, match=r"train_clips 20 \(asked: 21\)"):
        build(built, seed=3, sizes=other)
    (tmp_path / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(SyntheticError, match="is not a synthetic build"):
            build(tmp_path, sizes=TINY, force=force)
    shutil.copytree(built, tmp_path / "again")
    assert len(build(tmp_path / "again", seed=3, workers=1, sizes=other, force=True)["train"]) == 21


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"pixels": 63}, "pixels is 63; it must be even"),
        ({"pixels": 8}, "pixels is 8; it must be from 16 to 1024"),
        ({"frames": 3}, "frames is 3; it must be from 4 to 1024"),
        ({"fps": 0}, "fps is 0; it must be from 1 to 240"),
        ({"test_clips": 0}, "test_clips is 0; it must be at least 1"),
    ],
)
def test_sizes_out_of_range(setting: dict[str, int], sentence: str) -> None:
    with pytest.raises(SyntheticError, match=sentence):
        Sizes(**setting)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    with pytest.raises(SyntheticError, match=r"29 synthetic clips need about 0\.\d+ GB .* 0\.00 GB free"):
        build(tmp_path / "synthetic", sizes=TINY)
    assert os.listdir(tmp_path) == [".synthetic.lock"]


def test_the_estimate_is_near_what_is_written(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A free space a little below the true size is refused, one above it is not."""
    size = sum(path.stat().st_size for path in built.rglob("*.mp4"))
    look = Look(seed=3, pixels=32, frames=6, fps=12)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0.8 * size))
    with pytest.raises(SyntheticError):
        synthetic._check_space(built, TINY, look)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1.3 * size))
    synthetic._check_space(built, TINY, look)
