"""The select part of a benchmark that has none of its own: a share of its training split, by groups of its items.

Items of one group show the same thing: clips cut from one video, takes of one person. A group that were in both parts
would let a probe be chosen by what it has seen. So whole groups are taken, in the order of a hash of their names: the
cut is the same for every study of a manifest, on every machine, and an item more or less changes little of it.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from equipoise.data.manifest import Manifest, ManifestError

_UCF101 = re.compile(r"v_.+_(g\d+)_c\d+$")
_DIVING48 = re.compile(r"(.+)_\d+$")


def group_of(data_set: str, path: str, label: int) -> str:
    """Name of the group that an item is of: what must not be in two parts.

    Args:
        data_set: name of the manifest.
        path: of the item.
        label: its class.

    Returns:
        UCF-101: class and take (``v_YoYo_g08_c01`` is of take 8). Diving-48: the video that the dive was cut from. Any
        other: the item itself.
    """
    stem = path.rpartition("/")[2].rpartition(".")[0]
    if data_set == "ucf101" and (found := _UCF101.match(stem)):
        return f"{label}/{found[1]}"
    if data_set == "diving48" and (found := _DIVING48.match(stem)):
        return found[1]
    return path


def select_rows(manifest: Manifest, share: float) -> NDArray[np.bool_]:
    """Which rows of a training split are cut off as the select part.

    Groups are taken in the order of their hashes, each where more than half of its items are still wanted by their
    classes. A class of two groups or more keeps items on both sides. A split so small that no class has two groups is
    cut by single items.

    Args:
        manifest: the training split, N rows.
        share: of every class, 0 to 1.

    Returns:
        bool ``[N]``; at least one row is cut off, and one left.

    Raises:
        ManifestError: it has one item a class: nothing can be cut off that is still trained on.
    """
    labels = manifest.label.tolist()
    paths = manifest.path.tolist()
    grouped = [group_of(manifest.name, path, label) for path, label in zip(paths, labels, strict=True)]
    for names in (grouped, paths):
        taken = _taken(manifest.name, names, labels, share)
        if taken.any():
            return taken
    raise ManifestError(
        f"The manifest {manifest.name}/{manifest.split} has {len(labels)} clips, one a class, so that no select part "
        "can be cut from it; name a manifest of its own in the regime (select: ...)."
    )


def _taken(name: str, groups: list[str], labels: list[int], share: float) -> NDArray[np.bool_]:
    """Rows that are cut off, whole groups at a time."""
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    order = sorted(members, key=lambda group: hashlib.sha256(f"{name}/{group}".encode()).digest())
    left = Counter(label for rows in members.values() for label in {labels[row] for row in rows})  # groups by class
    wanted = {c: max(1, round(share * n)) if left[c] > 1 else 0 for c, n in Counter(labels).items()}
    taken = np.zeros(len(labels), dtype=np.bool_)
    for group in order:
        here = Counter(labels[row] for row in members[group])
        useful = sum(min(n, max(wanted[label], 0)) for label, n in here.items())
        if 2 * useful <= sum(here.values()) or any(left[label] == 1 for label in here):
            continue
        taken[members[group]] = True
        for label, n in here.items():
            wanted[label] -= n
            left[label] -= 1
    return taken
