"""A check finds what the manifest does not say any more, and says it by name."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from equipoise.data.check import check_manifest
from equipoise.data.decode_report import DecodeBudgetError, DecodeReport
from equipoise.data.manifest import Manifest
from equipoise.data.miniature import encode_video


@pytest.fixture
def manifest(tiny_root: Path, tmp_path: Path) -> Manifest:
    """24 clips of 8 frames that a test may damage."""
    shutil.copytree(tiny_root / "mini_ssv2", tmp_path / "set")
    return Manifest.read(tmp_path / "set" / "train.parquet")


def test_what_is_whole_passes(manifest: Manifest, tiny_root: Path, tmp_path: Path) -> None:
    stages: list[tuple[str, int, int]] = []
    report = check_manifest(manifest, workers=0, progress=lambda *stage: stages.append(stage))
    assert report.failures == []
    assert report.frames == 24 * 8
    assert report.size == sum(manifest.file(row).stat().st_size for row in range(24))
    assert stages[-1] == ("mini_ssv2/train", 24, 24)
    report.check(0.0)
    report.write(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["decoded"] == content["total"] == 24
    assert content["hash"] == manifest.hash
    assert content["clips_per_second"] == pytest.approx(24 / report.seconds, rel=0.01)
    stills = check_manifest(Manifest.read(tiny_root / "mini_in" / "test.parquet"), workers=0)
    assert (stills.total, stills.frames, stills.failures) == (20, 20, [])


def test_every_kind_of_fault_is_counted_and_named(manifest: Manifest, tmp_path: Path) -> None:
    files = [manifest.file(row) for row in range(6)]
    files[0].unlink()
    files[1].write_bytes(b"")
    shutil.copy(files[5], files[2])  # another clip, whole
    files[3].write_bytes(files[3].read_bytes()[:-40])
    # The manifest itself is of this one, so only decoding finds out.
    files[4].write_bytes(files[4].read_bytes()[:300])
    digests = manifest.sha256.copy()
    digests[[1, 4]] = ""
    damaged = Manifest.from_rows(
        manifest.name,
        manifest.split,
        manifest.root,
        manifest.classes,
        [
            {
                **{c: getattr(manifest, c)[row] for c in ("path", "label", "kind", "frames", "fps", "width", "height")},
                "sha256": digests[row],
            }
            for row in range(24)
        ],
    )
    report = check_manifest(damaged, workers=2)
    reasons = dict(report.failures)
    assert list(reasons) == manifest.path[:5].tolist(), "in the manifest's order"
    assert reasons[manifest.path[0]] == "no such file"
    assert "0 bytes" in reasons[manifest.path[1]]
    assert "has changed since the manifest was written" in reasons[manifest.path[2]]
    assert "has changed" in reasons[manifest.path[3]]
    assert report.faults == {"missing": 1, "undecodable": 2, "changed": 2}
    assert report.unhashed == 2
    with pytest.raises(DecodeBudgetError, match=r"5 of 24 files .* more than the budget of 1.00%"):
        report.check(0.01)
    report.check(5 / 24)
    report.write(tmp_path / "report.json")
    assert DecodeReport.read(tmp_path / "report.json").failures == report.failures


def test_other_frames_than_the_manifest_says(tmp_path: Path) -> None:
    clip = np.random.default_rng(0).integers(0, 255, (6, 32, 48, 3), dtype=np.uint8)
    (tmp_path / "a.mp4").write_bytes(encode_video(clip, 12))
    row = {"path": "a.mp4", "label": 0, "kind": "video", "fps": 12.0, "sha256": ""}
    for facts, sentence in (
        ({"frames": 9, "width": 48, "height": 32}, "it has 6 frames, the manifest says 9"),
        ({"frames": 6, "width": 64, "height": 32}, "its frames have another shape than the manifest's 64x32 px"),
    ):
        manifest = Manifest.from_rows("own", "train", tmp_path, ("x",), [{**row, **facts}])
        report = check_manifest(manifest, workers=0)
        assert report.failures == [("a.mp4", sentence)]
        assert report.faults == {"different": 1}


def test_a_long_clip_takes_little_memory(tmp_path: Path) -> None:
    """100 frames of 640x360 are 69 MB; a check of them never holds a fifth of that."""
    clip = np.zeros((100, 360, 640, 3), np.uint8)
    clip[:, :, :, 0] = np.arange(100)[:, None, None]
    (tmp_path / "a.mp4").write_bytes(encode_video(clip, 12))
    del clip
    facts = {"path": "a.mp4", "label": 0, "kind": "video", "fps": 12.0, "sha256": "", "width": 640, "height": 360}
    manifest = Manifest.from_rows("own", "train", tmp_path, ("x",), [{**facts, "frames": 100}])
    tracemalloc.start()
    try:
        report = check_manifest(manifest, workers=0)
        assert tracemalloc.get_traced_memory()[1] < 14e6
    finally:
        tracemalloc.stop()
    assert (report.failures, report.frames) == ([], 100)


def test_a_file_that_ends_the_process_is_named(deadly: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("decord")
    monkeypatch.setenv("EQUIPOISE_DECODER", "decord")
    clip = np.random.default_rng(0).integers(0, 255, (6, 64, 96, 3), dtype=np.uint8)
    (tmp_path / "good.mp4").write_bytes(encode_video(clip, 12))
    (tmp_path / "deadly.mp4").write_bytes(deadly)
    facts = {"label": 0, "kind": "video", "fps": 12.0, "sha256": "", "width": 96, "height": 64, "frames": 6}
    rows = [{**facts, "path": f"{name}.mp4"} for name in ("deadly", "good")]
    damaged = Manifest.from_rows("own", "train", tmp_path, ("x",), rows)
    report = check_manifest(damaged, workers=1)
    assert [path for path, _ in report.failures] == ["deadly.mp4"]
    assert "died" in dict(report.failures)["deadly.mp4"]
    assert report.decoder == "decord"
    with pytest.raises(ValueError, match=r"workers is 0; it must be at least 1, because EQUIPOISE_DECODER is 'decord'"):
        check_manifest(damaged, workers=0)


def test_a_single_worker_is_another_process(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("read in this process")

    monkeypatch.setattr("equipoise.data.check._look", forbidden)
    assert check_manifest(manifest, workers=1).failures == []
    with pytest.raises(AssertionError, match="read in this process"):
        check_manifest(manifest, workers=0)
