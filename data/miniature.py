"""The miniature regime: four small labelled data sets, drawn offline from real pictures and written as real H.264.

``mini_ucf`` (12 actions with scene bias), ``mini_ssv2`` (6 pairs of time-reversed actions), ``mini_in`` (stills of 20
shapes) and ``mini_dive`` (16 rotations of one figure). They mirror what the four real data sets ask of an encoder; they
are not those data sets. See ``docs/miniature.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from equipoise.data._files import Progress
from equipoise.data._rendering import Build, BuildError, Look, draw_sets
from equipoise.data._rendering import encode_video as encode_video
from equipoise.data._scenes import SCENES
from equipoise.data.manifest import Manifest

NAMES = tuple(SCENES)
SPLITS = ("train", "select", "test")

_VERSION = 1  # of what is drawn: another number, other pictures
_CHUNK = 50  # items per job


class MiniatureError(BuildError):
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
        select_clips: Clips per video set for everything that chooses; other items, of the training pictures.
        select_stills: Stills for the same.

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
    select_clips: int = 500
    select_stills: int = 1000

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


def _read(root: Path) -> dict[str, dict[str, Manifest]]:
    return {name: {split: Manifest.read(root / name / f"{split}.parquet") for split in SPLITS} for name in NAMES}


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
    there with the same settings is returned at once, and one of before there were select splits gets them. Two builds
    at the same time: the second waits, then uses the first.

    Args:
        root: Folder to create; manifests are written to ``root/NAME/{train,select,test}.parquet``.
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
    look = Look(seed=seed, pixels=sizes.pixels, frames=sizes.frames, fps=sizes.fps)

    def fill(folder: Path, splits: Sequence[str] = SPLITS) -> None:
        sets = [
            (scene, folder / name, {split: sizes.items(name, split) for split in splits})
            for name, scene in SCENES.items()
        ]
        draw_sets(sets, look, workers=workers, chunk=_CHUNK, progress=progress)

    def complete(folder: Path) -> None:
        fill(folder, ("select",))

    before = {key: value for key, value in asdict(sizes).items() if not key.startswith("select_")}
    earlier = {**settings, "sizes": before}
    Build(root, "miniature", settings, MiniatureError, earlier, complete).make(fill, force=force)
    return _read(root)
