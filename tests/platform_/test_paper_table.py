"""Tables as papers have them: every cell is a number of the record, and every format is what its readers read."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typst

from equipoise.platform.analysis.differences import differences
from equipoise.platform.analysis.paper_table import PaperTable, paper_table
from equipoise.platform.report.tables import paper
from equipoise.platform.stats.noise import study_noise
from equipoise.platform.stats.table import ResultTable, Score
from equipoise.platform.stats.uncertainty import samples
from equipoise.platform.study.bundling import open_bundle

Call = Callable[..., tuple[int, str, str]]
SYNTHETIC = "miniature_synthetic"
UGLY = r"a_b & 50 % {#1} ~^\ <i>$x$</i> *"


def scores(accuracies: dict[str, list[float]], benchmark: str = "mini") -> ResultTable:
    rows = [
        Score(variant=variant, seed=seed, benchmark=benchmark, accuracy_percent=value)
        for variant, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    return ResultTable.from_scores(rows)


def made(table: ResultTable, **more: Any) -> PaperTable:
    return paper_table(table, samples(table), study_noise(table), "T", baseline="baseline", **more)


def numbers(text: str) -> list[float]:
    plain = text.replace(paper.MINUS, "-").replace("\\+", "+")
    return [float(n) for n in re.findall(r"(?<![\w.])[-+]?\d+\.\d+", plain)]


def expected(found: dict[str, Any]) -> list[list[float]]:
    """Numbers of each row from left to right, as a format with one digit shows them."""
    rows = []
    for row in found["rows"]:
        values = []
        for b in found["benchmarks"]:
            cell = row["cells"].get(b, {})
            values += [cell.get(k) for k in ("mean", "low", "high", "gain", "gain_low", "gain_high")]
        rows.append([float(f"{v:.1f}") for v in values if v is not None])
    return rows


STARTS: dict[str, Callable[[str], str]] = {
    "latex": lambda n: rf"\texttt{{{n.replace('_', chr(92) + '_')}}}",
    "markdown": lambda n: f"| `{n}`",
    "typst": lambda n: f'raw("{n}")',
    "html": lambda n: f'<th scope="row">{n}</th>',
}


def lines_of(form: str, text: str, names: list[str]) -> list[str]:
    """The line of each variant, without its name."""
    starts = STARTS[form]
    return [next(line for line in text.splitlines() if starts(name) in line).split(starts(name))[1] for name in names]


@pytest.mark.parametrize("form", ["latex", "markdown", "html", "typst"])
def test_every_cell_is_a_number_of_the_record(form: str, call: Call) -> None:
    found = json.loads(call("table", "--reference", SYNTHETIC, "--json")[1])
    code, text, _ = call("table", "--reference", SYNTHETIC, "--format", form)
    assert code == 0
    names = [row["variant"] for row in found["rows"]]
    assert names[0] == "baseline"
    assert [numbers(line) for line in lines_of(form, text, names)] == expected(found)
    stars = sum(cell["more_than_chance"] for row in found["rows"] for cell in row["cells"].values())
    plain = [line.replace("**", "") for line in lines_of(form, text, names)]
    assert sum(line.count("*") for line in plain) == stars > 0


def test_csv_has_every_number_whole(call: Call) -> None:
    found = json.loads(call("table", "--reference", SYNTHETIC, "--json")[1])
    rows = list(csv.DictReader(io.StringIO(call("table", "--reference", SYNTHETIC, "--format", "csv")[1])))
    wanted = [(row["variant"], b, cell) for row in found["rows"] for b, cell in row["cells"].items()]
    assert [(row["variant"], row["benchmark"]) for row in rows] == [(v, b) for v, b, _ in wanted]
    for row, (*_, cell) in zip(rows, wanted, strict=True):
        for name, value in cell.items():
            assert row[name] == ("" if value is None else str(value))


def test_stars_are_those_of_front_and_report(tmp_path: Path, call: Call) -> None:
    found = json.loads(call("table", "--reference", SYNTHETIC, "--json")[1])
    mine = {(row["variant"], b): cell for row in found["rows"] for b, cell in row["cells"].items()}
    for key, difference in differences(open_bundle(SYNTHETIC, tmp_path)).items():
        assert mine[key]["gain"] == difference.estimate
        assert mine[key]["more_than_chance"] == difference.distinguishable
    # What is not shown is tested all the same.
    some = json.loads(call("table", "--reference", SYNTHETIC, "--variant", "ld", "--json")[1])
    assert [row["cells"] for row in some["rows"]] == [r["cells"] for r in found["rows"] if r["variant"] == "ld"]


def test_bold_is_what_can_be_told_from_the_next() -> None:
    clear = made(scores({"baseline": [50, 51, 52, 50], "a": [60, 61, 62, 60], "b": [55, 56.5, 56.4, 55.2]}))
    assert [row.variant for row in clear.rows if row.cells["mini"].best] == ["a"]
    assert r"\mathbf{60.8}" in paper.latex(clear)
    tied = made(scores({"baseline": [50, 51, 52, 50], "a": [60, 58, 62, 60], "b": [59, 61, 60, 59.9]}))
    assert not any(row.cells["mini"].best for row in tied.rows)


def test_one_seed_gets_no_star_and_is_named() -> None:
    found = made(scores({"baseline": [50], "a": [70]}))
    assert not any(cell.more_than_chance or cell.best for row in found.rows for cell in row.cells.values())
    assert any(note.startswith("One seed") and "baseline, a" in note for note in found.notes)


class Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_names_of_all_kinds_are_shown_as_they_are_written() -> None:
    found = made(scores({"baseline": [50, 52, 51], "x": [60, 62, 61]}, UGLY))
    reader = Cells()
    reader.feed(paper.html_table(found))
    assert UGLY in reader.text
    assert "i" not in reader.tags
    assert typst.compile(paper.typst(found).encode(), format="svg")
    plain = re.sub(r"\\(.)", r"\1", paper.markdown(found))
    assert UGLY.replace("\\", "") in plain.replace("\\", "")


def test_typst_compiles_what_a_study_gives(call: Call) -> None:
    assert typst.compile(call("table", "--reference", SYNTHETIC, "--format", "typst")[1].encode()).startswith(b"%PDF")


@pytest.mark.long
def test_latex_compiles_and_fits_its_page(tmp_path: Path, call: Call) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is missing: make tex (Debian: apt install texlive-latex-recommended)")
    for name, text in (
        ("study", call("table", "--reference", "miniature", "--format", "latex")[1]),
        ("ugly", paper.latex(made(scores({"baseline": [50, 52], "x": [60, 62]}, UGLY)))),
    ):
        document = "\\documentclass[twocolumn]{article}\\usepackage{booktabs}\\begin{document}\n%s\\end{document}\n"
        (tmp_path / f"{name}.tex").write_text(document % text)
        words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
        assert "Overfull" not in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "give one of: a STUDY, --reference NAME, --results FILE.csv, or --published"),
        (("--published", "--variant", "nope"), "there is no variant 'nope' in the table"),
        (("--reference", SYNTHETIC, "--regime", "mixed"), "--regime goes with --results or --published"),
        (("--published", "--format", "word"), "'word' is not one of"),
    ],
)
def test_what_cannot_be_is_a_sentence(words: tuple[str, ...], sentence: str, call: Call) -> None:
    code, _, err = call("table", *words)
    assert code != 0
    assert sentence in err
    assert "Traceback" not in err


def test_a_csv_of_ones_own_is_a_table_too(tmp_path: Path, call: Call) -> None:
    lines = ["regime,variant,seed,benchmark,probe,top1_percent"]
    lines += [
        f"r,{v},{s},b,linear,{x}" for v, first in (("mae", 50), ("ours", 55)) for s, x in ((0, first), (1, first + 1))
    ]
    (tmp_path / "own.csv").write_text("\n".join(lines))
    code, out, err = call(
        *("table", "--results", tmp_path / "own.csv", "--baseline", "mae", "--out", tmp_path / "own.md")
    )
    assert code == 0, err
    assert "2 variants in" in out
    assert "| `ours` | 2 | 55.5" in (tmp_path / "own.md").read_text()
