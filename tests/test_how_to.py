"""The how-to pages do what they say: their files are written and their commands run, in a newcomer's order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# (\S+\.\w+)\n")
PAGES = ("own_objectives.md", "own_encoder.md", "from_a_checkpoint.md", "protocols.md", "your_data.md", "export.md")
# Minutes each, or on what those make: they are parsed, and tests/platform_ runs them with what the page brings.
TRAINS = ("ablate", "export", "pretrain", "sweep")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_page_works_from_top_to_bottom(page: str, tiny_data: Path, tmp_path: Path) -> None:
    home = tmp_path / "equipoise_home"
    home.mkdir()
    (home / "data").symlink_to(tiny_data / "data")
    environment = {**os.environ, "EQUIPOISE_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    ran, printed = 0, ""
    for language, block in BLOCK.findall((DOCS / page).read_text()):
        name = NAMED.match(block)
        if language in ("yaml", "python"):
            assert name is not None, block
            (tmp_path / name[1]).write_text(block.replace("PRINTED_BY_SHA256SUM", printed.split(" ")[0]))
        if language != "sh":
            continue
        for line in block.splitlines():
            words = shlex.split(line)
            if words[0] == "python":
                words[0] = sys.executable
            if words[0] == "equipoise" and words[1] in TRAINS:
                words = ["equipoise", *words[1:], "--help"]
            done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            ran, printed = ran + 1, done.stdout
    assert ran


def test_every_link_of_a_page_leads_somewhere() -> None:
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
