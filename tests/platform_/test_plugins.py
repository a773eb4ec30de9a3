"""Objectives of a person's own: written from the skeleton, loaded from a file, kept with every trial."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from equipoise.data.manifest import Manifest
from equipoise.models.geometry import TokenGrid
from equipoise.models.masking import BlockSpec, MaskConfig, MaskSampler
from equipoise.models.objectives import RECORDS, Latents, Objective, ObjectiveRecord, published_objectives
from equipoise.platform.errors import SettingsError, StudyError
from equipoise.platform.record.bundle import Bundle, BundleError
from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import Ledger
from equipoise.platform.settings import plugins
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.files import load_yaml, shipped
from equipoise.platform.settings.mix import resolve
from equipoise.platform.settings.plugins import Plugin, origin_of, plugin_of, use
from equipoise.platform.settings.preset import load_preset
from equipoise.platform.settings.study import load_ablation, load_sweep
from equipoise.platform.settings.trial import TrialSettings, load_regime
from equipoise.platform.storage import Paths
from equipoise.platform.study.bundling import refuse_code
from equipoise.platform.study.resume import parent_run
from equipoise.platform.trial.audit import audit
from equipoise.testing import check_mask_policy, check_objective

Call = Callable[..., tuple[int, str, str]]
NAME = "slow_drift"

pytestmark = pytest.mark.usefixtures("own_objectives")


@pytest.fixture
def file(call: Call, tmp_path: Path) -> Path:
    """The skeleton's objective."""
    code, _, err = call("new", "objective", NAME)
    assert code == 0, err
    return tmp_path / f"{NAME}.py"


def trial(**objectives: Any) -> TrialSettings:
    content: dict[str, Any] = {"variant_name": "own", "variant": {"objectives": objectives}}
    content |= {"preset": load_preset("nano"), "regime": load_regime("miniature")}
    return parse(TrialSettings, content, "a trial")


def built_elsewhere(kept: Path, shown: str) -> list[str]:
    """Key of a trial whose settings lie in a file, and an expression of its ``model``, as another process has them."""
    code = (
        "import json, sys\n"
        "from equipoise.platform.settings.base import parse\n"
        "from equipoise.platform.settings.mix import resolve\n"
        "from equipoise.platform.settings.trial import TrialSettings\n"
        "from equipoise.platform.trial.encoders import build_model\n"
        "settings = parse(TrialSettings, json.loads(open(sys.argv[1]).read()), 'kept')\n"
        "model = build_model(settings, resolve(settings))\n"
        f"print(settings.key, {shown})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(kept)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# --- the skeleton


def test_the_skeleton_works_as_it_is_written(file: Path, call: Call) -> None:
    test = file.with_name(f"test_{NAME}.py")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test.name]
    done = subprocess.run(words, cwd=file.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    lint = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F,UP,B", file.name, test.name]
    linted = subprocess.run(lint, cwd=file.parent, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout
    code, _, err = call("new", "objective", NAME)
    assert code == 1
    assert f"{NAME}.py exists" in err
    assert call("new", "objective", "Slow-Drift")[0] == 2


def test_it_is_listed_shown_and_searched_as_those_that_ship(file: Path, call: Call, tmp_path: Path) -> None:
    assert NAME not in call("list", "objectives")[1]
    code, out, err = call("list", "objectives", "--plugin", file)
    assert code == 0, err
    assert f"{NAME} " in out
    assert "slow_drift.py (sha256 " in out
    assert all(record.name in out for record in published_objectives())
    everything = {"name": "all", "regime": "miniature", "preset": "nano", "trials": 3, "objectives": "all"}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump({**everything, "plugins": [file.name]}))
    space = load_sweep(str(tmp_path / "space.yaml"), {})
    assert set(space.objectives) == set(RECORDS) >= {r.name for r in published_objectives()} | {NAME}
    assert (space.objectives[NAME].low, space.objectives[NAME].high) == (0.01, 0.3)
    assert f"{NAME} " in call("space", "show", "space.yaml")[1]
    assert NAME in load_yaml(_shown(call, tmp_path))["objectives"]
    # The paper's objectives are searched where `full` searches them.
    full = load_yaml(shipped("spaces")["full"])["objectives"]
    assert {r.name: {"low": r.span[0], "high": r.span[1]} for r in published_objectives()} == {
        name: {key: given[key] for key in ("low", "high")} for name, given in full.items()
    }


def _shown(call: Call, folder: Path) -> Path:
    file = folder / "shown.yaml"
    file.write_text(call("show", "space", "space.yaml")[1])
    return file


# --- what it is a part of


def test_its_text_belongs_to_the_key_of_the_trials_that_use_it_and_of_no_other(file: Path, tmp_path: Path) -> None:
    before = trial(delta=0.5).key
    plugin_of(file)
    assert trial(delta=0.5).key == before
    assert "plugins" not in trial(delta=0.5).model_dump(mode="json")
    own = trial(**{NAME: 0.1})
    copy = tmp_path / "elsewhere" / file.name
    copy.parent.mkdir()
    copy.write_text(file.read_text())
    plugin_of(copy)
    assert trial(**{NAME: 0.1}).key == own.key, "where the file lies does not count"
    copy.write_text(file.read_text() + "\n# another text\n")
    assert plugin_of(copy).sha256 != own.plugins[0].sha256
    changed = trial(**{NAME: 0.1})
    assert changed.key != own.key
    # Settings of before bring their own text with them.
    again = parse(TrialSettings, own.model_dump(mode="json"), "kept")
    assert again == own
    assert again.key == own.key
    assert origin_of(NAME) == own.plugins[0]


def test_settings_alone_are_enough_in_another_process(file: Path, tmp_path: Path) -> None:
    plugin_of(file)
    kept = tmp_path / "settings.json"
    kept.write_text(trial(**{NAME: {"weight": 0.1, "params": {"exponent": 1.0}}}).model_dump_json())
    file.unlink()
    said = built_elsewhere(kept, "model.objectives['slow_drift'].exponent")
    found = parse(TrialSettings, json.loads(kept.read_text()), "kept")
    assert said == [found.key, "1.0"]


def test_a_study_names_it_beside_its_own_file_or_on_the_command_line(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    file.write_text(file.read_text() + '\n__version__ = "0.3"\n')
    content = {"name": "own", "regime": "miniature", "preset": "nano", "custom": {"slow": {"objectives": {NAME: 0.1}}}}
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(SettingsError, match=f"unknown objective '{NAME}'"):
        load_ablation(str(folder / "study.yaml"), {})
    by_option = load_ablation(str(folder / "study.yaml"), {"plugins": (str(file),)})
    (folder / "study.yaml").write_text(yaml.safe_dump({**content, "plugins": [f"../{file.name}"]}))
    by_file = load_ablation(str(folder / "study.yaml"), {})
    assert by_file == by_option
    # The book holds its text: what resumes, confirms or moves the study needs no file.
    assert by_file.plugins[0].source == file.read_text()
    assert str(by_file.plugins[0]).startswith("slow_drift.py 0.3 (sha256 ")
    (name, variant, seed), *_ = by_file.members()
    (own,) = by_file.trial(name, variant, seed, *by_file.load()).plugins
    assert own == by_file.plugins[0]
    assert by_file.trial(*by_file.controls()[0], *by_file.load()).plugins == ()


def test_a_study_goes_on_with_the_text_that_it_was_begun_with(file: Path, tmp_path: Path) -> None:
    content = {"name": "own", "regime": "miniature", "preset": "nano", "custom": {"slow": {"objectives": {NAME: 0.1}}}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**content, "plugins": [file.name]}))
    book, record = Ledger(tmp_path / "ledger.db"), Home(tmp_path / "home").tracker(create=True)
    for _ in range(2):
        parent_run(load_ablation(str(tmp_path / "study.yaml"), {}), "ablation", book, record, ["mini_in"], "test")
    file.write_text(file.read_text() + "\n# changed\n")
    with pytest.raises(StudyError) as raised:
        parent_run(load_ablation(str(tmp_path / "study.yaml"), {}), "ablation", book, record, ["mini_in"], "test")
    said = "was started with plugins slow_drift.py (sha256 "
    assert said in str(raised.value)
    assert "import" not in str(raised.value), "not its text"
    book.close()


def test_code_of_others_runs_only_where_it_is_trusted(file: Path) -> None:
    plugin = plugin_of(file)
    about: dict[str, Any] = {"study": "own"}
    empty: dict[str, Any] = {"rows": (), "runs": (), "outcomes": (), "artifacts": {}, "trial_files": {}}
    carries = Bundle(about=about, facts={"definition": {"plugins": [plugin.model_dump(mode="json")]}}, **empty)
    with pytest.raises(
        BundleError, match=r"carries code that would run here: slow_drift\.py \(sha256 .*--trust-plugins"
    ):
        refuse_code(carries, False)
    refuse_code(carries, True)
    package = Plugin(name="acme", sha256=plugin.sha256).model_dump(mode="json")
    refuse_code(Bundle(about=about, facts={"definition": {"plugins": [package]}}, **empty), False)


# --- a mask policy

CORNER = """
import torch
from equipoise import ObjectiveRecord, register

class Corner:
    \"\"\"Blocks begin at the top left, with a share of the draws anywhere.\"\"\"
    reads_motion = False

    def __init__(self, anywhere=0.1):
        if not 0 <= anywhere < 1:
            raise ValueError(f"anywhere is {anywhere}; expected a share below 1")
        self.anywhere = anywhere

    def origin_probabilities(self, motion_map, block):
        places = [n - size + 1 for n, size in zip(motion_map.shape[-3:], block)]
        found = torch.full((len(motion_map), *places), self.anywhere / (places[0] * places[1] * places[2]))
        found[:, 0, 0, 0] += 1 - self.anywhere
        return found

moves = ("encoder", "predictor")
register(ObjectiveRecord("corner", "masking: blocks in a corner", 1.0, (), moves, "here", Corner, kind="mask"))
"""


def test_a_mask_policy_of_ones_own_places_the_blocks(
    call: Call, make_trial: Callable[..., TrialSettings], paths: Paths, tmp_path: Path
) -> None:
    file = tmp_path / "corner.py"
    file.write_text(CORNER)
    plugin = plugin_of(file)
    check_mask_policy(RECORDS["corner"])
    with pytest.raises(AssertionError, match="corner places every block anywhere"):
        check_mask_policy(RECORDS["corner"], anywhere=0.999999999)
    with pytest.raises(ValueError, match="anywhere is 1; expected a share below 1"):
        RECORDS["corner"].factory(anywhere=1)
    assert RECORDS["corner"].span == (0.1, 1.0)
    assert "corner.py (sha256 " in call("list", "objectives", "--plugin", file)[1]
    # The sampler: those clips that follow it are hidden from the corner on, the others are not moved by it.
    grid, config = TokenGrid(2, 6, 6, patch=4, tubelet=2), MaskConfig(blocks=(BlockSpec(count=1, area=0.25),))
    sampler = MaskSampler(grid, config, origin_policies={"corner": RECORDS["corner"].factory(anywhere=0.0)})
    mask = sampler.sample(8, torch.Generator().manual_seed(0))[0]
    assert not grid.visible(mask.visible)[:, :, 0, 0].any()
    none = sampler.sample(8, torch.Generator().manual_seed(0), shares={"corner": 0.0})[0]
    assert grid.visible(none.visible)[:, :, 0, 0].any()
    # A trial of it: resolved, audited as one that changes masks, trained.
    base = make_trial()
    variant = {"objectives": {"corner": {"weight": 0.5, "params": {"anywhere": 0.2}}}}
    content = {**base.model_dump(exclude={"plugins"}), "variant": variant, "variant_name": "cornered"}
    settings = parse(TrialSettings, content, "a trial")
    assert settings.plugins == (plugin,)
    mix = resolve(settings)
    assert (dict(mix.shares), mix.reads_motion) == ({"corner": 0.5}, False)
    found = audit(settings, paths)
    assert [(one.name, one.kind, one.verdict) for one in found.objectives] == [("corner", "mask", "reaches")]
    assert not found.dead
    with pytest.raises(SettingsError, match="its weight is a share of clips, at most 1"):
        trial(corner=1.5)
    with pytest.raises(SettingsError, match="anywhere is 2; expected a share below 1"):
        resolve(trial(corner={"weight": 1.0, "params": {"anywhere": 2}}))


# --- an encoder


def test_the_skeleton_of_an_encoder_works_as_it_is_written(call: Call, tmp_path: Path) -> None:
    code, out, err = call("new", "encoder", "mixer")
    assert code == 0, err
    assert "model.encoder.name: mixer in its preset" in out
    file, test = tmp_path / "mixer.py", tmp_path / "test_mixer.py"
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test.name]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    lint = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F,UP,B", file.name, test.name]
    linted = subprocess.run(lint, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout
    assert "mixer" not in call("list", "encoders")[1]
    listed = call("list", "encoders", "--plugin", file)[1]
    assert "mixer.py (sha256 " in listed
    assert all(name in listed for name in ("vit", "timm", "torchvision"))


def test_an_encoder_of_ones_own_is_what_a_trial_builds_wherever_it_runs(call: Call, tmp_path: Path) -> None:
    call("new", "encoder", "mixer")
    content = {"name": "own", "regime": "miniature", "preset": "nano", "variants": ["hw"], "plugins": ["mixer.py"]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**content, "set": ["model.encoder.name=mixer"]}))
    definition = load_ablation(str(tmp_path / "study.yaml"), {})
    (name, variant, seed), *_ = definition.members()
    own = definition.trial(name, variant, seed, *definition.load())
    assert [plugin.name for plugin in own.plugins] == ["mixer.py"]
    shipped_one = parse(TrialSettings, {**own.model_dump(), "preset": load_preset("nano"), "plugins": ()}, "a trial")
    assert own.key != shipped_one.key
    kept = tmp_path / "settings.json"
    kept.write_text(own.model_dump_json())
    (tmp_path / "mixer.py").unlink()
    said = built_elsewhere(kept, "type(model.target_encoder).__name__")
    assert said == [own.key, "Mixer"]


def test_an_encoder_that_cannot_be_is_refused_with_the_settings(tmp_path: Path) -> None:
    for change, sentence in (
        (["model.encoder.name=mixr"], "unknown encoder 'mixr'"),
        (["model.encoder.name=timm"], "expected the name of a model"),
        (["model.encoder.name=timm", "model.encoder.params.model=resnet18"], "resnet18 cannot hide tokens"),
    ):
        with pytest.raises(SettingsError, match=sentence):
            load_preset("nano", change)


# --- an importer

IMPORTER = """
from pathlib import Path
from equipoise import Release, ReleaseListing, register_importer

def read(root, split, classes):
    \"\"\"One folder for each part, one text file with the class of every clip.\"\"\"
    parts = {}
    for part in ("train", "test"):
        lines = (root / f"{part}.txt").read_text().split()
        parts[part] = [(f"{part}/{name}", label) for name, label in (line.split("=") for line in lines)]
    return ReleaseListing(classes=("a", "b"), splits=parts)

register_importer(
    Release(
        name="mine", title="My Set", layout="{train,test}/*.png and .txt", classes=2, counts={1: (2, 1)}, read=read
    )
)
"""


def test_an_importer_of_ones_own_is_used_as_those_that_ship(call: Call, tmp_path: Path) -> None:
    (tmp_path / "importer.py").write_text(IMPORTER)
    for part, lines in (("train", "0.png=a 1.png=b"), ("test", "2.png=a")):
        (tmp_path / "set" / part).mkdir(parents=True)
        (tmp_path / "set" / f"{part}.txt").write_text(lines)
        for line in lines.split():
            shade = int(line[0]) * 40
            Image.new("RGB", (20, 16), (shade, 90, 90)).save(tmp_path / "set" / part / line.split("=")[0])
    words = ["data", "import", "mine", "--root", tmp_path / "set", "--home", tmp_path / "home", "--workers", 1]
    code, _, err = call(*words)
    assert code == 2
    assert "'mine' is not one of 'ucf101', 'ssv2', 'imagenet100', 'diving48'" in err
    assert "My Set" in call("list", "importers", "--plugin", tmp_path / "importer.py")[1]
    code, out, err = call(*words, "--plugin", tmp_path / "importer.py")
    assert code == 0, err
    assert "My Set in " in out
    assert [line.split() for line in out.splitlines() if line.startswith(" t")] == [
        ["train", "2", "2", "2", "0", "0"],
        ["test", "1", "1", "1", "0", "0"],
    ]
    assert Manifest.read(tmp_path / "home" / "data" / "mine" / "test.parquet").label_name.tolist() == ["a"]


# --- a benchmark

BENCHMARK = """
from equipoise import BenchmarkRecord, register_benchmark

TRAIN, TEST = (f"miniature/mini_in/{part}.parquet" for part in ("train", "test"))
register_benchmark(BenchmarkRecord("our_in", "the set of the group", "Our-IN", TRAIN, TEST, "linear"))
"""


def test_a_benchmark_of_a_plug_in_needs_its_name_alone(call: Call, tmp_path: Path) -> None:
    (tmp_path / "ours.py").write_text(BENCHMARK)
    regime = load_regime("miniature").model_dump()
    whole = {"title": "Our-IN", "train": "miniature/mini_in/train.parquet", "test": "miniature/mini_in/test.parquet"}
    for name, settings in (("named", None), ("whole", {**whole, "probe": "linear"})):
        content = {**regime, "name": "ours", "benchmarks": {**regime["benchmarks"], "our_in": settings}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(SettingsError, match="benchmark 'our_in' has no settings here, and is of no plug-in"):
        load_regime(str(tmp_path / "named.yaml"))
    assert call("list", "benchmarks")[1].startswith("No benchmarks")
    assert "the set of the group [ours.py (sha256 " in call("list", "benchmarks", "--plugin", tmp_path / "ours.py")[1]
    study = {"name": "o", "regime": str(tmp_path / "named.yaml"), "preset": "nano", "variants": ["hw"]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**study, "plugins": ["ours.py"]}))
    definition = load_ablation(str(tmp_path / "study.yaml"), {})
    assert definition.load()[1] == load_regime(str(tmp_path / "whole.yaml"))


# --- mistakes


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = (", "cannot be run: SyntaxError: '(' was never closed (line 1)"),
        ("x = 1\n\nraise ValueError('not today')", "cannot be run: ValueError: not today (line 3)"),
        ("import nothing_of_this_name", "cannot be run: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("x = 1", "registers nothing: call equipoise.register"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    known = dict(RECORDS)
    with pytest.raises(SettingsError) as raised:
        plugin_of(file)
    assert sentence in str(raised.value)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert dict(RECORDS) == known


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "delta"}, "delta is an objective that ships"),
        ({"name": "Slow Drift"}, "'Slow Drift'; expected small letters"),
        ({"kind": "loss or mask"}, "expected 'loss' or 'mask'"),
        ({"needs": ("teachr",)}, "needs 'teachr'; nearest is 'teacher'"),
        ({"moves": ()}, "moves nothing"),
        ({"published_weight": 0.0}, "has the weight 0.0"),
        ({"search": (1.0, 0.1)}, "is searched from 1.0 to 0.1"),
        ({"factory": lambda: None}, "takes no channels"),
    ],
)
def test_a_record_that_cannot_be_is_a_sentence(changes: dict[str, Any], sentence: str, file: Path) -> None:
    from equipoise import register

    plugin_of(file)
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        register(dataclasses.replace(RECORDS[NAME], **changes))


def test_a_package_that_cannot_be_loaded_is_named_and_stops_nothing(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    info = site / "acme-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[equipoise.objectives]\nacme = acme_broken\n")
    (site / "acme_broken.py").write_text("raise RuntimeError('not today')\n")
    monkeypatch.syspath_prepend(str(site))
    plugins.installed.cache_clear()
    code, out, err = call("list", "objectives")
    assert code == 0
    assert "latent_dynamics" in out
    assert "Plug-in acme: it cannot be loaded: RuntimeError: not today" in err
    with pytest.raises(SettingsError, match=r"unknown objective 'slower'.*plug-in acme: it cannot be loaded"):
        trial(slower=1.0)
    plugins._failed.clear()


def test_a_package_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match=r"plug-in acme 2\.0 \(sha256 a{12}\): it is not installed here"):
        use([{"name": "acme", "version": "2.0", "sha256": "a" * 64}])
    with pytest.raises(SettingsError, match="holds another text than its sha256 says"):
        use([{"name": "acme.py", "sha256": "a" * 64, "source": "x = 1"}])
    with pytest.raises(SettingsError, match="cannot be read: No such file or directory"):
        plugin_of("nowhere.py")


# --- the contract notices what is not kept


class Broken(Objective):
    """Mean square of the visible features, with one thing wrong."""

    def __init__(self, channels: int, wrong: str) -> None:
        super().__init__()
        self.wrong = wrong
        self.head = torch.nn.Linear(channels, 1) if wrong == "head" else None

    def forward(self, latents: Latents) -> Tensor | None:
        z = latents.tokens
        if latents.lacks(z):
            return None if self.wrong != "empty" else latents.student.sum() * 0
        match self.wrong:
            case "hidden":
                z = latents.student.flatten(0, 3)
            case "vector":
                return z.square().mean(0)
            case "double":
                z = z.double()
            case "infinite":
                z = z / 0
            case "teacher":
                z = z - latents.target.mean()
            case "detached":
                z = z.detach() + 0 * latents.predicted.sum().detach()
            case "sum":
                return latents.total(z.sum(0)).square().mean() / latents.count(z).square()
            case "nested":
                spread = z - latents.total(z.sum(0)) / latents.count(z)
                return latents.total((spread**4).sum(0)).mean() / latents.count(z)
            case "waits":
                rows = latents.total(z.sum(0)) if len(latents.pairs) else z.sum(0)
                return rows.square().mean()
            case "still":
                return latents.dz.square().mean() + z.square().mean() if len(latents.pairs) else None
        return z.square().mean()

    def elements(self, latents: Latents) -> int | None:
        if self.wrong == "pairs":
            return super().elements(latents)
        return None if self.wrong in ("nested", "waits") else len(latents.tokens)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("hidden", "features of hidden tokens"),
        ("vector", r"has the shape \(16,\); a loss is one number"),
        ("double", "is of torch.float64"),
        ("infinite", "is inf on random features"),
        ("teacher", "changes with the teacher; its record says it does not need it"),
        ("empty", "has a value where no token is visible"),
        ("detached", "carries no gradient: it is detached"),
        ("head", "has a head of its own"),
        ("still", "still"),
        ("pairs", r"where two workers share the batch.* its elements\(\) says over how many things"),
        ("sum", r"sends another gradient where two workers share the batch: .* its elements\(\) is None"),
        ("nested", "sends another gradient where two workers share the batch"),
        ("waits", "waits for a sum to which the other adds nothing"),
    ],
)
def test_the_contract_names_the_promise_that_is_not_kept(wrong: str, sentence: str) -> None:
    record = ObjectiveRecord("broken", "wrong", 1.0, (), ("encoder",), "here", lambda channels: Broken(channels, wrong))
    with pytest.raises(AssertionError, match=sentence):
        check_objective(record)
    sound = dataclasses.replace(record, factory=lambda channels: Broken(channels, "nothing"))
    check_objective(sound)


def test_a_mix_of_it_is_what_is_trained(file: Path) -> None:
    plugin_of(file)
    (term,) = resolve(trial(**{NAME: {"weight": 0.1, "params": {"exponent": 3.0}}})).terms
    assert (term.name, dict(term.params)) == (NAME, {"exponent": 3.0})
    with pytest.raises(SettingsError, match="exponent is -1"):
        resolve(trial(**{NAME: {"weight": 0.1, "params": {"exponent": -1}}}))
