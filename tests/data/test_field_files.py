"""Videos and stills as telephones, cutters and cameras leave them: real files, right values."""

from __future__ import annotations

import json
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from equipoise.data.decode import DecodeError, decode, image_facts, video_facts
from equipoise.data.importers import ReleaseError, import_release

WIDTH, HEIGHT = 96, 64


def picture(moment: float) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A ramp to the right in red, downwards in green, and a white square on its way."""
    found = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    found[..., 0] = np.linspace(0, 255, WIDTH)
    found[..., 1] = np.linspace(0, 255, HEIGHT)[:, None]
    x = int(moment * (WIDTH - 8))
    found[HEIGHT // 4 : HEIGHT // 4 + 8, x : x + 8] = 255
    return found


Options = dict[str, str]


def film(
    path: Path, frames: int = 36, codec: str = "libx264", options: Options | None = None, mux: Options | None = None
) -> Path:
    with av.open(str(path), "w", options=mux or {}) as container:
        stream = container.add_stream(codec, rate=12)
        stream.width, stream.height, stream.pix_fmt, stream.options = WIDTH, HEIGHT, "yuv420p", options or {}
        for t in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(t / (frames - 1)), format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, 12)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def copied(source: Path, target: Path, first: int) -> Path:
    """Packets from number ``first`` on, as a tool cuts that does not encode anew."""
    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        stream = after.add_stream_from_template(before.streams.video[0])
        packets = [p for p in before.demux(before.streams.video[0]) if p.dts is not None][first:]
        begin = min(p.pts for p in packets if p.pts is not None)
        for packet in packets:
            assert packet.pts is not None
            assert packet.dts is not None
            packet.pts, packet.dts, packet.stream = packet.pts - begin, packet.dts - begin, stream
            after.mux(packet)
    return target


def turned(source: Path, target: Path, matrix: tuple[int, ...]) -> Path:
    """The film with another matrix in its header, as a telephone writes one."""
    content = bytearray(source.read_bytes())
    usual = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    at = content.index(usual, content.index(b"tkhd"))
    content[at : at + 36] = struct.pack(">9i", *matrix[:2], 0, *matrix[2:], 0, 0, 0, 1 << 30)
    target.write_bytes(content)
    return target


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 65536, -65536, 0), -1), ((-65536, 0, 0, -65536), 2), ((0, -65536, 65536, 0), 1), ((65536, 0, 0, 65536), 0)],
)
def test_a_film_is_seen_as_it_was_held(
    matrix: tuple[int, ...], turns: int, decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIPOISE_DECODER", decoder)
    plain = film(tmp_path / "plain.mp4", 6)
    held = turned(plain, tmp_path / "held.mp4", matrix)
    wanted, found = decode(plain, "video"), decode(held, "video")
    assert found.shape == np.rot90(wanted, turns, (1, 2)).shape
    assert np.abs(found.astype(int) - np.rot90(wanted, turns, (1, 2))).mean() < 3
    facts = video_facts(held)
    assert (facts["frames"], facts["height"], facts["width"]) == found.shape[:3]


def test_another_angle_is_refused(tmp_path: Path) -> None:
    tilted = turned(film(tmp_path / "p.mp4", 4), tmp_path / "t.mp4", (46341, 46341, -46341, 46341))
    with pytest.raises(DecodeError, match=r"it is to be shown turned by -?45 degrees; quarter turns are read"):
        decode(tilted, "video")


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("codec", "options", "first"),
    [
        ("libx264", {"x264-params": "keyint=12:min-keyint=12:scenecut=0:bframes=2"}, 5),
        ("libx265", {"x265-params": "keyint=12:min-keyint=12:open-gop=1:bframes=3:scenecut=0:log-level=none"}, 11),
    ],
)
def test_a_cut_film_has_the_frames_that_decoding_gives(
    codec: str, options: dict[str, str], first: int, ending: str, tmp_path: Path
) -> None:
    cut = copied(film(tmp_path / "whole.mp4", codec=codec, options=options), tmp_path / f"cut.{ending}", first)
    assert video_facts(cut)["frames"] == len(decode(cut, "video")) > 0


@pytest.mark.parametrize("ending", ["webm", "mkv"])
@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
def test_a_matroska_file_of_which_the_end_is_missing_is_cut_off(share: float, ending: str, tmp_path: Path) -> None:
    options = {"g": "12", "deadline": "realtime", "cpu-used": "8"}
    whole = film(tmp_path / f"s.{ending}", 60, "libvpx-vp9", options, {"cluster_time_limit": "500"})
    assert video_facts(whole)["frames"] == len(decode(whole, "video")) == 60
    content = whole.read_bytes()
    whole.write_bytes(content[: int(len(content) * share)])
    for read in (video_facts, lambda path: decode(path, "video")):
        with pytest.raises(DecodeError, match=r"it is cut off: its header says 5\.0 s, \d+ of about \d+ frames"):
            read(whole)


def test_a_cover_picture_is_no_film(tmp_path: Path) -> None:
    """A film with a picture attached to it is the film; music with one is none."""
    plain = film(tmp_path / "plain.mp4", 8)
    Image.fromarray(picture(0.5)).save(tmp_path / "cover.png")
    for name, with_film in (("both.mp4", True), ("music.m4a", False)):
        with av.open(str(tmp_path / name), "w", format="mp4") as target:
            cover = av.open(str(tmp_path / "cover.png"))
            attached = target.add_stream_from_template(cover.streams.video[0])
            attached.disposition = av.stream.Disposition.attached_pic
            sound = target.add_stream("aac", rate=8000)
            moving = None
            source = av.open(str(plain))
            if with_film:
                moving = target.add_stream_from_template(source.streams.video[0])
            packet = next(p for p in cover.demux() if p.size)
            packet.stream = attached
            target.mux(packet)
            for p in source.demux() if moving is not None else ():
                if p.dts is not None:
                    p.stream = moving
                    target.mux(p)
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            tone.sample_rate = 8000
            target.mux(sound.encode(tone))
            target.mux(sound.encode(None))
    assert len(decode(tmp_path / "both.mp4", "video")) == video_facts(tmp_path / "both.mp4")["frames"] == 8
    with pytest.raises(DecodeError, match="no video stream but a picture attached to it"):
        video_facts(tmp_path / "music.m4a")


STEPS = np.linspace(0, 65535, WIDTH).round().astype(np.uint16)


def test_a_still_of_sixteen_bits_is_scaled_and_not_cut_off(tmp_path: Path) -> None:
    deep = np.broadcast_to(STEPS, (HEIGHT, WIDTH))
    for ending in ("png", "tif"):
        Image.fromarray(np.ascontiguousarray(deep)).save(tmp_path / f"deep.{ending}")
        found = decode(tmp_path / f"deep.{ending}", "image")[0]
        assert np.abs(found - (deep[..., None] / 257)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_a_still_of_any_colour_model_looks_as_it_is_shown(mode: str, tmp_path: Path) -> None:
    grey = np.broadcast_to(np.linspace(0, 255, WIDTH).round().astype(np.uint8)[:, None], (HEIGHT, WIDTH, 3))
    ending = "jpg" if mode == "CMYK" else "png"
    Image.fromarray(np.ascontiguousarray(grey)).convert(mode).save(tmp_path / f"s.{ending}")
    found = decode(tmp_path / f"s.{ending}", "image")[0].astype(int)
    coarse = found.mean((0, 2)).reshape(12, -1).mean(1)  # dithering and palettes are right on the average
    assert np.abs(coarse - grey.mean((0, 2)).reshape(12, -1).mean(1)).max() < 12


def test_numbers_without_a_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "f.tif")
    with pytest.raises(DecodeError, match="its pixels are numbers of mode F, whose range is not known"):
        decode(tmp_path / "f.tif", "image")


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_a_still_is_seen_as_its_camera_was_held(orientation: int, turns: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture(0.2)).save(tmp_path / "a.png", exif=exif)
    found = decode(tmp_path / "a.png", "image")[0]
    assert np.array_equal(found, np.rot90(picture(0.2), turns))
    facts = image_facts(tmp_path / "a.png")
    assert (facts["height"], facts["width"]) == found.shape[:2]


def ucf(root: Path, file: str, lists: str) -> Path:
    """A small UCF-101 whose files of one class are spelled ``file`` where its lists say ``lists``."""
    (root / "ucfTrainTestlist").mkdir(parents=True)
    (root / "ucfTrainTestlist" / "classInd.txt").write_text("1 HandstandPushups\n2 YoYo\n")
    for split, group in (("train", "08"), ("test", "01")):
        rows = []
        for number, (folder, name) in enumerate((("HandstandPushups", lists), ("YoYo", "YoYo")), 1):
            rows.append(f"{folder}/v_{name}_g{group}_c01.avi" + (f" {number}" if split == "train" else ""))
            there = root / "UCF-101" / folder
            there.mkdir(parents=True, exist_ok=True)
            film(there / f"v_{file if number == 1 else name}_g{group}_c01.avi", 4, "mpeg4")
        (root / "ucfTrainTestlist" / f"{split}list01.txt").write_text("\r\n".join(rows) + "\r\n")
    return root


def test_a_release_in_other_letters_is_named_as_such(tmp_path: Path) -> None:
    root = ucf(tmp_path / "ucf", "HandstandPushups", "HandStandPushups")
    found = import_release("ucf101", root, tmp_path / "out", workers=0, allow_incomplete=True)
    told = "; ".join(found.differences)
    assert "1 of its classes has no clip at all: 'HandstandPushups'" in told
    assert told.count("same name in other letters: 1 of 1") == 2
    path, reason = found.failures["train"][0]
    assert path.endswith("v_HandStandPushups_g08_c01.avi")
    assert reason.endswith("there is UCF-101/HandstandPushups/v_HandstandPushups_g08_c01.avi")
    whole = ucf(tmp_path / "whole", "HandStandPushups", "HandStandPushups")
    found = import_release("ucf101", whole, tmp_path / "out2", workers=0, allow_incomplete=True)
    assert not any("other letters" in one or "no clip at all" in one for one in found.differences)


def test_a_release_with_another_ending_is_named_as_such(tmp_path: Path) -> None:
    root = tmp_path / "ss"
    (root / "labels").mkdir(parents=True)
    (root / "20bn-something-something-v2").mkdir()
    names = ("Holding something", "Opening something")
    (root / "labels" / "labels.json").write_text(json.dumps({name: str(at) for at, name in enumerate(names)}))
    for split, numbers in (("train", (1, 2)), ("validation", (3, 4))):
        rows = [{"id": str(n), "template": names[n % 2].replace("something", "[something]")} for n in numbers]
        (root / "labels" / f"{split}.json").write_text(json.dumps(rows))
        for number in numbers:
            film(root / "20bn-something-something-v2" / f"{number}.mp4", 4)
    with pytest.raises(ReleaseError, match=r"Same name with another ending \(\.mp4\): 2 of 2, such as .*1\.mp4 for"):
        import_release("ssv2", root, tmp_path / "out", workers=0, allow_incomplete=True)
