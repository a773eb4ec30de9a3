"""The rooms of ``platform/``: who may import whom, which library each may touch, and nothing private across files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PLATFORM = Path(__file__).parents[1] / "platform"
PREFIX = "equipoise.platform"
# What each room may import besides itself and the files at the root of platform/.
ROOMS: dict[str, tuple[str, ...]] = {
    "settings": (),
    "stats": (),
    "trial": ("settings",),
    "record": ("settings", "stats"),
    "search": ("record", "settings", "stats"),
    "analysis": ("search", "record", "settings", "stats"),
    "report": ("analysis", "search", "record", "settings", "stats", "trial"),
    "study": ("search", "record", "trial", "settings", "stats", "report.plots.gradients"),
    "cli": ("api", "study", "report", "analysis", "search", "record", "trial", "settings", "stats"),
}
ROOT = ("errors", "seeds", "storage", "provenance")  # files that every room may use, and that use none
BESIDE = {  # the packages beside platform/
    "settings": ("models",),
    "trial": ("data", "models"),
    "study": ("data",),
    "report.html": ("data", "models"),
    "report.export": ("data", "models"),
    "cli": ("data", "models"),
    "api": ("data", "models"),
}
FENCES = {  # a library, and the only places that may import it
    "mlflow": ("record", "api"),
    "optuna": ("search", "settings.space", "analysis"),
    "ray": ("study", "trial"),
    "matplotlib": ("report.plots", "report.html.charts"),
    "rich": ("report.tables", "study.progress", "cli"),
    "click": ("cli",),
    "sqlite3": ("record.ledger",),
}


def within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(place + ".") for place in places)


def imports(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Line, module and imported name of every import, lazy ones and those for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, node.module or "." * node.level, alias.name) for alias in node.names)


def breaches(where: Path, source: str) -> list[str]:
    """What in a file of ``platform/`` breaks the table, with file and line."""
    found = []
    module = ".".join(where.with_suffix("").parts)
    room = where.parts[0] if len(where.parts) > 1 else module
    tree = ast.parse(source)
    if where.name == "__init__.py":
        if where.parent == Path() or any(not isinstance(node, ast.Expr) for node in tree.body):
            return [f"{where}:1 an __init__.py holds a docstring and nothing else, and platform/ has none"]
        return []
    for line, imported, name in imports(tree):
        library, _, rest = imported.partition(".")
        said = f"{where}:{line} imports {imported}{f'.{name}' if name else ''}"
        if library in FENCES and not within(module, FENCES[library]):
            found.append(f"{said}: only {', '.join(FENCES[library])} may")
        if imported.startswith("."):
            found.append(f"{said}: imports are absolute")
        if library != "equipoise":
            continue
        if name.startswith("_"):
            found.append(f"{said}: a private name of another file")
        if within(imported, (PREFIX,)):
            target = imported.removeprefix(PREFIX).strip(".")
            if (PLATFORM / target.replace(".", "/")).is_dir():
                target = f"{target}.{name}".strip(".")
            may = (*ROOT, *ROOMS) if module == "api" else ROOT if room in ROOT else (*ROOT, room, *ROOMS.get(room, ()))
            if not within(target, may):
                found.append(f"{said}: {room} may import {', '.join(may)}")
        elif (beside := rest.partition(".")[0] or name) in ("data", "models") and not any(
            within(module, (place,)) and beside in packages for place, packages in BESIDE.items()
        ):
            found.append(f"{said}: {room} may not")
    return found


def test_every_import_keeps_to_the_rooms() -> None:
    folders = {p.name for p in PLATFORM.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders == set(ROOMS)
    files = sorted(PLATFORM.rglob("*.py"))
    assert [breach for file in files for breach in breaches(file.relative_to(PLATFORM), file.read_text())] == []


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("stats/pareto.py", f"from {PREFIX}.record.home import Home", "stats may import"),
        ("record/home.py", f"def late():\n    from {PREFIX}.search.store import SearchStore", "record may import"),
        (
            "trial/run.py",
            f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from {PREFIX}.record.tracking import Tracker",
            "trial may import",
        ),
        ("analysis/effects.py", f"from {PREFIX} import trial", "analysis may import"),
        ("study/run.py", f"from {PREFIX}.report.front import conclude_study", "study may import"),
        ("errors.py", f"from {PREFIX}.settings.base import Settings", "may import"),
        ("record/cost.py", "from equipoise.models.encoders import VideoEncoder", "record may not"),
        ("stats/table.py", "from equipoise import data", "stats may not"),
        ("search/samplers.py", f"from {PREFIX}.search.store import _postgresql", "a private name"),
        ("search/samplers.py", "from . import store", "imports are absolute"),
        ("stats/__init__.py", "import math", "a docstring and nothing else"),
        *(("stats/new.py", f"import {name}", "only") for name in FENCES),
        ("report/html/page.py", "import matplotlib.pyplot", "only report.plots"),
        ("record/home.py", "import sqlite3", "only record.ledger may"),
    ],
)  # fmt: skip
def test_a_planted_breach_is_seen(file: str, line: str, said: str) -> None:
    place = PLATFORM / file
    planted = (place.read_text() if place.exists() else "") + "\n" + line + "\n"
    at = len(planted.splitlines()) if "__init__" not in file else 1
    found = breaches(Path(file), planted)
    assert len(found) == 1, found
    assert found[0].startswith(f"{file}:{at} ")
    assert said in found[0]
