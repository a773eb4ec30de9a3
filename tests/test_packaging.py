"""What keeps one import package assembled from four top-level folders working."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("platform", "models", "data", "search_spaces")
LINKS = {f: ROOT / "src" / "equipoise" / f for f in FOLDERS}
OWN = [p.name for p in (ROOT / "src" / "equipoise").iterdir() if p.is_file()]  # beside the links
STANDARD = str(Path(os.__file__).resolve().parent)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def sources() -> list[Path]:
    return [p for f in FOLDERS for p in (ROOT / f).rglob("*.py") if "__pycache__" not in p.parts]


def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> str:
    """Standard output of a command; its whole output is the message where it fails."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(arguments, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("folder", FOLDERS)
def test_links_are_relative_links_to_the_real_folders(folder: str) -> None:
    link = LINKS[folder]
    assert link.is_symlink(), "a checkout without links (core.symlinks=false, a copy of src alone) cannot be built"
    assert link.readlink() == Path("..") / ".." / folder
    assert link.resolve() == ROOT / folder
    assert stat.S_ISDIR((ROOT / folder).lstat().st_mode), "the top-level folder holds the real files"


@pytest.mark.parametrize("folder", FOLDERS)
def test_git_keeps_links_as_links(folder: str) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: an unpacked archive has nothing to ask")
    listed = run("git", "ls-files", "-s", f"src/equipoise/{folder}").split()
    assert listed[0] == "120000"
    blob = run("git", "cat-file", "blob", listed[1])
    assert blob == f"../../{folder}"
    attributes = run("git", "ls-files", f"src/equipoise/{folder}/*")
    assert attributes == "", "nothing is committed a second time below a link"


def test_platform_is_no_package_of_its_own() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists(), "it would replace the standard library's platform"
    assert not (ROOT / "tests" / "platform").exists(), "pytest would import the folder as platform"
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_no_file_has_a_name_of_the_standard_library() -> None:
    taken = [p for p in sources() if p.stem in sys.stdlib_module_names and p.stem != "__init__"]
    assert taken == []
    # Folders of the root and of platform/, from which people start Python: deeper ones are on nobody's path.
    near = {p.name for top in (ROOT, ROOT / "platform") for p in top.iterdir() if p.is_dir()} - {"platform"}
    assert not near & sys.stdlib_module_names


def test_every_folder_with_python_files_is_a_listed_package() -> None:
    listed = set(project()["tool"]["setuptools"]["packages"])
    found = {".".join(("equipoise", *p.parent.relative_to(ROOT).parts)) for p in sources()}
    assert listed == found | {"equipoise"}
    # Every sub-package but platform says so itself.
    assert all((p.parent / "__init__.py").exists() for p in sources() if p.parent != ROOT / "platform")


def test_every_shipped_suffix_is_package_data() -> None:
    data = project()["tool"]["setuptools"]["package-data"]
    patterns = data["equipoise.search_spaces"]
    for path in (ROOT / "search_spaces").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            assert f"**/*{path.suffix}" in patterns, path
    assert data["equipoise"] == ["py.typed"]
    assert (ROOT / "src" / "equipoise" / "py.typed").exists()
    others = [p for f in FOLDERS[:3] for p in (ROOT / f).rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    folders = {
        ROOT.joinpath(*package.split(".")[1:]): files for package, files in data.items() if "platform" in package
    }
    shipped = [p for folder, patterns in folders.items() for pattern in patterns for p in folder.glob(pattern)]
    assert set(others) == set(shipped), "other data files would be missing from the wheel"


@pytest.mark.parametrize("name", ["models", "data", "search_spaces"])
def test_ruff_refuses_imports_by_the_folder_name(name: str, tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    for line, refused in (
        (f"import {name}\n", True),
        (f"from {name}.x import y\n", True),
        (f"import equipoise.{name}\n", False),
    ):
        probe.write_text(line)
        done = subprocess.run(
            [sys.executable, "-m", "ruff", "check", "--no-cache", "--isolated", "--select", "TID251", "--config",
             "lint.flake8-tidy-imports.banned-api." + name + ".msg='x'", str(probe)],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
        assert ("TID251" in done.stdout) is refused, done.stdout + done.stderr
    lint = project()["tool"]["ruff"]["lint"]
    assert "TID251" in lint["select"]
    assert "TID251" not in lint["ignore"]
    assert set(lint["flake8-tidy-imports"]["banned-api"]) == {"models", "data", "search_spaces"}
    assert "TID251" not in str(lint["per-file-ignores"])


def test_this_run_has_the_standard_platform() -> None:
    import platform

    assert str(platform.__file__).startswith(STANDARD)
    assert platform.python_version()


PLATFORM = "import platform, sys; print(platform.__file__); platform.machine()"


@pytest.mark.parametrize("start", ["root", "src", "elsewhere"])
def test_import_platform_is_the_standard_library(start: str, tmp_path: Path) -> None:
    cwd = {"root": ROOT, "src": ROOT / "src", "elsewhere": tmp_path}[start]
    found = run(sys.executable, "-c", PLATFORM, cwd=cwd).strip()
    assert found.startswith(STANDARD), found
    together = run(
        sys.executable, "-c", "import equipoise.platform.errors, platform; print(platform.__file__)", cwd=cwd
    )
    assert together.strip().startswith(STANDARD)


@pytest.mark.parametrize("module", ["pytest", "ruff", "mypy", "coverage", "build", "pip"])
def test_tools_start_as_modules_from_the_root(module: str) -> None:
    """``python -m`` puts the root first on the path: a package named platform there breaks most tools."""
    assert run(sys.executable, "-m", module, "--version")


def test_imports_that_read_platform_work_from_the_root() -> None:
    code = "import numpy, torch, yaml, pydantic, importlib.metadata, asyncio, uuid, platform; print(platform.system())"
    assert run(sys.executable, "-c", code).strip() == "Linux" or sys.platform != "linux"


def test_pytest_started_as_a_module_collects_with_the_standard_platform(tmp_path: Path) -> None:
    probe = tmp_path / "test_probe.py"
    probe.write_text(
        "import platform\nimport equipoise.platform.errors\n\n\n"
        f"def test_it():\n    assert platform.__file__.startswith({STANDARD!r})\n"
    )
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"))
    assert "1 passed" in run(*command, "--rootdir", str(ROOT), str(probe))
    assert project()["tool"]["pytest"]["ini_options"]["testpaths"] == ["tests"]


@pytest.mark.cluster
def test_import_platform_in_a_ray_task_is_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    try:

        @ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
        def look() -> tuple[str, str, str]:
            import platform

            import equipoise.platform.errors as errors

            return platform.__file__, platform.machine(), errors.__file__

        standard, machine, ours = ray.get(look.remote(), timeout=120)
    finally:
        ray.shutdown()
    assert standard.startswith(STANDARD)
    assert machine
    assert Path(ours).resolve() == ROOT / "platform" / "errors.py"


def test_yaml_is_found_through_importlib_resources() -> None:
    root = resources.files("equipoise.search_spaces")
    for name in ("variants.yaml", "presets/nano.yaml", "published/factorized_latent_dynamics.csv"):
        assert root.joinpath(name).is_file(), name
    assert "baseline:" in root.joinpath("variants.yaml").read_text()


def test_commands_start() -> None:
    assert project()["project"]["scripts"] == {"equipoise": "equipoise.platform.cli.main:main"}
    assert "Usage:" in run(sys.executable, "-m", "equipoise", "--help")
    script = Path(sys.executable).parent / "equipoise"
    assert "Usage:" in run(str(script), "--help")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the checkout, links kept, nothing left over from earlier builds."""
    copy = tmp_path_factory.mktemp("checkout") / "equipoise"
    copy.mkdir()
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist")
    for name in (*FOLDERS, "src"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=leave)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy), cwd=copy)
    return next(out.glob("equipoise-*.whl"))


@pytest.mark.slow
def test_wheel_holds_every_file_once(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    inside = [n for n in names if not n.split("/")[0].endswith(".dist-info")]
    files = [p for f in FOLDERS for p in (ROOT / f).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    expected = {f"equipoise/{p.relative_to(ROOT).as_posix()}" for p in files}
    assert set(inside) == expected | {f"equipoise/{own}" for own in OWN}
    assert len(inside) == len(set(inside))
    assert "equipoise/search_spaces/variants.yaml" in inside
    assert "equipoise/search_spaces/published/factorized_latent_dynamics.csv" in inside


@pytest.mark.slow
def test_installed_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = ("--no-deps", "--no-index", "--target", str(target), str(wheel))
    run(sys.executable, "-m", "pip", "install", "--quiet", *install, cwd=elsewhere)
    code = """
import importlib, pathlib, platform, sys, equipoise
site = pathlib.Path(sys.argv[1])
names = [".".join(p.relative_to(site).with_suffix("").parts) for p in sorted((site / "equipoise").rglob("*.py"))]
for name in names:
    module = importlib.import_module(name.removesuffix(".__init__"))
    assert module.__file__.startswith(sys.argv[1]), module.__file__
from equipoise.platform.settings.variant import load_variant
from equipoise.platform.settings.preset import load_preset
from equipoise.platform.settings.trial import load_regime
load_preset("nano"), load_regime("miniature"), load_variant("fwm_hw_ld")
print(len(names), platform.__file__)
"""
    printed = run(sys.executable, "-c", code, str(target), cwd=elsewhere, PYTHONPATH=str(target))
    count, standard = printed.split()[-2:]
    assert int(count) == len(sources()) + len([n for n in OWN if n.endswith(".py")]), (
        "every module, also the package's own"
    )
    assert standard.startswith(STANDARD)
    usage = run(sys.executable, "-m", "equipoise", "--help", cwd=elsewhere, PYTHONPATH=str(target))
    assert "Usage:" in usage


@pytest.mark.slow
def test_a_checkout_without_links_does_not_build(tmp_path: Path) -> None:
    """Git without symbolic links writes the link's text as a file; the build must say so, not make an empty wheel."""
    copy = tmp_path / "equipoise"
    shutil.copytree(
        ROOT / "src", copy / "src", symlinks=True, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for folder in FOLDERS:
        (copy / "src" / "equipoise" / folder).unlink()
        (copy / "src" / "equipoise" / folder).write_text(f"../../{folder}")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(copy)],
        cwd=copy, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode != 0
    assert not list((copy / "dist").glob("*.whl"))
