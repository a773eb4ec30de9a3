"""Drawn data sets on disk: items rendered in parallel into real video files, with manifests, complete or not there.

What the miniature data sets and the synthetic one share. A scene says how one item is drawn; the files do not depend on
the number of processes, because an item's random stream depends on seed, set, split and item only.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from equipoise.data._art import Frame
from equipoise.data._files import Progress, locked, run_jobs, unfinished
from equipoise.data._scenes import Scene
from equipoise.data.errors import DataError
from equipoise.data.manifest import Manifest

"""Called with a stage such as ``mini_ucf/train``, items finished and items in all."""

SPLITS = ("train", "test")
_X264 = "min-keyint=8:scenecut=0:psy=0:log-level=error"


class BuildError(DataError, ValueError):
    """Data sets cannot be drawn where they were asked for, or with these settings."""


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


@dataclass(frozen=True, kw_only=True)
class Look:
    """How items are drawn.

    Attributes:
        seed: Of all that is drawn.
        pixels: Side of a frame.
        frames: Frames of a clip; a still has one.
        fps: Frames per second.
    """

    seed: int
    pixels: int
    frames: int
    fps: int


def draw(scene: Scene, split: str, item: int, look: Look) -> tuple[bytes, dict[str, Any]]:
    """Draws and encodes one item: the content of its file, and its row of the manifest."""
    frames, label = scene.render(split, item, seed=look.seed, size=look.pixels, frames=look.frames)
    content = _encode_still(frames[0]) if scene.stills else encode_video(frames, look.fps)
    row = {
        "path": f"{split}/{scene.classes[label]}/{item:05d}.{'png' if scene.stills else 'mp4'}",
        "label": label,
        "kind": "image" if scene.stills else "video",
        "frames": len(frames),
        "fps": 0.0 if scene.stills else float(look.fps),
        "width": look.pixels,
        "height": look.pixels,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return content, row


@dataclass(frozen=True)
class _Chunk:
    scene: Scene
    split: str
    items: range
    folder: str
    look: Look


def _draw_chunk(chunk: _Chunk) -> list[dict[str, Any]]:
    """Draws, encodes and writes some items of one split; returns their manifest rows."""
    rows = []
    for item in chunk.items:
        content, row = draw(chunk.scene, chunk.split, item, chunk.look)
        path = Path(chunk.folder) / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        rows.append(row)
    return rows


def draw_sets(
    sets: Sequence[tuple[Scene, Path, Mapping[str, int]]],
    look: Look,
    *,
    workers: int,
    chunk: int,
    progress: Progress | None,
) -> None:
    """Draws whole data sets and writes their manifests beside them.

    Args:
        sets: Scene, folder and number of items per split of each data set.
        look: How items are drawn.
        workers: Processes.
        chunk: Items a process draws at a time.
        progress: Called after every chunk.
    """
    chunks = [
        _Chunk(scene, split, range(start, min(start + chunk, total)), str(folder), look)
        for scene, folder, items in sets
        for split, total in items.items()
        for start in range(0, total, chunk)
    ]
    rows: dict[tuple[str, str], dict[int, list[dict[str, Any]]]] = {}
    totals = {(scene.name, split): total for scene, _, items in sets for split, total in items.items()}
    # Nothing is read that could end a process: one worker needs none of its own.
    for number, result in run_jobs(_draw_chunk, chunks, workers if workers > 1 else 0):
        key = (chunks[number].scene.name, chunks[number].split)
        done = rows.setdefault(key, {})
        done[number] = result
        if progress is not None:
            progress("/".join(key), sum(len(part) for part in done.values()), totals[key])
    for scene, folder, items in sets:
        for split in items:
            parts = rows[scene.name, split]
            ordered = [row for number in sorted(parts) for row in parts[number]]
            Manifest.from_rows(scene.name, split, folder, scene.classes, ordered).write(folder / f"{split}.parquet")


@dataclass(frozen=True)
class Build:
    """A folder that holds drawn data sets, made with certain settings.

    Attributes:
        root: The folder.
        kind: What it is, as errors say it: ``miniature`` or ``synthetic``.
        settings: What the files depend on; kept in ``KIND.json`` inside the folder.
        error: What is raised.
        earlier: Settings of a build that lacks something only; None where there never was one.
        complete: Adds what such a build lacks; called with its folder, and again where it was killed.
    """

    root: Path
    kind: str
    settings: dict[str, Any]
    error: type[BuildError]
    earlier: dict[str, Any] | None = None
    complete: Callable[[Path], None] | None = None

    @property
    def _recorded(self) -> Path:
        return self.root / f"{self.kind}.json"

    def _record(self, folder: Path) -> None:
        (folder / self._recorded.name).write_text(json.dumps(self.settings, indent=2) + "\n")

    def _is_there(self) -> bool:
        """Whether the folder holds these data sets; refuses one that holds anything else."""
        if not self.root.exists() or (self.root.is_dir() and not any(self.root.iterdir())):
            return False
        if not self._recorded.is_file():
            raise self.error(
                f"{self.root} exists and is not a {self.kind} build (it has no {self._recorded.name}); "
                "name an empty or new folder."
            )
        found = json.loads(self._recorded.read_text())
        if found == self.settings:
            return True
        if self.complete is not None and found == self.earlier:
            self.complete(self.root)
            self._record(self.root)
            return True
        before, now = ({**content, **content.get("sizes", {})} for content in (found, self.settings))
        other = [
            f"{key} {before.get(key)} (asked: {now[key]})"
            for key in now
            if key != "sizes" and before.get(key) != now[key]
        ]
        raise self.error(
            f"{self.root} was built with {', '.join(other)}; use --force to replace it, or name another folder."
        )

    def make(self, fill: Callable[[Path], None], *, force: bool) -> None:
        """Calls ``fill`` with a fresh folder that becomes ``root`` when it returns; nothing where ``root`` is there.

        Two at the same time: the second waits, then uses the first. A build that is killed leaves nothing under
        ``root``.

        Raises:
            BuildError: If ``root`` holds a build with other settings (and not ``force``) or something else, or cannot
                be written.
        """
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.root.parent / f".{self.root.name}.lock"):
                if self.root.exists() and not self.root.is_dir():
                    raise self.error(f"{self.root} is a file; name a folder.")
                replace = force and self._recorded.is_file()
                if not replace and self._is_there():
                    return
                with unfinished(self.root) as folder:
                    fill(folder)
                    self._record(folder)
                    if replace:
                        shutil.rmtree(self.root)
        except PermissionError as error:
            raise self.error(f"{error.filename or self.root} cannot be written; choose another folder.") from error
