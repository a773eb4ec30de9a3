"""The study of record: its bundles are what was planned, and its page says what they hold."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from equipoise.platform.record.bundle import Bundle
from equipoise.platform.report.front import conclude_study
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.files import shipped
from equipoise.platform.settings.study import StudyBase, load_ablation, load_sweep
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.study.bundling import open_bundle, references
from equipoise.platform.study.resume import MAY_CHANGE

ROOT = Path(__file__).parents[1]
MOST_BYTES = 4_000_000
REFERENCES = references()


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """``bench/reference_study.py``."""
    spec = importlib.util.spec_from_file_location("reference_study", ROOT / "bench" / "reference_study.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_there_is_one() -> None:
    assert "miniature" in REFERENCES


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_is_what_was_planned(name: str) -> None:
    kept = Bundle.read(REFERENCES[name])
    assert REFERENCES[name].stat().st_size < MOST_BYTES
    asked = kept.facts["definition"]
    planned_as: StudyBase | None = None
    if kept.study in shipped("studies"):
        planned_as = load_ablation(kept.study, {})
    elif kept.study in shipped("spaces"):
        planned_as = load_sweep(kept.study, {})
    else:
        assert asked["confirms"] in {*shipped("spaces"), *shipped("studies")}
    if planned_as is not None:  # all but how many run at once, and the like
        differs = {key for key, value in planned_as.model_dump(mode="json").items() if value != asked[key]}
        assert differs <= set(MAY_CHANGE)
    # No trial was added, dropped or run for its result: the book has what was planned, each once.
    trials = [(row.name, row.settings) for row in kept.rows if row.settings is not None]
    assert len(set(trials)) == len(trials)
    if kept.study in shipped("studies"):
        definition = load_ablation(kept.study, {})
        preset, regime = definition.load()
        planned = [
            definition.trial(n, v, s, preset, regime) for n, v, s in [*definition.controls(), *definition.members()]
        ]
        assert planned == [parse(TrialSettings, json.loads(settings), "a bundle") for _, settings in trials]
    assert not [run for run in kept.runs if "/" in run.data.tags.get("mlflow.source.name", "")], "no machine's path"


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_that_is_not_whole_says_so(name: str, tmp_path: Path) -> None:
    kept = Bundle.read(REFERENCES[name])
    ended = sum(row.status in ("finished", "stopped", "failed") for row in kept.rows)
    notes = conclude_study(open_bundle(name, tmp_path), tmp_path / "front.png").notes
    said = f"{ended} of {len(kept.rows)} trials have ended"
    assert any(note.startswith(said) for note in notes) == (ended < len(kept.rows))


@pytest.mark.slow
def test_the_page_says_what_the_bundles_hold(bench: ModuleType, tmp_path: Path) -> None:
    found = dict(bench.tables(tmp_path))
    placed: dict[str, set[str]] = {}
    for file in (bench.PAGE, bench.README):
        page = file.read_text()
        placed[file.name] = set(re.findall(r"<!-- (?!end)(.*?) -->", page))
        for name in placed[file.name]:
            written = bench.block(name).search(page)
            assert written is not None
            assert written[1].strip() == found[name].strip(), f"{name}: python bench/reference_study.py writes it anew"
    assert placed[bench.PAGE.name] == set(found) - {bench.SHORT}
    assert bench.SHORT in placed[bench.README.name]
