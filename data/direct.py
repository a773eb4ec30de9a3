"""Clips decoded from their files at every reading: for data that no disk holds twice."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.data.cache import ClipCache
from equipoise.data.decode import DecodeError, Frames, decode, scaled_shape, uniform_indices
from equipoise.data.decode_report import DecodeReport
from equipoise.data.manifest import Manifest


class DirectClips(ClipCache):
    """A manifest's clips as a raw clip cache would hold them, decoded anew each time.

    What a manifest says of a file is believed: its frames and size. Its sha256 is not compared (`equipoise data check`
    does that once), and a file that cannot be decoded is an error where it is read, not left out.

    Args:
        manifest: the clips.
        size: shorter side of the frames, px.
        frames: at most this many frames of a clip, spread uniformly over it; None: all.
    """

    def __init__(self, manifest: Manifest, size: int, frames: int | None) -> None:
        self._manifest, self._frames, self.folder = manifest, frames, manifest.root
        self.name, self.split, self.classes = manifest.name, manifest.split, manifest.classes
        self.manifest_hash, self.size, self.storage = manifest.hash, size, "none"
        self.labels = manifest.label
        self.rows: NDArray[np.int64] = np.arange(len(manifest))
        self.kinds = [str(kind) for kind in manifest.kind]
        self.paths = [str(path) for path in manifest.path]
        kept = manifest.frames if frames is None else np.minimum(manifest.frames, frames)
        sides = [scaled_shape(int(w), int(h), size) for w, h in zip(manifest.width, manifest.height, strict=True)]
        self.shapes = np.array([(n, h, w) for n, (w, h) in zip(kept, sides, strict=True)], dtype=np.int64)
        self.report = DecodeReport(len(manifest), [])

    def __len__(self) -> int:
        return len(self.paths)

    def clip(self, index: int) -> Frames:
        """Clip number ``index`` as uint8 ``[T, H, W, 3]``."""
        return self.frames(index, np.arange(self.shapes[index, 0]))

    def frames(self, index: int, numbers: NDArray[np.int64], out: Frames | None = None) -> Frames:
        """Some frames of clip number ``index``: uint8 ``[len(numbers), H, W, 3]``; arguments as of a cache's.

        Raises:
            DecodeError: the file cannot be decoded, or is not the one that the manifest describes.
        """
        file = self._manifest.file(index)
        wanted, places = np.unique(numbers, return_inverse=True)

        def choose(available: int) -> NDArray[np.int64]:
            if available < self._manifest.frames[index]:
                raise DecodeError(file, f"it has {available} frames, the manifest says {self._manifest.frames[index]}")
            return uniform_indices(available, int(self.shapes[index, 0]))[wanted]

        found = decode(file, self.kinds[index], frame_indices=choose, short_side=self.size)
        if found.shape[1:3] != tuple(self.shapes[index, 1:]):
            width, height = self._manifest.width[index], self._manifest.height[index]
            raise DecodeError(file, f"its frames have another shape than the manifest's {width}x{height} px")
        return np.take(found, places, axis=0, out=out, mode="clip")

    def __reduce__(self) -> tuple[Any, ...]:
        return (DirectClips, (self._manifest, self.size, self._frames))
