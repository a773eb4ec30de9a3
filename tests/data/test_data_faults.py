"""Hundreds of bad files through manifest, check, cache and training: none ends anything, each is counted and named."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from equipoise.data.cache import ClipCache
from equipoise.data.check import check_manifest
from equipoise.data.decode import DecodeError, decode
from equipoise.data.decode_report import DecodeBudgetError
from equipoise.data.listing import manifest_of_list
from equipoise.data.manifest import Manifest
from equipoise.platform.settings.trial import Regime, TrialSettings
from equipoise.platform.storage import Paths
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer

pytestmark = pytest.mark.slow
Encode = Callable[..., bytes]
Make = Callable[..., TrialSettings]
FRAMES, HEIGHT, WIDTH = 20, 64, 96
KINDS = {
    "mp4": {"container": "mp4"},
    "frag.mp4": {"container": "mp4", "movflags": "frag_keyframe+empty_moov"},
    "mkv": {"container": "matroska"},
    "ts": {"container": "mpegts"},
    "webm": {"container": "webm", "codec": "libvpx-vp9"},
    "avi": {"container": "avi", "codec": "mpeg4"},
}


def damaged(content: bytes, rng: np.random.Generator) -> dict[str, bytes]:
    """A file cut off, with flipped bytes, with a stretch overwritten, with a stretch missing."""
    found: dict[str, bytes] = {}
    size = len(content)
    for k in range(14):
        found[f"cut{k}"] = content[: int(size * (k + 0.5) / 14)]
    for k in range(14):
        changed = bytearray(content)
        for at in rng.integers(0, size, 1 + 4 * k):
            changed[at] ^= int(rng.integers(1, 256))
        found[f"flip{k}"] = bytes(changed)
    for k in range(8):
        part = size // 8
        found[f"over{k}"] = content[: k * part] + rng.bytes(part) + content[(k + 1) * part :]
    for k in range(4):
        at = size * (k + 1) // 5
        found[f"hole{k}"] = content[:at] + content[at + 40 * (k + 1) :]
    return found


def patched(content: bytes, box: bytes, offset: int, value: int) -> bytes:
    """An MP4 file with four bytes of a box replaced."""
    changed, at = bytearray(content), content.index(box) + offset
    changed[at : at + 4] = struct.pack(">I", value)
    return bytes(changed)


def sound() -> bytes:
    """A file with sound and no pictures."""
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=16000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return content.getvalue()


def no_frames(container: str) -> bytes:
    """A header, and nothing behind it."""
    content = io.BytesIO()
    with av.open(content, "w", format=container, options={"movflags": "frag_keyframe+empty_moov"}) as file:
        stream = file.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        file.start_encoding()
    return content.getvalue()


def picture(kind: str) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def large_png(side: int) -> bytes:
    """A header of a picture that would take gigabytes."""
    content = bytearray(picture("PNG"))
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


def generate(folder: Path, encode: Encode) -> tuple[list[str], set[str], set[str]]:
    """Writes the files. Returns all names, those that are well, and those that must fail."""
    rng = np.random.default_rng(0)
    whole = {suffix: encode(**options) for suffix, options in KINDS.items()}
    files: dict[str, bytes] = {}
    for suffix, content in whole.items():
        files[f"well.{suffix}"] = content
        files |= {f"{what}.{suffix}": part for what, part in damaged(content, rng).items()}
    for kind in ("PNG", "JPEG"):
        files |= {f"{what}.{kind.lower()}": part for what, part in damaged(picture(kind), rng).items()}
    mp4 = whole["mp4"]
    bad = {
        "empty.mp4": b"",
        "one_byte.mp4": mp4[:1],
        "text.mp4": b"Not found\n" * 50,
        "page.webm": b"<html><body>404</body></html>",
        "picture.mp4": picture("JPEG"),
        "drawing.avi": picture("PNG"),
        "video.png": mp4,
        "video.jpg": whole["webm"],
        "empty.png": b"",
        "sound.mp4": sound(),
        "no_frames.mp4": no_frames("mp4"),
        "no_frames.mkv": no_frames("matroska"),
        "no_pictures.mp4": mp4[: mp4.index(b"mdat") + 4] + bytes(2000) + mp4[mp4.index(b"mdat") + 2004 :],
        "many_packets.mp4": patched(mp4, b"stsz", 12, 2**31 - 1),
        "many_times.mp4": patched(mp4, b"stts", 8, 2**31 - 1),
        "long_time.mp4": patched(mp4, b"stts", 12, 2**31 - 1),
        "far_away.mp4": patched(mp4, b"stco", 12, 2**31 - 1),
        "large.png": large_png(50_000),
    }
    files |= bad
    well = {
        **{f"well.{suffix}": content for suffix, content in whole.items()},
        "uneven.mp4": encode(times=np.cumsum(rng.integers(5, 400, FRAMES)).tolist()),
        "mp4.webm": mp4,
        "webm.mp4": whole["webm"],
        "naïve 视频 ещё.mp4": mp4,
        "n" * 240 + ".mp4": mp4,
        "very long/" + "/".join(["folder" * 20] * 12) + "/a.mp4": mp4,
        "quoted ' \" \\ %20.mp4": mp4,
    }
    files |= well
    others = {
        "one_frame.mp4": encode(frames=1),
        "tiny.mp4": encode(width=48, height=32),
        "wide.mp4": encode(width=130, height=18),
        "huge.mp4": encode(width=7680, height=4320, frames=2),
    }
    files |= others
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "folder.mp4").mkdir()
    (folder / "folder.png").mkdir()
    (folder / "loop.mp4").symlink_to("loop.mp4")
    (folder / "dangling.mp4").symlink_to("nowhere.mp4")
    unwritten = [
        "folder.mp4",
        "folder.png",
        "loop.mp4",
        "dangling.mp4",
        "gone.mp4",
        "gone/away.mp4",
        "x" * 300 + ".mp4",
    ]
    return [*files, *unwritten], set(well), {*bad, *unwritten}


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory, encode: Encode) -> tuple[Path, list[str], set[str], set[str]]:
    folder = tmp_path_factory.mktemp("faults")
    names, well, bad = generate(folder, encode)
    assert len(names) - len(well) >= 300
    return folder, names, well, bad


def claimed(folder: Path, names: list[str]) -> Manifest:
    """A manifest that believes every file to be well."""
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        still = name.endswith((".png", ".jpeg", ".jpg"))
        facts = {"kind": "image" if still else "video", "frames": 1 if still else FRAMES, "fps": 0.0 if still else 12.0}
        rows.append({"path": name, "label": number % 2, "width": WIDTH, "height": HEIGHT, "sha256": "", **facts})
    return Manifest.from_rows("faults", "train", folder, ("a", "b"), rows)


def test_the_manifest_names_what_cannot_be_read(faults: tuple[Path, list[str], set[str], set[str]]) -> None:
    folder, names, well, bad = faults
    items = [(name, "ab"[number % 2]) for number, name in enumerate(names)]
    manifest, report = manifest_of_list("faults", "train", folder, items, workers=2)
    failed = dict(report.failures)
    assert report.total == len(names)
    assert set(manifest.path.tolist()) | set(failed) == set(names)
    assert len(manifest) + len(failed) == len(names)
    assert all(reason and "\n" not in reason for reason in failed.values())
    assert well <= set(manifest.path.tolist())
    assert bad - {"no_pictures.mp4", "far_away.mp4"} <= set(failed)  # whose headers are as they should be
    rows = dict(zip(manifest.path.tolist(), range(len(manifest)), strict=True))
    for name in well:
        facts = [int(getattr(manifest, column)[rows[name]]) for column in ("frames", "width", "height")]
        assert facts == [FRAMES, WIDTH, HEIGHT], name
    assert manifest.frames[rows["one_frame.mp4"]] == 1
    # What a manifest lists can still be undecodable: the check and the cache agree on what is.
    checked = check_manifest(manifest, workers=2)
    cache = ClipCache.open(manifest, folder.parent / "listed", size=32, workers=2, budget=1.0)
    assert checked.total == len(manifest)
    wrong = {str(folder / path) for path, _ in checked.failures}
    assert {path for path, _ in cache.report.failures} <= wrong
    assert not wrong & {str(folder / name) for name in well}


def test_a_cache_of_files_believed_well_names_each(faults: tuple[Path, list[str], set[str], set[str]]) -> None:
    folder, names, well, bad = faults
    manifest = claimed(folder, names)
    with pytest.raises(DecodeBudgetError, match=rf"of {len(names)} files could not be decoded"):
        ClipCache.open(manifest, folder.parent / "cache", size=32, frames=8, workers=2)
    cache = ClipCache.open(manifest, folder.parent / "cache", size=32, frames=8, workers=2, budget=1.0)
    failed = {Path(path).relative_to(folder).as_posix(): reason for path, reason in cache.report.failures}
    assert set(cache.paths) | set(failed) == set(names)
    assert not set(cache.paths) & set(failed)
    assert bad <= set(failed)
    assert well <= set(cache.paths)
    assert all(reason and "\n" not in reason for reason in failed.values())
    assert failed["one_frame.mp4"] == "it has 1 frames, the manifest says 20"
    assert failed["many_packets.mp4"]
    mp4 = cache.clip(cache.paths.index("well.mp4"))
    for name in ("naïve 视频 ещё.mp4", "mp4.webm", "quoted ' \" \\ %20.mp4"):
        np.testing.assert_array_equal(cache.clip(cache.paths.index(name)), mp4)


def test_hashes_name_every_changed_file_whatever_the_decoder_makes_of_it(
    faults: tuple[Path, list[str], set[str], set[str]],
) -> None:
    """Codecs have little redundancy: many a damaged file decodes without a word, to other pictures."""
    folder, names, _, _ = faults
    changed = [name for name in names if name.startswith(("cut", "flip", "over", "hole"))]
    sources = {name: f"well.{name.split('.', 1)[1]}" for name in changed if not name.endswith((".png", ".jpeg"))}
    assert len(sources) == 240
    believed = claimed(folder, sorted(sources))
    silent = ClipCache.open(believed, folder.parent / "believed", size=32, frames=8, workers=2, budget=1.0)
    well = ClipCache.open(claimed(folder, sorted(set(sources.values()))), folder.parent / "well", size=32, frames=8)
    differ = [
        name
        for number, name in enumerate(silent.paths)
        if not np.array_equal(silent.clip(number), well.clip(well.paths.index(sources[name])))
    ]
    assert differ  # so there is something that only a hash can name
    hashes = [hashlib.sha256((folder / sources[name]).read_bytes()).hexdigest() for name in believed.path]
    hashed = replace(believed, sha256=np.array(hashes))
    checked = check_manifest(hashed, workers=2)
    assert {Path(path).name for path, _ in checked.failures} == set(sources)
    with pytest.raises(DecodeBudgetError, match="240 of 240 files could not be decoded"):
        ClipCache.open(hashed, folder.parent / "hashed", size=32, frames=8, workers=2, budget=0.99)


def test_every_fault_is_a_decode_error_in_this_process_too(
    faults: tuple[Path, list[str], set[str], set[str]],
) -> None:
    folder, names, well, bad = faults
    for name in names:
        if not name.startswith(("cut1", "flip", "huge")) and (name in bad or name not in well):
            kind = "image" if name.endswith((".png", ".jpeg", ".jpg")) else "video"
            if name in bad:
                with pytest.raises(DecodeError):
                    decode(folder / name, kind)
            else:
                with contextlib.suppress(DecodeError):
                    assert decode(folder / name, kind).ndim == 4


def test_training_goes_on_without_a_few_and_stops_at_many(
    faults: tuple[Path, list[str], set[str], set[str]], make_trial: Make, tmp_path: Path
) -> None:
    folder, _, _, bad = faults
    videos = sorted(name for name in bad if not name.endswith((".png", ".jpg")))
    regime = {
        "name": "faulty",
        "sources": {"faults": {"manifest": "train.parquet", "weight": 1.0}},
        "benchmarks": {"b": {"train": "train.parquet", "test": "train.parquet", "probe": "linear", "title": "b"}},
    }
    settings = make_trial(regime=Regime.model_validate(regime), overrides=("optimisation.steps=2",))

    def trained(some: list[str], data: Path) -> tuple[Trainer, list[dict[str, float]]]:
        data.mkdir()
        claimed(folder, some).write(data / "train.parquet")
        seen: list[dict[str, float]] = []
        trainer = Trainer(settings, Paths(data, data / "cache"), LocalReporter(data / "trial", seen.append))
        trainer.run()
        return trainer, seen

    few = ["well.mp4"] * 99 + videos[:1]
    trainer, seen = trained(few, tmp_path / "few")
    assert [report["step"] for report in seen] == [1, 2]
    report = trainer.batches.sources[0].cache.report
    assert [Path(path).name for path, _ in report.failures] == [Path(name).name for name in videos[:1]]
    with pytest.raises(DecodeBudgetError, match=r"2 of 100 files could not be decoded, more than the budget of 1\.00%"):
        trained(["well.mp4"] * 98 + videos[1:3], tmp_path / "many")
    written = json.loads(next((tmp_path / "many" / "cache").glob("*/report.json")).read_text())
    assert [Path(entry["path"]).name for entry in written["failures"]] == [Path(name).name for name in videos[1:3]]
