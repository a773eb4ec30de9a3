"""The select part that is cut from a training split: whole groups, every class its share, the same everywhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.data.manifest import Manifest, ManifestError
from equipoise.data.parts import group_of, select_rows


def manifest(name: str, items: list[tuple[str, int]], classes: int) -> Manifest:
    row: dict[str, Any] = {"kind": "video", "frames": 1, "fps": 1.0, "width": 8, "height": 8, "sha256": ""}
    rows = [{**row, "path": path, "label": label} for path, label in items]
    return Manifest.from_rows(name, "train", Path(), [f"c{i}" for i in range(classes)], rows)


@pytest.mark.parametrize(
    ("data_set", "path", "group"),
    [
        ("ucf101", "UCF-101/YoYo/v_YoYo_g08_c01.avi", "3/g08"),
        ("ucf101", "UCF-101/HandstandPushups/v_HandStandPushups_g25_c04.avi", "3/g25"),
        ("diving48", "rgb/_8xnDPwgkTM_00012.mp4", "_8xnDPwgkTM"),
        ("diving48", "rgb/a_b_00000.mp4", "a_b"),
        ("ssv2", "20bn-something-something-v2/7_1.webm", "20bn-something-something-v2/7_1.webm"),
    ],
)
def test_what_a_group_is(data_set: str, path: str, group: str) -> None:
    assert group_of(data_set, path, 3) == group


def ucf(classes: int, takes: int, clips: int) -> list[tuple[str, int]]:
    return [
        (f"UCF-101/A{c}/v_A{c}_g{g:02d}_c{k:02d}.avi", c)
        for c in range(classes)
        for g in range(takes)
        for k in range(clips)
    ]


def test_whole_takes_are_cut_and_every_class_has_its_share() -> None:
    items = ucf(5, 20, 6)
    cut = select_rows(manifest("ucf101", items, 5), 0.15)
    inside = Counter(label for (_, label), taken in zip(items, cut, strict=True) if taken)
    assert all(abs(inside[c] - 0.15 * 120) <= 3 for c in range(5))
    takes = {(path.split("_")[1], path.split("_")[2]): set() for path, _ in items}  # type: ignore[var-annotated]
    for (path, _), taken in zip(items, cut, strict=True):
        takes[path.split("_")[1], path.split("_")[2]].add(bool(taken))
    assert all(len(sides) == 1 for sides in takes.values())


def test_dives_of_one_video_stay_together_whatever_their_classes() -> None:
    stream = np.random.default_rng(0)
    items = [(f"rgb/v{v:03d}_{k:05d}.mp4", int(stream.integers(8))) for v in range(150) for k in range(10)]
    cut = select_rows(manifest("diving48", items, 8), 0.15)
    sides: dict[str, set[bool]] = {}
    for (path, _), taken in zip(items, cut, strict=True):
        sides.setdefault(path[:8], set()).add(bool(taken))
    assert all(len(side) == 1 for side in sides.values())
    assert 0.12 <= cut.mean() <= 0.18


def test_a_split_of_one_group_is_cut_by_items_and_one_item_a_class_not_at_all() -> None:
    items = [(f"rgb/one_{k:05d}.mp4", k % 2) for k in range(8)]
    cut = select_rows(manifest("diving48", items, 2), 0.15)
    assert {label for (_, label), taken in zip(items, cut, strict=True) if taken} == {0, 1}
    with pytest.raises(ManifestError, match=r"diving48/train has 2 clips, one a class.*select: "):
        select_rows(manifest("diving48", items[:2], 2), 0.15)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 11)), min_size=1, max_size=60),
    st.sampled_from([0.1, 0.15, 0.5]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=80, deadline=None)
def test_the_cut_is_of_groups_alone(drawn: list[tuple[int, int]], share: float, random: Any) -> None:
    items = [(f"UCF-101/A/v_A_g{g:02d}_c{i:03d}.avi", c) for i, (c, g) in enumerate(drawn)]
    if all(len({g for one, g in drawn if one == c}) == 1 for c, _ in drawn):
        return  # one group a class: see above
    found = {
        path for (path, _), taken in zip(items, select_rows(manifest("ucf101", items, 5), share), strict=True) if taken
    }
    shuffled = random.sample(items, len(items))
    again = select_rows(manifest("ucf101", shuffled, 5), share)
    assert {path for (path, _), taken in zip(shuffled, again, strict=True) if taken} == found
    for c in {c for c, _ in drawn}:
        groups = {g for one, g in drawn if one == c}
        mine = {path for path, label in items if label == c}
        if len(groups) > 1:
            assert mine - found, "something is left to train on"
        else:
            assert not mine & found, "a class of one group is trained on"
