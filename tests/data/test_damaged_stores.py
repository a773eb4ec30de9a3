"""Clip caches and manifests that are cut, zeroed or gone: mended, or one sentence; never another error."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from equipoise.data import _building as building
from equipoise.data.cache import CacheError, ClipCache
from equipoise.data.manifest import Manifest, ManifestError

Sets = dict[str, dict[str, Manifest]]


def damaged(content: bytes, parts: int = 6) -> list[bytes]:
    """A file cut at some bytes, zeroed as a whole and in blocks, overwritten, with bytes flipped."""
    rng = np.random.default_rng(0)
    size = len(content)
    cuts = [content[: size * part // parts] for part in range(parts)] + [content[:-1]]
    found = [*cuts, bytes(size), b"x" * size, content + bytes(64)]
    block = max(1, size // parts)
    found += [content[:at] + bytes(block) + content[at + block :] for at in range(0, size, block)]
    for at in rng.integers(0, size, parts):
        found.append(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
    return [one for one in found if one != content]


def test_a_damaged_cache_is_built_again(tiny: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_SHARD_BYTES", 300_000)
    manifest = tiny["mini_ucf"]["train"]
    whole = ClipCache.open(manifest, tmp_path / "whole", size=32, workers=0)
    for file in sorted(whole.folder.iterdir())[:5]:
        for number, content in enumerate(damaged(file.read_bytes(), 3)):
            root = tmp_path / f"{file.name}-{number}"
            shutil.copytree(whole.folder.parent, root)
            (root / whole.folder.name / file.name).write_bytes(content)
            found = ClipCache.open(manifest, root, size=32, workers=0)
            assert found.paths == whole.paths
            assert found.labels.tolist() == whole.labels.tolist()
            assert found.shapes.tolist() == whole.shapes.tolist()
            shutil.rmtree(root)


def test_a_damaged_cache_that_is_only_read_is_one_sentence(tiny: Sets, tmp_path: Path) -> None:
    cache = ClipCache.open(tiny["mini_dive"]["test"], tmp_path, size=32, workers=0)
    for name in ("index.json", "report.json", "shard-00000.arrow"):
        file = cache.folder / name
        content, said = file.read_bytes(), []
        for case in damaged(content):
            file.write_bytes(case)
            try:
                ClipCache(cache.folder)
            except CacheError as error:  # some damage is to pixels, which say nothing
                said.append(str(error))
        assert all("is damaged (" in one and "\n" not in one for one in said)
        file.unlink()
        with pytest.raises(CacheError, match="is damaged"):
            ClipCache(cache.folder)
        file.write_bytes(content)


def test_a_damaged_manifest_is_never_read_as_another(tiny: Sets, tmp_path: Path) -> None:
    manifest = tiny["mini_dive"]["test"]
    path = manifest.root / "fuzz.parquet"
    manifest.write(path)
    content = path.read_bytes()
    said = []
    cases = damaged(content, 12)
    for case in cases:
        path.write_bytes(case)
        try:
            assert Manifest.read(path).hash == manifest.hash
        except ManifestError as error:
            said.append(str(error))
    path.unlink()
    assert len(said) > len(cases) / 2
    assert all(str(path) in one and "\n" not in one for one in said)
