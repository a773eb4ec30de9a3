"""From a file to uint8 frames, and a report of the files that failed.

PyAV decodes; decord does where ``EQUIPOISE_DECODER=decord`` asks for it. Both give the same frames; bench/data.md says
what each costs and which files end a process that reads them with decord. A decoder is opened inside the call, so that
no handle is shared between processes. Nothing is retried, skipped or replaced here: a file that fails raises
`DecodeError`. Not every damage fails: codecs decode some of it to other pictures, which only a manifest's sha256 tells.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import stat
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from equipoise.data._files import LostFileError, handling
from equipoise.data.errors import ArgumentError, DataError
from equipoise.data.pieces import piece_of, source_of

DECODERS = ("pyav", "decord")
_VARIABLE = "EQUIPOISE_DECODER"
_MOST_PIXELS = 2**26  # of a frame: twice 8K video; one frame then takes 0.2 GB
# What Pillow raises on damaged files, depending on the format and the place of the damage.
_IMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    OverflowError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)

Frames = NDArray[np.uint8]
FrameChoice = Sequence[int] | NDArray[np.int64] | Callable[[int], NDArray[np.int64]] | None
"""Which frames to return: their numbers, a function from the number of frames in the file to them, or None for all."""


class DecodeError(DataError, ValueError):
    """A file cannot be decoded.

    Attributes:
        path: The file.
        reason: One line that says why.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path = str(path)
        self.reason = " ".join(reason.split())[:200]
        super().__init__(f"{self.path} cannot be decoded: {self.reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (DecodeError, (self.path, self.reason))


def decoder_name() -> str:
    """The video decoder in use: ``pyav``, or what the environment's ``EQUIPOISE_DECODER`` names.

    Raises:
        ValueError: If it names an unknown decoder, or one that is not installed.
    """
    name = os.environ.get(_VARIABLE) or DECODERS[0]
    if name not in DECODERS:
        raise ArgumentError(f"{_VARIABLE} is {name!r}; use one of {', '.join(DECODERS)}, or leave it unset.")
    if name == "decord" and importlib.util.find_spec("decord") is None:
        raise ArgumentError(f"{_VARIABLE} is 'decord', which is not installed here; install it, or leave it unset.")
    return name


def check_workers(workers: int) -> None:
    """Refuses a number of decoding processes that cannot be.

    Args:
        workers: Processes; 0 for none, which decord does not allow: some files end the process that reads them with it.

    Raises:
        ValueError: If there are fewer than the decoder in use needs.
    """
    least, why = (1, f", because {_VARIABLE} is 'decord'") if decoder_name() == "decord" else (0, "")
    if workers < least:
        raise ArgumentError(f"workers is {workers}; it must be at least {least}{why}.")


def uniform_indices(available: int, count: int) -> NDArray[np.int64]:
    """``count`` frame numbers spread uniformly over ``available`` frames: the middles of equal segments.

    With fewer frames than asked for, frames repeat. Shape ``[count]``, ascending.
    """
    if available < 1 or count < 1:
        raise ArgumentError(f"uniform_indices needs at least one frame and one index, got {available} and {count}.")
    return ((2 * np.arange(count, dtype=np.int64) + 1) * available) // (2 * count)


def scaled_shape(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height, px, after scaling the shorter side to ``short_side``."""
    scale = short_side / min(width, height)
    return max(short_side, round(width * scale)), max(short_side, round(height * scale))


def _chosen(path: Path, choice: FrameChoice, available: int) -> NDArray[np.int64]:
    if available < 1:
        raise DecodeError(path, "the file has no frames")
    if choice is None:
        return np.arange(available, dtype=np.int64)
    wanted = np.asarray(choice(available) if callable(choice) else choice, dtype=np.int64)
    if wanted.ndim != 1 or len(wanted) == 0:
        raise ArgumentError(f"frame_indices must name at least one frame, got shape {wanted.shape}.")
    if wanted.min() < 0 or wanted.max() >= available:
        raise DecodeError(path, f"frame {int(wanted.max())} was asked for, the file has {available} frames")
    return wanted


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > _MOST_PIXELS:
        raise DecodeError(
            path, f"its frames of {width}x{height} px are larger than the {_MOST_PIXELS:,} px that are read"
        )


def _scaler(width: int, height: int, short_side: int | None) -> Callable[[Any], Frames]:
    """From an ``av.VideoFrame`` of a size to RGB ``[h, w, 3]``, scaled (antialiased bilinear) on the way.

    Colours are converted at full size, so that what comes out does not depend on how the codec stores them; scaling
    plane by plane takes less time than scaling interleaved pixels.
    """
    from av.video.reformatter import VideoReformatter

    # One for each step and all frames: they keep what they have worked out for a size.
    whole, smaller, joined = VideoReformatter(), VideoReformatter(), VideoReformatter()
    target = (width, height) if short_side is None else scaled_shape(width, height, short_side)

    def scaled(frame: Any) -> Frames:
        frame = whole.reformat(frame, format="rgb24", threads=1)
        if target != (width, height):
            frame = smaller.reformat(frame, *target, format="gbrp", interpolation="BILINEAR", threads=1)
            frame = joined.reformat(frame, format="rgb24", threads=1)
        pixels: Frames = frame.to_ndarray()
        return pixels

    return scaled


def _decode_decord(path: Path, choice: FrameChoice, short_side: int | None = None) -> Frames:
    import av
    import decord

    decord.logging.set_level(decord.logging.FATAL)  # what it would print is in the DecodeError
    try:
        reader = decord.VideoReader(_source(path), ctx=decord.cpu(0), num_threads=1)
    except (RuntimeError, decord.DECORDError) as error:
        raise DecodeError(path, "it cannot be opened as a video (damaged, cut off, or another format)") from error
    wanted = _chosen(path, choice, len(reader))
    # In order from the first: where it jumps in a file with frames that refer to later ones, it returns wrong frames.
    kept: dict[int, Frames] = {}
    asked = set(wanted.tolist())
    try:
        for number in range(int(wanted.max()) + 1):
            frame = reader.next()
            if number in asked:
                kept[number] = frame.asnumpy()
    except (StopIteration, decord.DECORDError) as error:
        raise DecodeError(path, _decord_reason(str(error))) from error
    frames: Frames = np.stack([kept[number] for number in wanted.tolist()])
    if short_side is None:
        return frames
    scaled = _scaler(frames.shape[2], frames.shape[1], short_side)
    return np.stack([scaled(av.VideoFrame.from_ndarray(frame, format="rgb24")) for frame in frames])


def _decord_reason(message: str) -> str:
    """The telling line of a decord error: without its source position and stack trace."""
    line = message.strip().splitlines()[0] if message.strip() else "decord failed without a message"
    return line.rsplit("] ", maxsplit=1)[-1]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A video's container and stream in PyAV; what goes wrong while they are open becomes a `DecodeError`."""
    import av
    from av.stream import Disposition

    try:
        # Titles and comments in another encoding than UTF-8 are no reason to refuse a video.
        with av.open(_source(path), metadata_errors="ignore") as container:
            if container.format.name.endswith("_pipe"):  # how FFmpeg calls single pictures
                raise DecodeError(path, f"it is a still image ({container.format.name}), not a video")
            films = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not films:  # music has its cover as one
                cover = " but a picture attached to it" if container.streams.video else ""
                raise DecodeError(path, f"the file has no video stream{cover}")
            stream = next((s for s in films if s.disposition & Disposition.default), films[0])
            if stream.codec_context is None:
                raise DecodeError(path, "no decoder knows its format")
            stream.thread_count, stream.thread_type = 1, "NONE"
            yield container, stream
    except DecodeError:
        raise
    except (av.FFmpegError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) == errno.EIO:  # FFmpeg's word for both
            reason = f"it is cut off, or its disk cannot be read ({reason})"
        raise DecodeError(path, reason) from error
    except MemoryError as error:
        raise DecodeError(path, "its frames do not fit into memory") from error


def _packets(path: Path) -> int:
    """How many frames a video should have: its packets, counted without decoding them."""
    shown = found = 0
    end = 0.0
    with _opened(path) as (container, stream):
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream is stream or packet.stream_index == stream.index:
                found += packet.dts is not None or packet.size > 0  # the last one only marks the end
                shown += packet.size > 0 and not packet.is_discard
        # The table of an MP4 file counts its packets, and can lie before them.
        if "mp4" in container.format.name and stream.frames > found:
            raise DecodeError(
                path, f"of its {stream.frames} frames {found} are there: it is cut off, or begins without a key frame"
            )
        stated = (container.duration or 0) / 1e6 + max(container.start_time or 0, 0) / 1e6
        # The header of a Matroska file has its duration, which may be rounded, or be longer by what a codec delays.
        if "matroska" in container.format.name and end < stated - max(SLACK_S, SLACK * stated):
            about = round(found * stated / end) if end else 0
            raise DecodeError(
                path, f"it is cut off: its header says {stated:.1f} s, {found} of about {about} frames are there"
            )
    return shown


def _read(path: Path, wanted: NDArray[np.int64], short_side: int | None) -> tuple[Frames, int]:
    """Frames of these numbers, and how many frames the video really has. Those it has not are left black."""
    places: defaultdict[int, list[int]] = defaultdict(list)
    for place, number in enumerate(wanted.tolist()):
        places[number].append(place)
    frames: Frames = np.empty((0, 0, 0, 3), np.uint8)
    number = -1
    with _opened(path) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if frame.is_corrupt:
                raise DecodeError(path, f"frame {number} is damaged")
            if number == 0:
                width, height = frame.width, frame.height
                _check_size(path, width, height)
                scaled, turns = _scaler(width, height, short_side), _turns(path, frame)
            elif (frame.width, frame.height) != (width, height):
                raise DecodeError(
                    path, f"frame {number} is {frame.width}x{frame.height} px, the first was {width}x{height}"
                )
            if number in places:
                pixels = np.rot90(scaled(frame), turns)
                if not len(frames):
                    frames = np.zeros((len(wanted), *pixels.shape), np.uint8)
                frames[places[number]] = pixels
    return frames, number + 1


def _turns(path: Path, frame: Any) -> int:
    """Quarter turns, counterclockwise, by which a frame is to be shown: a telephone's film says how it was held.

    Raises:
        DecodeError: it is to be shown at another angle.
    """
    turns, rest = divmod(frame.rotation, 90)
    if rest:
        raise DecodeError(path, f"it is to be shown turned by {frame.rotation} degrees; quarter turns are read")
    return int(turns) % 4


def _decode_pyav(path: Path, choice: FrameChoice, short_side: int | None = None) -> Frames:
    stated = _packets(path)
    wanted = _chosen(path, choice, stated)
    frames, available = _read(path, wanted, short_side)
    if available != stated:  # some codecs spread frames over packets, or put two into one; a cut file has fewer
        wanted = _chosen(path, choice, available)
        frames, _ = _read(path, wanted, short_side)
    return frames


def _colours(path: Path, picture: Image.Image) -> Image.Image:
    """A picture of any bit depth and colour model in RGB of eight bits, light as it is shown.

    Raises:
        DecodeError: its values have no known range.
    """
    if picture.mode.startswith("I;16"):  # sixteen bits, which Pillow cuts off at 255
        return Image.fromarray((np.asarray(picture, np.uint16) // 257).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        values = np.asarray(picture)
        if picture.mode == "I" and values.min() >= 0 and values.max() <= 65535:  # sixteen bits, as some formats open
            return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
        raise DecodeError(
            path, f"its pixels are numbers of mode {picture.mode}, whose range is not known: save it with 8 bits"
        )
    return picture.convert("RGB")


def _decode_image(path: Path, choice: FrameChoice, short_side: int | None = None) -> Frames:
    try:
        with Image.open(_source(path)) as picture:
            _check_size(path, *picture.size)
            rgb = _colours(path, ImageOps.exif_transpose(picture))
    except DecodeError:
        raise
    except _IMAGE_ERRORS as error:
        raise DecodeError(path, str(error) or type(error).__name__) from error
    if short_side is not None:
        rgb = rgb.resize(scaled_shape(*rgb.size, short_side), Image.Resampling.BILINEAR)
    frames: Frames = np.asarray(rgb)[None]
    return frames[_chosen(path, choice, 1)]


def image_facts(path: Path) -> dict[str, Any]:
    """Columns of a manifest that the header of an image gives: frames, fps, width and height.

    Raises:
        DecodeError: If it cannot be read as an image.
    """
    regular_file(path)
    try:
        with Image.open(_source(path)) as picture:
            turned = picture.getexif().get(ORIENTATION, 1) != 1
            width, height = ImageOps.exif_transpose(picture).size if turned else picture.size
    except _IMAGE_ERRORS as error:
        raise DecodeError(path, str(error) or type(error).__name__) from error
    _check_size(path, width, height)
    return {"frames": 1, "fps": 0.0, "width": width, "height": height}


ORIENTATION = 0x0112  # of a still: how its camera was held
# Of a duration in a header, what may be missing at the end: a share, and seconds.
SLACK, SLACK_S = 0.02, 0.2


def video_facts(path: Path) -> dict[str, Any]:
    """Columns of a manifest that a video gives, as it is decoded: frames, fps, width and height.

    Raises:
        DecodeError: If it cannot be read as a video, or has no frames.
    """
    regular_file(path)
    with handled(path):
        _packets(path)  # whether the file is whole
        with _opened(path) as (container, stream):
            rate = float(stream.average_rate or 0)
            decoded = container.decode(stream)
            first = next(decoded, None)
            width, height = stream.width, stream.height
            if first is not None and _turns(path, first) % 2:
                width, height = height, width
            # Counted by decoding: of what was cut without encoding anew, not every packet shows a frame.
            frames = (first is not None) + sum(1 for _ in decoded)
    if frames < 1:
        raise DecodeError(path, "the file has no frames")
    if width < 1 or height < 1:
        raise DecodeError(path, f"its frames are {width}x{height} px")
    _check_size(path, width, height)
    return {"frames": frames, "fps": rate, "width": width, "height": height}


@contextlib.contextmanager
def handled(path: Path) -> Iterator[None]:
    """`handling` a file; one that a process died on is a file that cannot be decoded."""
    try:
        with handling(path):
            yield
    except LostFileError as error:
        raise DecodeError(path, str(error)) from None


def regular_file(path: Path, may_be_empty: bool = False) -> os.stat_result:
    """Status of a file; refuses what is none, or has no content.

    Raises:
        DecodeError: If there is no such file, it is a folder, a pipe (reading one waits for ever), or empty.
    """
    piece = piece_of(path)
    try:
        status = os.stat(path if piece is None else piece.file)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        missing = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR)
        raise DecodeError(path, "no such file" if missing else getattr(error, "strerror", str(error))) from None
    if stat.S_ISDIR(status.st_mode):
        raise DecodeError(path, "it is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError(path, "it is a device, a pipe or a socket, not a file")
    if (status.st_size if piece is None else piece.size) == 0 and not may_be_empty:
        raise DecodeError(path, "the file is empty (0 bytes)")
    if piece is not None and status.st_size < piece.start + piece.size:
        raise DecodeError(path, f"{piece.file.name} is cut off before its end")
    return status


def _source(path: Path) -> Any:
    """What a decoder opens."""
    try:
        return source_of(path)
    except OSError as error:
        raise DecodeError(path, f"it cannot be read: {error.strerror or error}") from error


def decode(path: Path | str, kind: str, *, frame_indices: FrameChoice = None, short_side: int | None = None) -> Frames:
    """Decodes a video or an image.

    Args:
        path: The file.
        kind: ``video`` or ``image``; an image has one frame.
        frame_indices: Which frames; None for all.
        short_side: Scale the shorter side of the frames to this, px (antialiased bilinear); None: as they are.

    Returns:
        uint8 RGB frames ``[T, H, W, 3]``.

    Raises:
        DecodeError: If the file is missing, empty, not what ``kind`` says, damaged, changing, larger than is read, or
            shorter than asked for.
        ValueError: If ``kind`` is neither, ``frame_indices`` names no frame, ``short_side`` is below 1, or the
            environment asks for a decoder that is not there.
    """
    path = Path(path)
    if kind not in ("video", "image"):
        raise ArgumentError(f"kind is {kind!r}; it must be 'video' or 'image'.")
    if short_side is not None and short_side < 1:
        raise ArgumentError(f"short_side is {short_side}; it must be at least 1.")
    before = regular_file(path)
    with handled(path):
        if kind == "image":
            frames = _decode_image(path, frame_indices, short_side)
        elif decoder_name() == "decord":
            frames = _decode_decord(path, frame_indices, short_side)
        else:
            frames = _decode_pyav(path, frame_indices, short_side)
    after = regular_file(path)
    if (before.st_size, before.st_mtime_ns, before.st_ino) != (after.st_size, after.st_mtime_ns, after.st_ino):
        raise DecodeError(path, "the file changed while it was read")
    return frames
