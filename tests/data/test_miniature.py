from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from equipoise.data import _art
from equipoise.data._art import SHAPES, SPRITE, SourceFilesError, Studio, paste
from equipoise.data._scenes import SCENES, SSV2_CLASSES, Scene
from equipoise.data.decode import decode
from equipoise.data.manifest import Manifest
from equipoise.data.miniature import NAMES, SPLITS, MiniatureError, Sizes, build

Sets = dict[str, dict[str, Manifest]]


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_sets_splits_and_balance(tiny: Sets, tiny_root: Path) -> None:
    assert {name: len(parts["train"].classes) for name, parts in tiny.items()} == {
        "mini_ucf": 12,
        "mini_ssv2": 12,
        "mini_in": 20,
        "mini_dive": 16,
    }
    for name, parts in tiny.items():
        for split, manifest in parts.items():
            stills = name == "mini_in"
            assert (
                len(manifest)
                == {"train": 40 if stills else 24, "select": 10 if stills else 6, "test": 20 if stills else 12}[split]
            )
            assert set(manifest.kind) == {"image" if stills else "video"}
            assert set(manifest.frames) == {1 if stills else 8}
            assert manifest.root == tiny_root / name
            counts = np.bincount(manifest.label, minlength=len(manifest.classes))
            assert counts.max() - counts.min() <= 1
            for row in range(len(manifest)):
                assert hashlib.sha256(manifest.file(row).read_bytes()).hexdigest() == manifest.sha256[row]


def test_files_are_the_rendered_frames(tiny: Sets) -> None:
    for name, parts in tiny.items():
        manifest = parts["test"]
        for row in (0, 7):
            frames, label = SCENES[name].render("test", row, seed=7, size=32, frames=8)
            assert label == manifest.label[row]
            decoded = decode(manifest.file(row), str(manifest.kind[row]))
            assert decoded.shape == frames.shape
            error = np.abs(decoded.astype(int) - frames.astype(int)).mean()
            assert error == 0 if name == "mini_in" else error < 7  # 4:2:0: half of the colour resolution is lost


RENDERED = {  # spread of the colours of nine clips, summed over channels
    "mini_ucf": [76.2, 85.19, 101.25, 93.85, 94.18, 99.37, 86.88, 80.9, 75.17],
    "mini_ssv2": [83.08, 88.42, 89.62, 70.72, 93.59, 89.79, 71.39, 73.31, 63.56],
    "mini_in": [117.65, 57.46, 101.61, 115.25, 113.98, 119.33, 109.22, 84.3, 106.91],
    "mini_dive": [135.72, 121.95, 120.88, 130.04, 124.84, 120.06, 126.95, 137.62, 128.45],
}


@pytest.mark.parametrize("name", RENDERED)
def test_what_is_rendered_is_what_was_found_without_shortcuts(name: str) -> None:
    """Whoever changes it runs `make long`, whose tests look for shortcuts, and then writes the numbers here."""
    rows = [(split, row) for split in ("train", "select", "test") for row in (0, 5, 11)]
    clips = [SCENES[name].render(*row, seed=0, size=32, frames=8)[0].astype(np.float64) for row in rows]
    assert [clip.std(axis=(0, 1, 2)).sum() for clip in clips] == pytest.approx(RENDERED[name], abs=0.02)


def test_worker_count_does_not_change_a_byte(tiny_root: Path, tiny_sizes: Sizes, tmp_path: Path) -> None:
    build(tmp_path / "two", seed=7, workers=2, sizes=tiny_sizes)
    assert contents(tmp_path / "two") == contents(tiny_root)


def test_seed_changes_the_files(tiny: Sets) -> None:
    scene = SCENES["mini_ucf"]
    first, again, other = (scene.render("train", 3, seed=seed, size=32, frames=8)[0] for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    test = scene.render("test", 3, seed=7, size=32, frames=8)[0]
    assert not np.array_equal(first, test)


@pytest.mark.parametrize("pair", range(6))
def test_pairs_are_exact_reversals_before_encoding(pair: int) -> None:
    scene = SCENES["mini_ssv2"]
    forward, backward = (
        scene.draw(Studio(np.random.default_rng([5, pair]), split="train"), 2 * pair + way, 64, 16) for way in (0, 1)
    )
    for before, after in zip(forward, reversed(backward), strict=True):
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))
    assert not np.array_equal(np.asarray(forward[0]), np.asarray(backward[0]))


def centroid(frame: np.ndarray, background: np.ndarray) -> tuple[float, float]:
    weight = np.abs(frame.astype(float) - background.astype(float)).sum(axis=2)
    weight[weight < 60] = 0
    y, x = np.indices(weight.shape)
    return float((x * weight).sum() / weight.sum()), float((y * weight).sum() / weight.sum())


def flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain backgrounds, so that what moves can be located."""

    def plain(self: Studio, width: int, height: int, photograph: int | None = None) -> np.ndarray:
        self._background = 30.0
        return np.full((height, width, 3), 30, np.uint8)

    monkeypatch.setattr(Studio, "backdrop", plain)


@pytest.mark.parametrize(("name", "axis", "sign"), [("move_right", 0, 1), ("move_up", 1, -1)])
def test_moves_go_where_their_name_says(monkeypatch: pytest.MonkeyPatch, name: str, axis: int, sign: int) -> None:
    flat(monkeypatch)
    background = np.full((64, 64, 3), 30, np.uint8)
    label = SSV2_CLASSES.index(name)
    for item in range(label, 12 * 6, 12):
        frames, _ = SCENES["mini_ssv2"].render("train", item, seed=0, size=64, frames=16)
        steps = np.diff([centroid(frame, background)[axis] for frame in frames])
        assert np.sign(np.median(steps)) == sign  # the median: it jumps where it re-enters


def test_clockwise_is_clockwise(monkeypatch: pytest.MonkeyPatch) -> None:
    flat(monkeypatch)
    pointer = Studio(np.random.default_rng(0), split="train").sprite(SHAPES.index("drop"))
    canvases = [Image.new("RGB", (64, 64), (30, 30, 30)) for _ in range(2)]
    paste(canvases[0], pointer, 32, 32, angle=0, size=60)
    paste(canvases[1], pointer, 32, 32, angle=np.pi / 2, size=60)
    upright, turned = (np.asarray(canvas).astype(int) for canvas in canvases)
    # A quarter turn clockwise as seen is numpy's rot90 with k = -1.
    right = np.abs(np.rot90(upright, -1) - turned).mean()
    wrong = np.abs(np.rot90(upright, 1) - turned).mean()
    assert right < 2 < wrong


def test_splits_share_no_digits_and_no_photograph_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    marked = tuple(np.full_like(p, 0) for p in _art.photographs())
    for picture in marked:
        picture[:, int(picture.shape[1] * 0.6) :] = 255
    monkeypatch.setattr(_art, "photographs", lambda: marked)
    for test, value in ((False, 0), (True, 255)):
        studio = Studio(np.random.default_rng(1), split="test" if test else "train")
        assert {int(v) for _ in range(200) for v in np.unique(studio._cut(SPRITE, SPRITE, None))} == {value}
    seen: dict[bool, set[bytes]] = {False: set(), True: set()}
    current = False

    def noted(mask: Image.Image) -> Image.Image:
        seen[current].add(mask.tobytes())
        return mask.resize((SPRITE, SPRITE))

    monkeypatch.setattr(_art, "_filled", noted)
    for current in (False, True):
        studio = Studio(np.random.default_rng(1), split="test" if current else "train")
        for _ in range(300):
            studio.sprite(3)
    assert len(seen[True]) > 50
    assert not seen[True] & seen[False]


def test_select_items_share_nothing_with_test_items_and_no_picture_with_training_items(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ramp = tuple(
        np.repeat(np.arange(p.shape[0])[:, None, None] % 251, p.shape[1], 1).repeat(3, 2) for p in _art.photographs()
    )
    monkeypatch.setattr(_art, "photographs", lambda: tuple(r.astype(np.uint8) for r in ramp))
    for split, sign in (("train", 1), ("select", -1)):
        part = Studio(np.random.default_rng(3), split=split)._cut(20, 20, None)[:, 0, 0]
        assert np.median(np.diff(part)) == sign, "photographs are upside down"
    digits: dict[str, set[bytes]] = {}
    for split in ("train", "select", "test"):
        studio = Studio(np.random.default_rng(1), split=split)
        digits[split] = {studio._digit(3).tobytes() for _ in range(200)}
    assert not digits["select"] & (digits["train"] | digits["test"])


def test_built_before_returns_at_once(
    tiny_root: Path, tiny_sizes: Sizes, tiny: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(self: Scene, *_: object, **__: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(Scene, "render", forbidden)
    again = build(tiny_root, seed=7, sizes=tiny_sizes)
    assert again["mini_dive"]["test"].hash == tiny["mini_dive"]["test"].hash


SMALL = Sizes(
    pixels=16, frames=4, train_clips=2, test_clips=1, select_clips=1, train_stills=2, test_stills=1, select_stills=1
)


def test_other_settings_are_refused_without_force(tmp_path: Path) -> None:
    stages: list[tuple[str, int, int]] = []
    first = build(tmp_path / "m", seed=1, workers=1, sizes=SMALL, progress=lambda *stage: stages.append(stage))
    assert ("mini_ucf/train", 2, 2) in stages
    assert len(stages) == 4 * len(SPLITS)
    with pytest.raises(MiniatureError, match=r"was built with seed 1 \(asked: 2\); use --force to replace it"):
        build(tmp_path / "m", seed=2, workers=1, sizes=SMALL)
    other = Sizes(
        pixels=16, frames=5, train_clips=2, test_clips=1, select_clips=1, train_stills=2, test_stills=1, select_stills=1
    )
    with pytest.raises(MiniatureError, match=r"frames 4 \(asked: 5\)"):
        build(tmp_path / "m", seed=1, workers=1, sizes=other)
    replaced = build(tmp_path / "m", seed=2, workers=1, sizes=SMALL, force=True)
    assert replaced["mini_ucf"]["train"].hash != first["mini_ucf"]["train"].hash


def test_a_build_of_before_there_were_select_splits_gets_them(tmp_path: Path) -> None:
    """What is trained and tested on is not drawn again, and is what it always was."""
    built = build(tmp_path / "m", seed=1, workers=1, sizes=SMALL)
    assert [built[name][split].hash[:12] for name in ("mini_ucf", "mini_in") for split in ("train", "test")] == [
        "b93799a34883",
        "c4d0cf7ddfbb",
        "0ab5cb86b1ed",
        "2fa143fac5a1",
    ], "of this seed and these sizes since the first version"
    whole = contents(tmp_path / "m")
    recorded = json.loads((tmp_path / "m" / "miniature.json").read_text())
    for name in NAMES:
        shutil.rmtree(tmp_path / "m" / name / "select")
        (tmp_path / "m" / name / "select.parquet").unlink()
    before = {key: value for key, value in recorded["sizes"].items() if not key.startswith("select")}
    (tmp_path / "m" / "miniature.json").write_text(json.dumps({**recorded, "sizes": before}))
    (tmp_path / "m" / "mini_ssv2" / "select").mkdir()  # of a completion that was killed
    drawn: list[str] = []
    build(tmp_path / "m", seed=1, workers=1, sizes=SMALL, progress=lambda what, *_: drawn.append(what))
    assert {what.partition("/")[2] for what in drawn} == {"select"}
    assert contents(tmp_path / "m") == whole


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(MiniatureError, match="is not a miniature build"):
            build(tmp_path, sizes=SMALL, force=force)
    with pytest.raises(MiniatureError, match="is a file"):
        build(tmp_path / "thesis.txt", sizes=SMALL)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pixels": 63}, "pixels is 63; it must be even"),
        ({"frames": 2}, "frames is 2; it must be from 4 to 32"),
        ({"train_clips": 0}, "train_clips is 0; it must be at least 1"),
        ({"pixels": 96, "frames": 16}, "ask for more than a photograph has"),
    ],
)
def test_sizes_out_of_range(setting: dict[str, int], message: str) -> None:
    with pytest.raises(MiniatureError, match=message):
        Sizes(**setting)


def test_the_largest_sizes_can_be_drawn() -> None:
    for name, scene in SCENES.items():
        for split in ("train", "test"):
            for item in range(12):
                frames, _ = scene.render(split, item, seed=0, size=96, frames=12)
                assert frames.shape == (1 if name == "mini_in" else 12, 96, 96, 3)


KILLED = """
import sys, time
from equipoise.data.miniature import Sizes, build

def progress(*stage):
    print("progress", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    build(sys.argv[1], workers=1, sizes=Sizes(pixels=16, frames=4, train_clips=60), progress=progress)
"""


def test_a_killed_build_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    root = tmp_path / "sets" / "m"
    process = subprocess.Popen([sys.executable, str(tmp_path / "killed.py"), str(root)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"progress\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not root.exists()
    build(root, workers=1, sizes=SMALL)
    assert sorted(os.listdir(root.parent)) == [".m.lock", "m"]


def test_a_package_without_its_pictures_is_named() -> None:
    with pytest.raises(SourceFilesError, match=r"'skimage' has no file 'data/none\.png'"):
        _art._inside("skimage", "data/none.png")
    with pytest.raises(SourceFilesError, match="'no_such_package' is not installed"):
        _art._inside("no_such_package", "x")


def test_picture_packages_are_not_imported() -> None:
    code = (
        "import sys; from equipoise.data._scenes import SCENES; SCENES['mini_ucf'].render('train', 0, seed=0, size=32,"
        " frames=4); print([m for m in ('torch', 'skimage', 'mlxtend', 'sklearn') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
