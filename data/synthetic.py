"""The synthetic regime: clips of eight rendered motions, of any size and number.

It is there for the question whether pretraining on motion alone transfers to real video. Two to four textured shapes
over a photograph all move the same way: right, left, down, up, clockwise, anticlockwise, growing or shrinking.
Everything but the motion is drawn before the class has a say, from distributions that know no class. The pictures are
the miniature regime's: handwritten digits, drawn shapes, public-domain photographs.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from PIL import Image

from equipoise.data._art import SHAPES, Studio, paste
from equipoise.data._files import Progress
from equipoise.data._rendering import SPLITS, Build, BuildError, Look, draw, draw_sets
from equipoise.data._scenes import Scene
from equipoise.data.manifest import Manifest

CLASSES = (
    "translate_right",
    "translate_left",
    "translate_down",
    "translate_up",
    "rotate_clockwise",
    "rotate_anticlockwise",
    "grow",
    "shrink",
)
"""Classes 2k and 2k+1 are exact time reversals of each other."""

_VERSION = 1  # of what is drawn: another number, other pictures
_CHUNK = 16  # items per job
_PART = 112  # px of a photograph that a background shows at most: the test split's share of the narrowest has 120
_LAP = 1.2  # of the frame's side: how far a shape travels until it is where it was, out at one edge, in at the other
_TURNABLE = tuple(number for number, name in enumerate(SHAPES) if name != "ring")  # a ring looks alike at every angle
_SPARE = 1.05  # of the estimated size, for directories and manifests


class SyntheticError(BuildError):
    """The synthetic data set cannot be built where it was asked for, or with these settings."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the synthetic data set is.

    Args:
        train_clips: Clips for training.
        test_clips: Clips for testing.
        pixels: Side of a frame; even (4:2:0 video), 16 to 1024.
        frames: Frames per clip, 4 to 1024; the motion fills the clip.
        fps: Frames per second, 1 to 240.

    Raises:
        SyntheticError: If a value is out of its range.
    """

    train_clips: int = 8000
    test_clips: int = 1000
    pixels: int = 128
    frames: int = 16
    fps: int = 12

    def __post_init__(self) -> None:
        ranges = {"pixels": (16, 1024), "frames": (4, 1024), "fps": (1, 240)}
        for entry in fields(self):
            value = getattr(self, entry.name)
            low, high = ranges.get(entry.name, (1, None))
            if value < low or (high is not None and value > high):
                expected = f"at least {low}" if high is None else f"from {low} to {high}"
                raise SyntheticError(f"{entry.name} is {value}; it must be {expected}.")
        if self.pixels % 2:
            raise SyntheticError(f"pixels is {self.pixels}; it must be even.")


_DEFAULT_SIZES = Sizes()


@dataclass(frozen=True)
class _Mover:
    """One shape. Place, angle and size hold at the moment ``when``, a share of the clip; speeds are per clip."""

    sprite: Image.Image
    when: float
    place: tuple[float, float]  # laps
    angle: float
    size: float  # of the frame's side
    laps: float
    turn: float
    growth: float

    @classmethod
    def drawn(cls, studio: Studio) -> _Mover:
        return cls(
            sprite=studio.sprite(int(studio.rng.choice(_TURNABLE))),
            when=studio.uniform(0, 1),
            place=(studio.uniform(0, 1), studio.uniform(0, 1)),
            angle=studio.uniform(0, 2 * math.pi),
            size=math.exp(studio.uniform(math.log(0.22), math.log(0.42))),
            laps=studio.uniform(0.5, 1.1),
            turn=studio.uniform(2.4, 4.2),
            growth=math.log(studio.uniform(1.7, 2.6)),
        )

    def show(self, canvas: Image.Image, motion: str, moment: float) -> None:
        """Draws the shape as it is at ``moment``, a share of the clip, under one of the four forward motions."""
        passed = moment - self.when
        x, y = self.place
        angle, size = self.angle, self.size
        if motion == "translate_right":
            x += self.laps * passed
        elif motion == "translate_down":
            y += self.laps * passed
        elif motion == "rotate_clockwise":
            angle += self.turn * passed
        else:
            size *= math.exp(self.growth * passed)
        side = canvas.width
        extent = size * side
        # A lap begins and ends outside the frame by a tenth of its side; a larger shape shows at both edges at once.
        centre = [((place % 1) * _LAP - (_LAP - 1) / 2) * side for place in (x, y)]
        for cx in (centre[0] - _LAP * side, centre[0], centre[0] + _LAP * side):
            for cy in (centre[1] - _LAP * side, centre[1], centre[1] + _LAP * side):
                reach = 0.75 * extent  # half of a turned square's diagonal, and a little
                if -reach < cx < side + reach and -reach < cy < side + reach:
                    paste(canvas, self.sprite, cx, cy, angle=angle, size=extent)


def _draw(studio: Studio, label: int, size: int, frames: int) -> list[Image.Image]:
    """One clip. The second class of a pair is the first played backwards, reversed before encoding."""
    pair, backwards = divmod(label, 2)
    part = min(size, _PART)
    backdrop = Image.fromarray(studio.backdrop(part, part)).resize((size, size), Image.Resampling.BICUBIC)
    movers = [_Mover.drawn(studio) for _ in range(int(studio.rng.integers(2, 5)))]
    clip = []
    for number in range(frames):
        canvas = backdrop.copy()
        for mover in movers:
            mover.show(canvas, CLASSES[2 * pair], number / (frames - 1))
        clip.append(canvas)
    return clip[::-1] if backwards else clip


SCENE = Scene("synthetic", CLASSES, _draw)
"""Item i shows class i modulo 8; its pictures depend on seed, split and i only."""


def _check_space(root: Path, sizes: Sizes, look: Look) -> None:
    """Draws one clip of each class to know what all will take, and refuses a disk that is too small."""
    sample = [len(draw(SCENE, "train", item, look)[0]) for item in range(len(CLASSES))]
    needed = _SPARE * (sizes.train_clips + sizes.test_clips) * sum(sample) / len(sample)
    free = shutil.disk_usage(root).free
    if needed > free:
        raise SyntheticError(
            f"{sizes.train_clips + sizes.test_clips} synthetic clips need about {needed / 1e9:.2f} GB below {root}, "
            f"which has {free / 1e9:.2f} GB free; free some space, name another folder, or draw fewer or smaller clips."
        )


def build(
    root: Path | str,
    *,
    seed: int = 0,
    workers: int = 2,
    progress: Progress | None = None,
    sizes: Sizes = _DEFAULT_SIZES,
    force: bool = False,
) -> dict[str, Manifest]:
    """Builds the synthetic data set under ``root`` and returns its manifests, one per split.

    The files do not depend on ``workers``. A build that is killed leaves nothing under ``root``; one that is already
    there with the same settings is returned at once. Two builds at the same time: the second waits, then uses the
    first.

    Args:
        root: Folder to create; manifests are written to ``root/{train,test}.parquet``.
        seed: Of all that is drawn, 0 or more.
        workers: Processes.
        progress: Called after every 16 clips.
        sizes: How many clips, and how large.
        force: Replace a build with other settings.

    Raises:
        SyntheticError: If ``root`` holds a build with other settings (and not ``force``) or something else, cannot be
            written, has too little space, or an argument is out of its range.
        equipoise.data._art.SourceFilesError: If an installed package lacks a picture file.
    """
    if seed < 0:
        raise SyntheticError(f"seed is {seed}; it must be 0 or more.")
    if workers < 1:
        raise SyntheticError(f"workers is {workers}; it must be at least 1.")
    root = Path(root).absolute()
    look = Look(seed=seed, pixels=sizes.pixels, frames=sizes.frames, fps=sizes.fps)
    items = {"train": sizes.train_clips, "test": sizes.test_clips}

    def fill(folder: Path) -> None:
        _check_space(folder, sizes, look)
        draw_sets([(SCENE, folder, items)], look, workers=workers, chunk=_CHUNK, progress=progress)

    settings = {"version": _VERSION, "seed": seed, "sizes": asdict(sizes)}
    Build(root, "synthetic", settings, SyntheticError).make(fill, force=force)
    return {split: Manifest.read(root / f"{split}.parquet") for split in SPLITS}
