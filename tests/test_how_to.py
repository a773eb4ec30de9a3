"""The how-to pages do what they say: their files are written and their commands run, in a newcomer's order."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# (\S+\.\w+)\n")
PAGES = ("own_objectives.md", "own_encoder.md", "from_a_checkpoint.md", "protocols.md", "your_data.md", "export.md")
# Minutes each, or on what those make: they are parsed, and tests/platform_ runs them with what the page brings.
TRAINS = ("ablate", "export", "pretrain", "sweep")


@pytest.mark.slow
@pytest.mark.usefixtures("own_objectives")
@pytest.mark.parametrize("page", PAGES)
def test_the_page_works_from_top_to_bottom(
    page: str,
    tiny_data: Path,
    tmp_path: Path,
    call: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "equipoise_home"
    home.mkdir()
    (home / "data").symlink_to(tiny_data / "data")
    monkeypatch.setenv("EQUIPOISE_HOME", str(home))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    ran, printed = 0, ""
    for language, block in BLOCK.findall((DOCS / page).read_text()):
        name = NAMED.match(block)
        if language in ("yaml", "python"):
            assert name is not None, block
            (tmp_path / name[1]).write_text(block.replace("PRINTED_BY_SHA256SUM", printed.split(" ")[0]))
        if language != "sh":
            continue
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[0] == "equipoise":  # in this process, which has loaded PyTorch
                code, out, err = call(*words[1:], *(["--help"] if words[1] in TRAINS else []))
            else:
                words[0] = sys.executable if words[0] == "python" else words[0]
                done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
                code, out, err = done.returncode, done.stdout, done.stderr
            assert code == 0, f"{line}\n{out}\n{err}"
            ran, printed = ran + 1, out
    assert ran


def test_every_link_of_a_page_leads_somewhere() -> None:
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
