"""How frames lie in the Arrow files of a clip cache: as they are, or as JPEG images."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from equipoise.data.decode import Frames
from equipoise.data.errors import DataError

Storage = Literal["raw", "jpeg"]
Read = Literal["raw", "jpeg", "none"]  # ``none``: no cache, files are decoded at every reading
"""How frames lie in a cache: as they are, to be mapped; or as JPEG images, to be decoded."""

_JPEG_QUALITY = 90
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("label", pa.int64()),
        ("kind", pa.string()),
        ("path", pa.string()),
        ("frames", pa.int64()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("pixels", pa.large_binary()),
        ("ends", pa.list_(pa.int64())),  # of each JPEG image in `pixels`; nothing where frames are raw
    ]
)


SHAPE = ("frames", "height", "width")
DAMAGE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, pa.ArrowException)
"""What reading a file raises that is not what was written."""


class ShardError(DataError, ValueError):
    """An Arrow file of a cache that is not what was written."""


def jpeg(frame: Frames) -> bytes:
    """A frame as a JPEG image, chroma at half the resolution as in the videos themselves."""
    target = io.BytesIO()
    Image.fromarray(frame).save(target, "JPEG", quality=_JPEG_QUALITY, subsampling="4:2:0")
    return target.getvalue()


def stored(frames: Frames, storage: Storage) -> tuple[Any, list[int]]:
    """What is written of a clip: its bytes, and where each JPEG image in them ends."""
    if storage == "raw":
        return np.ascontiguousarray(frames).data.cast("B"), []
    images = [jpeg(frame) for frame in frames]
    return b"".join(images), list(itertools.accumulate(map(len, images)))


def from_jpeg(image: NDArray[np.uint8]) -> Frames:
    """A JPEG image as ``[H, W, 3]``. torchvision's decoder takes two thirds of Pillow's time, and frees the lock."""
    import torch  # late: processes that build a cache do without it
    from torchvision.io import ImageReadMode, decode_jpeg

    pixels = decode_jpeg(torch.from_numpy(image.copy()), mode=ImageReadMode.RGB)
    frame: Frames = pixels.permute(1, 2, 0).numpy()
    return frame


def read_shard(path: Path) -> tuple[dict[str, list[Any]], list[NDArray[np.uint8]]]:
    """Columns of a shard but for its pixels, and one flat uint8 view of the file's pixels per clip.

    Raises:
        ShardError: If it is not what was written; Arrow's own errors are ``ValueError`` too.
        OSError: If it cannot be read.
    """
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names if name != "pixels"}
    pixels: list[NDArray[np.uint8]] = []
    reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
    if reader.schema != SCHEMA:
        raise ShardError("it has other columns")
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        batch.validate(full=True)
        for name, values in columns.items():
            values.extend(batch.column(name).to_pylist())
        pixels.extend(views(batch.column("pixels")))
    for at, (sizes, flat) in enumerate(zip(zip(*(columns[n] for n in SHAPE), strict=True), pixels, strict=True)):
        expected = columns["ends"][at][-1] if columns["ends"][at] else 3 * int(np.prod(sizes))
        if len(flat) != expected:
            raise ShardError(f"clip {columns['path'][at]} has {len(flat)} bytes, expected {expected}")
    return columns, pixels


def views(pixels: pa.LargeBinaryArray) -> list[NDArray[np.uint8]]:
    """One flat uint8 view per value of an Arrow binary array."""
    _, offsets_buffer, values = pixels.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int64)[pixels.offset : pixels.offset + len(pixels) + 1]
    return [np.frombuffer(values, np.uint8, int(end - start), int(start)) for start, end in itertools.pairwise(offsets)]
