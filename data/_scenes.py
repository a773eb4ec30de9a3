"""The four miniature data sets, one function each: random state and class number in, frames out.

What carries each label, and which shortcut is kept from carrying it, is stated per function and measured in
``docs/miniature.md``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from equipoise.data._art import SHAPES, Frame, Studio, paste

UCF_CLASSES = (
    "slide_across",
    "slide_up_down",
    "circle",
    "spin",
    "pulse",
    "pendulum",
    "bounce",
    "zigzag",
    "zoom",
    "shake",
    "pan",
    "crossing",
)
SSV2_CLASSES = (
    "move_right",
    "move_left",
    "move_down",
    "move_up",
    "turn_clockwise",
    "turn_anticlockwise",
    "approach",
    "recede",
    "uncover",
    "cover",
    "orbit_clockwise",
    "orbit_anticlockwise",
)
"""Classes 2k and 2k+1 are exact time reversals of each other."""
DIVE_CLASSES = tuple(
    f"{sense}_{halves}half_{tempo}"
    for sense in ("forward", "backward")
    for halves in (1, 2, 3, 4)
    for tempo in ("accelerating", "slowing")
)


def _images(frames: list[Frame]) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in frames]


def _drifting_backdrop(studio: Studio, size: int, frames: int, photograph: int | None) -> list[Image.Image]:
    """A background that a slowly moving camera sees: up to half a pixel per frame in each direction."""
    margin = frames // 2 + 2
    wide = studio.backdrop(size + margin, size + margin, photograph)
    steps = np.arange(frames)[:, None] - (frames - 1) / 2
    offsets = np.round(margin / 2 + steps * studio.rng.uniform(-0.5, 0.5, 2)).astype(int).clip(0, margin)
    return _images([wide[y : y + size, x : x + size] for x, y in offsets])


@dataclass
class _Path:
    """Place, angle and size of a sprite in every frame."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    angle: NDArray[np.float64]
    size: NDArray[np.float64]


def _ucf_path(studio: Studio, name: str, size: int, frames: int) -> _Path:
    """The sprite's path for one action; ``pan`` and ``crossing`` are finished by the caller."""
    t = np.arange(frames) / frames
    phase, rate, sign = studio.uniform(0, 2 * math.pi), studio.uniform(0.9, 1.5), studio.sign()
    reach = size * studio.uniform(0.17, 0.25)
    wave = 2 * math.pi * rate * t + phase
    path = _Path(
        x=np.full(frames, size * studio.uniform(0.42, 0.58)),
        y=np.full(frames, size * studio.uniform(0.42, 0.58)),
        angle=np.full(frames, studio.uniform(-0.3, 0.3)),
        size=np.full(frames, size * studio.uniform(0.46, 0.6)),
    )
    if name == "slide_across":
        path.x += reach * np.sin(wave)
    elif name == "slide_up_down":
        path.y += reach * np.sin(wave)
    elif name == "circle":
        path.x += reach * np.cos(sign * wave)
        path.y += reach * np.sin(sign * wave)
    elif name == "spin":
        path.angle += sign * wave
    elif name == "pulse":
        path.size *= 1 + 0.35 * np.sin(wave)
    elif name == "pendulum":
        swing = 0.8 * np.sin(wave)
        path.x += 1.6 * reach * np.sin(swing)
        path.y += 1.6 * reach * np.cos(swing) - reach
        path.angle -= swing
    elif name == "bounce":
        path.y = size * 0.75 - 1.8 * reach * np.abs(np.sin(wave / 1.3))
        path.x += sign * reach * (t - 0.5)
    elif name == "zigzag":
        path.x += sign * 2.6 * reach * (t - 0.5)
        path.y += 0.8 * reach * (2 * np.abs(2 * ((2.2 * rate * t + phase) % 1) - 1) - 1)
    elif name == "zoom":
        path.size *= 0.5 + 1.1 * t if sign > 0 else 1.6 - 1.1 * t
    elif name == "shake":
        path.x += studio.rng.normal(0, size * 0.04, frames)
        path.y += studio.rng.normal(0, size * 0.04, frames)
    return path


def ucf(studio: Studio, label: int, size: int, frames: int) -> list[Image.Image]:
    """One of 12 actions. In half of the clips the background and the sprite are typical of the class (scene bias).

    The motion always carries the label; one frame carries it in the biased half only.
    """
    name = UCF_CLASSES[label]
    biased = studio.rng.random() < 0.5
    photograph, shape = (label, (10 + label) % len(SHAPES)) if biased else (None, None)
    if name == "pan":
        wide = studio.backdrop(size + 2 * frames, size, photograph)
        starts = (2 * np.arange(frames))[:: studio.sign()]
        canvas = _images([wide[:, x : x + size] for x in starts])
    else:
        canvas = _drifting_backdrop(studio, size, frames, photograph)
    sprite = studio.sprite(shape)
    path = _ucf_path(studio, name, size, frames)
    if name == "crossing":
        other = studio.sprite()
        offset = studio.sign() * 0.6 * size * (np.arange(frames) / (frames - 1) - 0.5)
        for number, picture in enumerate(canvas):
            y = float(path.y[number])
            paste(picture, other, size / 2 - offset[number], y + 5, size=float(path.size[number]) * 0.8)
            paste(picture, sprite, size / 2 + offset[number], y - 5, size=float(path.size[number]) * 0.8)
        return canvas
    for number, picture in enumerate(canvas):
        paste(
            picture,
            sprite,
            float(path.x[number]),
            float(path.y[number]),
            angle=float(path.angle[number]),
            size=float(path.size[number]),
        )
    return canvas


def _moving(studio: Studio, canvas: list[Image.Image], size: int, *, across: bool) -> None:
    """A sprite that leaves at one edge and re-enters at the other: no frame tells which way it goes."""
    sprite, extent, angle = studio.sprite(), size * studio.uniform(0.5, 0.65), studio.uniform(-0.3, 0.3)
    lane, start, speed = size * studio.uniform(0.4, 0.6), studio.uniform(0, 1), studio.uniform(0.7, 1.15)
    period = size * 1.2
    for number, picture in enumerate(canvas):
        place = (start + speed * number / (len(canvas) - 1)) % 1 * period - 0.1 * size
        for copy in (place - period, place, place + period):
            if -extent < copy < size + extent:  # else it is outside the frame
                x, y = (copy, lane) if across else (lane, copy)
                paste(picture, sprite, x, y, angle=angle, size=extent)


def _turning(studio: Studio, canvas: list[Image.Image], size: int) -> None:
    sprite, extent = studio.sprite(), size * studio.uniform(0.5, 0.7)
    x, y = size * studio.uniform(0.42, 0.58), size * studio.uniform(0.42, 0.58)
    start, turn = studio.uniform(0, 2 * math.pi), studio.uniform(2.4, 4.2)
    for number, picture in enumerate(canvas):
        paste(picture, sprite, x, y, angle=start + turn * number / (len(canvas) - 1), size=extent)


def _approaching(studio: Studio, canvas: list[Image.Image], size: int) -> None:
    sprite, angle = studio.sprite(), studio.uniform(-0.3, 0.3)
    x, y = size * studio.uniform(0.42, 0.58), size * studio.uniform(0.42, 0.58)
    start, growth = size * studio.uniform(0.25, 0.5), studio.uniform(1.8, 2.4)
    for number, picture in enumerate(canvas):
        paste(picture, sprite, x, y, angle=angle, size=start * growth ** (number / (len(canvas) - 1)))


def _uncovering(studio: Studio, canvas: list[Image.Image], size: int) -> None:
    """A board as large as the frame draws back from a still sprite, in a random direction."""
    board = Image.fromarray(studio.backdrop(size, size))
    board.putalpha(255)
    sprite, extent, angle = studio.sprite(), size * studio.uniform(0.5, 0.65), studio.uniform(-0.3, 0.3)
    x, y = size * studio.uniform(0.42, 0.58), size * studio.uniform(0.42, 0.58)
    way, start = studio.uniform(0, 2 * math.pi), studio.uniform(0.15, 0.45)
    end = start + studio.uniform(0.45, 0.65)
    for number, picture in enumerate(canvas):
        away = size * 1.15 * (start + (end - start) * number / (len(canvas) - 1))
        paste(picture, sprite, x, y, angle=angle, size=extent)
        paste(picture, board, size / 2 + away * math.cos(way), size / 2 + away * math.sin(way), angle=way, size=size)


def _orbiting(studio: Studio, canvas: list[Image.Image], size: int) -> None:
    first, second, extent = studio.sprite(), studio.sprite(), size * studio.uniform(0.38, 0.46)
    radius, start, turn = size * studio.uniform(0.22, 0.27), studio.uniform(0, 2 * math.pi), studio.uniform(2.2, 4.0)
    for number, picture in enumerate(canvas):
        angle = start + turn * number / (len(canvas) - 1)
        dx, dy = radius * math.cos(angle), radius * math.sin(angle)
        paste(picture, first, size / 2 + dx, size / 2 + dy, size=extent)
        paste(picture, second, size / 2 - dx, size / 2 - dy, size=extent)


def ssv2(studio: Studio, label: int, size: int, frames: int) -> list[Image.Image]:
    """One of 6 pairs of actions; the second of a pair is the first played backwards, reversed before encoding.

    Within a pair only the order of the frames carries the label: any statistic that ignores order is equal by
    construction. (The first or last frame alone tells approach from recede and cover from uncover a little, as in real
    footage; it never tells the moves, turns and orbits.)
    """
    pair, backwards = divmod(label, 2)
    canvas = _images([studio.backdrop(size, size)] * frames)
    if pair in (0, 1):
        _moving(studio, canvas, size, across=pair == 0)
    else:
        (_turning, _approaching, _uncovering, _orbiting)[pair - 2](studio, canvas, size)
    return canvas[::-1] if backwards else canvas


def still(studio: Studio, label: int, size: int, frames: int) -> list[Image.Image]:
    """A picture of one of 20 shapes; place, size, rotation, brightness and both textures are random."""
    del frames
    canvas = Image.fromarray(studio.backdrop(size, size))
    x, y = size * studio.uniform(0.42, 0.58), size * studio.uniform(0.42, 0.58)
    paste(canvas, studio.sprite(label), x, y, angle=studio.uniform(-0.35, 0.35), size=size * studio.uniform(0.65, 0.95))
    return [canvas]


@lru_cache(maxsize=1)
def _diver() -> Image.Image:
    """The one figure of ``mini_dive``: its two ends and its two sides differ, so that its angle can be seen."""
    n = 96
    figure = Image.new("RGBA", (n * 2, n * 2))
    draw = ImageDraw.Draw(figure)
    skin, suit = (240, 200, 165, 255), (200, 45, 40, 255)
    draw.rounded_rectangle((84, 118, 108, 188), 10, fill=skin)  # legs
    draw.rounded_rectangle((78, 50, 114, 128), 14, fill=suit)  # trunk
    draw.rounded_rectangle((100, 58, 158, 78), 8, fill=skin)  # arms, to one side
    draw.ellipse((76, 4, 116, 46), fill=(250, 225, 190, 255))  # head
    return figure.resize((n, n), Image.Resampling.BOX)


def dive(studio: Studio, label: int, size: int, frames: int) -> list[Image.Image]:
    """One figure tossed over one pool; the class is sense (2) x half turns (4) x tempo (2) of its rotation.

    The path is the same for all classes, symmetric in time and drifts to a random side, and the angle at the start is
    random: position, appearance and single frames do not tell the class.
    """
    sense, rest = divmod(label, 8)
    half_turns, slowing = rest // 2 + 1, rest % 2 == 1
    t = np.arange(frames) / (frames - 1)
    # A plain sky: motion compensation drags the background along with a turning figure, and over a gradient that drag
    # would show the sense of the turn in the mean over time.
    scene = np.full((size, size, 3), (140.0, 185.0, 220.0))
    scene[int(0.87 * size) :] = (20, 90, 160)
    scene[int(0.06 * size) : int(0.1 * size), : size // 6] = 90
    scene = scene * studio.uniform(0.88, 1.1) + studio.rng.uniform(-10, 10, 3) + studio.rng.normal(0, 3, scene.shape)
    canvas = _images([np.clip(scene, 0, 255).astype(np.uint8)] * frames)
    start, extent = studio.uniform(0, 2 * math.pi), size * studio.uniform(0.6, 0.7)
    x = size * studio.uniform(0.45, 0.55) + studio.sign() * size * studio.uniform(0.04, 0.1) * (2 * t - 1)
    y = size * studio.uniform(0.52, 0.6) - size * studio.uniform(0.12, 0.2) * 4 * t * (1 - t)
    progress = 1 - (1 - t) ** 1.7 if slowing else t**1.7
    angle = start + (1 if sense == 0 else -1) * math.pi * half_turns * progress
    for number, picture in enumerate(canvas):
        paste(picture, _diver(), float(x[number]), float(y[number]), angle=float(angle[number]), size=extent)
    return canvas


@dataclass(frozen=True)
class Scene:
    """One miniature data set: its classes, how an item is drawn, and whether items are stills."""

    name: str
    classes: tuple[str, ...]
    draw: Callable[[Studio, int, int, int], list[Image.Image]]
    stills: bool = False

    def render(self, split: str, item: int, *, seed: int, size: int, frames: int) -> tuple[Frame, int]:
        """Draws item number ``item`` of a split: uint8 frames ``[T, size, size, 3]`` and the class number.

        Classes are balanced: item i shows class i modulo the number of classes. The item's random stream depends on
        seed, set, split and item only, so the order and the process in which items are drawn do not matter.
        """
        key = [seed, zlib.crc32(self.name.encode()), zlib.crc32(split.encode()), item]
        studio = Studio(np.random.default_rng(key), split=split)
        label = item % len(self.classes)
        return np.stack([np.asarray(picture) for picture in self.draw(studio, label, size, frames)]), label


SCENES = {
    scene.name: scene
    for scene in (
        Scene("mini_ucf", UCF_CLASSES, ucf),
        Scene("mini_ssv2", SSV2_CLASSES, ssv2),
        Scene("mini_in", SHAPES, still, stills=True),
        Scene("mini_dive", DIVE_CLASSES, dive),
    )
}
