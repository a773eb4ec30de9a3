from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from PIL import Image

from equipoise.platform.report.html.charts import pair
from equipoise.platform.report.plots.curves import plot_curves
from equipoise.platform.report.plots.front import plot_front
from equipoise.platform.report.plots.style import PlotError
from equipoise.platform.stats.published import published_path, read_csv
from equipoise.platform.stats.selection import Selection, select
from equipoise.platform.stats.table import ResultTable, Score


@pytest.fixture(scope="module")
def published() -> Selection:
    return select(read_csv(published_path(), "mixed"), tolerance=1.0)


def study(benchmarks: int, seeds: int = 3, trials: int = 9) -> Selection:
    stream = np.random.default_rng(benchmarks)
    names = ["baseline", "random_init", *(f"trial_{i}" for i in range(trials))]
    return select(
        ResultTable.from_scores(
            [
                Score(variant=name, seed=seed, benchmark=f"mini_{b}", accuracy_percent=stream.uniform(30, 60))
                for name in names
                for seed in range(seeds)
                for b in range(benchmarks)
            ]
        ),
        tolerance=20,
    )


def names_in(figure: Figure) -> list[list[Annotation]]:
    return [[text for text in axis.texts if isinstance(text, Annotation)] for axis in figure.axes]


def test_published_front_is_1600_by_560_with_three_named_panels(
    published: Selection, drawn: list[Figure], tmp_path: Path
) -> None:
    path = plot_front(published, tmp_path / "new" / "front.png", "Mixed regime")
    with Image.open(path) as picture:
        assert picture.size == (1600, 560)
        assert len(set(picture.convert("RGB").resize((160, 56)).getdata())) > 50
    axes = drawn[0].axes
    assert [(axis.get_xlabel(), axis.get_ylabel()) for axis in axes] == [
        ("Diving-48 test top-1 (%)", "SSv2 test top-1 (%)"),
        ("Diving-48 test top-1 (%)", "ImageNet-100 test top-1 (%)"),
        ("SSv2 test top-1 (%)", "ImageNet-100 test top-1 (%)"),
    ]
    assert len(drawn[0].legends) == 1
    for panel in names_in(drawn[0]):
        assert {text.get_text() for text in panel} == {row.variant for row in published.rows}


def test_no_two_names_of_the_published_front_lie_on_each_other_or_leave_their_panel(
    published: Selection, drawn: list[Figure], tmp_path: Path
) -> None:
    plot_front(published, tmp_path / "front.png", "t")
    for axis, panel in zip(drawn[0].axes, names_in(drawn[0]), strict=True):
        boxes = [text.get_window_extent() for text in panel]
        frame = axis.get_window_extent()
        for i, one in enumerate(boxes):
            assert frame.x0 - 1 <= one.x0
            assert one.x1 <= frame.x1 + 1
            assert frame.y0 - 1 <= one.y0
            assert one.y1 <= frame.y1 + 1
            for other in boxes[i + 1 :]:
                shared = Bbox.intersection(one, other)
                area = 0.0 if shared is None else shared.width * shared.height
                assert area <= 0.1 * min(one.width * one.height, other.width * other.height)


def test_every_mean_is_inside_its_panel_with_its_spread(drawn: list[Figure], tmp_path: Path) -> None:
    selection = study(3)
    plot_front(selection, tmp_path / "front.png", "t")
    for axis, (x, y) in zip(drawn[0].axes, [(0, 1), (0, 2), (1, 2)], strict=True):
        for row in selection.rows:
            for (low, high), name in ((axis.get_xlim(), f"mini_{x}"), (axis.get_ylim(), f"mini_{y}")):
                assert low <= row.means[name] - (row.spread[name] or 0)
                assert row.means[name] + (row.spread[name] or 0) <= high


def test_seed_bars_are_explained_only_where_there_are_some(drawn: list[Figure], tmp_path: Path) -> None:
    plot_front(study(2), tmp_path / "a.png", "t")
    plot_front(study(2, seeds=1), tmp_path / "b.png", "t")
    entries = [{text.get_text() for text in figure.legends[0].get_texts()} for figure in drawn]
    assert "± 1 sd over seeds" in entries[0]
    assert "± 1 sd over seeds" not in entries[1]
    assert {"baseline (control)", "never trained (control)"} <= entries[0]


@pytest.mark.parametrize(("benchmarks", "panels"), [(1, 1), (2, 1), (4, 6)])
def test_other_numbers_of_benchmarks(benchmarks: int, panels: int, drawn: list[Figure], tmp_path: Path) -> None:
    path = plot_front(study(benchmarks), tmp_path / "front.png", "t")
    assert path.stat().st_size > 10_000
    assert len(drawn[0].axes) == panels


def words_of_the_page(selection: Selection) -> list[str]:
    """What the report's chart of the first two benchmarks says."""
    unknown = {(row.variant, b): (math.nan, math.nan) for row in selection.rows for b in selection.benchmarks}
    chart = ET.fromstring(pair(selection, unknown, *selection.benchmarks[:2]))
    return [text.text or "" for text in chart.iter() if text.tag.endswith("text")]


def test_a_large_study_names_only_what_matters(drawn: list[Figure], tmp_path: Path) -> None:
    selection = study(2, trials=60)
    plot_front(selection, tmp_path / "front.png", "t")
    (panel,) = names_in(drawn[0])
    named = {*selection.front, "baseline", "random_init"}
    assert {text.get_text() for text in panel} == named
    (legend,) = drawn[0].legends
    said = f", {len(selection.rows) - len(named)} not named"
    assert [text.get_text().endswith(said) for text in legend.get_texts()].count(True) == 1
    words = words_of_the_page(selection)
    unnamed = len(selection.rows) - sum(row.variant in words for row in selection.rows)
    assert f"{unnamed} of {len(selection.rows)} not named: point at them" in words
    assert not any("not named" in word for word in words_of_the_page(study(2, trials=2)))


@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
def test_vector_formats(suffix: str, tmp_path: Path) -> None:
    assert plot_front(study(2), tmp_path / f"front{suffix}", "t").stat().st_size > 10_000


def test_same_selection_same_pixels_and_no_trace_in_global_state(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    selection = study(2)
    one, two = (plot_front(selection, tmp_path / name, "t").read_bytes() for name in ("a.png", "b.png"))
    assert one == two
    assert dict(mpl.rcParams) == before


def test_unknown_suffix_is_an_error(published: Selection, tmp_path: Path) -> None:
    with pytest.raises(PlotError, match=r"front\.txt.*\.png, \.pdf, \.svg"):
        plot_front(published, tmp_path / "front.txt", "t")


def test_curves_hold_the_values_given_and_are_told_apart(drawn: list[Figure], tmp_path: Path) -> None:
    curves = {f"v{i}": [(10, float(i)), (0, 0.0), (20, math.nan)] for i in range(12)}
    path = plot_curves(curves, tmp_path / "curves.png", "accuracy (%)", "Probe")
    axis = drawn[0].axes[0]
    assert axis.get_ylabel() == "accuracy (%)"
    assert len({(line.get_color(), line.get_linestyle()) for line in axis.get_lines()}) == 12
    for i, line in enumerate(axis.get_lines()):
        assert np.asarray(line.get_xdata()).tolist() == [0, 10, 20]
        np.testing.assert_array_equal(np.asarray(line.get_ydata()), [0.0, float(i), math.nan])
    assert path.stat().st_size > 5_000


def test_curve_errors(tmp_path: Path) -> None:
    with pytest.raises(PlotError, match="0 curves"):
        plot_curves({}, tmp_path / "c.png", "y", "t")
    with pytest.raises(PlotError, match="no points"):
        plot_curves({"a": []}, tmp_path / "c.png", "y", "t")
    with pytest.raises(PlotError, match="33 curves"):
        plot_curves({str(i): [(0, 0.0)] for i in range(33)}, tmp_path / "c.png", "y", "t")
