from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from equipoise.data import decode as module
from equipoise.data._scenes import SCENES
from equipoise.data.decode import (
    DecodeBudgetError,
    DecodeError,
    DecodeReport,
    decode,
    decoder_name,
    uniform_indices,
)
from equipoise.data.miniature import encode_video


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return SCENES["mini_ssv2"].render("train", 4, seed=1, size=64, frames=16)[0]


@pytest.fixture
def video(clip: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode_video(clip, 12))
    return path


@pytest.fixture(params=["decord", "pyav"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both decoders, whichever this machine would choose."""
    if request.param == "decord":
        pytest.importorskip("decord")
    name = str(request.param)
    monkeypatch.setattr(module, "decoder_name", lambda: name)
    return name


def test_decord_is_used_where_it_is_installed() -> None:
    pytest.importorskip("decord")
    assert decoder_name() == "decord"


def test_frames_come_back_within_codec_tolerance(decoder: str, clip: np.ndarray, video: Path) -> None:
    decoded = decode(video, "video")
    assert decoded.shape == clip.shape == (16, 64, 64, 3)
    assert decoded.dtype == np.uint8
    error = np.abs(decoded.astype(int) - clip.astype(int)).mean(axis=(1, 2, 3))
    assert error.max() < 4  # 4:2:0 chroma and quantisation
    swapped = np.abs(decoded[::-1].astype(int) - clip.astype(int)).mean()
    assert swapped > 2 * error.mean()  # frames in order, not merely similar


def test_chosen_frames_equal_those_of_the_whole(decoder: str, video: Path) -> None:
    whole = decode(video, "video")
    for chosen in ([15], [3, 0, 9], [7, 7, 8]):
        np.testing.assert_array_equal(decode(video, "video", frame_indices=chosen), whole[chosen])
    spread = decode(video, "video", frame_indices=lambda available: uniform_indices(available, 4))
    np.testing.assert_array_equal(spread, whole[[2, 6, 10, 14]])


def test_both_decoders_agree(video: Path) -> None:
    pytest.importorskip("decord")
    np.testing.assert_array_equal(module._decode_decord(video, None), module._decode_pyav(video, None))


def test_a_frame_beyond_the_end(decoder: str, video: Path) -> None:
    with pytest.raises(DecodeError, match="frame 16 was asked for, the file has 16 frames"):
        decode(video, "video", frame_indices=[0, 16])


@pytest.mark.parametrize("damage", ["zero bytes", "garbage", "cut off", "overwritten"])
def test_damaged_videos_name_file_and_reason(decoder: str, video: Path, damage: str) -> None:
    content = video.read_bytes()
    rng = np.random.default_rng(0)
    half = len(content) // 2
    video.write_bytes(
        {
            "zero bytes": b"",
            "garbage": rng.bytes(4000),
            "cut off": content[:half],
            "overwritten": content[:500] + rng.bytes(4000) + content[4500:],
        }[damage]
    )
    with pytest.raises(DecodeError) as caught:
        decode(video, "video")
    assert caught.value.path == str(video)
    assert caught.value.reason
    assert "\n" not in str(caught.value)


def test_missing_file_and_wrong_kind(tmp_path: Path, video: Path) -> None:
    with pytest.raises(DecodeError, match="no such file"):
        decode(tmp_path / "none.mp4", "video")
    with pytest.raises(DecodeError, match="cannot identify image file"):
        decode(video, "image")
    with pytest.raises(ValueError, match="kind is 'film'"):
        decode(video, "film")


def test_images_are_one_frame(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", "image"), pixels[None])
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(decode(tmp_path / "grey.png", "image")[0, ..., 2], pixels[..., 0])
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DecodeError, match="truncated"):
        decode(tmp_path / "cut.png", "image")


def test_uniform_indices_are_middles_of_segments() -> None:
    for available in (1, 2, 7, 16, 99):
        for count in (1, 3, 8, 16):
            expected = [int((i + 0.5) * available / count) for i in range(count)]
            assert uniform_indices(available, count).tolist() == expected
    with pytest.raises(ValueError, match="at least one frame"):
        uniform_indices(0, 4)


def test_report_budget_and_file(tmp_path: Path) -> None:
    report = DecodeReport(200, [(f"/x/{n}.mp4", "damaged") for n in range(4)])
    report.check(0.02)  # exactly the budget
    report.write(tmp_path / "report.json")
    with pytest.raises(DecodeBudgetError) as caught:
        report.check(0.015)
    message = str(caught.value)
    assert message.startswith("4 of 200 files could not be decoded, more than the budget of 1.50%: /x/0.mp4 (damaged)")
    assert "and 1 more" in message
    assert str(tmp_path / "report.json") in message
    assert json.loads((tmp_path / "report.json").read_text())["failed"] == 4
    assert DecodeReport.read(tmp_path / "report.json").failures == report.failures
    with pytest.raises(ValueError, match="it is a share"):
        report.check(1.5)
