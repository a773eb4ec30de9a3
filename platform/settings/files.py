"""YAML files: found by name or path, read, changed by overrides."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from equipoise.platform.errors import SettingsError, nearest


def load_yaml(path: Path) -> Any:
    """Read a YAML file.

    Args:
        path: the file.

    Returns:
        Its content.

    Raises:
        SettingsError: for a missing file, one that cannot be read, or broken YAML (with the line).
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist; give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{path} is not valid YAML{line}: {getattr(error, 'problem', error)}") from None


def shipped(folder: str) -> dict[str, Path]:
    """YAML files that ship in a folder of ``search_spaces/``, by stem."""
    root = Path(str(resources.files("equipoise.search_spaces"))) / folder
    return {p.stem: p for p in sorted(root.glob("*.yaml"))}


def variant_names() -> list[str]:
    """Names and aliases of the shipped variants, without what it takes to check them."""
    content = load_yaml(Path(str(resources.files("equipoise.search_spaces"))) / "variants.yaml")
    return [name for key, entry in content.items() for name in (key, *entry.get("aliases", ()))]


OTHERS = {"spaces": ("studies", "a study, of named variants: equipoise ablate {} runs it")}
OTHERS |= {"studies": ("spaces", "a search space: equipoise sweep {} runs it")}


def find(folder: str, name_or_path: str, what: str) -> Path:
    """Path of a shipped YAML by name, or of the person's own by path.

    Args:
        folder: folder of ``search_spaces/``.
        name_or_path: ``nano`` or ``my/preset.yaml``.
        what: the word for the error sentence.

    Returns:
        The file.

    Raises:
        SettingsError: where neither exists, with the nearest shipped name.
    """
    known = shipped(folder)
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise SettingsError(f"{what} file {path} does not exist; shipped: {', '.join(known)}")
    other, runs = OTHERS.get(folder, (folder, ""))
    if name_or_path in shipped(other):
        raise SettingsError(f"{name_or_path!r} is {runs.format(name_or_path)}")
    raise SettingsError(f"unknown {what} {name_or_path!r}; {nearest(name_or_path, known)}")


def beside(file: Path, named: Any) -> Any:
    """What a YAML file calls another one: a relative path in it is relative to the file, a shipped name is no path.

    Args:
        file: the file that names.
        named: what it names.

    Returns:
        The absolute path of a YAML file; anything else as it is.
    """
    if isinstance(named, str) and Path(named).suffix in (".yaml", ".yml"):
        return str(file.resolve().parent / named)
    return named


def apply_override(data: Any, item: str) -> None:
    """Set one nested key of parsed YAML in place from ``a.b.c=value``.

    Args:
        data: nested mappings.
        item: key path and a YAML value.

    Raises:
        SettingsError: if the item has no ``=``, passes through what is not a mapping, or its value is no YAML.
    """
    path, sign, text = item.partition("=")
    if not sign or not path:
        raise SettingsError(f"override {item!r} has no value; write it as optimisation.steps=200")
    *parents, last = path.split(".")
    for part in parents:
        data = data.setdefault(part, {}) if isinstance(data, dict) else None
    if not isinstance(data, dict):
        raise SettingsError(f"override {item!r}: {'.'.join(parents) or 'the file'} is not a group of settings")
    try:
        data[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise SettingsError(f"override {item!r}: {text!r} is not a valid YAML value") from None
