"""What a clip cache does beyond being right at once: JPEG frames, builds that go on, damage, stores that come back."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equipoise.data import _building as building
from equipoise.data import cache as module
from equipoise.data._storage import from_jpeg
from equipoise.data.cache import CacheError, ClipCache
from equipoise.data.decode_report import DecodeBudgetError
from equipoise.data.loader import ClipStream
from equipoise.data.manifest import Manifest
from equipoise.data.mixture import Mixture, Source

Sets = dict[str, dict[str, Manifest]]


@pytest.fixture(scope="module")
def jpegs(tiny: Sets, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ClipCache]:
    root = tmp_path_factory.mktemp("jpegs")
    names = ("mini_ucf", "mini_in")
    return {n: ClipCache.open(tiny[n]["train"], root, size=32, storage="jpeg", workers=0) for n in names}


def test_jpeg_frames_are_close_to_raw_ones(jpegs: dict[str, ClipCache], tiny_caches: dict[str, ClipCache]) -> None:
    for name, cache in jpegs.items():
        raw = tiny_caches[name]
        assert cache.storage == "jpeg"
        assert raw.storage == "raw"
        assert cache.folder.name != raw.folder.name
        assert cache.shapes.tolist() == raw.shapes.tolist()
        assert cache.labels.tolist() == raw.labels.tolist()
        errors = [np.square(cache.clip(i).astype(float) - raw.clip(i)).mean() for i in range(len(cache))]
        assert 10 * np.log10(255**2 / np.mean(errors)) > 27  # 32 px: a block of chroma is half the width of a sprite
        stored, whole = (sum(p.stat().st_size for p in c.folder.glob("*.arrow")) for c in (cache, raw))
        assert stored < 0.6 * whole


def test_chosen_frames_are_those_of_the_clip(jpegs: dict[str, ClipCache], tiny_caches: dict[str, ClipCache]) -> None:
    for cache in (jpegs["mini_ucf"], tiny_caches["mini_ucf"]):
        whole = cache.clip(3)
        for numbers in ([0], [7, 2, 2, 5], list(range(8))):
            chosen = cache.frames(3, np.array(numbers))
            np.testing.assert_array_equal(chosen, whole[numbers])
            assert chosen.flags.writeable
        copy = pickle.loads(pickle.dumps(cache))
        np.testing.assert_array_equal(copy.frames(3, np.array([1])), whole[[1]])


def test_only_the_asked_frames_are_decoded(jpegs: dict[str, ClipCache], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []

    def counted(image: np.ndarray) -> np.ndarray:
        decoded.append(len(image))
        return from_jpeg(image)

    monkeypatch.setattr(module, "from_jpeg", counted)
    jpegs["mini_ucf"].frames(0, np.array([4, 1, 4, 4]))
    assert len(decoded) == 2


def test_a_stream_draws_the_same_clips_from_either(
    jpegs: dict[str, ClipCache], tiny_caches: dict[str, ClipCache]
) -> None:
    def batches(caches: dict[str, ClipCache], readers: int | None = None) -> list[Any]:
        mixture = Mixture([Source(n, caches[n], 1.0) for n in ("mini_ucf", "mini_in")], 0)
        with ClipStream(mixture, frames=4, stride=2, batch=8, seed=0, readers=readers) as clips:
            return [next(clips) for _ in range(3)]

    for one, two in zip(batches(jpegs), batches(tiny_caches), strict=True):
        assert one.video_rows.tolist() == two.video_rows.tolist()
        assert one.video.shape == two.video.shape
        assert (one.video.float() - two.video.float()).abs().mean() < 12
    for one, two in zip(batches(jpegs), batches(jpegs, readers=3), strict=True):
        assert torch.equal(one.video, two.video)
        assert torch.equal(one.image, two.image)


def test_a_damaged_image_is_named(jpegs: dict[str, ClipCache], monkeypatch: pytest.MonkeyPatch) -> None:
    cache = jpegs["mini_ucf"]
    monkeypatch.setattr(cache, "_pixels", [np.zeros_like(pixels) for pixels in cache._pixels])
    with pytest.raises(CacheError, match=rf"is damaged \(frame 2 of {cache.paths[1]}"):
        cache.frames(1, np.array([2]))


def test_the_size_of_jpeg_images_is_estimated(
    tiny: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jpegs: dict[str, ClipCache]
) -> None:
    cache = jpegs["mini_ucf"]
    stored = sum(path.stat().st_size for path in cache.folder.glob("*.arrow"))
    asked: list[int] = []
    monkeypatch.setattr(building, "_check_space", lambda folder, needed, name: asked.append(needed))
    ClipCache.open(tiny["mini_ucf"]["train"], tmp_path, size=32, storage="jpeg", workers=0)
    assert 0.9 * stored < asked[0] < 1.6 * stored


def test_settings_that_are_refused(tiny: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CacheError, match="storage is 'png'; use one of raw, jpeg"):
        ClipCache.open(tiny["mini_ucf"]["test"], tmp_path, size=32, storage="png")  # type: ignore[arg-type]
    monkeypatch.setenv("EQUIPOISE_DECODER", "other")
    with pytest.raises(CacheError, match="EQUIPOISE_DECODER is 'other'"):
        ClipCache.open(tiny["mini_ucf"]["test"], tmp_path, size=32)


def test_a_full_disk_is_told_what_older_caches_hold(
    tiny: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tiny["mini_ucf"]["test"]
    old = ClipCache.open(manifest, tmp_path, size=16, workers=0)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CacheError, match=rf"0\.00 MB free \(0\.08 MB are held there by {old.folder.name}\); free some"):
        ClipCache.open(manifest, tmp_path, size=32, workers=0)


COUNTER = """
import os, sys, time
from equipoise.data import _building, cache
from equipoise.data.manifest import Manifest

manifest, root, stop = sys.argv[1:]
_building._SHARD_BYTES = 1  # one clip each
real = _building._load
def load(clip, size, frames):
    with open(root + "/decoded", "a") as log:
        log.write(f"{clip.row}\\n")
    if clip.row == int(stop):
        while os.path.exists(root + "/wait"):
            time.sleep(0.05)
        os.kill(os.getpid(), 9)
    return real(clip, size, frames)

if __name__ == "__main__":
    _building._load = load
    found = cache.ClipCache.open(Manifest.read(manifest), root, size=32, workers=0)
    print(len(found), len(found.report.failures))
"""


def test_a_killed_build_goes_on_with_what_it_lacks(tiny_root: Path, tmp_path: Path) -> None:
    script, root = tmp_path / "script.py", tmp_path / "cache"
    root.mkdir()
    script.write_text(COUNTER)
    manifest = tiny_root / "mini_ucf/train.parquet"

    def build(stop: int) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, str(script), str(manifest), str(root), str(stop)]
        return subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=100)

    assert build(10).returncode == -signal.SIGKILL
    assert build(17).returncode == -signal.SIGKILL
    last = build(-1)
    assert last.returncode == 0
    assert last.stdout.split() == ["24", "0"]
    decoded = (root / "decoded").read_text().split()
    assert [int(row) for row in decoded] == [*range(11), *range(10, 18), *range(17, 24)]
    whole = ClipCache.open(Manifest.read(manifest), tmp_path / "at once", size=32, workers=0)
    built = ClipCache.open(Manifest.read(manifest), root, size=32, workers=0)
    assert all(np.array_equal(whole.clip(i), built.clip(i)) for i in range(24))


def test_who_waits_for_a_builder_goes_on_when_it_is_killed(tiny_root: Path, tmp_path: Path) -> None:
    script, root = tmp_path / "script.py", tmp_path / "cache"
    root.mkdir()
    (root / "wait").touch()
    script.write_text(COUNTER)
    words = [sys.executable, str(script), str(tiny_root / "mini_ucf/train.parquet"), str(root)]
    with subprocess.Popen([*words, "5"]) as first:
        while not (root / "decoded").is_file() or (root / "decoded").read_text().split()[-1:] != ["5"]:
            assert first.poll() is None
            time.sleep(0.05)
        with subprocess.Popen([*words, "-1"], stdout=subprocess.PIPE, text=True) as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.communicate(timeout=1)  # it waits for the first
            (root / "wait").unlink()
            assert first.wait(timeout=60) == -signal.SIGKILL
            assert second.communicate(timeout=60)[0].split() == ["24", "0"]
    rows = [int(row) for row in (root / "decoded").read_text().split()]
    assert rows == [*range(6), *range(5, 24)]


def test_damage_is_mended_and_only_there(tiny: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_SHARD_BYTES", 100_000)
    manifest = tiny["mini_ucf"]["train"]
    cache = ClipCache.open(manifest, tmp_path, size=32, workers=0)
    before = [cache.clip(i).copy() for i in range(len(cache))]
    shards = sorted(cache.folder.glob("*.arrow"))
    written = {shard.name: shard.stat().st_ino for shard in shards}
    with shards[1].open("r+b") as file:
        file.truncate(1000)
    shards[2].unlink()
    with pytest.raises(CacheError, match=r"is damaged .* delete it to have it built again"):
        ClipCache(cache.folder)
    again = ClipCache.open(manifest, tmp_path, size=32, workers=0)
    assert all(np.array_equal(again.clip(i), before[i]) for i in range(len(before)))
    kept = [name for name, node in written.items() if (again.folder / name).stat().st_ino == node]
    assert kept == [shard.name for n, shard in enumerate(shards) if n not in (1, 2)]
    (again.folder / "index.json").write_text("{")
    assert len(ClipCache.open(manifest, tmp_path, size=32, workers=0)) == len(before)


def test_a_store_that_comes_back_is_read_again(tiny: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_SHARD_BYTES", 100_000)
    original = tiny["mini_ucf"]["train"]
    manifest = replace(original, root=tmp_path / "mount")
    with pytest.raises(DecodeBudgetError, match=r"24 of 24 files .* \(no such file\)"):
        ClipCache.open(manifest, tmp_path / "cache", size=32, workers=0)
    (tmp_path / "mount").symlink_to(original.root)
    found = ClipCache.open(manifest, tmp_path / "cache", size=32, workers=0)
    assert len(found) == 24
    assert found.report.failures == []
    assert json.loads((found.folder / "report.json").read_text())["failed"] == 0


def test_a_folder_that_does_not_answer_in_place_of_files(tiny: Sets, tmp_path: Path) -> None:
    """A folder where the file should be, and a file where the root should be: what a wrong mount looks like."""
    original = tiny["mini_ucf"]["train"]
    for path in original.path.tolist()[:3]:
        (tmp_path / "data" / path).mkdir(parents=True)
    pipe = tmp_path / "data" / original.path.tolist()[3]
    pipe.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(pipe)  # whoever opens it waits for ever
    with pytest.raises(DecodeBudgetError, match=r"24 of 24 files .* \(it is a folder, not a file\)"):
        ClipCache.open(replace(original, root=tmp_path / "data"), tmp_path / "cache", size=32, workers=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(DecodeBudgetError, match=r"24 of 24 files .* \(no such file\)"):
        ClipCache.open(replace(original, root=tmp_path / "file"), tmp_path / "cache", size=32, workers=0, frames=4)


def test_a_decoder_that_ends_its_process_costs_its_files_only(
    tiny: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deadly: bytes
) -> None:
    """A real file that ends every process which opens it with decord."""
    pytest.importorskip("decord")
    monkeypatch.setenv("EQUIPOISE_DECODER", "decord")
    original = tiny["mini_ucf"]["train"]
    shutil.copytree(original.root / "train", tmp_path / "files" / "train")
    rows = (4, 20)
    for row in rows:
        (tmp_path / "files" / str(original.path[row])).write_bytes(deadly)
    manifest = replace(original, root=tmp_path / "files", sha256=np.array([""] * len(original)))
    cache = ClipCache.open(manifest, tmp_path / "cache", size=32, workers=1, budget=0.2)
    assert cache.rows.tolist() == [row for row in range(24) if row not in rows]
    assert {reason for _, reason in cache.report.failures} == {"the process that read it died (SIGABRT)"}
    monkeypatch.delenv("EQUIPOISE_DECODER")
    cache = ClipCache.open(manifest, tmp_path / "cache", size=32, workers=0, budget=0.2)
    assert len(cache) == 22  # PyAV refuses the same files in words
    assert not any("died" in reason for _, reason in cache.report.failures)


def test_leftovers_of_a_dead_writer_do_not_stay(tiny: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = tiny["mini_ucf"]["test"]
    folder = ClipCache.open(manifest, tmp_path / "one", size=32, workers=0).folder.name
    working = tmp_path / "two" / f".{folder}.unfinished"
    working.mkdir(parents=True)
    (working / "shard-00000.arrow.other.1.part").write_bytes(b"half")
    (working / "shard-00000.arrow").write_bytes(b"no note says that this is complete")

    def progress(*_: object) -> None:  # of a node that goes while the others build
        (working / "shard-00000.arrow.gone.2.part").write_bytes(b"half")

    cache = ClipCache.open(manifest, tmp_path / "two", size=32, workers=0, progress=progress)
    assert sorted(os.listdir(cache.folder)) == ["index.json", "report.json", "shard-00000.arrow", "shard-00000.json"]
    assert len(cache) == len(manifest)
