"""`equipoise doctor`: what a study would meet, and a non-zero end where it could not run."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch

from equipoise.platform.record.home import Home
from equipoise.platform.study import doctor as doctor_module
from equipoise.platform.study.doctor import examine

Call = Callable[..., tuple[int, str, str]]


def found(home: Home, address: str | None = None) -> dict[str, tuple[str, str]]:
    return {one.about: (one.state, one.said) for one in examine(home, address)}


def test_a_sound_machine_ends_with_zero(tmp_path: Path, call: Call) -> None:
    code, out, err = call("doctor", "--home", tmp_path / "home")
    assert (code, err) == (0, "")
    assert f"torch {metadata.version('torch')}" in out
    assert "home, which is made by the first study" in out
    assert not (tmp_path / "home").exists(), "to look makes nothing"
    assert not any(line.startswith("!") for line in out.splitlines())
    told = json.loads(call("doctor", "--home", tmp_path / "home", "--json")[1])
    assert [one["about"] for one in told] == [line[2:18].strip() for line in out.splitlines()]
    assert "data build miniature" in found(Home(tmp_path / "home"))["data"][1]


def test_a_home_that_is_used_is_described(home: Home, call: Call) -> None:
    home.tracker()
    said = found(home)
    assert said["data"][1].startswith("whole: ")
    assert "miniature" in said["data"][1]
    assert said["mlflow"] == ("ok", f"{home.uri()} answers")
    home.book("one", create=True).close()
    with home.hold("one"):
        assert "; 1 study; running: one by process " in found(home)["home"][1]


def test_what_a_study_could_not_run_with_fails(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    code, out, _ = call("doctor", "--home", tmp_path / "file" / "home")
    assert code == 1
    assert "! home " in out
    assert "choose another with --home" in out
    code, out, _ = call("doctor", "--home", tmp_path, "--address", "127.0.0.1:1")
    assert code == 1
    assert "! ray              nothing answers at 127.0.0.1:1" in out
    code, out, _ = call("doctor", "--home", tmp_path, "--storage", tmp_path / "file" / "trials")
    assert code == 1
    assert "! storage " in out
    (tmp_path / "mlflow.db").write_bytes(b"no database at all, and long enough to be read as one" * 40)
    assert found(Home(tmp_path))["mlflow"][0] == "fails"
    monkeypatch.setattr(doctor_module, "PACKAGES", ("torch", "none_of_this_name"))
    assert found(Home(tmp_path))["versions"] == (
        "fails",
        "not installed: none_of_this_name; install Equipoise anew",
    )


def test_limits_of_a_container_are_those_that_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text(f"{3 * 1024**3}\n")
    monkeypatch.setattr(doctor_module, "CGROUP", (tmp_path / "memory.max",))
    monkeypatch.setattr(doctor_module, "cpu_count", lambda: 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    said = found(Home(tmp_path))
    assert said["memory"][1].startswith("3.0 GiB, ")
    assert said["memory"][1].endswith("a container's limit")
    assert said["processors"][1].startswith("1 of 64: a quota")
    (tmp_path / "memory.max").write_text("max\n")
    assert "container" not in found(Home(tmp_path))["memory"][1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_no_gpu_is_a_note(tmp_path: Path) -> None:
    state, said = found(Home(tmp_path))["gpu"]
    assert state == "note"
    assert "trials compute on the CPU" in said


def test_a_long_folder_for_temporary_files_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("t" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(long))
    state, said = found(Home(tmp_path))["temporary files"]
    assert state == "note"
    assert "too long for Ray" in said
