"""The command line: results as JSON, and one clear sentence for every mistake."""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from equipoise.data.manifest import Manifest
from equipoise.models.objectives import list_objectives
from equipoise.platform.record.home import Home
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.storage import Paths
from equipoise.platform.trial import checkpoint as checkpoints
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer

Make = Callable[..., TrialSettings]
Call = Callable[..., tuple[int, str, str]]


def sentence(code: int, out: str, err: str) -> str:
    """The error of a failed command: one line, no trace."""
    assert code != 0
    assert "Traceback" not in err
    lines = [line for line in err.strip().splitlines() if line.startswith("Error")]
    assert len(lines) == 1, err
    return lines[0]


def test_front_of_the_published_table_as_json(call: Call, tmp_path: Path) -> None:
    plot = tmp_path / "front.png"
    code, out, _ = call("front", "--published", "--regime", "mixed", "--tolerance", "1.0", "--json", "--out", plot)
    assert code == 0
    found = json.loads(out)
    assert found["candidate"]["variant"] == "fwm_hw_ld"
    assert set(found["front"]) == {"baseline", "fwm_hw_ld", "ld", "hw", "ac_hw"}
    assert found["hypervolume"] == 0
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_front_of_a_csv_as_a_table(call: Call, tmp_path: Path) -> None:
    from equipoise.platform.stats.published import published_path

    csv = tmp_path / "mine.csv"
    csv.write_bytes(published_path().read_bytes())
    before = set(tmp_path.iterdir())
    code, out, _ = call("front", "--results", csv, "--regime", "mixed", "--tolerance", "1.0")
    assert code == 0
    assert "★ fwm_hw_ld" in out
    assert set(tmp_path.iterdir()) == before, "no picture that nobody asked for"
    assert "★ fwm_hw_ld" in call("front", "--published", "--tolerance", "1.0")[1], (
        "the mixed regime unless another is named"
    )
    assert "--regime is missing" in call("front", "--results", csv)[2]
    # Any variant may be what gains are measured against, any benchmarks what is compared.
    code, out, _ = call(
        "front",
        "--results",
        csv,
        "--regime",
        "mixed",
        "--baseline",
        "hw",
        "--benchmarks",
        "ssv2, imagenet100",
        "--json",
    )
    found = json.loads(out)
    assert (found["baseline"], found["benchmarks"]) == ("hw", ["ssv2", "imagenet100"])
    assert "goes with --results" in call("front", "mine", "--baseline", "hw")[2]


def test_list_names_every_objective(call: Call) -> None:
    code, out, _ = call("list", "objectives", "--json")
    assert code == 0
    assert [one["name"] for one in json.loads(out)["objectives"]] == [record.name for record in list_objectives()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("front", "--results", "none.csv", "--regime", "mixed"), "none.csv"),
        (("front", "--published", "--regime", "mixd"), "mixed"),
        (("front", "nostudy"), "no study 'nostudy'"),
        (("front",), "give one of"),
        (("sweep", "quikstart"), "did you mean 'quickstart'?"),
        (("sweep", "none.yaml"), "does not exist"),
        (("sweep", "quickstart", "--preset", "nanno"), "did you mean 'nano'?"),
        (("sweep", "quickstart", "--set", "optimisation.stepps=3"), "did you mean 'steps'?"),
        (("sweep", "quickstart", "--set", "model.encoder.widht=3"), "did you mean 'width'?"),
        (("sweep", "quickstart", "--set", "optimisation.steps"), "optimisation.steps=200"),
        (("sweep", "quickstart", "--set", "optimisation.lr=-1"), "greater than 0"),
        (("sweep", "quickstart", "--resume"), "no study 'quickstart'"),
        (("sweep", "quickstart", "--max-loss", "two"), "'two' given; expected points of accuracy, as in 2.0"),
        (("sweep", "quickstart", "--max-loss", "-1"), "expected points of accuracy, not negative"),
        (("sweep", "quickstart", "--max-loss", "mini_dvie=1"), "did you mean 'mini_dive'?"),
        (("sweep", "quickstart", "--max-loss", "1", "--max-loss", "mini_in=2"), "not both"),
        (("sweep", "quickstart", "--max-loss", "mini_in=1", "--max-loss", "mini_in=2"), "another one for mini_in"),
        (("sweep", "quickstart"), "equipoise data build miniature"),
        (("ablate", "miniature_ablation", "--variant", "fvm"), "did you mean 'fwm'?"),
        (("pretrain", "hww"), "did you mean 'hw'?"),
        (("probe", "nothing"), "no checkpoint"),
        (("ui",), "holds no record of studies"),
        (("data", "build", "miniatur"), "miniature"),
        (("sweeep",), "sweep"),
    ],
)
def test_mistakes_get_one_sentence(words: tuple[str, ...], expected: str, call: Call, tmp_path: Path) -> None:
    home = () if words[0] in ("sweeep",) else ("--home", tmp_path / "home")
    assert expected in sentence(*call(*words, *home))


def write(path: Path, content: Any) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"objectives": {"hard_regoin": {"low": 0.1, "high": 1}}}, "did you mean 'hard_region'?"),
        ({"objectives": {"hard_region": {"low": 0.1, "hihg": 1}}}, "did you mean 'high'?"),
        ({"objectives": {"hard_region": {"low": -0.1, "high": 1}}}, "greater than 0"),
        ({"objectives": {"hard_region": {"low": 2, "high": 1}}}, "not below"),
        ({"objectives": {"motion_guided": {"low": 0.5, "high": 2}}}, "at most 1"),
        ({"trails": 3}, "did you mean 'trials'?"),
        ({"trials": 0}, "greater than or equal to 1"),
        ({"sampler": "tpee"}, "'tpe', 'nsga2', 'nsga3', 'gp', 'botorch', 'random' or 'qmc'"),
        ({"start": ["fwm"]}, "which the search space does not name"),
        ({"control_seeds": []}, "refuse_controls"),
    ],
)
def test_mistakes_in_a_search_space(change: dict[str, Any], expected: str, call: Call, tmp_path: Path) -> None:
    space = {
        "name": "s",
        "regime": "miniature",
        "preset": "nano",
        "trials": 2,
        "objectives": {"hard_region": {"low": 0.1, "high": 1.0}},
    }
    file = write(tmp_path / "space.yaml", {**space, **change})
    found = sentence(*call("sweep", file, "--home", tmp_path / "home"))
    assert expected in found
    assert "space.yaml" in found


def test_resuming_remembers_what_the_command_line_changed(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the trainings: the definition goes into the study's book, and what a driver would run is looked at."""
    from equipoise.platform.record.ledger import Ledger
    from equipoise.platform.study import run as study

    seen: list[Any] = []

    def run(director: Any, retries: int) -> bool:
        seen.append((director.plan.search.proposer.definition, director.plan.resources))
        return False  # as after an interrupt

    monkeypatch.setattr(study, "prepare_caches", lambda *args: "0123")
    monkeypatch.setattr(study, "audit_study", lambda *args: [])
    monkeypatch.setattr(study, "ray_cluster", lambda *args, **more: contextlib.nullcontext())
    monkeypatch.setattr(study, "capacity", lambda *args: 1)
    monkeypatch.setattr(study, "run", run)
    place = ("--home", tmp_path / "home")
    changes = ("--sampler", "nsga2", "--trials", "9", "--max-loss", "mini_dive=1.5", "--set", "optimisation.steps=3")
    code, _, err = call("sweep", "quickstart", *changes, "--workers", "2", *place)
    assert code == 130
    again = shlex.split(err[err.index("equipoise sweep") :].strip())[1:]
    assert "--resume" in again
    assert "--sampler" not in again
    code, _, err = call(*again, "--cpus-per-worker", "2", "--trials", "12")
    assert code == 130, err
    (first, _), (second, resources) = seen
    assert second.model_copy(update={"trials": 9, "resources": first.resources}) == first
    assert first.sampler == "nsga2"
    assert first.constraints.max_loss == {"mini_dive": 1.5}
    assert first.set == ("optimisation.steps=600", "optimisation.steps=3")
    assert (second.trials, resources.workers, resources.cpus_per_worker) == (12, 2, 2)
    assert "was started with sampler 'nsga2', now it is 'tpe'" in sentence(*call(*again, "--sampler", "tpe"))
    call(*again)
    assert seen[-1][0].trials == 12
    book = Ledger(tmp_path / "home" / "studies" / "quickstart" / "ledger.db")
    assert book.fact("definition")["sampler"] == "nsga2"
    book.close()


def test_negative_weight_and_unknown_parameter_in_a_study(call: Call, tmp_path: Path) -> None:
    study = {"name": "s", "regime": "miniature", "preset": "nano"}
    file = write(tmp_path / "study.yaml", {**study, "custom": {"mine": {"objectives": {"delta": -0.5}}}})
    assert "custom.mine.objectives.delta.weight is -0.5" in sentence(*call("ablate", file))
    mine = {"objectives": {"hard_region": {"weight": 1, "params": {"taau": 2}}}}
    file = write(tmp_path / "study.yaml", {**study, "custom": {"mine": mine}})
    assert "did you mean 'tau'?" in sentence(*call("ablate", file))
    (tmp_path / "study.yaml").write_text("name: [unclosed\n")
    assert "is not valid YAML" in sentence(*call("ablate", file))


def test_manifest_faults(call: Call, home: Home, tiny_data: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    sets = tiny_data / "data" / "miniature"
    for name in ("mini_ucf", "mini_ssv2", "mini_in", "mini_dive"):
        for split in ("train", "select", "test"):
            (own / "data" / "miniature" / name).mkdir(parents=True, exist_ok=True)
            (own / "data" / "miniature" / name / split).symlink_to(sets / name / split)
            file = own / "data" / "miniature" / name / f"{split}.parquet"
            file.write_bytes((sets / name / f"{split}.parquet").read_bytes())
    words = ("ablate", "miniature_ablation", "--preset", tiny_data / "tiny.yaml", "--home", own)
    broken = own / "data" / "miniature" / "mini_ucf" / "train.parquet"
    broken.write_bytes(b"")
    assert "mini_ucf/train.parquet" in sentence(*call(*words))
    rows = Manifest.read(sets / "mini_ucf" / "train.parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(sets / "mini_ucf" / "train.parquet")
    at = table.schema.get_field_index("label")
    labels = table["label"].to_pylist()
    labels[3] = len(rows.classes)
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(labels, table["label"].type)), broken)
    assert "label" in sentence(*call(*words))
    pq.write_table(table.slice(0, 0), broken)
    assert "train.parquet" in sentence(*call(*words))


def test_corrupt_videos_past_the_budget_stop_with_their_names(call: Call, tiny_data: Path, tmp_path: Path) -> None:
    import shutil

    own = tmp_path / "own"
    shutil.copytree(tiny_data / "data", own / "data")
    videos = sorted((own / "data" / "miniature" / "mini_ucf" / "train").rglob("*.mp4"))
    for video in videos[:5]:
        video.write_bytes(b"not a video")
    found = sentence(*call("ablate", "miniature_ablation", "--preset", tiny_data / "tiny.yaml", "--home", own))
    assert "5 of 48" in found
    assert videos[0].name in found


def test_a_home_that_cannot_be_written(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in sentence(*call("data", "build", "miniature", "--home", tmp_path / "file" / "home"))


def test_a_port_in_use(call: Call, tmp_path: Path) -> None:
    Home(tmp_path).tracker()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = sentence(*call("ui", "--home", tmp_path, "--port", port))
    assert f"port {port} is in use" in found


def test_probe_prints_json_and_stores_items(call: Call, make_trial: Make, paths: Paths, home: Home) -> None:
    folder = home.root / "trial"
    Trainer(make_trial(), paths, LocalReporter(folder)).run()
    code, out, err = call("probe", folder, "--home", home.root, "--json", "--benchmark", "mini_in")
    assert code == 0, err
    found = json.loads(out)
    assert [b["benchmark"] for b in found["benchmarks"]] == ["mini_in"]
    assert (Path(found["correctness"]) / "mini_in.parquet").is_file()
    assert "did you mean 'mini_in'?" in sentence(*call("probe", folder, "--home", home.root, "--benchmark", "mini_inn"))
    kept = checkpoints.latest(folder / "checkpoints")
    assert kept is not None
    (kept / "state.pt").write(b"damaged")
    assert "is damaged" in sentence(*call("probe", folder, "--home", home.root))


def test_probe_scores_a_file_of_other_peoples(call: Call, home: Home, tmp_path: Path) -> None:
    torch.manual_seed(2)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=48, num_classes=3)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    words = ["probe", tmp_path / "vit.safetensors", "--home", home.root, "--benchmark", "mini_in"]
    own = ["--encoder", "timm:vit_tiny_patch16_224", "--set", "probes.attentive.heads=3"]
    code, out, err = call(*words, *own, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["variant"], found["step"]) == ("vit.safetensors", 0)
    assert found["benchmarks"][0]["items"] > 0
    # It is the network of the file that was scored: another file is another score.
    first = (Path(found["correctness"]) / "mini_in.parquet").read_bytes()
    save_file({k: v + 0.1 * torch.randn_like(v) for k, v in vit.state_dict().items()}, tmp_path / "vit.safetensors")
    assert call(*words, *own, "--json")[0] == 0
    assert (Path(found["correctness"]) / "mini_in.parquet").read_bytes() != first
    assert "which encoder is" in call(*words)[2]
    assert "cannot hide tokens" in sentence(*call(*words, "--encoder", "timm:resnet18"))
    assert "it is an image transformer whose patch embedding is (192, 3, 16, 16); expected (64, 3, 8, 8)" in sentence(
        *call(*words, "--encoder", "vit")
    )
    assert "is not there" in sentence(*call("probe", tmp_path / "no.pt", "--encoder", "vit", "--home", home.root))
    assert "--seed goes with other people's file" in call("probe", tmp_path, "--seed", 3)[2]
