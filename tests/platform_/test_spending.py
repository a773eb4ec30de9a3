"""What a study spent and gained: the accounts, and where both pictures put them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure

from equipoise.platform.analysis.spending import Spending, spending
from equipoise.platform.record.cost import Cost
from equipoise.platform.report.html.lines import gains_for_cost, volume_for_cost
from equipoise.platform.report.plots.cost import plot_cost
from equipoise.platform.settings.search import Prices
from equipoise.platform.settings.trial import Resources
from equipoise.platform.stats.selection import Selection, select
from equipoise.platform.stats.table import ResultTable, Score

BENCHMARKS = ("one", "two")
# trial, variant, seed, status, hours held, hours of those done twice, scores; in the order in which they ended
TRIALS: Sequence[tuple[str, str, int, str, float, float, tuple[float, float] | None]] = (
    ("t0001", "baseline", 0, "finished", 1.0, 0.0, (50.0, 20.0)),
    ("t0003", "low", 0, "finished", 2.0, 0.5, (49.0, 26.0)),
    ("t0002", "random_init", 0, "finished", 0.25, 0.0, (40.0, 10.0)),
    ("t0004", "mix", 0, "stopped", 0.75, 0.0, None),
    ("t0005", "wide", 0, "finished", 2.0, 0.0, (54.0, 21.0)),
    ("t0006", "broken", 0, "failed", 0.5, 0.25, None),
    ("t0007", "best", 0, "finished", 2.0, 0.0, (52.5, 23.0)),
    ("t0008", "wide", 1, "finished", 3.0, 1.0, (56.0, 23.0)),
)
SPENT = np.cumsum([t[4] for t in TRIALS])
# Above the baseline's point: nothing; wide's 4 x 1; with best's 2.5 x 3, which shares 2.5 x 1; later wide's is 5 x 2.
VOLUMES = (0.0, 0.0, 0.0, 0.0, 4.0, 4.0, 4.0 + 7.5 - 2.5, 10.0 + 7.5 - 5.0)


def run(place: int, resources: Resources) -> Any:
    """A trial's run in MLflow, by the book's own words."""
    trial, variant, seed, status, hours, lost, scores = TRIALS[place]
    cost = Cost(lost=3600 * lost).plus(3600 * hours, resources)
    metrics = cost.metrics(None) | dict(zip(BENCHMARKS, scores or (), strict=False))
    tags = {"trial": trial, "variant": variant, "seed": str(seed), "status": status}
    return SimpleNamespace(
        data=SimpleNamespace(tags=tags, metrics=metrics), info=SimpleNamespace(end_time=1000 * (place + 1))
    )


def runs(**resources: Any) -> list[Any]:
    """All runs, oldest start first, and one that has not ended."""
    found = [run(place, Resources(**resources)) for place in range(len(TRIALS))]
    tags = {"trial": "t0009", "variant": "later", "seed": "0", "status": "interrupted"}
    later = SimpleNamespace(data=SimpleNamespace(tags=tags, metrics={}), info=SimpleNamespace(end_time=1))
    return sorted([*found, later], key=lambda r: str(r.data.tags["trial"]))


@pytest.fixture(scope="module")
def selection() -> Selection:
    scores = [
        Score(variant=variant, seed=seed, benchmark=b, accuracy_percent=value)
        for _, variant, seed, _, _, _, found in TRIALS
        for b, value in zip(BENCHMARKS, found or (), strict=False)
    ]
    return select(ResultTable.from_scores(scores, BENCHMARKS), tolerance=2.0)


def spent(selection: Selection, definition: Mapping[str, Any] | None = None, **resources: Any) -> Spending:
    found = spending(runs(**resources), {"resources": resources, **(definition or {})}, selection)
    assert found is not None
    return found


def test_accounts_follow_the_order_in_which_trials_ended(selection: Selection) -> None:
    found = spent(selection)
    assert [t.trial for t in found.trials] == [t[0] for t in TRIALS]
    np.testing.assert_allclose([t.spent for t in found.trials], SPENT)
    np.testing.assert_allclose([t.hypervolume for t in found.trials], VOLUMES)
    assert found.trials[-1].hypervolume == pytest.approx(selection.hypervolume)
    assert found.lost == pytest.approx(1.75)
    assert found.where == pytest.approx(
        {"baseline": 1.0, "low": 3.0, "random_init": 3.25, "best": SPENT[6], "wide": SPENT[7]}
    )
    assert found.sentence == (
        "Spent: 11.5 CPU hours, 0.5 of them on trials that failed, 0.75 of them on trials that were stopped early, "
        "1.75 of them on work that was lost with a process or a node and done again."
    )


def test_gpus_count_where_there_are_some_and_money_where_there_are_prices(selection: Selection) -> None:
    resources: dict[str, Any] = {"workers": 2, "cpus_per_worker": 3, "gpus_per_worker": 1}
    hours = spent(selection, **resources)
    assert hours.measure == "GPU hours"
    assert hours.total == pytest.approx(2 * SPENT[-1])
    prices = Prices(cpu_hour=0.1, gpu_hour=2.0, currency="EUR")
    money = spent(selection, {"prices": prices.model_dump()}, **resources)
    an_hour = 6 * 0.1 + 2 * 2.0
    assert money.measure == "EUR"
    assert money.total == pytest.approx(SPENT[-1] * an_hour)
    assert money.lost == pytest.approx(1.75 * an_hour)
    assert money.to_dict()["trials"][1]["lost"] == pytest.approx(0.5 * an_hour)


def test_a_driver_that_died_at_the_very_end_is_the_last(selection: Selection) -> None:
    found = runs()
    next(r for r in found if r.data.tags["trial"] == "t0003").info.end_time = None
    left = spending(found, {}, selection)
    assert left is not None
    assert left.trials[-1].trial == "t0003"
    assert left.where["low"] == pytest.approx(SPENT[-1])


def test_a_record_without_costs_has_no_accounts(selection: Selection) -> None:
    found = runs()
    del next(r for r in found if r.data.tags["trial"] == "t0007").data.metrics["usage/cpu_hours"]
    assert spending(found, {}, selection) is None
    # A trial that failed before it began cost nothing.
    found = runs()
    for key in list((broken := next(r for r in found if r.data.tags["trial"] == "t0006")).data.metrics):
        del broken.data.metrics[key]
    left = spending(found, {}, selection)
    assert left is not None
    assert left.total == pytest.approx(SPENT[-1] - 0.5)


def test_the_picture_has_everything_where_it_belongs(selection: Selection, drawn: list[Figure], tmp_path: Path) -> None:
    path = plot_cost(spent(selection), selection, tmp_path / "cost.png", "t")
    assert path.read_bytes().startswith(b"\x89PNG")
    volume, gains = drawn[0].axes
    (line,) = volume.get_lines()
    assert line.get_drawstyle() == "steps-post"
    np.testing.assert_allclose(np.asarray(line.get_xydata(), dtype=float), np.array([[0, *SPENT], [0, *VOLUMES]]).T)
    expected = {
        "baseline": (1.0, 0.0, "D"),
        "low": (3.0, -1.0, "o"),
        "random_init": (3.25, -10.0, "X"),
        "best": (SPENT[6], 2.5, "*"),
        "wide": (SPENT[7], 1.0, "o"),  # by seed 0, which the baseline has too
    }
    marks = [mark for mark in gains.get_lines() if mark.get_linestyle() == "None"]
    found = sorted((*np.asarray(m.get_xydata(), dtype=float)[0], str(m.get_marker())) for m in marks)
    wanted = sorted(expected.values())
    np.testing.assert_allclose([one[:2] for one in found], [one[:2] for one in wanted])
    assert [one[2] for one in found] == [one[2] for one in wanted]
    assert {text.get_text() for text in gains.texts} == set(expected)
    assert gains.get_xlabel() == "spent by then (CPU hours)"
    bands = [(patch.get_x(), patch.get_width()) for patch in gains.patches]  # type: ignore[attr-defined]
    assert bands == [pytest.approx(b) for b in ((1.0, 0.5), (SPENT[4], 0.25), (SPENT[6], 1.0))]
    assert {text.get_text() for text in drawn[0].legends[0].get_texts()} >= {"leading candidate", "work done twice"}


def value_at(root: ET.Element, across: bool) -> tuple[float, float]:
    """Slope and intercept from a chart's pixels to its values, from its grid lines and their labels."""
    lines = [e for e in root.iter("line") if e.get("class") == "grid"]
    keys = ("x1", "x2") if across else ("y1", "y2")
    places = [float(e.get(keys[0], "nan")) for e in lines if e.get(keys[0]) == e.get(keys[1])]
    labels = [e.text or "" for e in root.iter("text") if e.get("class") == "tick"]
    numbers = [float(text) for text in (labels[: len(places)] if across else labels[-len(places) :])]
    slope, intercept = np.polyfit(places, numbers, 1)
    return float(slope), float(intercept)


def test_the_charts_of_a_page_have_everything_where_it_belongs(selection: Selection) -> None:
    found = spent(selection)
    root = ET.fromstring(gains_for_cost(found, selection))
    (a, b), (c, d) = value_at(root, across=True), value_at(root, across=False)
    circles = {}
    for mark in (e for e in root.iter("path") if (e.get("class") or "").startswith("mark")):
        start = re.match(r"M([\d.]+) ([\d.]+)a([\d.]+)", mark.get("d", ""))
        if start:
            x, y, r = map(float, start.groups())
            circles[mark.get("data-variant")] = (a * (x + r) + b, c * y + d)
    assert circles == {
        "low": pytest.approx((3.0, -1.0), abs=0.02),
        "wide": pytest.approx((SPENT[7], 1.0), abs=0.02),
    }
    titles = {e.get("data-variant"): e.findtext("title") for e in root.iter("path") if e.get("data-variant")}
    assert titles["best"] == "best: +2.50 points where it gains least, after 8.5 CPU hours"
    bands = [(float(e.get("x", "")), float(e.get("width", ""))) for e in root.iter("rect")]
    assert [(a * x + b, a * w) for x, w in bands] == [
        pytest.approx(band, abs=0.02) for band in ((1.0, 0.5), (SPENT[4], 0.25), (SPENT[6], 1.0))
    ]
    root = ET.fromstring(volume_for_cost(found))
    (a, b), (c, d) = value_at(root, across=True), value_at(root, across=False)
    path = next(e for e in root.iter("path") if e.get("class") == "curve c2").get("d", "")
    corners = [(a * float(x) + b, c * float(y) + d) for x, y in re.findall(r"H([\d.]+)V([\d.]+)", path)]
    np.testing.assert_allclose(corners, np.column_stack([SPENT, VOLUMES]), atol=0.03)
