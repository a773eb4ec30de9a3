from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from equipoise.data import _building as building
from equipoise.data import cache as module
from equipoise.data.cache import CacheError, ClipCache
from equipoise.data.decode import decode
from equipoise.data.decode_report import DecodeBudgetError
from equipoise.data.manifest import Manifest
from equipoise.data.miniature import encode_video

Sets = dict[str, dict[str, Manifest]]


def finished(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]


def test_clips_equal_the_decoded_files(tiny: Sets, tiny_caches: dict[str, ClipCache]) -> None:
    for name, cache in tiny_caches.items():
        manifest = tiny[name]["train"]
        assert len(cache) == len(manifest)
        assert cache.labels.dtype == np.int64
        assert cache.labels.tolist() == manifest.label.tolist()
        assert cache.kinds == manifest.kind.tolist()
        assert cache.paths == manifest.path.tolist()
        assert cache.manifest_hash == manifest.hash
        assert cache.classes == manifest.classes
        assert cache.report.failures == []
        for index in (0, len(cache) - 1):
            expected = decode(manifest.file(index), str(manifest.kind[index]))
            np.testing.assert_array_equal(cache.clip(index), expected)


def test_clips_are_views_of_the_map(tiny_caches: dict[str, ClipCache]) -> None:
    clip = tiny_caches["mini_ucf"].clip(3)
    assert not clip.flags.owndata
    assert not clip.flags.writeable
    assert np.shares_memory(clip, tiny_caches["mini_ucf"].clip(3))


def test_a_pickled_cache_maps_the_same_files(tiny_caches: dict[str, ClipCache]) -> None:
    cache = tiny_caches["mini_dive"]
    content = pickle.dumps(cache)
    assert len(content) < 1000
    copy = pickle.loads(content)
    np.testing.assert_array_equal(copy.clip(5), cache.clip(5))


def test_nothing_is_decoded_twice(tiny: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = tiny["mini_ucf"]["test"]
    ClipCache.open(manifest, tmp_path, size=32, workers=0)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(building, "decode", forbidden)
    assert len(ClipCache.open(manifest, tmp_path, size=32, workers=0)) == len(manifest)
    with pytest.raises(AssertionError, match="decoded again"):  # other settings, another cache
        ClipCache.open(manifest, tmp_path, size=16, workers=0)


def test_a_single_worker_is_another_process(tiny: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that ends its process must not end the one that asked."""

    def forbidden(*_: object) -> None:
        raise AssertionError("decoded in this process")

    monkeypatch.setattr(building, "_load", forbidden)
    manifest = tiny["mini_ucf"]["test"]
    assert len(ClipCache.open(manifest, tmp_path, size=32, workers=1)) == len(manifest)
    with pytest.raises(AssertionError, match="decoded in this process"):
        ClipCache.open(manifest, tmp_path, size=16, workers=0)


UNGUARDED = """
import sys
from equipoise.data.cache import ClipCache
from equipoise.data.manifest import Manifest

print("the script runs")
print(len(ClipCache.open(Manifest.read(sys.argv[1]), sys.argv[2], size=32, workers=1)))
"""


def test_a_script_needs_no_guard(tiny_root: Path, tmp_path: Path) -> None:
    """Worker processes do not run the script again that asked for them; one from standard input has no file at all."""
    words = [sys.executable, "-", str(tiny_root / "mini_ucf/test.parquet"), str(tmp_path / "cache")]
    found = subprocess.run(words, input=UNGUARDED, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    assert found.stdout.splitlines() == ["the script runs", "12"]
    (tmp_path / "script.py").write_text(UNGUARDED)
    words = [sys.executable, str(tmp_path / "script.py"), words[2], str(tmp_path / "other")]
    found = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    assert found.stdout.splitlines() == ["the script runs", "12"]


def test_worker_count_does_not_change_the_files(tiny: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_SHARD_BYTES", 100_000)  # about four clips each
    one = ClipCache.open(tiny["mini_ucf"]["test"], tmp_path / "one", size=32, workers=0)
    two = ClipCache.open(tiny["mini_ucf"]["test"], tmp_path / "two", size=32, workers=2)
    shards = sorted(path.name for path in one.folder.glob("*.arrow"))
    assert len(shards) > 2
    for name in (*shards, "index.json", "report.json"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()


def test_resizing_and_frame_limit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wide = np.repeat(np.repeat(rng.integers(0, 256, (10, 6, 10, 3), dtype=np.uint8), 8, axis=1), 8, axis=2)
    (tmp_path / "a.mp4").write_bytes(encode_video(wide, 12))
    Image.fromarray(wide[0].transpose(1, 0, 2)).save(tmp_path / "b.png")
    rows: list[dict[str, Any]] = [
        {"path": "a.mp4", "label": 0, "kind": "video", "frames": 10, "fps": 12.0, "width": 80, "height": 48},
        {"path": "b.png", "label": 1, "kind": "image", "frames": 1, "fps": 0.0, "width": 48, "height": 80},
    ]
    manifest = Manifest.from_rows("toy", "train", tmp_path, ("a", "b"), [{**row, "sha256": ""} for row in rows])
    cache = ClipCache.open(manifest, tmp_path / "cache", size=24, frames=5, workers=0)
    assert cache.clip(0).shape == (5, 24, 40, 3)
    assert cache.clip(1).shape == (1, 40, 24, 3)
    assert cache.shapes.tolist() == [[5, 24, 40], [1, 40, 24]]
    whole = decode(tmp_path / "a.mp4", "video")[[1, 3, 5, 7, 9]].astype(float)
    smaller = whole.reshape(5, 24, 2, 40, 2, 3).mean(axis=(2, 4))  # blocks of 8 px: any decent filter agrees inside
    assert np.abs(cache.clip(0).astype(float) - smaller).mean() < 8


def damaged(tiny: Sets, folder: Path, *, rehash: bool) -> Manifest:
    """24 clips of which four are damaged: zero bytes, cut off, overwritten, gone."""
    manifest = tiny["mini_ucf"]["train"]
    shutil.copytree(manifest.root / "train", folder / "train")
    rng = np.random.default_rng(0)
    for row, damage in ((2, "zero"), (5, "cut"), (11, "overwritten"), (17, "gone")):
        file = folder / str(manifest.path[row])
        content = file.read_bytes()
        if damage == "gone":
            file.unlink()
            continue
        changed = {
            "zero": b"",
            "cut": content[: len(content) // 2],
            "overwritten": content[:400] + rng.bytes(2000) + content[2400:],
        }
        file.write_bytes(changed[damage])
    hashes = [
        hashlib.sha256(path.read_bytes()).hexdigest() if (path := folder / name).is_file() else ""
        for name in manifest.path.tolist()
    ]
    return replace(manifest, root=folder, sha256=np.array(hashes) if rehash else manifest.sha256)


@pytest.mark.parametrize("rehash", [True, False])
def test_failed_files_are_counted_named_and_left_out(tiny: Sets, tmp_path: Path, rehash: bool) -> None:
    manifest = damaged(tiny, tmp_path / "files", rehash=rehash)
    cache = ClipCache.open(manifest, tmp_path / "cache", size=32, workers=0, budget=0.2)
    kept = [row for row in range(24) if row not in (2, 5, 11, 17)]
    assert cache.rows.tolist() == kept
    assert cache.labels.tolist() == manifest.label[kept].tolist()
    np.testing.assert_array_equal(cache.clip(2), decode(manifest.file(3), "video"))
    assert cache.report.total == 24
    assert [path for path, _ in cache.report.failures] == [str(manifest.file(row)) for row in (2, 5, 11, 17)]
    reasons = [reason for _, reason in cache.report.failures]
    assert reasons[3] == "no such file"
    if rehash:
        assert "0 bytes" in reasons[0]
        assert "cannot be opened" in reasons[1] or "Invalid data" in reasons[1]
    else:
        assert all("has changed since the manifest was written" in reason for reason in reasons[:3])
    written = json.loads((cache.folder / "report.json").read_text())
    assert written["failed"] == 4


def test_budget_exceeded_stops_with_one_sentence(tiny: Sets, tmp_path: Path) -> None:
    manifest = damaged(tiny, tmp_path / "files", rehash=True)
    with pytest.raises(DecodeBudgetError) as caught:
        ClipCache.open(manifest, tmp_path / "cache", size=32, workers=0, budget=0.1)
    message = str(caught.value)
    assert "4 of 24 files could not be decoded, more than the budget of 10.00%" in message
    assert str(manifest.file(2)) in message
    assert Path(message.split("listed in ")[1].rstrip(".")).is_file()
    assert len(ClipCache.open(manifest, tmp_path / "cache", size=32, workers=0, budget=0.2)) == 20


def test_a_video_with_fewer_frames_than_stated_fails(tiny: Sets, tmp_path: Path) -> None:
    manifest = tiny["mini_ucf"]["test"]
    longer = replace(manifest, frames=manifest.frames + np.eye(1, len(manifest), 4, dtype=np.int64)[0])
    cache = ClipCache.open(longer, tmp_path, size=32, workers=0, budget=0.5)
    assert cache.report.failures == [(str(manifest.file(4)), "it has 8 frames, the manifest says 9")]


def test_too_small_a_disk(tiny: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        CacheError,
        match=r"clip cache mini_ucf-test needs about 0\.31 MB in .*, which has 0\.10 MB free; free some space",
    ):
        ClipCache.open(tiny["mini_ucf"]["test"], tmp_path / "cache", size=32, workers=0)
    assert finished(tmp_path / "cache") == []


def test_a_disk_too_small_for_all_caches_of_a_study(
    tiny: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fits alone; together they do not, which is said before any is built, and no more once one is there."""
    both = [tiny["mini_ucf"]["test"], tiny["mini_dive"]["test"]]
    usage = shutil.disk_usage(tmp_path)._replace(free=400_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        CacheError,
        match=r"The clip caches need about 0\.\d+ MB in .*, which has 0\.40 MB free "
        r"\(mini_ucf-test 0\.31 MB, mini_dive-test 0\.\d+ MB\); free some space",
    ):
        ClipCache.check_space(both, tmp_path / "cache", size=32)
    assert finished(tmp_path / "cache") == []
    ClipCache.open(both[0], tmp_path / "cache", size=32, workers=0)
    ClipCache.check_space(both, tmp_path / "cache", size=32)


def test_the_size_estimate_holds(tiny: Sets, tiny_caches: dict[str, ClipCache]) -> None:
    for name, cache in tiny_caches.items():
        stored = sum(path.stat().st_size for path in cache.folder.glob("*.arrow"))
        _, estimated = building._plan(tiny[name]["train"], 32, None)
        assert stored * 0.95 < estimated < stored * 1.1


def test_unwritable_folder(tiny: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"The clip cache folder .*file.* cannot be written"):
        ClipCache.open(tiny["mini_ucf"]["test"], tmp_path / "file" / "cache", size=32)
    if Path("/proc").is_dir():
        with pytest.raises(CacheError, match=r"The clip cache folder /proc/cache cannot be written \(No such file"):
            ClipCache.open(tiny["mini_ucf"]["test"], "/proc/cache", size=32)

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "x")

    monkeypatch.setattr(module, "build", refused)  # root may write anywhere: a refusal has to be made up
    with pytest.raises(CacheError, match=r"cannot be written \(Permission denied\); name another"):
        ClipCache.open(tiny["mini_ucf"]["test"], tmp_path / "cache", size=32)


@pytest.mark.parametrize("setting", [{"size": 0}, {"size": 32, "frames": 0}, {"size": 32, "workers": -1}])
def test_settings_out_of_range(tiny: Sets, tmp_path: Path, setting: dict[str, int]) -> None:
    with pytest.raises(CacheError, match=r"is 0; it must be at least 1|workers is -1; it must be at least 0"):
        ClipCache.open(tiny["mini_ucf"]["test"], tmp_path, **setting)  # type: ignore[arg-type]


BUILDER = """
import multiprocessing, sys, time
from pathlib import Path
from equipoise.data import _building, cache
from equipoise.data.manifest import Manifest

manifest, root, log, workers, pause = sys.argv[1:]
_building._SHARD_BYTES = 1  # one clip each
build = cache.build

def logged(*args):
    with open(log, "a") as handle:
        handle.write("build\\n")
    return build(*args)

def progress(stage, done, total):
    children = " ".join(str(child.pid) for child in multiprocessing.active_children())
    print("progress", done, total, children, flush=True)
    time.sleep(float(pause))

if __name__ == "__main__":
    cache.build = logged
    opened = cache.ClipCache.open(Manifest.read(manifest), root, size=32, workers=int(workers), progress=progress)
    print("opened", len(opened), int(opened.clip(0).sum()), flush=True)
"""


def builder(folder: Path, manifest: Path, workers: int, pause: float) -> subprocess.Popen[str]:
    script = folder / "builder.py"
    script.write_text(BUILDER)
    arguments = [str(manifest), str(folder / "cache"), str(folder / "log"), str(workers), str(pause)]
    return subprocess.Popen([sys.executable, str(script), *arguments], stdout=subprocess.PIPE, text=True)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_build_leaves_nothing_finished(tiny_root: Path, tmp_path: Path, workers: int) -> None:
    manifest = tiny_root / "mini_ucf/train.parquet"
    process = builder(tmp_path, manifest, workers, pause=30)
    assert process.stdout is not None
    line = process.stdout.readline().split()
    assert line[0] == "progress"
    children = [int(pid) for pid in line[3:]]
    assert len(children) == workers
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert finished(tmp_path / "cache") == []
    assert any(name.endswith(".unfinished") for name in os.listdir(tmp_path / "cache"))
    assert until(lambda: not any(alive(pid) for pid in children)), "worker processes outlived their parent"
    cache = ClipCache.open(Manifest.read(manifest), tmp_path / "cache", size=32, workers=0)
    assert len(cache) == 24
    assert not any(name.endswith(".unfinished") for name in os.listdir(tmp_path / "cache"))


def test_two_builders_at_once_build_once(tiny_root: Path, tmp_path: Path) -> None:
    manifest = tiny_root / "mini_ucf/train.parquet"
    processes = [builder(tmp_path, manifest, 0, pause=0.1) for _ in range(2)]
    results = [process.communicate(timeout=100)[0].splitlines()[-1] for process in processes]
    assert results[0].startswith("opened 24 ")
    assert results[0] == results[1]
    assert (tmp_path / "log").read_text() == "build\n"
    assert len(finished(tmp_path / "cache")) == 1
