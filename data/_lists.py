"""Lists of a release: found, read and checked, whichever release it is."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise.data.manifest import ManifestError

Items = tuple[tuple[str, str], ...]
"""Path relative to the root, with forward slashes, and class name."""


class ReleaseError(ManifestError):
    """A release does not lie where it was looked for, its lists cannot be used, or its counts are not the release's."""


@dataclass(frozen=True, kw_only=True)
class ReleaseListing:
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
    read: Callable[[Path, int, Path | None], ReleaseListing]
    choices: tuple[str, ...] = ()
    advice: str = ""


def need(root: Path, release: Release, *parts: str) -> Path:
    """The first of ``parts`` that lies in the root; an error that says where the release was looked for otherwise."""
    for part in parts:
        if (root / part).exists():
            return root / part
    wanted = " or ".join(parts)
    # People give a folder too deep, or the one above.
    near = [root.parent, *(sorted(p for p in root.iterdir() if p.is_dir())[:50] if root.is_dir() else [])]
    hint = next((f"; did you mean --root {folder}?" for folder in near for p in parts if (folder / p).exists()), ".")
    if hint == "." and (alike := alike_named(root / parts[0])) is not None:
        hint = f"; it has {alike.relative_to(root)}: give it the release's name."
    raise ReleaseError(
        f"{root} has no {wanted}. --root takes the folder in which {release.title} lies as {release.layout}{hint}"
    )


def alike_named(path: Path) -> Path | None:
    """What lies beside a path that does not exist, under nearly its name: other letters, not another number."""

    def letters(name: str) -> str:
        return "".join(character for character in name if not character.isdigit())

    near = path.parent.iterdir() if path.parent.is_dir() else ()
    beside = {p.name: p for p in near if letters(p.name) != letters(path.name)}
    close = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.8)
    return beside[close[0]] if close else None


def unreadable(path: Path, error: Exception) -> ReleaseError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ReleaseError(f"The list {path} cannot be read: {reason}; get it again from the release.")


def text_lines(path: Path) -> list[tuple[int, str]]:
    """Numbered lines that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    found = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise ReleaseError(f"The list {path} is empty; get it again from the release.")
    return found


def json_of(path: Path, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
    """Content of a JSON file that must hold a list or an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise unreadable(path, error) from error
    if not isinstance(content, kind) or not content:
        raise ReleaseError(
            f"{path} begins with {json.dumps(content)[:40]!r}; expected a JSON {'list' if kind is list else 'object'} "
            "with entries: get it again from the release."
        )
    return content


def entries(path: Path, keys: Mapping[str, type]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered objects of a JSON list, each with these keys of these types."""
    for number, entry in enumerate(json_of(path, list)):
        for key, kind in keys.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                raise ReleaseError(
                    f"{path}, entry {number}: {json.dumps(entry)[:120]} has no {key!r} that is {kind.__name__}; "
                    "get the list again from the release."
                )
        yield number, entry


def refuse_shared(splits: Mapping[str, Sequence[tuple[str, str]]], names: Mapping[str, Path]) -> None:
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
