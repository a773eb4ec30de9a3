"""No mistake of a person ends in a trace: every error class of the package is one that is said in words."""

from __future__ import annotations

import ast
import builtins
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import equipoise
from equipoise.platform.cli import main
from equipoise.platform.cli.main import USER_ERRORS

ROOT = Path(__file__).parents[1]
# Those of the system say what failed and where, and are caught where they can happen.
BUILTIN = {
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, OSError)
}
# What the language or a library asks for by its class: pydantic's validators, a mapping's missing key, a method that
# has to be defined; what is caught in the same file.
BY_CLASS = {
    "platform/settings": {"ValueError"},
    "platform/analysis/claims/vocabulary.py": {"ValueError"},
    "platform/record/ledger.py": {"KeyError"},
    "platform/stats/selection.py": {"KeyError"},
    "platform/trial/checkpoint.py": {"ValueError"},
    "platform/stats/published.py": {"ValueError"},
    "models/objectives/base.py": {"NotImplementedError"},
    "platform/cli": {"SystemExit"},
}


def raised() -> Iterator[tuple[str, str, int]]:
    """File, class and line of every built-in exception that the package raises by name."""
    for folder in ("models", "data", "platform"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Raise) and node.exc is not None:
                    called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                    if isinstance(called, ast.Name) and called.id in BUILTIN:
                        yield path.relative_to(ROOT).as_posix(), called.id, node.lineno


def test_no_built_in_exception_is_raised_where_a_person_could_meet_it() -> None:
    found = [
        f"{file}:{line} raises {kind}"
        for file, kind, line in raised()
        if not any(file.startswith(where) and kind in kinds for where, kinds in BY_CLASS.items())
    ]
    assert not found


def test_every_error_class_is_one_that_is_said_in_words() -> None:
    for module in pkgutil.walk_packages(equipoise.__path__, "equipoise."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    # Folders of platform/ are packages without a file of their own above them.
    for path in (ROOT / "platform").rglob("*.py"):
        name = ".".join(("equipoise", *path.relative_to(ROOT).with_suffix("").parts))
        importlib.import_module(name.removesuffix(".__init__"))

    def below(kind: type[BaseException]) -> Iterator[type[BaseException]]:
        for one in kind.__subclasses__():
            yield one
            yield from below(one)

    own = {kind for kind in below(Exception) if kind.__module__.startswith("equipoise.")}
    assert len(own) > len(USER_ERRORS)
    assert [kind for kind in own if not issubclass(kind, USER_ERRORS)] == []


@pytest.mark.parametrize("kind", USER_ERRORS)
def test_such_an_error_is_one_line_and_a_status(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**_: object) -> None:
        raise kind("the sentence")

    monkeypatch.setattr(main.cli, "main", fails)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "Error: the sentence\n"


@pytest.mark.slow
def test_masks_that_hide_everything_are_a_sentence(tiny_data: Path) -> None:
    words = ["audit", "hw", "--preset", "nano", "--home", str(tiny_data), "--set", "model.size=8"]
    words += ["--set", "model.masks.blocks=[{count: 8, area: 0.15}, {count: 2, area: 0.7}]"]
    done = subprocess.run(
        [sys.executable, "-m", "equipoise", *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Error: ")
