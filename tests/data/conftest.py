from __future__ import annotations

from pathlib import Path

import pytest

from equipoise.data.cache import ClipCache
from equipoise.data.manifest import Manifest
from equipoise.data.miniature import Sizes, build

TINY = Sizes(pixels=32, frames=8, train_clips=24, test_clips=12, train_stills=40, test_stills=20)


@pytest.fixture(scope="session")
def tiny_sizes() -> Sizes:
    return TINY


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny") / "miniature"
    build(root, seed=7, workers=1, sizes=TINY)
    return root


@pytest.fixture(scope="session")
def tiny(tiny_root: Path) -> dict[str, dict[str, Manifest]]:
    """The four sets, a few clips each, 32 px and 8 frames."""
    return build(tiny_root, seed=7, workers=1, sizes=TINY)


@pytest.fixture(scope="session")
def tiny_caches(tiny: dict[str, dict[str, Manifest]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, ClipCache]:
    root = tmp_path_factory.mktemp("caches")
    return {name: ClipCache.open(parts["train"], root, size=32, workers=1) for name, parts in tiny.items()}
