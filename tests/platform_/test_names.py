"""Names: refused with the definition by one rule, or shown everywhere as they are written."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Console

from equipoise.platform.cli.options import terminal
from equipoise.platform.cli.plain import MARKS, PLAIN
from equipoise.platform.errors import SettingsError
from equipoise.platform.report.front import conclude_table
from equipoise.platform.report.html.charts import pair
from equipoise.platform.report.plots.style import legend_label, save_figure
from equipoise.platform.report.tables.front import show
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.names import MOST, RULE, check_name
from equipoise.platform.settings.study import AblationDefinition
from equipoise.platform.settings.trial import Regime, load_regime
from equipoise.platform.stats.table import ResultTable, Score

Call = Callable[..., tuple[int, str, str]]
BENCHMARKS = ("one", "two")
# What a cell of a table may hold: anything that has a width and stands on one line.
PRINTABLE = st.text(
    st.characters(exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Mn", "Me", "Lm", "Sk")),
    min_size=1,
    max_size=30,
).map(lambda text: " ".join(text.split()) or "x")


def table(variant: str) -> ResultTable:
    scores = [
        Score(
            variant=v,
            seed=s,
            benchmark=b,
            accuracy_percent=20 + s + 3 * (v != "baseline"),
            items=100,
            flags=frozenset(),
        )
        for v in ("baseline", variant)
        for s in (0, 1)
        for b in BENCHMARKS
    ]
    return ResultTable(tuple(scores), BENCHMARKS)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PRINTABLE.filter(lambda name: name not in ("baseline", "random_init")))
@example("hw[/]")
@example("[bold]b")
@example("ld [red]x")
@example("$x_1$ and $y$")
@example("$\\frac{$")
@example("_hidden")
@example(":smile:")
@example("<b>&amp;</b>")
@example("a\\[b]")
def test_any_name_of_a_table_is_shown_as_it_is_written(tmp_path: Path, name: str) -> None:
    found = conclude_table(table(name), name, tmp_path / "front.png", None)
    console = Console(file=(out := io.StringIO()), width=400, markup=False, emoji=False, highlight=False)
    show(found, console)
    assert name in out.getvalue()
    unknown = {(v, b): (math.nan, math.nan) for v in ("baseline", name) for b in BENCHMARKS}
    chart = ET.fromstring(pair(found.selection, unknown, *BENCHMARKS))
    assert name in {part.get("data-variant") for part in chart.iter()}
    assert any((part.text or "").startswith(name) for part in chart.iter() if part.tag.endswith("title"))


def test_the_consoles_of_commands_read_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    terminal().print("[bold]b[/] :smile: [link=x]")
    assert capsys.readouterr().out == "[bold]b[/] :smile: [link=x]\n"


def test_pictures_show_dollars_and_legends_hide_nothing(tmp_path: Path) -> None:
    figure = Figure()
    figure.legend(handles=[Line2D([], [], label=legend_label("_hidden"))])
    save_figure(figure, tmp_path / "a.svg")
    assert [text.get_text().lstrip("\N{ZERO WIDTH SPACE}") for text in figure.legends[0].get_texts()] == ["_hidden"]


@given(st.text(max_size=80))
@example("x" * (MOST + 1))
@example("hw w=0.5/tau=1")
@example("SSv2 (val)")
@example("../x")
@example("a\n")
@example("é")
@settings(deadline=None)
def test_a_definition_takes_a_name_or_says_in_one_sentence_what_one_is(name: str) -> None:
    regime = load_regime("miniature").model_dump(mode="json")
    one = next(iter(regime["benchmarks"].values()))
    ablation = {"name": "a", "regime": "miniature", "preset": "nano", "custom": {name: {"objectives": {"delta": 1.0}}}}
    for model, content in (
        (AblationDefinition, ablation),
        (AblationDefinition, {**ablation, "name": name, "custom": {}, "variants": ["hw"]}),
        (Regime, {**regime, "benchmarks": {name: one}}),
        (Regime, {**regime, "name": name}),
    ):
        if RULE.fullmatch(name):
            parse(model, content, "x")
        else:
            with pytest.raises(
                SettingsError, match="cannot be a name, which becomes part of files and addresses: use 1"
            ):
                parse(model, content, "x")


def test_two_names_are_two_files_everywhere() -> None:
    content = {"name": "a", "regime": "miniature", "preset": "nano"}
    mixes = {name: {"objectives": {"delta": 1.0}} for name in ("Gentle", "gentle")}
    with pytest.raises(SettingsError, match="'Gentle' and 'gentle' differ in capitals alone"):
        parse(AblationDefinition, {**content, "custom": mixes}, "x")


@settings(deadline=None)
@given(st.from_regex(RULE, fullmatch=True))
def test_a_name_is_one_part_of_a_path_and_a_metric_of_mlflow(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    assert check_name(name) == name
    assert Path(f"{name}.parquet").name == f"{name}.parquet"
    _validate_metric_name(f"{name}/select")


def test_nothing_is_left_behind_by_a_name_that_is_refused(call: Call, tmp_path: Path) -> None:
    content = {"name": "c10", "regime": "miniature", "preset": "nano"}
    file = tmp_path / "c10.yaml"
    file.write_text(yaml.safe_dump({**content, "custom": {"hw w=0.5/tau=1": {"objectives": {"hard_region": 0.5}}}}))
    code, _, err = call("ablate", file, "--home", tmp_path / "home")
    assert code == 1
    assert "'hw w=0.5/tau=1' cannot be a name" in err
    assert not (tmp_path / "home" / "studies").exists()


def results(path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["regime", "variant", "seed", "benchmark", "probe", "val_items", "top1_percent"])
        for at, variant in enumerate(("baseline", "hw", "mix-é-☃")):
            for seed in (1, 2):
                for benchmark in ("diving48", "ssv2", "imagenet100"):
                    probe = "linear" if benchmark == "imagenet100" else "attentive"
                    writer.writerow(["mixed", variant, seed, benchmark, probe, 1000, 20 + 3 * at + 0.3 * seed])


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    ],
)
def test_no_letter_and_no_notebook_ends_a_command(changes: dict[str, str], tmp_path: Path) -> None:
    results(tmp_path / "r.csv")
    words = ["front", "--results", str(tmp_path / "r.csv"), "--regime", "mixed", "--out", str(tmp_path / "f.png")]
    done = subprocess.run(
        [sys.executable, "-m", "equipoise", *words],
        capture_output=True,
        env={**os.environ, **changes},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    plain = "MPLBACKEND" not in changes
    text = done.stdout.decode("ascii" if plain else "utf-8")
    assert ("* mix-\\xe9-\\u2603" if plain else "★ mix-é-☃") in text
    assert "26.45" in text


def test_every_mark_has_its_like_in_ascii() -> None:
    for mark, like in MARKS.items():
        assert mark.encode("ascii", PLAIN).decode() == like
        assert unicodedata.name(mark)
        assert like.isascii()


def test_json_of_any_name_is_whole(call: Call, tmp_path: Path) -> None:
    results(tmp_path / "r.csv")
    _, out, _ = call("front", "--results", "r.csv", "--regime", "mixed", "--json", "--out", "f.png")
    rows: list[dict[str, Any]] = (
        json.loads(out)["variants"] if "variants" in json.loads(out) else json.loads(out)["rows"]
    )
    assert "mix-é-☃" in [row["variant"] for row in rows]
