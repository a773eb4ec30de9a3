from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from equipoise.data.cache import ClipCache
from equipoise.data.manifest import Manifest
from equipoise.data.miniature import Sizes, build

TINY = Sizes(
    pixels=32,
    frames=8,
    train_clips=24,
    test_clips=12,
    select_clips=6,
    train_stills=40,
    test_stills=20,
    select_stills=10,
)


@pytest.fixture(scope="session")
def tiny_sizes() -> Sizes:
    return TINY


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny") / "miniature"
    build(root, seed=7, workers=1, sizes=TINY)
    return root


@pytest.fixture(scope="session")
def tiny(tiny_root: Path) -> dict[str, dict[str, Manifest]]:
    """The four sets, a few clips each, 32 px and 8 frames."""
    return build(tiny_root, seed=7, workers=1, sizes=TINY)


@pytest.fixture(scope="session")
def tiny_caches(tiny: dict[str, dict[str, Manifest]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, ClipCache]:
    root = tmp_path_factory.mktemp("caches")
    return {name: ClipCache.open(parts["train"], root, size=32, workers=0) for name, parts in tiny.items()}


def moving(frames: int, height: int, width: int) -> np.ndarray:
    """A picture that slides two pixels right and one down a frame, uint8 ``[T, H, W, 3]``."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    size = (width + 2 * frames, height + frames)
    large = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    return np.stack([large[t : t + height, 2 * t : 2 * t + width] for t in range(frames)])


def _encode(
    *,
    frames: int = 20,
    width: int = 96,
    height: int = 64,
    container: str = "mp4",
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    title: str | None = None,
    **options: str,
) -> bytes:
    """A video file, always the same bytes; ``times`` in ms, 12 frames a second if not given; more options: FFmpeg's."""
    options = {"fflags": "+bitexact"} | options  # Matroska's identifiers are drawn at random otherwise
    content = io.BytesIO()
    with av.open(content, "w", format=container, options=options) as file:
        if title is not None:
            file.metadata["title"] = title
        stream = file.add_stream(codec, rate=12)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = width, height, pixels, 1
        if codec == "libx264":
            # Either, left on, reads what happens to lie in memory: the bytes then differ from time to time.
            fixed = "no-mbtree=1:b-adapt=0"
            stream.options = {"preset": "veryfast", "g": "8", "bf": "2", "x264-params": fixed}
        if codec == "libvpx-vp9":
            stream.options = {"deadline": "realtime", "cpu-used": "8"}
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(moving(frames, height, width)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = round(1000 * number / 12) if times is None else times[number]
            frame.time_base = Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return content.getvalue()


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Makes video files: ``encode(container="avi", codec="mpeg4", frames=20, width=96, height=64)``."""
    return _encode


@pytest.fixture(scope="session")
def deadly() -> bytes:
    """A video whose table of times speaks of two thousand million frames: decord takes memory for them, and aborts."""
    content = bytearray(_encode())
    at = content.index(b"stts") + 12
    content[at : at + 4] = struct.pack(">I", 2**31 - 1)
    return bytes(content)
