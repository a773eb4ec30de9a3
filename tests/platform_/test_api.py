"""The public face: what a notebook imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
import yaml
from nbclient import NotebookClient

import equipoise
from equipoise.platform.errors import SettingsError, StudyError
from equipoise.platform.record.client import TrackingError
from equipoise.platform.record.home import Home
from equipoise.platform.settings.study import AblationDefinition

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
HEAVY = ("torch", "ray", "mlflow", "pyarrow")


@pytest.mark.parametrize("words", [["-c", "import equipoise"], ["-m", "equipoise", "--help"]])
def test_importing_loads_nothing_heavy(words: list[str]) -> None:
    found = subprocess.run(
        [sys.executable, "-X", "importtime", *words], capture_output=True, text=True, check=True, timeout=60
    ).stderr
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in found.splitlines()}
    assert "equipoise" in loaded
    assert not loaded & set(HEAVY)


def test_every_public_name_is_there_and_told_about() -> None:
    for name in equipoise.__all__:
        assert getattr(equipoise, name).__doc__, name
        assert name in dir(equipoise)
    with pytest.raises(AttributeError, match="no attribute 'sweeep'"):
        _ = equipoise.sweeep


def test_the_published_table_is_selected_from() -> None:
    table = equipoise.published("mixed")
    found = equipoise.select(table, tolerance=1.0)
    assert found.baseline == "baseline"
    frame = table.to_pandas()
    assert list(frame.columns) == ["variant", "seed", *table.benchmarks, "flags"]
    assert len(frame) == sum(len(table.seeds(variant)) for variant in table.variants)


def test_definitions_are_checked_before_anything_starts() -> None:
    assert equipoise.load_sweep("quickstart", trials=3).trials == 3
    assert equipoise.load_ablation("miniature_ablation", seeds=[7]).seeds == (7,)
    with pytest.raises(SettingsError, match="quickstart"):
        equipoise.load_sweep("quickstar")
    with pytest.raises(SettingsError, match="unknown key 'trails'"):
        equipoise.load_sweep("quickstart", trails=3)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_study_is_read_from_python(studied: Home) -> None:
    study = equipoise.open_study("abl", studied.root)
    assert repr(study) == "<Study 'abl': 10 of 10 trials finished>"
    assert isinstance(study.definition, AblationDefinition)
    frame = study.table.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == len(study.trials) == 10
    by_trial = {(t.variant, t.seed): t for t in study.trials}
    for row in frame.to_dict("records"):
        for benchmark, accuracy in by_trial[row["variant"], row["seed"]].accuracies.items():
            assert row[benchmark] == accuracy
    assert study.weights["hw"] == {"hard_region": 0.3}
    curves = study.curves("loss")
    assert {name.partition(" ")[0] for name in curves} == {"baseline", "fwm_hw_ld", "motion_guided", "hw"}
    assert all(step == sorted(step) for step in ([s for s, _ in line] for line in curves.values()))
    found = study.front(tolerance=100)
    assert found.plot is not None
    assert found.plot.is_file()
    assert found.selection.candidate is not None
    assert found.selection.candidate.variant in found._repr_markdown_()
    with pytest.raises(TrackingError, match="no model models:/abl@candidate"):
        study.encoder()  # looking at a front has registered nothing
    for missing, said in (
        (study.effects, "no design"),
        (study.explain, "searched nothing"),
        (study.confirmation, "not"),
    ):
        with pytest.raises(StudyError, match=said):
            missing()
    with pytest.raises(TrackingError, match=r"no study 'abbl'.*known: abl"):
        equipoise.open_study("abbl", studied)


@pytest.mark.slow
@pytest.mark.cluster
def test_the_first_notebook_runs(tiny_data: Path, tmp_path: Path) -> None:
    """Cell by cell in a kernel of its own, on a smaller study over smaller data."""
    space = {
        "name": "first",
        "regime": "miniature",
        "preset": str(tiny_data / "tiny.yaml"),
        "trials": 1,
        "control_seeds": [0, 1],
        "concurrent": 2,
        "objectives": {"delta": {"low": 0.1, "high": 1.0}},
    }
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "data").symlink_to(tiny_data / "data")
    notebook = nbformat.read(NOTEBOOKS / "first_study.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum(len(cell.source.strip().splitlines()) for cell in code[1:]) <= 10, "the quickstart in ten lines"
    assert not any(cell.outputs for cell in code), "it is kept without outputs"
    code[0].source += (
        f"\nspace, home = {str(tmp_path / 'space.yaml')!r}, {str(tmp_path / 'home')!r}"
        "\nsizes = miniature.Sizes(frames=8, train_clips=48, test_clips=24, select_clips=24, train_stills=60,"
        " test_stills=40, select_stills=40)"
    )
    here = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=400, kernel_name="python3", resources=here).execute()
    assert not any(o.output_type == "error" for cell in code for o in cell.outputs)
    study = equipoise.open_study("first", tmp_path / "home")
    front = next(cell for cell in code if cell.source == "study.front()").outputs[-1]
    assert "baseline" in front.data["text/markdown"]
    assert (tmp_path / "home" / "studies" / "first" / "report.html").is_file()
    assert {t.status for t in study.trials} == {"finished"}
    encoder = study.encoder("baseline")  # a study's own end has kept it
    assert not encoder.training
    assert all(not p.requires_grad and p.device == torch.device("cpu") for p in encoder.parameters())
