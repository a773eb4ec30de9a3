"""Overhead of a study per trial, and how it grows with the number of trials.

    python bench/scale.py overhead --write bench/scale.md
    python bench/scale.py grow --trials 100 --trials 300 --trials 1000 --write bench/scale.md

``overhead`` runs the same short training called directly, through a study in the trial's own process, and through a
study on Ray Train, in one run of this command. ``grow`` runs sweeps whose training is a stub: accuracies that follow
from the weights and a little noise. Everything else is the real path: Optuna, Tune, the study's book, MLflow,
selection, report.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from ray import cloudpickle

from equipoise.data import miniature
from equipoise.platform.record.home import Home
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.report import front as conclude
from equipoise.platform.settings.preset import load_preset
from equipoise.platform.settings.study import AblationDefinition, SweepDefinition
from equipoise.platform.settings.trial import TrialSettings, load_regime
from equipoise.platform.settings.variant import load_variant
from equipoise.platform.storage import Place
from equipoise.platform.study import ray_tune as engine
from equipoise.platform.study import run as study
from equipoise.platform.study.run import RunOptions
from equipoise.platform.trial.device import compute_threads
from equipoise.platform.trial.evaluation import BenchmarkResult
from equipoise.platform.trial.messages import PHASE
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer

SIZES = miniature.Sizes(
    frames=8, train_clips=48, test_clips=24, train_stills=60, test_stills=40, select_clips=24, select_stills=40
)
BENCHMARKS = ("mini_dive", "mini_ssv2", "mini_in")
ITEMS = 500
STEPS = 40
REPEATS = 2  # the quickest counts
QUIET = RunOptions(quiet=True)


def stub(config: Mapping[str, Any]) -> None:
    """A trial without training: what it reports and stores has the form of a real one."""
    from ray import tune

    settings = TrialSettings.model_validate_json(config["settings"])
    weights = [o.weight for o in settings.variant.objectives.values()]
    noise = np.random.default_rng([settings.seed, int(config["number"])])
    base = 30.0 - (10.0 if settings.variant.untrained else 0.0)
    accuracies = {b: float(base + 5 * np.tanh(sum(weights) - k) + noise.normal()) for k, b in enumerate(BENCHMARKS)}
    summaries = []
    for name, accuracy in accuracies.items():
        correct = noise.random(ITEMS) < accuracy / 100
        accuracies[name] = 100 * float(correct.mean())
        zeros = np.zeros(ITEMS, np.int64)
        paths = tuple(f"{i}.mp4" for i in range(ITEMS))
        result = BenchmarkResult(name, accuracies[name], ITEMS, {}, (), np.where(correct, 0, 1), zeros, paths)
        result.write(Place.at(config["folder"]) / "correctness")
        summaries.append(result.summary())
    (Place.at(config["folder"]) / "scores.json").write(json.dumps({"benchmarks": summaries, "flags": []}))
    for step in range(50, 351, 50):
        metrics = {"step": step, "loss": 1 / step, "jepa": 1 / step, "effective_rank": 20.0, "lr": 1e-3}
        tune.report({PHASE: "pretrain", "total": 350, "metrics": metrics})
    done = {"checkpoint": None, "accuracies": accuracies, "summaries": summaries, "flags": []}
    tune.report({PHASE: "done", "result": {**done, "seconds": {"pretrain": 0.0, "score": 0.0}}})


def make_home(root: Path) -> Home:
    """A home with a small build of the miniature data sets."""
    miniature.build(root / "data" / "miniature", seed=0, workers=1, sizes=SIZES)
    return Home(root)


def seconds_of(call: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def overhead(trials: int) -> str:
    """Seconds per trial of the same training, called directly and through studies."""
    overrides = (f"optimisation.steps={STEPS}", "log_every=10", "checkpoint_every=20")
    with tempfile.TemporaryDirectory() as temporary:
        home = make_home(Path(temporary))
        content = {
            "regime": load_regime("miniature"),
            "preset": load_preset("nano", overrides),
            "variant_name": "hw",
            "variant": load_variant("hw"),
        }
        settings = TrialSettings.model_validate(content)
        study.prepare_caches(settings, home, probe=False)

        def direct() -> None:
            with compute_threads(1):
                Trainer(settings, home.paths, LocalReporter(Path(temporary) / f"direct{time.time_ns()}")).run()

        direct()  # the first call compiles and loads what all others find loaded
        alone = min(seconds_of(direct) for _ in range(REPEATS))
        rows = [("called directly", alone, 0.0)]
        for title, resources in (("in the trial's process", {}), ("on Ray Train", {"launcher": "train"})):
            found = []
            for count in (1, trials):
                asked = {
                    "regime": "miniature",
                    "preset": "nano",
                    "set": overrides,
                    "variants": ["hw"],
                    "seeds": list(range(count)),
                    "control_seeds": [],
                    "refuse_controls": True,
                    "concurrent": 1,
                    "resources": resources,
                }
                again = [
                    AblationDefinition.model_validate({**asked, "name": f"{'t' if resources else 'p'}{count}-{k}"})
                    for k in range(REPEATS)
                ]
                found.append(min(seconds_of(lambda d=d: study.pretrain(d, home, QUIET)) for d in again))  # type: ignore[misc]
            # The cluster's start and end are in both studies: their difference is that of the trials.
            per_trial = (found[1] - found[0]) / (trials - 1)
            rows.append((title, per_trial, per_trial - alone))
    lines = [f"| {STEPS} steps of `nano` | seconds per trial | overhead |", "|---|---|---|"]
    lines += [f"| {title} | {took:.1f} | {over:.1f} |" for title, took, over in rows]
    return "\n".join(lines)


def size_mb(*paths: Path) -> float:
    """Megabytes of files and folders."""
    files = [f for p in paths for f in ([p] if p.is_file() else p.rglob("*"))]
    return sum(f.stat().st_size for f in files if f.is_file()) / 1e6


def grow(trials: int) -> list[str]:
    """One sweep of stub trials; its row of the table."""
    from equipoise.platform.report.html.page import write_report

    with tempfile.TemporaryDirectory() as temporary:
        home = make_home(Path(temporary))
        objectives = {name: {"low": 0.05, "high": 2.0} for name in ("hard_region", "delta", "latent_dynamics")}
        content = {"name": "scale", "regime": "miniature", "preset": "nano", "trials": trials, "objectives": objectives}
        definition = SweepDefinition.model_validate({**content, "control_seeds": [0, 1, 2]})
        # The trials' processes cannot import this file: they get the function itself.
        cloudpickle.register_pickle_by_value(sys.modules[stub.__module__])
        engine.run_trial = stub  # type: ignore[assignment]
        took = seconds_of(lambda: study.sweep(definition, home, RunOptions(quiet=True)))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        front = seconds_of(lambda: conclude.conclude_study(StudyRecord.open(home, "scale"), None, None))
        report = seconds_of(lambda: write_report(StudyRecord.open(home, "scale"), Path(temporary) / "report.html"))
        folder = home.folder("scale")
        sizes = [size_mb(folder / "ledger.db"), size_mb(folder / "optuna.journal"), size_mb(home.root / "mlflow.db")]
        row = [trials, f"{took / (trials + 6):.2f}", f"{memory:.0f}", *(f"{s:.1f}" for s in sizes)]
        return [str(v) for v in [*row, f"{front:.1f}", f"{report:.1f}"]]


def grow_table(counts: tuple[int, ...]) -> str:
    """The table of growth; each size in a process of its own, so that memory is its own."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    head = ["trials", "s per trial", "driver MB", "book MB", "Optuna MB", "MLflow MB", "`front` s", "`report` s"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for count in counts:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            lines.append(f"| {' | '.join(pool.submit(grow, count).result())} |")
            click.echo(lines[-1], err=True)
    return "\n".join(lines)


@click.command()
@click.argument("what", type=click.Choice(["overhead", "grow"]))
@click.option("--trials", multiple=True, type=click.IntRange(2), help="Sizes of the sweeps; overhead: trials a study.")
@click.option("--write", type=click.Path(path_type=Path, dir_okay=False), help="Put the table into this Markdown file.")
def main(what: str, trials: tuple[int, ...], write: Path | None) -> None:
    """Measure and print."""
    text = overhead(trials[0] if trials else 4) if what == "overhead" else grow_table(trials or (100, 300, 1000))
    click.echo(text)
    if write is not None:
        mark, end = f"<!-- {what} -->", f"<!-- end {what} -->"
        content = write.read_text() if write.is_file() else ""
        content = content if mark in content else f"{content}\n{mark}\n{end}\n"
        before, after = content.split(mark)[0], content.split(end)[1]
        cores = len(os.sched_getaffinity(0))
        write.write_text(f"{before}{mark}\n\n{text}\n\nOn {cores} cores.\n\n{end}{after}")


if __name__ == "__main__":
    main()
