"""How the four official releases lie on disk: from a release's own lists to paths and class names.

Nothing here opens a clip. A list that is missing, damaged or contradicts itself is an error that names the file, the
entry, what was expected and what to do.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise.data.listing import IMAGES
from equipoise.data.manifest import ManifestError

Items = tuple[tuple[str, str], ...]
"""Path relative to the root, with forward slashes, and class name."""


class ReleaseError(ManifestError):
    """A release does not lie where it was looked for, its lists cannot be used, or its counts are not the release's."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a release says of itself.

    Attributes:
        classes: Class names in the order of their ids.
        splits: Paths and class names, for ``train`` and ``test``.
        set_aside: Files that were found and not taken, and why.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Items]
    set_aside: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Release:
    """One official release.

    Attributes:
        name: As regimes name it.
        title: As its authors name it.
        layout: What lies in its root folder.
        classes: Number of classes.
        counts: Clips for training and for testing, by the number of the split; most releases have one, number 1.
        read: Reads its lists. Takes the root folder, the number of the split and a file with a list of classes.
        choices: What besides the root can be chosen: ``split`` or ``classes``.
        advice: What other numbers may mean.
    """

    name: str
    title: str
    layout: str
    classes: int
    counts: Mapping[int, tuple[int, int]]
    read: Callable[[Path, int, Path | None], Listing]
    choices: tuple[str, ...] = ()
    advice: str = ""


def _need(root: Path, release: Release, *parts: str) -> Path:
    """The first of ``parts`` that lies in the root; an error that says where the release was looked for otherwise."""
    for part in parts:
        if (root / part).exists():
            return root / part
    wanted = " or ".join(parts)
    # People give a folder too deep, or the one above.
    near = [root.parent, *(sorted(p for p in root.iterdir() if p.is_dir())[:50] if root.is_dir() else [])]
    hint = next((f"; did you mean --root {folder}?" for folder in near for p in parts if (folder / p).exists()), ".")
    if hint == "." and (alike := _alike(root / parts[0])) is not None:
        hint = f"; it has {alike.relative_to(root)}: give it the release's name."
    raise ReleaseError(
        f"{root} has no {wanted}. --root takes the folder in which {release.title} lies as {release.layout}{hint}"
    )


def _alike(path: Path) -> Path | None:
    """What lies beside a path that does not exist, under nearly its name: other letters, not another number."""

    def letters(name: str) -> str:
        return "".join(character for character in name if not character.isdigit())

    near = path.parent.iterdir() if path.parent.is_dir() else ()
    beside = {p.name: p for p in near if letters(p.name) != letters(path.name)}
    close = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.8)
    return beside[close[0]] if close else None


def _unreadable(path: Path, error: Exception) -> ReleaseError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ReleaseError(f"The list {path} cannot be read: {reason}; get it again from the release.")


def _text(path: Path) -> list[tuple[int, str]]:
    """Numbered lines that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    found = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise ReleaseError(f"The list {path} is empty; get it again from the release.")
    return found


def _json(path: Path, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
    """Content of a JSON file that must hold a list or an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(content, kind) or not content:
        raise ReleaseError(
            f"{path} begins with {json.dumps(content)[:40]!r}; expected a JSON {'list' if kind is list else 'object'} "
            "with entries: get it again from the release."
        )
    return content


def _entries(path: Path, keys: Mapping[str, type]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered objects of a JSON list, each with these keys of these types."""
    for number, entry in enumerate(_json(path, list)):
        for key, kind in keys.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                raise ReleaseError(
                    f"{path}, entry {number}: {json.dumps(entry)[:120]} has no {key!r} that is {kind.__name__}; "
                    "get the list again from the release."
                )
        yield number, entry


def _distinct(splits: Mapping[str, Sequence[tuple[str, str]]], names: Mapping[str, Path]) -> None:
    """No file is listed twice, within a split or in both."""
    seen: dict[str, str] = {}
    for split, items in splits.items():
        for path, _ in items:
            if path in seen:
                other = names[seen[path]]
                where = f"twice in {other}" if seen[path] == split else f"in {other} and in {names[split]}"
                raise ReleaseError(f"{path} is listed {where}; get the lists again from the release.")
            seen[path] = split


# UCF-101 ------------------------------------------------------------------------------------------------------------


def _ucf_classes(path: Path) -> dict[int, str]:
    classes: dict[int, str] = {}
    for line, text in _text(path):
        number, _, name = text.partition(" ")
        if not number.isdigit() or not name or int(number) in classes or name in classes.values():
            raise ReleaseError(
                f"{path}, line {line}: {text!r}; expected a number and a class, each once, like '1 ApplyEyeMakeup'."
            )
        classes[int(number)] = name
    if sorted(classes) != list(range(1, len(classes) + 1)):
        raise ReleaseError(f"{path} numbers its {len(classes)} classes with gaps; expected 1 to {len(classes)}.")
    return classes


def _ucf101(root: Path, split: int, classes: Path | None) -> Listing:
    """``UCF-101/CLASS/v_*.avi`` and ``ucfTrainTestlist/{classInd,trainlist0N,testlist0N}.txt``."""
    del classes
    release = RELEASES["ucf101"]
    _need(root, release, "UCF-101")
    lists = _need(root, release, "ucfTrainTestlist")
    known = _ucf_classes(_need(root, release, "ucfTrainTestlist/classInd.txt"))
    names = set(known.values())
    splits: dict[str, Items] = {}
    files: dict[str, Path] = {}
    for part in ("train", "test"):
        files[part] = _need(root, release, f"{lists.name}/{part}list{split:02d}.txt")
        items = []
        for line, text in _text(files[part]):
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
    _distinct(splits, files)
    return Listing(classes=tuple(known[number] for number in sorted(known)), splits=splits)


# Something-Something V2 ---------------------------------------------------------------------------------------------


def _ssv2(root: Path, split: int, classes: Path | None) -> Listing:
    """``20bn-something-something-v2/ID.webm`` and ``labels/{labels,train,validation}.json``.

    The clips of ``test.json`` carry no labels: as everywhere, the validation split is what is tested on.
    """
    del split, classes
    release = RELEASES["ssv2"]
    folder = _need(root, release, "20bn-something-something-v2").name

    def find(what: str) -> Path:
        # The first release named its lists after itself.
        return _need(root, release, f"labels/{what}.json", f"labels/something-something-v2-{what}.json")

    labels_file = find("labels")
    labels: dict[str, Any] = _json(labels_file, dict)
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
        for number, entry in _entries(path, {"id": str, "template": str}):
            name = entry["template"].replace("[", "").replace("]", "")
            if name not in ids:
                raise ReleaseError(
                    f"{path}, entry {number}: template {entry['template']!r} is no class of {labels_file.name}; "
                    "take both lists from one release."
                )
            items.append((f"{folder}/{entry['id']}.webm", name))
        splits[part] = tuple(items)
    _distinct(splits, files)
    return Listing(classes=tuple(ordered), splits=splits)


# ImageNet-100 -------------------------------------------------------------------------------------------------------

_LISTS = ("Labels.json", "labels.json", "imagenet100.txt", "classes.txt")


def _wnids(path: Path) -> dict[str, str]:
    """Class folders of a list, each with its name or an empty string.

    Either JSON as the Kaggle release has it (``{"n01440764": "tench, Tinca tinca"}``) or text with one folder name a
    line, which a class name may follow.
    """
    if path.suffix == ".json":
        return {str(folder): str(name) for folder, name in _json(path, dict).items()}
    found: dict[str, str] = {}
    for line, text in _text(path):
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


def _imagenet100(root: Path, split: int, classes: Path | None) -> Listing:
    """``train.X1`` to ``train.X4``, ``val.X`` and ``Labels.json``, or ``train/`` and ``val/`` with a list of classes.

    Without a list, the class folders of the training split are the classes. Ids follow the sorted folder names.
    """
    del split
    release = RELEASES["imagenet100"]
    _need(root, release, "train.X1", "train")
    kaggle = (root / "train.X1").exists()
    parts = {
        "train": sorted(root.glob("train.X*")) if kaggle else [root / "train"],
        "test": [_need(root, release, "val.X" if kaggle else "val")],
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
    return Listing(
        classes=tuple(names[folder] for folder in sorted(wanted)),
        splits=splits,
        set_aside=tuple(aside),
    )


# Diving-48 V2 -------------------------------------------------------------------------------------------------------


def _diving48(root: Path, split: int, classes: Path | None) -> Listing:
    """``rgb/NAME.mp4``, ``Diving48_V2_{train,test}.json`` and ``Diving48_vocab.json``."""
    del split, classes
    release = RELEASES["diving48"]
    _need(root, release, "rgb")
    vocabulary = _need(root, release, "Diving48_vocab.json")
    if (root / "Diving48_train.json").is_file() and not (root / "Diving48_V2_train.json").is_file():
        raise ReleaseError(
            f"{root} holds the first labels of Diving-48 (Diving48_train.json), which its authors corrected; "
            "get Diving48_V2_train.json and Diving48_V2_test.json."
        )
    words = _json(vocabulary, list)
    names = tuple(" ".join(map(str, entry)) if isinstance(entry, list) else str(entry) for entry in words)
    if len(set(names)) != len(names):
        raise ReleaseError(f"{vocabulary} names a class twice; get it again from the release.")
    splits: dict[str, Items] = {}
    files = {part: _need(root, release, f"Diving48_V2_{part}.json") for part in ("train", "test")}
    for part, path in files.items():
        items = []
        for number, entry in _entries(path, {"vid_name": str, "label": int}):
            if not 0 <= entry["label"] < len(names):
                raise ReleaseError(
                    f"{path}, entry {number}: {entry['vid_name']} has label {entry['label']}; "
                    f"expected 0 to {len(names) - 1}, as Diving48_vocab.json has {len(names)} classes."
                )
            items.append((f"rgb/{entry['vid_name']}.mp4", names[entry["label"]]))
        splits[part] = tuple(items)
    _distinct(splits, files)
    return Listing(classes=names, splits=splits)


RELEASES: Mapping[str, Release] = {
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
