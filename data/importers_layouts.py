"""How the four official releases lie on disk: from a release's own lists to paths and class names.

Nothing here opens a clip. A list that is missing, damaged or contradicts itself is an error that names the file, the
entry, what was expected and what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from equipoise.data._lists import (
    Items,
    Release,
    ReleaseError,
    ReleaseListing,
    entries,
    json_of,
    need,
    refuse_shared,
    text_lines,
)
from equipoise.data.listing import IMAGES


def _ucf_classes(path: Path) -> dict[int, str]:
    classes: dict[int, str] = {}
    for line, text in text_lines(path):
        number, _, name = text.partition(" ")
        if not number.isdigit() or not name or int(number) in classes or name in classes.values():
            raise ReleaseError(
                f"{path}, line {line}: {text!r}; expected a number and a class, each once, like '1 ApplyEyeMakeup'."
            )
        classes[int(number)] = name
    if sorted(classes) != list(range(1, len(classes) + 1)):
        raise ReleaseError(f"{path} numbers its {len(classes)} classes with gaps; expected 1 to {len(classes)}.")
    return classes


def _ucf101(root: Path, split: int, classes: Path | None) -> ReleaseListing:
    """``UCF-101/CLASS/v_*.avi`` and ``ucfTrainTestlist/{classInd,trainlist0N,testlist0N}.txt``."""
    del classes
    release = RELEASES["ucf101"]
    need(root, release, "UCF-101")
    lists = need(root, release, "ucfTrainTestlist")
    known = _ucf_classes(need(root, release, "ucfTrainTestlist/classInd.txt"))
    names = set(known.values())
    splits: dict[str, Items] = {}
    files: dict[str, Path] = {}
    for part in ("train", "test"):
        files[part] = need(root, release, f"{lists.name}/{part}list{split:02d}.txt")
        items = []
        for line, text in text_lines(files[part]):
            # A line of a train list ends in the number of its class; the folder names the class in both lists.
            before, _, number = text.rpartition(" ")
            path = before.strip() if before and number.isdigit() else text
            folder, _, file = path.partition("/")
            if folder not in names or not file:
                raise ReleaseError(
                    f"{files[part]}, line {line}: {text!r}; expected CLASS/FILE.avi with a class of classInd.txt."
                )
            if path != text and known.get(int(number)) != folder:
                raise ReleaseError(
                    f"{files[part]}, line {line}: {path} is of class {folder}, but number {number} is "
                    f"{known.get(int(number))} in classInd.txt; take both lists from one release."
                )
            items.append((f"UCF-101/{path}", folder))
        splits[part] = tuple(items)
    refuse_shared(splits, files)
    return ReleaseListing(classes=tuple(known[number] for number in sorted(known)), splits=splits)


# Something-Something V2 ---------------------------------------------------------------------------------------------


def _ssv2(root: Path, split: int, classes: Path | None) -> ReleaseListing:
    """``20bn-something-something-v2/ID.webm`` and ``labels/{labels,train,validation}.json``.

    The clips of ``test.json`` carry no labels: as everywhere, the validation split is what is tested on.
    """
    del split, classes
    release = RELEASES["ssv2"]
    folder = need(root, release, "20bn-something-something-v2").name

    def find(what: str) -> Path:
        # The first release named its lists after itself.
        return need(root, release, f"labels/{what}.json", f"labels/something-something-v2-{what}.json")

    labels_file = find("labels")
    labels: dict[str, Any] = json_of(labels_file, dict)
    ids = {name: str(number) for name, number in labels.items()}
    if sorted(ids.values()) != sorted(map(str, range(len(ids)))):
        raise ReleaseError(
            f"{labels_file} numbers its {len(ids)} classes with gaps or twice; expected 0 to {len(ids) - 1}."
        )
    ordered = sorted(ids, key=lambda name: int(ids[name]))
    splits: dict[str, Items] = {}
    files = {"train": find("train"), "test": find("validation")}
    for part, path in files.items():
        items = []
        for number, entry in entries(path, {"id": str, "template": str}):
            name = entry["template"].replace("[", "").replace("]", "")
            if name not in ids:
                raise ReleaseError(
                    f"{path}, entry {number}: template {entry['template']!r} is no class of {labels_file.name}; "
                    "take both lists from one release."
                )
            items.append((f"{folder}/{entry['id']}.webm", name))
        splits[part] = tuple(items)
    refuse_shared(splits, files)
    return ReleaseListing(classes=tuple(ordered), splits=splits)


# ImageNet-100 -------------------------------------------------------------------------------------------------------

_LISTS = ("Labels.json", "labels.json", "imagenet100.txt", "classes.txt")


def _wnids(path: Path) -> dict[str, str]:
    """Class folders of a list, each with its name or an empty string.

    Either JSON as the Kaggle release has it (``{"n01440764": "tench, Tinca tinca"}``) or text with one folder name a
    line, which a class name may follow.
    """
    if path.suffix == ".json":
        return {str(folder): str(name) for folder, name in json_of(path, dict).items()}
    found: dict[str, str] = {}
    for line, text in text_lines(path):
        folder, _, name = text.partition(" ")
        if folder in found:
            raise ReleaseError(f"{path}, line {line}: {folder} is listed before; expected each class once.")
        found[folder] = name.strip()
    return found


def _folders(parts: Sequence[Path]) -> dict[str, Path]:
    """Class folders of a split that may lie in several parts."""
    found: dict[str, Path] = {}
    for part in parts:
        for entry in sorted(part.iterdir()):
            if not entry.is_dir():
                continue
            if entry.name in found:
                raise ReleaseError(
                    f"The class {entry.name} lies in {found[entry.name]} and in {entry}; put its images together."
                )
            found[entry.name] = entry
    if not found:
        raise ReleaseError(
            f"{parts[0]} has no class folders (like n01440764); sort its images into one folder a class first, "
            "as the training images are."
        )
    return found


def _images(root: Path, folder: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Images of a class folder, relative to the root, and files that are none."""
    taken, aside = [], []
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        path = f"{folder.relative_to(root).as_posix()}/{entry.name}"
        if any("\ud800" <= character <= "\udfff" for character in path):
            aside.append((path.encode("utf-8", "backslashreplace").decode(), "its name is not valid UTF-8"))
        elif Path(entry.name).suffix.lower() not in IMAGES:
            aside.append((path, "it is no image by its name"))
        elif entry.is_file():
            taken.append(path)
    return taken, aside


def _imagenet100(root: Path, split: int, classes: Path | None) -> ReleaseListing:
    """``train.X1`` to ``train.X4``, ``val.X`` and ``Labels.json``, or ``train/`` and ``val/`` with a list of classes.

    Without a list, the class folders of the training split are the classes. Ids follow the sorted folder names.
    """
    del split
    release = RELEASES["imagenet100"]
    need(root, release, "train.X1", "train")
    kaggle = (root / "train.X1").exists()
    parts = {
        "train": sorted(root.glob("train.X*")) if kaggle else [root / "train"],
        "test": [need(root, release, "val.X" if kaggle else "val")],
    }
    if classes is not None and not classes.is_file():
        raise ReleaseError(
            f"The list {classes} cannot be read: No such file; --classes takes a file with one class folder a line "
            "(like n01440764), or Labels.json."
        )
    given = classes or next((root / name for name in _LISTS if (root / name).is_file()), None)
    chosen = None if given is None else _wnids(given)
    folders = {part: _folders(where) for part, where in parts.items()}
    wanted = dict.fromkeys(folders["train"], "") if chosen is None else chosen
    source = given or parts["train"][0]
    if len(wanted) > release.classes and chosen is None:
        raise ReleaseError(
            f"{parts['train'][0]} has {len(wanted)} class folders; expected {release.classes}. Say which with "
            "--classes FILE, one folder name a line (the usual list is imagenet100.txt of HobbitLong/CMC on GitHub)."
        )
    for part, found in folders.items():
        lacking = sorted(set(wanted) - set(found))
        if lacking:
            places = ", ".join(place.name for place in parts[part])
            raise ReleaseError(
                f"{len(lacking)} of the {len(wanted)} classes of {source} have no folder in {places}: "
                f"{', '.join(lacking[:3])}{' ...' if len(lacking) > 3 else ''}; complete the data, or give the right "
                "list with --classes."
            )
    names = {folder: f"{folder} {name}".strip() for folder, name in wanted.items()}
    splits: dict[str, Items] = {}
    aside: list[tuple[str, str]] = []
    for part, found in folders.items():
        items = []
        for folder in sorted(wanted):
            taken, other = _images(root, found[folder])
            items += [(path, names[folder]) for path in taken]
            aside += other
        splits[part] = tuple(items)
    return ReleaseListing(
        classes=tuple(names[folder] for folder in sorted(wanted)),
        splits=splits,
        set_aside=tuple(aside),
    )


# Diving-48 V2 -------------------------------------------------------------------------------------------------------


def _diving48(root: Path, split: int, classes: Path | None) -> ReleaseListing:
    """``rgb/NAME.mp4``, ``Diving48_V2_{train,test}.json`` and ``Diving48_vocab.json``."""
    del split, classes
    release = RELEASES["diving48"]
    need(root, release, "rgb")
    vocabulary = need(root, release, "Diving48_vocab.json")
    if (root / "Diving48_train.json").is_file() and not (root / "Diving48_V2_train.json").is_file():
        raise ReleaseError(
            f"{root} holds the first labels of Diving-48 (Diving48_train.json), which its authors corrected; "
            "get Diving48_V2_train.json and Diving48_V2_test.json."
        )
    words = json_of(vocabulary, list)
    names = tuple(" ".join(map(str, entry)) if isinstance(entry, list) else str(entry) for entry in words)
    if len(set(names)) != len(names):
        raise ReleaseError(f"{vocabulary} names a class twice; get it again from the release.")
    splits: dict[str, Items] = {}
    files = {part: need(root, release, f"Diving48_V2_{part}.json") for part in ("train", "test")}
    for part, path in files.items():
        items = []
        for number, entry in entries(path, {"vid_name": str, "label": int}):
            if not 0 <= entry["label"] < len(names):
                raise ReleaseError(
                    f"{path}, entry {number}: {entry['vid_name']} has label {entry['label']}; "
                    f"expected 0 to {len(names) - 1}, as Diving48_vocab.json has {len(names)} classes."
                )
            items.append((f"rgb/{entry['vid_name']}.mp4", names[entry["label"]]))
        splits[part] = tuple(items)
    refuse_shared(splits, files)
    return ReleaseListing(classes=names, splits=splits)


_SHIPPED: dict[str, Release] = {
    release.name: release
    for release in (
        Release(
            name="ucf101",
            title="UCF-101",
            layout="UCF-101/CLASS/*.avi and ucfTrainTestlist/*.txt",
            classes=101,
            counts={1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)},
            read=_ucf101,
            choices=("split",),
        ),
        Release(
            name="ssv2",
            title="Something-Something V2",
            layout="20bn-something-something-v2/*.webm and labels/{labels,train,validation}.json",
            classes=174,
            counts={1: (168_913, 24_777)},
            read=_ssv2,
        ),
        Release(
            name="imagenet100",
            title="ImageNet-100",
            layout="train.X1 to train.X4, val.X and Labels.json (the Kaggle release), or train/CLASS and val/CLASS",
            classes=100,
            counts={1: (126_689, 5000)},
            read=_imagenet100,
            choices=("classes",),
            advice="other choices of 100 classes have other numbers of images (the Kaggle release about 130,000), and "
            "accuracies on them do not compare with published ones",
        ),
        Release(
            name="diving48",
            title="Diving-48 V2",
            layout="rgb/*.mp4, Diving48_V2_{train,test}.json and Diving48_vocab.json",
            classes=48,
            counts={1: (15_027, 1970)},
            read=_diving48,
        ),
    )
}
RELEASES: Mapping[str, Release] = dict(_SHIPPED)
"""Every known release by name; what is registered later appears in it."""


def register_importer(release: Release) -> Release:
    """Make a release known to `equipoise data import`; one of the same name is replaced, unless it ships.

    Raises:
        ReleaseError: a release that ships has this name, or it is no name.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", release.name) or release.name in _SHIPPED:
        raise ReleaseError(
            f"An importer is called {release.name!r}; expected small letters, digits and _, and none of "
            f"{', '.join(_SHIPPED)}."
        )
    cast("dict[str, Release]", RELEASES)[release.name] = release
    return release
