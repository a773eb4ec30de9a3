"""All deploy files together: no secrets, one set of versions, and a README that is true."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from equipoise.platform.cli.main import cli
from equipoise.platform.settings.preset import Preset, load_preset
from equipoise.platform.settings.study import SweepDefinition, load_sweep

Render = Callable[[str], list[Any]]
FOLDER = Path(__file__).parents[2] / "deploy"
FILES = sorted(p.relative_to(FOLDER).as_posix() for p in FOLDER.rglob("*") if p.is_file())
README = (FOLDER / "README.md").read_text(encoding="utf-8")
SHELL = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)


def test_every_file_is_one_somebody_checks() -> None:
    assert FILES == [
        "Dockerfile",
        "Dockerfile.dockerignore",
        "README.md",
        "compose.yaml",
        "first_front.yaml",
        "kubernetes/monitoring.yaml",
        "kubernetes/raycluster.yaml",
        "kubernetes/rayjob.yaml",
        "kubernetes/record.yaml",
        "mlflow-auth.ini",
        "monitoring/grafana-dashboards.yaml",
        "monitoring/grafana-datasource.yaml",
        "monitoring/prometheus-kubernetes.yml",
        "monitoring/prometheus.yml",
        "monitoring/study.json",
        "ray-aws.yaml",
        "ray-gcp.yaml",
    ]


@pytest.mark.parametrize("name", [n for n in FILES if not n.endswith((".json", ".md"))])
def test_every_file_says_what_it_is(name: str) -> None:
    assert (FOLDER / name).read_text().startswith("# ")


# ---- secrets


def settings(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every leaf of a document with its path; an environment entry counts by its name."""
    if isinstance(value, dict):
        if set(value) == {"name", "value"}:
            return [(f"{path}.{value['name']}", value["value"])]
        return [leaf for k, v in value.items() for leaf in settings(v, f"{path}.{k}")]
    if isinstance(value, list):
        return [leaf for v in value for leaf in settings(v, path)]
    return [(path, value)]


def held_secrets(documents: list[Any]) -> list[str]:
    """Paths of leaves that are a secret's own value, not its place."""
    secret = re.compile(r"(?i)(password|passwd|token|secret|api_?key|credential|session_key)")
    place = re.compile(
        r"(_FILE|secretKeyRef\.(name|key)|secrets\.\w+\.file|\.secrets|automount\w+Token|ssh_private_key|HttpTokens)$"
    )
    return [
        path
        for path, value in settings(documents)
        if secret.search(path) and not place.search(path) and not (isinstance(value, str) and value.startswith("~/"))
    ]


@pytest.mark.parametrize("name", [n for n in FILES if n.endswith((".yaml", ".yml"))])
def test_no_file_holds_a_secret(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert held_secrets(list(yaml.safe_load_all(text))) == []
    assert not re.search(r"://[^\s/@]+:[^\s/@]+@", text), "a password in an address"


@pytest.mark.parametrize("name", FILES)
def test_no_file_holds_a_key(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|AIza[\w-]{30}", text)
    for long in re.findall(r"[A-Za-z0-9+/]{32,}", text):
        assert re.search(r"[/a-z]{6}", long), f"looks like a key: {long}"


def test_the_secret_check_can_fail() -> None:
    assert held_secrets([{"environment": {"POSTGRES_PASSWORD": "x"}}])
    assert held_secrets([{"env": [{"name": "MLFLOW_TRACKING_PASSWORD", "value": "x"}]}])
    assert not held_secrets([{"environment": {"POSTGRES_PASSWORD_FILE": "/run/secrets/x"}}])


def test_mlflow_auth_holds_no_password() -> None:
    text = (FOLDER / "mlflow-auth.ini").read_text()
    assert re.findall(r"^(\w+) =", text, flags=re.MULTILINE) == ["default_permission", "database_uri"]


# ---- versions and variables


def test_versions_are_the_pinned_ones(pinned: dict[str, str], exported: dict[str, str]) -> None:
    text = "\n".join((FOLDER / n).read_text() for n in FILES)
    assert set(re.findall(r"rayVersion: (\S+)", text)) == {pinned["ray"]}
    version = re.search(r'^version = "(.+)"', (FOLDER.parent / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert version
    assert set(re.findall(r"/equipoise:([\d.]+)", README)) == {version[1]}
    images = set(re.findall(r"^ *image: (\S+)", text, flags=re.MULTILINE))
    # The same image of ours everywhere; others by a version.
    assert {i for i in images if "EQUIPOISE_IMAGE" not in i} == {
        "postgres:17",
        "prom/prometheus:v3.5.0",
        "grafana/grafana:12.0.0",
    }


def test_the_readme_exports_what_the_files_name(exported: dict[str, str]) -> None:
    names = re.search(r"^NAMES='(.+)'$", README, flags=re.MULTILINE)
    assert names
    listed = {n.removeprefix("$") for n in names[1].split()}
    used = {
        v
        for n in FILES
        if n.startswith(("ray-", "kubernetes/"))
        for v in re.findall(r"\$\{(\w+)\}", (FOLDER / n).read_text())
    }
    assert used == listed == set(exported)
    for name in listed:
        assert re.search(rf"\b(export .*)?{name}=", README), name


# ---- the README


def test_the_shell_parses() -> None:
    assert len(SHELL) >= 8
    for block in SHELL:
        run = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr


def test_files_the_readme_names_exist() -> None:
    named = set(re.findall(r"(?:deploy|kubernetes|monitoring)/[\w./-]*\w", README)) | set(
        re.findall(r"`([\w/-]+\.(?:ya?ml|ini|json))`", README)
    )
    made = {"ray.yaml"}
    for name in named - made:
        if name.startswith("deploy/"):
            assert (FOLDER.parent / name).exists(), name
        else:
            assert (
                (FOLDER / name).exists()
                or (FOLDER / "kubernetes" / name).exists()
                or (FOLDER / "monitoring" / name).exists()
            ), name
    for name in set(FILES) - {"README.md", "Dockerfile.dockerignore"}:
        assert Path(name).name in README, f"the README does not mention {name}"


def parse(words: list[str]) -> None:
    """Parse an `equipoise` command line down to its last option, without running it."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None, name
        command, context = found, click.Context(found, parent=context, info_name=name)
    command.make_context(command.name, words, parent=context, resilient_parsing=False)


def equipoise_lines() -> list[str]:
    text = "\n".join(SHELL) + "\n" + "\n".join((FOLDER / n).read_text() for n in FILES if n.endswith(".yaml"))
    return sorted(set(re.findall(r"(?:^|[\s\"/])(equipoise (?:sweep|front|data|ablate|audit)\b[^\"\n#]*)", text)))


@pytest.mark.parametrize("line", equipoise_lines())
def test_equipoise_commands_exist(line: str) -> None:
    parse(shlex.split(line)[1:])


def test_there_are_commands_to_check() -> None:
    assert {line.split()[1] for line in equipoise_lines()} == {"sweep", "front", "data"}


@pytest.mark.parametrize("option", ["--storage", "--optuna-storage"])
def test_options_the_readme_names_exist(option: str) -> None:
    assert f"`{option}" in README
    sweep = cli.commands["sweep"]
    found = [p for p in sweep.params if option in p.opts]
    assert found
    variable = found[0].envvar
    assert isinstance(variable, str)
    assert variable in README


def test_the_first_study_is_valid(pinned: dict[str, str]) -> None:
    study: SweepDefinition = load_sweep(str(FOLDER / "first_front.yaml"), {})
    preset, regime = study.load()
    for name, variant, seed in study.controls():
        study.trial(name, variant, seed, preset, regime)
    assert study.regime == "miniature", "a stranger has no data set"
    assert len(study.control_seeds) >= 3
    assert study.retries >= 5, "spot machines are taken away"
    for launcher in ("ray-aws.yaml", "ray-gcp.yaml"):
        cluster = yaml.safe_load((FOLDER / launcher).read_text())
        gpu = cluster["available_node_types"]["gpu"]["resources"]
        assert study.concurrent == cluster["max_workers"]
        assert study.resources.gpus_per_worker == gpu["GPU"]
        assert study.resources.cpus_per_worker < gpu["CPU"]


# ---- the cost table, computed again from the presets

PEAK = {"L4": (121e12, 0.40), "H100": (989e12, 3.00)}


def clip_flops(preset: Preset) -> float:
    """FLOPs of one training clip, as the README's formula has them."""
    model = preset.model
    encoder, predictor = model.encoder, model.predictor
    n = (model.frames // encoder.tubelet) * (model.size // encoder.patch) ** 2

    def forward(depth: int, width: int) -> float:
        return depth * n * (24 * width**2 + 4 * n * width)

    return 4 * forward(encoder.depth, encoder.width) + 3 * forward(predictor.depth, predictor.width)


def test_the_cost_table_follows_from_its_formula() -> None:
    rows = re.findall(
        r"^\| `full` with `(\w+)` \| (\w+) \| (\d+) \| ([\d.]+) \| (\d+) \| (\d+) \| (\d+) \|", README, re.M
    )
    assert len(rows) == 3
    full = load_sweep("full", {})
    trained = full.trials + len(full.control_seeds)
    for name, gpu, trials, per_trial, hours, money, head in rows:
        preset = load_preset(name)
        peak, price = PEAK[gpu]
        work = preset.optimisation.steps * preset.optimisation.batch * clip_flops(preset) * 1.3
        expected = work / (peak * 0.3) / 3600
        assert int(trials) == trained
        assert float(per_trial) == pytest.approx(expected, rel=0.02)
        assert int(hours) == pytest.approx(expected * trained, rel=0.02)
        assert int(money) == pytest.approx(expected * trained * price, rel=0.03)
        assert int(head) == pytest.approx(expected * trained / 8 * 0.20, abs=0.6)
        assert f"{peak / 1e12:.0f} TFLOP/s and {price:.2f} $/h" in README
