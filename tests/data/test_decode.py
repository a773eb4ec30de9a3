from __future__ import annotations

import importlib.util
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from equipoise.data import decode as module
from equipoise.data._scenes import SCENES
from equipoise.data.decode import DecodeError, decode, decoder_name, uniform_indices
from equipoise.data.decode_report import DecodeBudgetError, DecodeReport
from equipoise.data.miniature import encode_video

Encode = Callable[..., bytes]


@pytest.mark.parametrize(("decoder", "least"), [("pyav", 0), ("decord", 1)])
def test_decord_needs_a_process_of_its_own(decoder: str, least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "decoder_name", lambda: decoder)
    module.check_workers(least)
    with pytest.raises(ValueError, match=rf"workers is {least - 1}; it must be at least {least}"):
        module.check_workers(least - 1)


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


def test_pyav_decodes_unless_the_environment_asks_for_decord(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EQUIPOISE_DECODER", raising=False)
    assert decoder_name() == "pyav"
    monkeypatch.setenv("EQUIPOISE_DECODER", "ffmpeg")
    with pytest.raises(ValueError, match="EQUIPOISE_DECODER is 'ffmpeg'; use one of pyav, decord"):
        decoder_name()
    monkeypatch.setenv("EQUIPOISE_DECODER", "decord")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="'decord', which is not installed here"):
        decoder_name()
    monkeypatch.undo()
    pytest.importorskip("decord")
    monkeypatch.setenv("EQUIPOISE_DECODER", "decord")
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


@pytest.mark.parametrize(("codec", "container"), [("libx264", "matroska"), ("libvpx-vp9", "webm"), ("mpeg4", "avi")])
def test_both_decoders_agree_on_other_formats(codec: str, container: str, tmp_path: Path, encode: Encode) -> None:
    pytest.importorskip("decord")
    path = tmp_path / "clip"
    path.write_bytes(encode(container=container, codec=codec, frames=21))
    whole = module._decode_pyav(path, None)
    assert whole.shape == (21, 64, 96, 3)
    np.testing.assert_array_equal(module._decode_decord(path, None), whole)
    small, same = (f(path, [3, 20, 3], 32) for f in (module._decode_pyav, module._decode_decord))
    assert small.shape == same.shape == (3, 32, 48, 3)
    np.testing.assert_array_equal(small, same)
    np.testing.assert_array_equal(small[0], small[2])
    pillow = np.asarray(Image.fromarray(whole[20]).resize((48, 32), Image.Resampling.BILINEAR))
    error = np.abs(small[1].astype(int) - pillow)
    assert error.mean() < 1.5  # rounding at other places
    assert np.quantile(error, 0.98) <= 6  # and other weights at the edges


@pytest.mark.parametrize("size", [(48, 32), (16, 16), (2, 2), (130, 18), (66, 50)])
def test_any_frame_size_is_decoded(size: tuple[int, int], tmp_path: Path, encode: Encode) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode(width=size[0], height=size[1], frames=5))
    assert decode(path, "video").shape == (5, size[1], size[0], 3)


def test_scaling_while_decoding(decoder: str, video: Path, tmp_path: Path) -> None:
    whole = decode(video, "video").astype(float)
    small = decode(video, "video", short_side=32)
    assert small.shape == (16, 32, 32, 3)
    blocks = whole.reshape(16, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(small - blocks).mean() < 4
    Image.fromarray(whole[0, :, :32].astype(np.uint8)).save(tmp_path / "tall.png")
    assert decode(tmp_path / "tall.png", "image", short_side=16).shape == (1, 32, 16, 3)
    with pytest.raises(ValueError, match="short_side is 0"):
        decode(video, "video", short_side=0)


def test_every_frame_counts_once_where_packets_do_not(tmp_path: Path, encode: Encode) -> None:
    """Frames are numbered by what the decoder gives, also where they come late or at odd times."""
    times = np.cumsum(np.random.default_rng(0).integers(1, 400, 20))
    path = tmp_path / "uneven.mp4"
    path.write_bytes(encode(times=times.tolist()))
    regular = tmp_path / "even.mp4"
    regular.write_bytes(encode())
    found = decode(path, "video")
    assert found.shape == decode(regular, "video").shape
    np.testing.assert_array_equal(decode(path, "video", frame_indices=[19, 0]), found[[19, 0]])


def test_what_is_no_file_is_refused_in_words(tmp_path: Path, encode: Encode) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    jpeg = tmp_path / "picture.mp4"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(jpeg, "JPEG")
    for path, reason in (
        (tmp_path, "it is a folder"),
        (tmp_path / "pipe.mp4", "a pipe"),
        (tmp_path / "loop.mp4", "Too many levels of symbolic links"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "a\0b.mp4", "null"),
        (tmp_path / "gone" / "a.mp4", "no such file"),
        (jpeg, "a still image"),
    ):
        with pytest.raises(DecodeError, match=reason):
            decode(path, "video")
    with pytest.raises(DecodeError, match="it is a folder"):
        decode(tmp_path, "image")


def test_titles_in_another_encoding_do_not_matter(tmp_path: Path, encode: Encode) -> None:
    content = encode(title="a plain title")
    assert content.count(b"plain title") == 1
    path = tmp_path / "latin.mp4"
    path.write_bytes(content.replace(b"plain title", b"pl\xe4in t\xeftle"))
    assert decode(path, "video").shape == (20, 64, 96, 3)


def test_frames_larger_than_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encode: Encode) -> None:
    monkeypatch.setattr(module, "_MOST_PIXELS", 64 * 96 - 1)
    (tmp_path / "a.mp4").write_bytes(encode())
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tmp_path / "a.png")
    for name, kind in (("a.mp4", "video"), ("a.png", "image")):
        with pytest.raises(DecodeError, match="its frames of 96x64 px are larger than"):
            decode(tmp_path / name, kind)


def test_a_file_that_changes_while_it_is_read(video: Path) -> None:
    def choose(available: int) -> np.ndarray:
        content = video.read_bytes()
        thread = threading.Thread(target=video.write_bytes, args=(content + b"more",))
        thread.start()
        thread.join()
        return np.arange(available)

    with pytest.raises(DecodeError, match="the file changed while it was read"):
        decode(video, "video", frame_indices=choose)


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
