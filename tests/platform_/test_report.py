"""Reports: what they say, from records made by hand, and how they look and behave in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from click.testing import CliRunner
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import create_trial
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from equipoise.platform.cli.main import cli
from equipoise.platform.record.client import TrackingError
from equipoise.platform.record.cost import Cost
from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import Ledger
from equipoise.platform.record.reading import StudyRecord, find_study
from equipoise.platform.report.front import conclude_study
from equipoise.platform.report.html import page as report_module
from equipoise.platform.report.html.charts import Scale, outside, pair
from equipoise.platform.report.html.content import ReportError, Trial, compare_all, difference_in_words, gather
from equipoise.platform.report.html.page import SECTIONS, write_report
from equipoise.platform.search.store import SearchStore
from equipoise.platform.settings.files import shipped
from equipoise.platform.settings.search import Prices
from equipoise.platform.settings.study import AblationDefinition, load_ablation
from equipoise.platform.settings.trial import Resources, TrialSettings
from equipoise.platform.settings.variant import variants
from equipoise.platform.stats.noise import study_noise
from equipoise.platform.stats.pareto import SelectionError
from equipoise.platform.stats.selection import select
from equipoise.platform.stats.table import ResultTable, Score
from equipoise.platform.stats.uncertainty import Sample, compare, holm, samples

Settings = Callable[..., TrialSettings]
Record = Callable[..., Home]
BENCHMARKS = ("mini_dive", "mini_ssv2", "mini_in")
SCORES: Mapping[str, tuple[tuple[float, float, float], ...]] = {
    "baseline": ((30, 60, 10), (31, 61, 11)),
    "random_init": ((20, 50, 5), (21, 51, 6)),
    "hw": ((36, 66, 15), (37, 67, 16)),
    "delta": ((29, 40, 9), (30, 41, 10)),
}


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.files: dict[str, str] = {}
        self._file: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {k: v or "" for k, v in attrs}
        self.tags.append((tag, found))
        if tag == "pre":
            self._file = found.get("data-file", "commands")
            self.files[self._file] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._file = None

    def handle_data(self, data: str) -> None:
        if self._file is not None:
            self.files[self._file] += data


def words(text: str) -> str:
    """The text of a page as it is read."""
    plain = re.sub(r"<(style|script)>.*?</\1>", " ", text, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", plain)).split())


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, tiny_settings: Settings) -> Record:
    """Writes a study into MLflow as its driver would, without running it; all of them into one home."""
    home = Home(tmp_path_factory.mktemp("recorded") / "home")

    def write(
        study_name: str,
        scores: Mapping[str, tuple[tuple[float, float, float], ...]] = SCORES,
        definition: Mapping[str, Any] | None = None,
        items: int = 500,
        booked: Mapping[str, float] | None = None,
        **tags: str,
    ) -> Home:
        tracker = home.tracker()
        asked = {
            "name": study_name,
            "regime": "miniature",
            "preset": "nano",
            "variants": [v for v in scores if v not in ("baseline", "random_init")],
            "seeds": [0, 1],
            **(definition or {}),
        }
        parent = tracker.start_study(study_name, "ablation", asked)
        tracker.tag(parent, **{"benchmarks": json.dumps(BENCHMARKS), **tags})
        number = 0
        for variant, by_seed in scores.items():
            for seed, values in enumerate(by_seed):
                number += 1
                known = variant if variant in variants() else "hw"
                settings = tiny_settings(known).model_copy(update={"seed": seed, "variant_name": variant})
                run = tracker.start_trial(
                    parent, study_name, f"t{number:04d}", "ablation", settings, "0123456789abcdef"
                )
                for step in (3, 6):
                    curve = {"jepa": 1 / step, "effective_rank": 10.0 + number, "seconds": 30.0 * step}
                    tracker.trained(run, curve, step)
                tracker.metrics(run, {**dict(zip(BENCHMARKS, values, strict=True)), "score_seconds": 60.0}, 0)
                tracker.metrics(run, booked or {}, 0)
                tracker.tag(run, **{f"items.{b}": str(items) for b in BENCHMARKS})
                tracker.end(run, "finished")
        tracker.end(parent, "finished")
        return home

    return write


def test_page_holds_every_section_and_loads_nothing(record: Record, tmp_path: Path) -> None:
    definition = {"description": "<script>alert(1)</script> & more"}
    home = record("whole", definition=definition)
    written = write_report(StudyRecord.open(home, "whole"), tmp_path / "out.html")
    text = written.path.read_text(encoding="utf-8")
    page = Page(text)
    headings = [a["id"] for tag, a in page.tags if tag == "h2"]
    assert headings == list(SECTIONS)
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert sorted(links) == sorted(f"#{key}" for key in SECTIONS)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert "url(" not in text
    assert "@import" not in text
    assert [tag for tag, _ in page.tags].count("script") == 1, "what a person wrote is text, not markup"
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text
    # The same file is in the record.
    kept = home.tracker().client.download_artifacts(written.content.parent, "report.html", str(tmp_path))
    assert Path(kept).read_text(encoding="utf-8") == text


def test_page_says_what_was_found(record: Record, tmp_path: Path) -> None:
    written = write_report(StudyRecord.open(record("said"), "said"), tmp_path / "out.html", tolerance=2.0)
    said = words(written.path.read_text(encoding="utf-8"))
    assert "hw leads 2 candidates (two seeds each): mini_dive +" in said
    assert "Not confirmed: equipoise confirm said." in said
    assert "balanced:" not in said
    assert "Tolerance (as given): mini_dive 2.00, mini_ssv2 2.00, mini_in 2.00 points. 1 of 2 trained variants" in said
    assert "Weights of hw : hard_region 0.3" in said
    assert "8: 8 finished" in said
    assert "One seed only" not in said
    assert "Which test items were right is not at hand" in said
    assert "did not search weights" in said
    assert "no audit of its objectives" in said
    assert "There are no pictures of features: the checkpoint of baseline s0 is neither" in said
    # 8 trials of 180 s of pretraining and 60 s of scoring on one CPU.
    assert f"{8 * 240 / 3600:.3g} CPU hours in all" in said
    assert "The record does not hold what its trials cost" in said
    found = written.to_dict()
    assert found["candidate"] == "hw"
    assert found["sections"] == list(SECTIONS)
    assert found["holds"]["differences"] == 2 * 3 + 3 * 3
    assert found["holds"]["learning_curves"] == {"jepa": 8, "effective_rank": 8}
    assert set(found["missing"]) == {"table", "importance", "conflict", "features"}


def test_a_single_seed_reads_as_one(record: Record, tmp_path: Path) -> None:
    home = record("single", {v: s if v == "baseline" else s[:1] for v, s in SCORES.items()})
    written = write_report(StudyRecord.open(home, "single"), tmp_path / "out.html")
    text = written.path.read_text(encoding="utf-8")
    said = words(text)
    assert set(written.content.single_seed) == {"hw", "delta", "random_init"}
    assert f"One seed only: {', '.join(written.content.single_seed)}. Another seed may turn the sign" in said
    assert "Is that more than chance? Not testable with these seeds on mini_dive, mini_ssv2, mini_in." in said
    # Differences of 6 and of 20 points: far outside the error of 500 items, and still no difference_in_words.
    cells = re.findall(r'<span class="verdict (\w+)">([^<]+)</span>', text)
    assert len(cells) == 2 * 3 + 3 * 3
    assert set(cells) == {("unclear", "not testable with these seeds")}, "one degree of freedom, of two baseline seeds"


def test_two_seeds_among_several_are_said_to_be_too_few() -> None:
    def of(value: float, name: str) -> Sample:
        return Sample(variant=name, benchmark="b", accuracy={0: value, 1: value + 0.1}, items=None)

    base = Sample(variant="baseline", benchmark="b", accuracy={0: 40.0, 1: 40.3}, items=None)
    assert [difference_in_words(d) for d in holm([compare(of(60.0, "a"), base)])] == ["better"]
    several = holm([compare(of(60.0, "a"), base), compare(of(70.0, "c"), base)])
    assert [difference_in_words(d) for d in several] == ["not testable with these seeds"] * 2


def test_verdicts_are_holms_over_all_variants_and_benchmarks() -> None:
    stream = np.random.default_rng(5)
    lift = {"baseline": 0.0, "random_init": -8.0, "good": 6.0, "bad": -6.0, "same": 0.1}
    scores = [
        Score(variant=v, seed=s, benchmark=b, accuracy_percent=50 + gain + stream.normal(0, 0.5))
        for v, gain in lift.items()
        for s in range(5)
        for b in BENCHMARKS
    ]
    table = ResultTable.from_scores(scores)
    found = compare_all(samples(table), select(table), study_noise(table))
    assert {(a, v) for v, a, _ in found} == {
        *(("baseline", v) for v in ("good", "bad", "same")),
        *(("random_init", v) for v in ("good", "bad", "same", "baseline")),
    }
    for control, wanted in (("baseline", {"good": "better", "bad": "worse", "same": "not distinguishable"}),):
        told = {
            v: {difference_in_words(d) for (w, a, _), d in found.items() if w == v and a == control} for v in wanted
        }
        assert told == {v: {words_} for v, words_ in wanted.items()}
    assert all(
        difference_in_words(d) == "better" for (v, a, _), d in found.items() if a == "random_init" and v != "bad"
    )
    for control in ("baseline", "random_init"):
        family = sorted((d for (_, a, _), d in found.items() if a == control), key=lambda d: d.p_value)
        highest = 0.0
        for rank, d in enumerate(family):
            highest = max(highest, min(1.0, d.p_value * (len(family) - rank)))
            assert d.p_adjusted == pytest.approx(highest)


def test_unknown_items_and_one_seed_say_nothing() -> None:
    one = {
        (v, "b"): Sample(variant=v, benchmark="b", accuracy={0: a}, items=None) for v, a in (("baseline", 1), ("x", 90))
    }
    table = ResultTable.from_scores(
        [Score(variant=v, seed=0, benchmark="b", accuracy_percent=a) for v, a in (("baseline", 1.0), ("x", 90.0))]
    )
    found = compare_all(one, select(table, tolerance=1), study_noise(table))
    assert [difference_in_words(d) for d in found.values()] == ["not known"]


def test_points_lie_where_their_accuracies_are() -> None:
    stream = np.random.default_rng(0)
    names = ["baseline", "random_init", *(f"v{i}" for i in range(20))]
    values = {n: stream.uniform(40, 60, 2) for n in names}
    values["far"] = np.array([50.0, -39.0 + 40])
    scores = [
        Score(variant=n, seed=s, benchmark=b, accuracy_percent=float(v[i]))
        for n, v in values.items()
        for s in range(2)
        for i, b in enumerate(("x", "y"))
    ]
    selection = select(ResultTable.from_scores(scores), tolerance=1)
    assert outside(selection) == ("far",)
    unknown = (float("nan"), float("nan"))
    drawn = pair(selection, {(n, b): unknown for n in values for b in ("x", "y")}, "x", "y")
    marks = dict(re.findall(r'class="mark \w+" d="([^"]+)" data-variant="(\w+)"', drawn))
    places = {name: middle(path) for path, name in marks.items()}
    assert set(places) == set(values) - {"far"}
    shown = sorted(places, key=lambda n: places[n][0])
    assert shown == sorted(places, key=lambda n: values[n][0])
    assert sorted(places, key=lambda n: -places[n][1]) == sorted(places, key=lambda n: values[n][1])
    assert 'class="whisker' not in drawn, "an unknown error has no bar"
    assert drawn.count("<title>") == len(places)
    scale = Scale(10, 20, 100, 300)
    assert [scale(v) for v in (10, 15, 20)] == [100, 200, 300]
    assert scale.ticks() == [10, 12, 14, 16, 18, 20]


def middle(path: str) -> tuple[float, float]:
    """Centre of a marker: circles start at their left end, polygons are symmetric enough for an order."""
    start = re.match(r"M([\d.]+) ([\d.]+)a([\d.]+)", path)
    if start:
        x, y, r = map(float, start.groups())
        return x + r, y
    points = np.array(re.findall(r"([\d.]+) ([\d.]+)", path), dtype=float)
    low, high = points.min(0), points.max(0)
    x, y = (low + high) / 2
    return float(x), float(points[0, 1] + 11) if len(points) == 10 else float(y)


def test_definition_on_the_page_asks_for_the_same_study(record: Record, tmp_path: Path) -> None:
    preset = tmp_path / "elsewhere" / "mine.yaml"
    preset.parent.mkdir()
    shutil.copy(shipped("presets")["nano"], preset)
    asked = AblationDefinition.model_validate(
        {"name": "made", "regime": "miniature", "preset": str(preset), "variants": ["hw", "delta"], "seeds": [0, 1]}
    )
    home = record("made", definition=asked.model_dump(mode="json"))
    written = write_report(StudyRecord.open(home, "made"), tmp_path / "out.html")
    text = written.path.read_text(encoding="utf-8")
    files = Page(text).files
    assert set(files) == {"commands", "made.yaml", "preset.yaml"}
    assert str(tmp_path) not in text, "a path of this machine means nothing on another"
    assert files["commands"] == "equipoise data build miniature\nequipoise ablate made.yaml\nequipoise report made"
    repeat = tmp_path / "repeat"
    repeat.mkdir()
    for name, content in files.items():
        (repeat / name).write_text(content)
    again = load_ablation(str(repeat / "made.yaml"), {})
    assert again.model_copy(update={"preset": str(preset)}) == asked
    assert yaml.safe_load(files["preset.yaml"])["model"]["size"] == 32
    said = words(text)
    assert "0123456789abcdef" in said
    assert written.content.tags["git_commit"] in said


def test_hours_come_from_the_trials_own_clock() -> None:
    common: dict[str, Any] = {"key": "t0001", "variant": "hw", "seed": 0, "role": "ablation", "status": "finished"}
    own = Trial(**common, error=None, pretrain=3600.0, score=1800.0, wall=9e9, devices=4.0)
    assert own.hours == pytest.approx(6.0)
    untrained = Trial(**common, error=None, pretrain=None, score=1800.0, wall=9e9, devices=4.0)
    assert untrained.hours == pytest.approx(2.0)
    old = Trial(**common, error=None, pretrain=None, score=None, wall=7200.0, devices=4.0)
    assert not old.measured
    assert old.hours == pytest.approx(8.0)
    running = Trial(**common, error=None, pretrain=None, score=None, wall=None, devices=4.0)
    assert running.hours is None


def test_cost_counts_gpus_of_all_workers(record: Record) -> None:
    resources = {"workers": 4, "cpus_per_worker": 8, "gpus_per_worker": 1}
    found = gather(StudyRecord.open(record("gpus", definition={"resources": resources}), "gpus"))
    assert found.unit == "GPU"
    assert {trial.devices for trial in found.trials} == {4.0}
    assert sum(t.hours or 0 for t in found.trials) == pytest.approx(8 * 4 * 240 / 3600)
    assert "cost" not in found.notes


def test_what_was_booked_is_drawn_against_what_was_gained(record: Record, tmp_path: Path) -> None:
    """In the page, and beside the picture of the front."""
    prices = Prices(cpu_hour=0.5, currency="EUR")
    booked = Cost(lost=360.0).plus(7200.0, Resources()).metrics(prices)
    home = record("spent", definition={"prices": prices.model_dump()}, booked=booked)
    text = write_report(StudyRecord.open(home, "spent"), tmp_path / "out.html").path.read_text(encoding="utf-8")
    said = words(text)
    assert f"{8 * 2} CPU hours in all" in said, "booked hours, not those of the trials' own clocks"
    # 8 trials at 2 hours of 0.5, each with a tenth of an hour done twice; hw gains 5 points where it gains least.
    assert "Spent: 8 EUR, 0.4 of them on work that was lost" in said
    assert "for each point" not in said, "what a point costs is said once it is confirmed"
    assert "2 1 EUR 6 min 0 s done twice" in said
    section = text[text.index('id="cost"') :]
    charts = re.findall(r'<svg .*?aria-label="([^"]+)".*?</svg>', section, flags=re.S)
    assert [label.partition(" of ")[0] for label in charts[:2]] == ["Hypervolume", "Smallest gain over baseline"]
    assert section.count('class="lost"') == 2 * 8
    out = tmp_path / "mine.svg"
    words_ = ["front", "spent", "--home", str(home.root), "--out", str(out), "--json"]
    found = json.loads(CliRunner().invoke(cli, words_, catch_exceptions=False).stdout)
    assert (found["cost"]["measure"], found["cost"]["total"]) == ("EUR", pytest.approx(8.0))
    assert found["cost"]["plot"] == str(tmp_path / "mine_cost.svg")
    assert (tmp_path / "mine_cost.svg").is_file()
    tracker = home.tracker()
    parent = find_study(tracker, "spent").info.run_id
    pictures = {"mine.svg", "mine_cost.svg"}
    assert not pictures & {a.path for a in tracker.client.list_artifacts(parent)}, "looking at a front writes nothing"
    conclude_study(StudyRecord.open(home, "spent"), out, keep=True)
    assert pictures <= {a.path for a in tracker.client.list_artifacts(parent)}


def test_effects_of_a_design_take_the_place_of_importances(record: Record, tmp_path: Path) -> None:
    asked = AblationDefinition.model_validate(
        {
            "name": "design",
            "regime": "miniature",
            "preset": "nano",
            "design": {"kind": "factorial", "factors": ["hw", "delta"]},
            "seeds": [0, 1],
        }
    )
    worked_out = asked.plan()
    assert worked_out is not None
    lift = {"hw": 6.0, "delta": -4.0}
    scores = {"random_init": SCORES["random_init"]}
    for cell in worked_out.cells:
        gain = sum(lift[name] for name in cell.on)
        scores[cell.variant_name] = ((30 + gain, 60 + gain, 20 + gain), (31 + gain, 61.5 + gain, 20.5 + gain))
    home = record("design", scores, definition=asked.model_dump(mode="json"))
    written = write_report(StudyRecord.open(home, "design"), tmp_path / "out.html")
    text = written.path.read_text(encoding="utf-8")
    table = text[text.index('id="effects"') :]
    cells = r'<th scope="row" data-sort="([^"]+)">.*?</th>\s*<td data-sort="([^"]+)">'
    found = dict(re.findall(cells, table.partition("</table>")[0], flags=re.S))
    assert {name: round(float(v), 6) for name, v in found.items() if name in lift} == lift
    assert any(float(v) == pytest.approx(0) for name, v in found.items() if name not in lift), "the interaction"
    said = words(text)
    assert "What each factor of the design (factorial) does" in said
    assert "did not search weights" not in said


def test_what_cannot_be_reported_is_told(record: Record, tmp_path: Path) -> None:
    home = record("one_seed", {"baseline": SCORES["baseline"][:1], "hw": SCORES["hw"]})
    with pytest.raises(TrackingError, match=r"no study 'mad' in .*; known: .*one_seed"):
        write_report(StudyRecord.open(home, "mad"))
    with pytest.raises(ReportError, match=r"results.csv is a table, which has no trials .* equipoise front --results"):
        CliRunner().invoke(cli, ["report", "results.csv"], catch_exceptions=False)
    with pytest.raises(ReportError, match=r"a report is one HTML file; 'front.pdf' was given: name it front.html"):
        write_report(StudyRecord.open(home, "one_seed"), tmp_path / "front.pdf")
    with pytest.raises(SelectionError, match="the table has no 'baseline'"):
        write_report(StudyRecord.open(record("alone", {"hw": SCORES["hw"]}), "alone"))
    written = write_report(StudyRecord.open(home, "one_seed"), tmp_path / "deep" / "er" / "out.html")
    assert "There is no noise floor" in written.path.read_text(encoding="utf-8")
    tracker = home.tracker()
    tracker.tag(tracker.start_study("bare", "pretrain", {"name": "bare"}), benchmarks="[]")
    with pytest.raises(ReportError, match=r"'bare' was pretrained without being scored.*equipoise ablate"):
        write_report(StudyRecord.open(home, "bare"))


def test_command_prints_the_path_or_what_the_page_holds(record: Record, tmp_path: Path) -> None:
    home = record("told")
    out = tmp_path / "out.html"
    words_ = ["report", "told", "--home", str(home.root), "--out", str(out), "--tolerance", "2"]
    done = CliRunner().invoke(cli, words_, catch_exceptions=False)
    assert done.stdout == f"{out}\n"
    out.unlink()
    done = CliRunner().invoke(cli, [*words_, "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found["report"] == str(out)
    assert out.is_file()
    assert (found["study"], found["candidate"], found["holds"]["variants"]) == ("told", "hw", 4)


# ---- a real study in a real browser


def console(browser: Chrome) -> list[Any]:
    found: list[Any] = browser.get_log("browser")  # type: ignore[no-untyped-call]
    return found


def requests(browser: Chrome) -> list[str]:
    """Everything the browser asked for since the last time."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]  # type: ignore[no-untyped-call]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith("data:")]


def open_page(browser: Chrome, path: Path, width: int = 1200, scheme: str = "light") -> None:
    media = {"media": "", "features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(path.as_uri())


def column(table: WebElement, index: int) -> list[str]:
    rows = table.find_elements(By.CSS_SELECTOR, "tbody tr")
    return [r.find_elements(By.CSS_SELECTOR, "th, td")[index].get_attribute("data-sort") or "" for r in rows]


@pytest.mark.slow
@pytest.mark.cluster
def test_ablation_in_a_browser(studied: Home, browser: Chrome) -> None:
    written = write_report(StudyRecord.open(studied, "abl"))
    assert written.path == studied.folder("abl").resolve() / "report.html"
    assert set(written.to_dict()["missing"]) == {"importance"}
    assert len(written.pictures.pictures) == 4
    open_page(browser, written.path)
    assert console(browser) == []
    assert requests(browser) == [written.path.as_uri()]
    assert [h.get_attribute("id") for h in browser.find_elements(By.TAG_NAME, "h2")] == list(SECTIONS)

    charts = browser.find_elements(By.CSS_SELECTOR, "svg.chart")
    assert len(charts) == 3 + 1 + 2 + 2
    for chart in charts:
        assert chart.is_displayed()
        assert chart.size["width"] > 300
        assert chart.size["height"] > 200
        assert chart.get_attribute("aria-label")
    named = {"baseline", "random_init", "fwm_hw_ld", "motion_guided", "hw"}
    for chart in charts[:3]:
        marks = chart.find_elements(By.CSS_SELECTOR, ".mark")
        assert {m.get_attribute("data-variant") for m in marks} == named
        frame = chart.rect
        for mark in marks:
            assert mark.rect["width"] > 5
            assert frame["x"] <= mark.rect["x"] <= frame["x"] + frame["width"]
            assert frame["y"] <= mark.rect["y"] <= frame["y"] + frame["height"]
    images = browser.find_elements(By.TAG_NAME, "img")
    assert len(images) == 4 * 3
    sizes = browser.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth])")
    assert sizes == [[True, 64], [True, 4], [True, 4]] * 4, "a frame of 64 px, and 4 x 4 tokens by each encoder"
    matrices = browser.find_elements(By.CSS_SELECTOR, "table.matrix")
    assert len(matrices) == 3, "one for each mix with objectives"
    assert matrices[0].is_displayed()


@pytest.mark.slow
@pytest.mark.cluster
def test_tables_sort_by_number_with_mouse_and_keyboard(studied: Home, browser: Chrome) -> None:
    open_page(browser, write_report(StudyRecord.open(studied, "abl")).path)
    table = browser.find_element(By.ID, "variants")
    heads = table.find_elements(By.CSS_SELECTOR, "thead tr:last-child th")
    before = column(table, 0)
    heads[2].find_element(By.TAG_NAME, "button").click()
    assert heads[2].get_attribute("aria-sort") == "descending"
    down = [float(v) for v in column(table, 2)]
    assert down == sorted(down, reverse=True)
    assert len(set(down)) > 1
    heads[2].find_element(By.TAG_NAME, "button").send_keys(" ")
    assert heads[2].get_attribute("aria-sort") == "ascending"
    assert [float(v) for v in column(table, 2)] == sorted(down)
    assert sum(h.get_attribute("aria-sort") is not None for h in heads) == 1
    # Differences to the baseline: the controls have none and stay last either way.
    for _ in range(2):
        heads[3].find_element(By.TAG_NAME, "button").click()
        found = column(table, 3)
        assert found[-2:] == ["", ""]
        assert all(found[:-2])
    heads[0].find_element(By.TAG_NAME, "button").send_keys("\n")
    assert column(table, 0) == sorted(before)
    costs = browser.find_element(By.ID, "costs")
    costs.find_elements(By.CSS_SELECTOR, "thead button")[-1].click()
    hours = [float(v) for v in column(costs, 6)]
    assert hours == sorted(hours, reverse=True)
    assert min(hours) > 0
    assert console(browser) == []


@pytest.mark.slow
@pytest.mark.cluster
def test_page_on_a_phone_in_the_dark_and_on_paper(studied: Home, browser: Chrome) -> None:
    path = write_report(StudyRecord.open(studied, "abl")).path
    colours = {}
    for scheme in ("light", "dark"):
        open_page(browser, path, scheme=scheme)
        style = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        colours[scheme] = browser.execute_script(style)
        ratio = contrast(*colours[scheme])
        assert ratio > 7, f"{scheme}: text stands out by {ratio:.1f}"
    assert colours["light"][0] != colours["dark"][0]
    open_page(browser, path, width=390)
    wide, screen = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= screen == 390
    for chart in browser.find_elements(By.CSS_SELECTOR, "svg.chart"):
        assert 300 < chart.size["width"] <= 390
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    printed = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert printed == colours["light"][0], "paper stays white"
    assert not browser.find_element(By.TAG_NAME, "nav").is_displayed()


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours by WCAG 2."""

    def light(colour: str) -> float:
        parts = np.array([float(v) for v in re.findall(r"[\d.]+", colour)[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.slow
@pytest.mark.cluster
def test_pointing_at_a_variant_and_copying(studied: Home, browser: Chrome) -> None:
    written = write_report(StudyRecord.open(studied, "abl"))
    open_page(browser, written.path)
    row = browser.find_element(By.CSS_SELECTOR, '#variants tr[data-variant="motion_guided"]')
    event = "arguments[0].dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))"
    browser.execute_script(event, row)
    hot = browser.find_elements(By.CSS_SELECTOR, "svg.chart .mark.hot")
    assert {m.get_attribute("data-variant") for m in hot} == {"motion_guided"}
    assert len(hot) == 3 + 3 + 1
    browser.execute_script(event, browser.find_element(By.TAG_NAME, "h1"))
    assert browser.find_elements(By.CSS_SELECTOR, ".hot") == []
    granted = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.execute_cdp_cmd("Browser.grantPermissions", granted)
    block = browser.find_element(By.CSS_SELECTOR, 'pre[data-file="abl.yaml"]')
    block.find_element(By.XPATH, "../button").click()
    copied = browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert yaml.safe_load(copied)["variants"] == ["fwm_hw_ld", "motion_guided", "hw"]
    assert console(browser) == []


@pytest.mark.slow
@pytest.mark.cluster
def test_what_is_gone_is_said(studied: Home, tmp_path: Path) -> None:
    folder = studied.folder("abl")
    ledger = Ledger(folder / "ledger.db")
    kept = next(r for r in ledger.rows("finished") if r.name == "baseline")
    ledger.close()
    (folder / "trials" / kept.key).rename(tmp_path / "away")
    try:
        written = write_report(StudyRecord.open(studied, "abl"), tmp_path / "out.html")
    finally:
        (tmp_path / "away").rename(folder / "trials" / kept.key)
    missing = written.to_dict()["missing"]
    assert set(missing) == {"importance", "table", "features"}
    assert "its outcomes are not at" in missing["table"][0]
    assert "checkpoint of baseline" in missing["features"][0]
    assert all(said in words(written.path.read_text(encoding="utf-8")) for found in missing.values() for said in found)


@pytest.mark.slow
def test_search_in_a_browser(record: Record, browser: Chrome, tmp_path: Path) -> None:
    stream = np.random.default_rng(2)
    ranges: dict[str, BaseDistribution] = {
        name: FloatDistribution(0.1, 1.0, log=True) for name in ("hard_region", "delta")
    }
    scores = {name: SCORES[name] for name in ("baseline", "random_init")}
    trials = []
    for number in range(30):
        weights = {name: float(stream.uniform(0.1, 1.0)) for name in ranges}
        values = (30 + 20 * weights["delta"], 60 + float(stream.normal()), 10.0)
        scores[f"mix-{number:03d}"] = (values,)
        trials.append(create_trial(params=weights, distributions=ranges, values=values))
    definition = {"sampler": "tpe", "trials": 30, "objectives": {key: {"low": 0.1, "high": 1.0} for key in ranges}}
    home = record("search", scores, definition=definition, kind="sweep")
    assert "name it with --optuna-storage" in gather(StudyRecord.open(home, "search")).notes["importance"][0]
    kept = optuna.create_study(
        study_name="search", storage=SearchStore.of(home, "search").open(), directions=["maximize"] * 3
    )
    kept.add_trials(trials)
    written = write_report(StudyRecord.open(home, "search"), tmp_path / "out.html")
    found = {(one.benchmark, one.evaluator): one for one in written.content.importance}
    assert set(found) == {(b, e) for b in BENCHMARKS[:2] for e in ("fANOVA", "PED-ANOVA")}
    assert found["mini_dive", "fANOVA"].clear == ("delta",)
    open_page(browser, written.path)
    bars = browser.find_elements(By.CSS_SELECTOR, "#importance ~ .charts svg .bar")
    assert len(bars) == 2 * 2 * 2
    longest = max(bars[:4], key=lambda bar: bar.rect["width"])
    assert "delta" in (longest.find_element(By.TAG_NAME, "title").get_attribute("textContent") or "")
    assert longest.rect["width"] > 100
    assert "Not confirmed: equipoise confirm search." in browser.find_element(By.TAG_NAME, "header").text
    assert "One seed only" in browser.find_element(By.TAG_NAME, "header").text
    assert console(browser) == []


ODD = ("0", "a b", "a.b-c_d", "A" * 64, "e1", "1.0", "null", "true")


def test_names_are_the_same_in_the_page_and_in_mlflow(record: Record, tmp_path: Path) -> None:
    study = "1.0 null"
    home = record(study, {**dict.fromkeys(("baseline", *ODD), SCORES["baseline"])})
    page = words(write_report(StudyRecord.open(home, study), tmp_path / "page.html").path.read_text(encoding="utf-8"))
    assert study in page
    for name in ODD:
        assert f" {name} " in page, name
    kept = StudyRecord.open(home, study)
    assert {run.data.tags["variant"] for run in kept.trials} == {"baseline", *ODD}
    assert set(kept.table.variants) == {"baseline", *ODD}
    assert {run.info.run_name.rpartition(" s")[0] for run in kept.trials} == {"baseline", *ODD}


def test_a_damaged_journal_costs_the_page_its_importances_and_no_more(record: Record) -> None:
    scores = {name: SCORES[name] for name in ("baseline", "random_init")}
    definition = {"sampler": "tpe", "trials": 2, "objectives": {"delta": {"low": 0.1, "high": 1.0}}}
    home = record("torn", scores, definition=definition, kind="sweep")
    store = SearchStore.of(home, "torn")
    optuna.create_study(study_name="torn", storage=store.open(), directions=["maximize"] * 3)
    journal = home.folder("torn") / "optuna.journal"
    journal.write_bytes(b"{}\n" + journal.read_bytes())
    assert "is damaged in line 1" in gather(StudyRecord.open(home, "torn")).notes["importance"][0]


def test_templates_lie_beside_the_module() -> None:
    assert {p.name for p in report_module.FOLDER.iterdir()} == {"page.html.j2", "style.css", "script.js"}
