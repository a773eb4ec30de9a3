"""The miniature regime: four small labelled data sets, drawn offline from real pictures and written as real H.264.

``mini_ucf`` (12 actions with scene bias), ``mini_ssv2`` (6 pairs of time-reversed actions), ``mini_in`` (stills of 20
shapes) and ``mini_dive`` (16 rotations of one figure). They mirror what the four real data sets ask of an encoder; they
are not those data sets. See ``docs/miniature.md``.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from equipoise.data._art import Frame
from equipoise.data._files import locked, run_jobs, unfinished
from equipoise.data._scenes import SCENES
from equipoise.data.manifest import Manifest

Progress = Callable[[str, int, int], None]
"""Called with a stage such as ``mini_ucf/train``, items finished and items in all."""

NAMES = tuple(SCENES)
SPLITS = ("train", "test")

_VERSION = 1  # of what is drawn: another number, other pictures
_CHUNK = 50  # items per job
_SETTINGS = "miniature.json"
_X264 = "min-keyint=8:scenecut=0:psy=0:log-level=error"


class MiniatureError(ValueError):
    """The miniature data sets cannot be built where they were asked for, or with these settings."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the miniature data sets are.

    Args:
        pixels: Side of a frame; even (4:2:0 video), 16 to 96.
        frames: Frames per clip, 4 to 32.
        fps: Frames per second.
        train_clips: Clips per video set for training.
        test_clips: Clips per video set for testing.
        train_stills: Stills for training.
        test_stills: Stills for testing.

    Raises:
        MiniatureError: If a value is out of its range.
    """

    pixels: int = 64
    frames: int = 16
    fps: int = 12
    train_clips: int = 1500
    test_clips: int = 500
    train_stills: int = 3000
    test_stills: int = 1000

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value < 1:
                raise MiniatureError(f"{entry.name} is {value}; it must be at least 1.")
        if self.pixels % 2 or not 16 <= self.pixels <= 96:
            raise MiniatureError(f"pixels is {self.pixels}; it must be even and from 16 to 96.")
        if not 4 <= self.frames <= 32:
            raise MiniatureError(f"frames is {self.frames}; it must be from 4 to 32.")
        if self.pixels + max(2 * self.frames, self.frames // 2 + 2) > 120:
            # 120 px is the test split's share of the narrowest photograph.
            raise MiniatureError(f"pixels {self.pixels} and frames {self.frames} ask for more than a photograph has.")

    def items(self, name: str, split: str) -> int:
        """Number of items of one split of one set."""
        kind = "stills" if SCENES[name].stills else "clips"
        return int(getattr(self, f"{split}_{kind}"))


_DEFAULT_SIZES = Sizes()


def encode_video(frames: Frame, fps: int) -> bytes:
    """Encodes uint8 RGB frames ``[T, H, W, 3]`` as an H.264 MP4 file; the same frames give the same bytes.

    libx264 veryfast, a key frame every 8 frames, no B-frames, 4:2:0, one thread. Rate control, scene-cut detection and
    psycho-visual decisions are off and the quantiser is fine and constant: with the usual CRF 18 a linear classifier
    read the tempo of ``mini_dive`` from the first frame (76 % of 50 % chance) and the sense of the turn from the mean
    over time (85 %), out of nothing but coding artefacts. With these settings it is at chance.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "veryfast", "g": "8", "bf": "0", "qp": "8", "x264-params": _X264}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _encode_still(frame: Frame) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


@dataclass(frozen=True)
class _Chunk:
    name: str
    split: str
    items: range
    folder: str
    seed: int
    sizes: Sizes


def _draw_chunk(chunk: _Chunk) -> list[dict[str, Any]]:
    """Draws, encodes and writes some items of one split; returns their manifest rows."""
    scene, sizes = SCENES[chunk.name], chunk.sizes
    rows = []
    for item in chunk.items:
        frames, label = scene.render(chunk.split, item, seed=chunk.seed, size=sizes.pixels, frames=sizes.frames)
        content = _encode_still(frames[0]) if scene.stills else encode_video(frames, sizes.fps)
        relative = f"{chunk.split}/{scene.classes[label]}/{item:05d}.{'png' if scene.stills else 'mp4'}"
        path = Path(chunk.folder) / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        rows.append(
            {
                "path": relative,
                "label": label,
                "kind": "image" if scene.stills else "video",
                "frames": len(frames),
                "fps": 0.0 if scene.stills else float(sizes.fps),
                "width": sizes.pixels,
                "height": sizes.pixels,
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        )
    return rows


def _build_into(folder: Path, seed: int, workers: int, progress: Progress | None, sizes: Sizes) -> None:
    chunks = [
        _Chunk(name, split, range(start, min(start + _CHUNK, total)), str(folder / name), seed, sizes)
        for name in NAMES
        for split in SPLITS
        for total in [sizes.items(name, split)]
        for start in range(0, total, _CHUNK)
    ]
    rows: dict[tuple[str, str], dict[int, list[dict[str, Any]]]] = {}
    for number, result in run_jobs(_draw_chunk, chunks, workers):
        chunk = chunks[number]
        done = rows.setdefault((chunk.name, chunk.split), {})
        done[number] = result
        if progress is not None:
            total = sizes.items(chunk.name, chunk.split)
            progress(f"{chunk.name}/{chunk.split}", sum(len(part) for part in done.values()), total)
    for (name, split), parts in rows.items():
        ordered = [row for number in sorted(parts) for row in parts[number]]
        manifest = Manifest.from_rows(name, split, folder / name, SCENES[name].classes, ordered)
        manifest.write(folder / name / f"{split}.parquet")


def _read(root: Path) -> dict[str, dict[str, Manifest]]:
    return {name: {split: Manifest.read(root / name / f"{split}.parquet") for split in SPLITS} for name in NAMES}


def _already_built(root: Path, settings: dict[str, Any]) -> bool:
    """Whether ``root`` holds these data sets; refuses a folder that holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    recorded = root / _SETTINGS
    if not recorded.is_file():
        raise MiniatureError(
            f"{root} exists and is not a miniature build (it has no {_SETTINGS}); name an empty or new folder."
        )
    found = json.loads(recorded.read_text())
    if found == settings:
        return True
    before, now = {**found, **found.get("sizes", {})}, {**settings, **settings["sizes"]}
    other = [
        f"{key} {before.get(key)} (asked: {now[key]})" for key in now if key != "sizes" and before.get(key) != now[key]
    ]
    raise MiniatureError(
        f"{root} was built with {', '.join(other)}; use --force to replace it, or name another folder."
    )


def build(
    root: Path | str,
    *,
    seed: int = 0,
    workers: int = 2,
    progress: Progress | None = None,
    sizes: Sizes = _DEFAULT_SIZES,
    force: bool = False,
) -> dict[str, dict[str, Manifest]]:
    """Builds the four miniature data sets under ``root`` and returns their manifests, ``[set][split]``.

    The files do not depend on ``workers``. A build that is killed leaves nothing under ``root``; one that is already
    there with the same settings is returned at once. Two builds at the same time: the second waits, then uses the
    first.

    Args:
        root: Folder to create; manifests are written to ``root/NAME/{train,test}.parquet``.
        seed: Of all that is drawn, 0 or more.
        workers: Processes.
        progress: Called after every 50 items.
        sizes: Frame size and numbers of items.
        force: Replace a build with other settings.

    Raises:
        MiniatureError: If ``root`` holds a build with other settings (and not ``force``) or something else, cannot be
            written, or an argument is out of its range.
        equipoise.data._art.SourceFilesError: If an installed package lacks a picture file.
    """
    if seed < 0:
        raise MiniatureError(f"seed is {seed}; it must be 0 or more.")
    if workers < 1:
        raise MiniatureError(f"workers is {workers}; it must be at least 1.")
    root = Path(root).absolute()
    settings = {"version": _VERSION, "seed": seed, "sizes": asdict(sizes)}
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with locked(root.parent / f".{root.name}.lock"):
            if root.exists() and not root.is_dir():
                raise MiniatureError(f"{root} is a file; name a folder.")
            replace = force and (root / _SETTINGS).is_file()
            if not replace and _already_built(root, settings):
                return _read(root)
            with unfinished(root) as folder:
                _build_into(folder, seed, workers, progress, sizes)
                (folder / _SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
                if replace:
                    shutil.rmtree(root)
            return _read(root)
    except PermissionError as error:
        raise MiniatureError(f"{error.filename or root} cannot be written; choose another folder.") from error
