"""Does the rule of a collapse stop healthy runs, and does it catch collapses? Short trainings, and its verdicts.

    python bench/collapse.py train DATA CACHE tests/reference/collapse_curves.json     # about 15 minutes of one core
    python bench/collapse.py report tests/reference/collapse_curves.json --write bench/collapse.md

DATA is the folder that holds the miniature manifests, CACHE that of the clip caches.
``train`` goes on where a file ends.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pyarrow.parquet as pq
import torch

from equipoise.platform.search.collapse import WATCHED_FROM, collapse_under_way
from equipoise.platform.settings.preset import load_preset
from equipoise.platform.settings.study import load_sweep
from equipoise.platform.settings.trial import TrialSettings, load_regime
from equipoise.platform.settings.variant import BASELINE, Variant, load_variant, variants
from equipoise.platform.stats.collapse import COLLAPSED_BELOW, Health, mean_health, share_of
from equipoise.platform.storage import Paths
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer

STEPS = 120
SHORT = (f"optimisation.steps={STEPS}", "optimisation.batch=16", "optimisation.warmup_steps=10", "log_every=10")
# Case 18 of the field: the loss falls to half of a healthy one, and the features with it.
HARSH = ("optimisation.lr=0.02", "context.weight=0")
BASELINES = 4
HEALTHY = 100
BEGIN, END = "<!-- measured -->", "<!-- end -->"


@dataclass
class Run:
    """One training.

    Attributes:
        group: ``baseline`` (what is compared with), ``healthy``, ``harsh baseline`` or ``collapse``.
        name: of its mix.
        seed: of its training.
        steps: that were reported.
        rank: effective rank at each.
        spread: standard deviation of the target's features at each.
        loss: at each.
        weights: of the objectives that are on.
    """

    group: str
    name: str
    seed: int
    steps: list[int] = field(default_factory=list)
    rank: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)


def drawn(count: int) -> Iterator[tuple[str, int, Variant]]:
    """Mixes at random from the space of all objectives, each with a seed; one with nothing on is the baseline again."""
    space = load_sweep("full", {})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), directions=["maximize"])
    found = ((number, space.variant(space.suggest(study.ask()))) for number in itertools.count())
    mixes = ((f"random-{number:02d}", number % 5, variant) for number, variant in found if variant.objectives)
    yield from itertools.islice(mixes, count)


def wanted() -> Iterator[tuple[Run, Variant, tuple[str, ...]]]:
    """Every run, its variant and what its preset changes."""
    for seed in range(BASELINES):
        yield Run(BASELINE, BASELINE, seed), Variant(), ()
    for seed in range(3):
        yield Run("harsh baseline", BASELINE, seed), Variant(), HARSH
        yield Run("collapse", "no_ema, harsh", seed), Variant(teacher="self"), HARSH
        yield Run("collapse", "momentum 0, harsh", seed), Variant(), (*HARSH, "model.teacher.momentum=0")
        yield Run("collapse", "no_ema", seed), Variant(teacher="self"), ()
        yield Run("collapse", "sigreg_no_ema", seed), load_variant("sigreg_no_ema"), ()
    as_written = (*HARSH, "optimisation.batch=32", "optimisation.warmup_steps=50")
    for seed in range(2):
        yield Run("case 18 baseline", BASELINE, seed), Variant(), as_written
        yield Run("collapse", "no_ema, case 18", seed), Variant(teacher="self"), as_written
    healthy: list[tuple[str, int, Variant]] = [(BASELINE, seed, Variant()) for seed in range(BASELINES, 24)]
    for name, variant in variants().items():
        if variant.objectives and variant.teacher == "ema" and variant not in [v for _, _, v in healthy]:
            healthy.append((name, len(healthy) % 7, variant))
    healthy += list(drawn(HEALTHY - len(healthy)))
    for name, seed, variant in healthy:
        yield Run("healthy", name, seed), variant, ()


def train(run: Run, variant: Variant, changes: tuple[str, ...], paths: Paths) -> Run:
    """Train one run and write down what it reported."""
    settings = TrialSettings(
        variant_name=re.sub(r"\W+", "-", run.name),
        variant=variant,
        seed=run.seed,
        preset=load_preset("nano", [*SHORT, f"checkpoint_every={STEPS}", *changes]),
        regime=load_regime("miniature"),
    )
    run.weights = {name: round(one.weight, 4) for name, one in variant.objectives.items()}

    def heard(metrics: dict[str, Any]) -> None:
        if "effective_rank" in metrics:
            run.steps.append(int(metrics["step"]))
            run.rank.append(round(metrics["effective_rank"], 2))
            run.spread.append(round(metrics["target_std"], 3))
            run.loss.append(round(metrics["loss"], 3))

    with tempfile.TemporaryDirectory() as folder:
        Trainer(settings, paths, LocalReporter(Path(folder), heard, torch.device("cpu"))).run()
    return run


def read(file: Path) -> list[Run]:
    """Runs of a file, none where it is not there."""
    return [Run(**one) for one in json.loads(file.read_text())] if file.exists() else []


def write(file: Path, runs: list[Run]) -> None:
    """A run a line."""
    file.write_text("[\n" + ",\n".join(json.dumps(asdict(run)) for run in runs) + "\n]\n")


def train_all(file: Path, paths: Paths) -> None:
    """Train what the file lacks."""
    runs = read(file)
    there = {(r.group, r.name, r.seed) for r in runs}
    for run, variant, changes in wanted():
        if (run.group, run.name, run.seed) not in there:
            runs.append(train(run, variant, changes, paths))
            write(file, runs)
            print(run.group, run.name, run.seed, run.rank, flush=True)


Curve = dict[int, Health]


def curve_of(run: Run) -> Curve:
    """Health by step."""
    return {s: Health(r, x) for s, r, x in zip(run.steps, run.rank, run.spread, strict=True)}


def reference_of(runs: list[Run], run: Run) -> list[Curve]:
    """Curves of the baseline with a run's own settings."""
    group = {"harsh": "harsh baseline", "case 18": "case 18 baseline"}.get(run.name.partition(", ")[2], BASELINE)
    return [curve_of(one) for one in runs if one.group == group and one is not run]


def stopped_at(curve: Curve, baselines: list[Curve]) -> int | None:
    """The step at which a trial with this curve is stopped."""
    steps = sorted(curve)
    for at in range(1, len(steps) + 1):
        if collapse_under_way({step: curve[step] for step in steps[:at]}, baselines, STEPS) is not None:
            return steps[at - 1]
    return None


def shares(curve: Curve, baselines: list[Curve]) -> list[float]:
    """Share of the baseline's directions in use, step by step."""
    return [share_of(health, mean_health(one[step] for one in baselines)) for step, health in curve.items()]


def row(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def collapse_table(runs: list[Run]) -> list[str]:
    """Every run that was made to collapse, against the baseline of its own settings and against the preset's."""
    head = [
        "run",
        "seed",
        "rank",
        "spread",
        "loss",
        "its baseline",
        "share",
        "verdict",
        "against the preset's baseline",
    ]
    lines = [row(head), row(["---"] * len(head))]
    presets = [curve_of(run) for run in runs if run.group == BASELINE]
    for run in (one for one in runs if one.group == "collapse"):
        own, curve = reference_of(runs, run), curve_of(run)
        base = mean_health(one[STEPS] for one in own)
        cells = [run.name, str(run.seed), f"{run.rank[-1]:.1f}", f"{run.spread[-1]:.2f}", f"{run.loss[-1]:.2f}"]
        cells += [f"{base.rank:.1f}, {base.spread or 0:.2f}"]
        for baselines in (own, presets):
            share, stop = shares(curve, baselines)[-1], stopped_at(curve, baselines)
            verdict = [f"stopped at {stop}"] * (stop is not None) + ["flagged"] * (share < COLLAPSED_BELOW)
            cells += [f"{share:.2f}", ", ".join(verdict) or "none"]
        lines.append(row([*cells[:-2], f"{cells[-2]}: {cells[-1]}"]))
    return lines


def healthy_lines(runs: list[Run]) -> list[str]:
    """What the rule says of healthy runs, and how close they come to it."""
    baselines = [curve_of(run) for run in runs if run.group == BASELINE]
    healthy = [run for run in runs if run.group == "healthy"]
    found = []
    for run in healthy:
        curve = curve_of(run)
        by_step = dict(zip(curve, shares(curve, baselines), strict=True))
        found.append((by_step[STEPS], min(v for step, v in by_step.items() if step >= WATCHED_FROM * STEPS), run))
    stopped = sum(stopped_at(curve_of(run), baselines) is not None for run in healthy)
    alone = sum(stopped_at(curve_of(run), [one]) is not None for run in healthy for one in baselines)
    flagged = sum(end < COLLAPSED_BELOW for end, *_ in found)
    lines = [
        f"- **{len(healthy)} healthy runs: {stopped} stopped, {flagged} flagged.** Against one seed of the baseline "
        f"instead of the mean over {len(baselines)}: {alone} of {len(healthy) * len(baselines)} stopped.",
        f"- Lowest share at the end {min(end for end, *_ in found):.2f}, from a quarter of the training on "
        f"{min(low for _, low, _ in found):.2f}. The lowest five at the end:",
        "",
        row(["mix", "seed", "share at the end", "lowest", "rank", "spread", "weights"]),
        row(["---"] * 7),
    ]
    for end, low, run in sorted(found, key=lambda one: one[0])[:5]:
        weights = ", ".join(f"{name} {weight:.3g}" for name, weight in run.weights.items())
        cells = [run.name, str(run.seed), f"{end:.2f}", f"{low:.2f}", f"{run.rank[-1]:.1f}", f"{run.spread[-1]:.2f}"]
        lines.append(row([*cells, weights]))
    return lines


def longer_lines(trials: Path) -> list[str]:
    """Effective ranks at the end of the trials that ``bench/search.py`` collected."""
    found = pq.read_table(trials, columns=["variant", "seed", "steps", "effective_rank"]).to_pylist()
    ranks = [one for one in found if one["effective_rank"] == one["effective_rank"]]
    base = mean_health(Health(one["effective_rank"]) for one in ranks if one["variant"] == BASELINE)
    low = sorted((one["effective_rank"] / base.rank, one["variant"], one["seed"]) for one in ranks)
    listed = ", ".join(f"{share:.2f} ({name})" for share, name, _ in low[:3])
    return [
        f"- {len(ranks)} trials of `nano` at {ranks[0]['steps']} steps (`search_trials.parquet`; ends alone, without "
        f"spreads): the baseline's rank is {base.rank:.1f} (mean over its seeds), the lowest shares are {listed}."
    ]


def report(runs: list[Run], trials: Path) -> str:
    """Markdown between the marks of the page."""
    lines = [*healthy_lines(runs), "", *longer_lines(trials), "", *collapse_table(runs)]
    return "\n".join([BEGIN, *lines, END])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the rule of a collapse on short trainings.")
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train what a file of curves lacks")
    training.add_argument("data", type=Path, help="folder of the regime's manifests")
    training.add_argument("cache", type=Path, help="folder of the clip caches")
    training.add_argument("file", type=Path, help="curves, JSON")
    reporting = commands.add_parser("report", help="say what the rule says of a file of curves")
    reporting.add_argument("file", type=Path, help="curves, JSON")
    reporting.add_argument("--trials", type=Path, default=Path(__file__).with_name("search_trials.parquet"))
    reporting.add_argument("--write", type=Path, help="page whose part between the marks is replaced")
    args = parser.parse_args()
    if args.command == "train":
        torch.set_num_threads(1)
        train_all(args.file, Paths(args.data, args.cache))
        return
    text = report(read(args.file), args.trials)
    print(text)
    if args.write:
        before, _, rest = args.write.read_text().partition(BEGIN)
        args.write.write_text(before + text + rest.partition(END)[2])


if __name__ == "__main__":
    main()
