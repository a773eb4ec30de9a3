"""Whether the tests notice single changes: a seeded sample of cosmic-ray's mutants of what everything rests on.

    python bench/mutants.py run --each 6 --into mutants        # 6 mutants of every file: about an hour
    python bench/mutants.py show --into mutants                # counts, and each mutant that passed

Every process works in a clone of its own of the commit that is checked out, so a run never touches the working tree. A
run that was stopped goes on where it was. ``bench/mutants.md`` says what passed and why.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attrs import evolve
from cosmic_ray.commands import init
from cosmic_ray.modules import find_modules
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkItem, WorkResult
from scipy.stats import binomtest

ROOT = Path(__file__).resolve().parents[1]
MODELS = "tests/models"
PLATFORM = "tests/platform_"
OBJECTIVES = [f"{MODELS}/test_objectives_{name}.py" for name in ("formulas", "contract", "recorded")]
STATISTICS = [f"{PLATFORM}/test_{n}.py" for n in ("uncertainty", "selection", "verdicts", "effects", "results")]
BOOKS = [f"{PLATFORM}/test_{name}.py" for name in ("ledger", "holds", "damaged_books", "home")]
# What is changed, and the tests that should notice: those that mirror it. Wider ones take minutes, and are left out.
TESTED = {
    "models/objectives": OBJECTIVES,
    "models/losses.py": [f"{MODELS}/test_losses.py"],
    "models/masking.py": [f"{MODELS}/test_masking.py"],
    "platform/stats": STATISTICS,
    "platform/stats/collapse.py": [f"{PLATFORM}/test_collapse.py"],
    "platform/stats/meta.py": [f"{PLATFORM}/test_pooling.py"],
    "platform/record/ledger.py": BOOKS,
    "platform/record/hold.py": BOOKS,
    "data/mixture.py": ["tests/data/test_mixture.py"],
    "data/transforms.py": ["tests/data/test_transforms.py"],
    "data/manifest.py": ["tests/data/test_manifest.py", "tests/data/test_damaged_stores.py"],
    "data/cache.py": [f"tests/data/test_{n}.py" for n in ("clip_cache", "clip_cache_storage", "damaged_stores")],
    "data/loader.py": ["tests/data/test_clip_stream.py"],
    "data/decode.py": ["tests/data/test_decode.py", "tests/data/test_field_files.py"],
    "data/parts.py": ["tests/data/test_parts.py"],
    "data/listing.py": ["tests/data/test_listing.py"],
}
# Changes that are none: in annotations, which nothing reads, and of comparisons that are the same for None and bool.
SAME = ("_BitOr_", "_Is_Eq", "_Eq_Is", "_IsNot_NotEq", "_NotEq_IsNot")
GUARDS = ("frozen=True", "strict=True", "TYPE_CHECKING", "sys.platform")  # against what the code itself never does
SECONDS = 300.0  # of the tests of one mutant; one that makes them take longer is noticed


def main() -> None:
    """Run, or show what a run found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "show"))
    parser.add_argument("--into", type=Path, default=Path("mutants"), help="folder of the run")
    parser.add_argument("--each", type=int, default=6, help="mutants of every file")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="files whose path begins so")
    asked = parser.parse_args()
    into = asked.into.resolve()
    if asked.what == "run":
        into.mkdir(parents=True, exist_ok=True)
        files = sorted(file for file in _files() if file.startswith(asked.only))
        with ThreadPoolExecutor(asked.processes) as pool:
            shares = [files[i :: asked.processes] for i in range(asked.processes)]
            jobs = [pool.submit(_run, share, into, n, asked.each, asked.seed) for n, share in enumerate(shares)]
            for job in jobs:
                job.result()
    print(_shown(into))


def _files() -> Iterator[str]:
    """Every file that is changed, relative to the checkout."""
    for place in TESTED:
        for path in find_modules([ROOT / place]):
            name = path.relative_to(ROOT).as_posix()
            if path.name not in ("__init__.py", "registry.py"):
                yield name


def _tests(file: str) -> list[str]:
    place = max((p for p in TESTED if file.startswith(p)), key=len)
    return TESTED[place]


def _run(files: list[str], into: Path, number: int, each: int, seed: int) -> None:
    """Try the mutants of some files, one after the other, in a clone."""
    clone = into / f"clone{number}"
    if not clone.exists():
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    for file in dict.fromkeys(files):
        session = into / (file.replace("/", "-") + ".sqlite")
        words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not long and not cluster"]
        words += ["--basetemp", str(into / f"tmp{number}"), *_tests(file)]
        config = {
            "module-path": file,
            "timeout": SECONDS,
            "excluded-modules": [],
            "test-command": " ".join(f"'{w}'" for w in words),
            "distributor": {"name": "local"},
        }
        if not session.exists():
            _plan(clone, file, session, each, seed)
        settings = session.with_suffix(".toml")
        settings.write_text(_toml(config))
        environment = {**os.environ, "PYTHONPATH": str(clone / "src"), "OMP_NUM_THREADS": "1"}
        # A changed file has the size and the second of the one before: nothing compiled may stand for it.
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        program = shutil.which("cosmic-ray", path=str(Path(sys.executable).parent))
        assert program is not None, "cosmic-ray is not installed: make mutants"
        subprocess.run([program, "exec", str(settings), str(session)], cwd=clone, env=environment, check=True)
        print(f"{file}: {len(list(_results(session)))} tried", flush=True)


def _plan(clone: Path, file: str, session: Path, each: int, seed: int) -> None:
    """Write down a sample of a file's mutants."""
    whole = session.with_suffix(".whole")
    with use_db(str(whole), WorkDB.Mode.create) as db:
        init([clone / file], db, {})
        lines = (clone / file).read_text().splitlines()
        found = [item for item in db.work_items if not _is_same(item, lines)]
    found.sort(key=lambda item: (item.mutations[0].operator_name, item.mutations[0].occurrence))
    chosen = random.Random(f"{seed} {file}").sample(found, min(each, len(found)))
    # Relative, so that they are changes of the file in the clone.
    items = [WorkItem.single(item.job_id, evolve(item.mutations[0], module_path=file)) for item in chosen]
    with use_db(str(session), WorkDB.Mode.create) as db:
        db.add_work_items(items)
    whole.unlink()


def _is_same(item: WorkItem, lines: list[str]) -> bool:
    mutation = item.mutations[0]
    row, column = mutation.start_pos
    line = lines[row - 1]
    in_signature = line[column:].startswith("*,")  # `*` as `/`: every caller names what comes after
    guard = "RemoveDecorator" not in mutation.operator_name and any(word in line for word in GUARDS)
    return in_signature or guard or any(word in f"{mutation.operator_name}_" for word in SAME)


def _toml(config: dict[str, object]) -> str:
    """A file of cosmic-ray's settings."""
    lines = ["[cosmic-ray]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in config.items() if key != "distributor"]
    return "\n".join([*lines, "[cosmic-ray.distributor]", 'name = "local"', ""])


def _results(session: Path) -> Iterator[tuple[WorkItem, WorkResult]]:
    with use_db(str(session), WorkDB.Mode.open) as db:
        done = dict(db.results)
        yield from ((item, done[item.job_id]) for item in db.work_items if item.job_id in done)


def _shown(into: Path) -> str:
    """How many were noticed, and each that was not."""
    tried = noticed = 0
    passed: list[str] = []
    for session in sorted(into.glob("*.sqlite")):
        for item, result in _results(session):
            if result.worker_outcome not in (WorkerOutcome.NORMAL,):
                continue
            tried += 1
            if result.test_outcome == TestOutcome.SURVIVED:
                mutation = item.mutations[0]
                where = f"{mutation.module_path}:{mutation.start_pos[0]} {mutation.operator_name}"
                passed.append(f"{where}\n{_change(result.diff or '')}")
            else:
                noticed += 1
    if not tried:
        return "Nothing was tried."
    low, high = binomtest(noticed, tried).proportion_ci(method="wilson")
    head = f"{noticed} of {tried} noticed: {noticed / tried:.1%} [{low:.1%}, {high:.1%}]"
    return "\n\n".join([head, *passed])


def _change(diff: str) -> str:
    """The lines that a mutant changes."""
    return "\n".join(line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("---", "+++"))


if __name__ == "__main__":
    main()
