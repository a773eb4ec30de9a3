"""Does the search find good mixes with less training? Collects real trials, and replays searches on what they teach.

    python bench/search.py collect DATA CACHE --minutes 60
    python bench/search.py replay raw.jsonl
    python bench/search.py transfer transfer.jsonl
    python bench/search.py report raw.jsonl --write bench/search.md
    python bench/search.py suggestions tpe gp

``collect`` trains short miniature trials one after the other and appends each to ``bench/search_trials.parquet``: the
weights, scores at three rungs, final scores. It may be stopped and started again at any time. ``replay`` runs whole
searches through the project's own proposer and early stopping on worlds without training: a surrogate fitted to the
collected trials, and test functions whose front is known. ``transfer`` searches a world like another one first, and
begins the search of that one with what it found. ``report`` makes tables and a picture of what either came to.
``suggestions`` times the samplers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from search_replay import Search, Strategy, left_by, replayed
from search_report import report
from search_worlds import Collected, Surrogate, TestFunction, axes, source_of

from equipoise.data._files import locked
from equipoise.models.encoders import Encoder
from equipoise.platform.settings.preset import load_preset
from equipoise.platform.settings.search import EarlyStopping, SeedFidelity
from equipoise.platform.settings.study import load_sweep
from equipoise.platform.settings.trial import TrialSettings, load_regime
from equipoise.platform.settings.variant import RECORDS, ObjectiveSetting, Variant, load_variant, variants
from equipoise.platform.storage import Paths
from equipoise.platform.trial import checkpoint
from equipoise.platform.trial.early_scores import rung_features, rung_scores
from equipoise.platform.trial.encoders import encoder_of, frozen_encoder, untrained_encoder
from equipoise.platform.trial.evaluation import probe, score
from equipoise.platform.trial.reporter import LocalReporter, Rungs
from equipoise.platform.trial.trainer import Trainer

TRIALS = Path(__file__).parent / "search_trials.parquet"
STEPS = 300
RUNGS = (STEPS // 9, STEPS // 3, STEPS // 2)  # where early stopping looks with two rungs, and half
ITEMS = EarlyStopping().items
BANK_EPOCHS = 20
CPU = torch.device("cpu")
REPEATED = ("baseline", "random_init", "hw", "fwm_hw_ld", "mix-000", "mix-001", "mix-002", "mix-003", "mix-004")


def drawn(number: int) -> Variant:
    """A random point of the shipped search space."""
    stream = np.random.default_rng([20260, number])
    chosen: dict[str, ObjectiveSetting] = {}
    for name, r in load_sweep("quickstart", {}).objectives.items():
        on, place = stream.random(2)
        if on >= r.off_probability:
            chosen[name] = ObjectiveSetting(weight=float(r.low * (r.high / r.low) ** place))
    return Variant(description="drawn", objectives=chosen)


def plan() -> Iterator[tuple[str, Variant, int]]:
    """Trials in the order in which they are worth most: controls, then random points, published mixes and repeats."""
    named = ((n, v) for n, v in variants().items() if v.teacher == "ema" and v.objectives)
    # Some variants have two published names.
    published = {v.model_dump_json(exclude={"description"}): (n, v, 0) for n, v in named}
    for seed, name in itertools.product((0, 1), ("baseline", "random_init")):
        yield name, load_variant(name), seed
    points = ((f"mix-{k:03d}", drawn(k), 0) for k in itertools.count())
    known = iter(published.values())
    again = ((n, s) for s in (1, 2, 3) for n in REPEATED if (n, s) not in {("baseline", 1), ("random_init", 1)})
    for point in points:
        yield point
        yield next(points)
        yield next(points)
        if (one := next(known, None)) is not None:
            yield one
        if (two := next(again, None)) is not None:
            name, seed = two
            yield name, drawn(int(name[4:])) if name.startswith("mix-") else load_variant(name), seed


def bank_scores(encoder: Encoder, settings: TrialSettings, paths: Paths) -> dict[str, float]:
    """An alternative to what early stopping looks at: short probes, fitted to two thirds of the same items."""
    found = {}
    for name in settings.scored:
        setting = settings.preset.probes[settings.regime.benchmarks[name].probe]
        setting = setting.model_copy(update={"epochs": min(setting.epochs, BANK_EPOCHS)})
        features, labels, classes = rung_features(encoder, settings, paths, CPU, name, ITEMS)
        held = math.ceil(len(labels) / 3)
        predicted, _, _ = probe(features[:-held], labels[:-held], features[-held:], labels[-held:], classes, setting, 0)
        found[name] = 100 * int((predicted == labels[-held:]).sum()) / held
    return found


def look(encoder: Encoder, settings: TrialSettings, paths: Paths) -> dict[str, float]:
    """What early stopping sees of an encoder, and the alternative to it."""
    bank = {f"bank {k}": v for k, v in bank_scores(encoder, settings, paths).items()}
    return rung_scores(encoder, settings, paths, CPU, ITEMS) | bank


def run_trial(name: str, variant: Variant, seed: int, paths: Paths) -> dict[str, Any]:
    """Train one short trial, look at it at the rungs, score it at its end; one row of the table."""
    preset = load_preset("nano", [f"optimisation.steps={STEPS}", f"checkpoint_every={STEPS}"])
    settings = TrialSettings(
        variant_name=name, variant=variant, seed=seed, preset=preset, regime=load_regime("miniature")
    )
    on = variant.objectives
    row: dict[str, Any] = {
        "variant": name,
        "seed": seed,
        "steps": STEPS,
        "items": ITEMS,
        "bank_epochs": BANK_EPOCHS,
    }
    row |= {f"w.{k}": on[k].weight if k in on else 0.0 for k in RECORDS}

    def note(step: int, scores: Any, seconds: float) -> None:
        row.update({f"{k}@{step}": v for k, v in scores.items()} | {f"seconds@{step}": seconds})

    began = time.process_time()
    last: dict[str, float] = {}
    if variant.untrained:
        encoder = untrained_encoder(settings)
        seen = look(encoder, settings, paths)
        for step in RUNGS:
            note(step, seen, 0.0)
    else:
        with tempfile.TemporaryDirectory() as folder:
            reporter = LocalReporter(Path(folder), last.update, CPU, on_rung=note)
            rungs = Rungs(RUNGS, lambda state: look(encoder_of(settings, state), settings, paths))
            Trainer(settings, paths, reporter, rungs).run()
            encoder = frozen_encoder(checkpoint.load(Path(folder)))
    trained = time.process_time()
    row |= {r.benchmark: r.accuracy for r in score(encoder, settings, paths, CPU)}
    row |= {f"ridge {k}": v for k, v in rung_scores(encoder, settings, paths, CPU, ITEMS).items()}
    row |= {"effective_rank": last.get("effective_rank", float("nan")), "train_s": trained - began}
    return row | {"score_s": time.process_time() - trained}


def append(row: dict[str, Any], path: Path) -> None:
    """Add a row to the table; a reader sees the old file or the new one, and collectors wait for one another."""
    with locked(path.with_name(f".{path.name}.lock")):
        rows = pq.read_table(path).to_pylist() if path.is_file() else []
        part = path.with_suffix(".part")
        pq.write_table(pa.Table.from_pylist([*rows, row]), part)
        os.replace(part, path)


def collect(args: argparse.Namespace) -> None:
    """Train and append trials of one's part of the plan that are not in the table yet, until the time is up."""
    torch.set_num_threads(1)
    path: Path = args.trials
    there = {(r["variant"], r["seed"]) for r in pq.read_table(path).to_pylist()} if path.is_file() else set()
    began = time.monotonic()
    part, parts = args.part
    for name, variant, seed in itertools.islice(plan(), part - 1, None, parts):
        if time.monotonic() - began > 60 * args.minutes:
            return
        if (name, seed) in there:
            continue
        row = run_trial(name, variant, seed, Paths(args.data, args.cache))
        append(row, path)
        shown = [f"{row[b]:.1f}" for b in ("mini_dive", "mini_ssv2", "mini_in")]
        print(name, seed, *shown, f"{row['train_s']:.0f} s {row['score_s']:.0f} s", file=sys.stderr, flush=True)


STOPPING = {
    "stop": EarlyStopping(),
    "hypervolume": EarlyStopping(tie_break="hypervolume"),
    "early": EarlyStopping(rungs=2),
    "half": EarlyStopping(rungs=2, reduction_factor=2.0),
}


def strategies(names: Sequence[str]) -> list[Strategy]:
    """What is compared: samplers, perhaps with a way to stop early, repeats, blind looks: ``tpe+stop+seeds``."""
    found = []
    for name in names:
        sampler, *more = name.split("+")
        stopping = next((STOPPING[word] for word in more if word in STOPPING), None)
        seeds = SeedFidelity() if "seeds" in more else None
        found.append(Strategy(sampler, stopping, seeds, blind="blind" in more))
    return found


def replay(args: argparse.Namespace) -> None:
    """Replay searches, and append each to a file of JSON lines; what is there is not done again."""
    torch.set_num_threads(1)
    lines = [json.loads(line) for line in args.raw.read_text().splitlines()] if args.raw.is_file() else []
    there = {(r["world"], r["strategy"], r["seed"]) for r in lines}
    collected = Collected(args.trials) if "surrogate" in args.worlds else None
    for seed, world, strategy in itertools.product(
        range(args.first, args.first + args.repetitions), args.worlds, strategies(args.strategies)
    ):
        if (world, strategy.name, seed) in there:
            continue
        made = Surrogate(collected, seed) if collected is not None and world == "surrogate" else None
        record = {"world": world, **replayed(made or TestFunction(world, seed), strategy, seed, args.budget)}
        with args.raw.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(world, strategy.name, seed, f"{record['trials']} trials", f"{record['seconds']:.0f} s", file=sys.stderr)


def transfer(args: argparse.Namespace) -> None:
    """Search source worlds, then the target from nothing and from each; append to a file of JSON lines."""
    torch.set_num_threads(1)
    lines = [json.loads(line) for line in args.raw.read_text().splitlines()] if args.raw.is_file() else []
    there = {(r["strategy"], r["seed"]) for r in lines}
    collected = Collected(args.trials)
    places = [axes(collected.definition, drawn(number)) for number in range(300)]
    for seed, degree in itertools.product(range(args.repetitions), (None, *args.correlations)):
        strategy = Strategy(args.sampler, source=degree)
        if (strategy.name, seed) in there:
            continue
        target = Surrogate(collected, seed)
        earlier = alike = None
        if degree is not None:
            world = source_of(target, collected, seed, degree)
            source = Search(world, Strategy(args.sampler), 10_000 + seed)
            source.run(args.budget)
            earlier = left_by(source)
            pairs = [np.stack([one.truth(place) for place in places]).T for one in (world, target)]
            alike = float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*pairs, strict=True)]))
        record = {"world": "surrogate", **replayed(target, strategy, seed, args.budget, earlier), "alike": alike}
        with args.raw.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(strategy.name, seed, f"{record['seconds']:.1f} s", f"accuracies correlate {alike}", file=sys.stderr)


def suggestions(args: argparse.Namespace) -> None:
    """Print the processor's seconds for one suggestion, by sampler and by trials told before: the median of several."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print("| sampler | " + " | ".join(f"after {told} trials" for told in args.told) + " |")
    print("|---" * (1 + len(args.told)) + "|")
    for sampler in args.samplers:
        cells = [sampler]
        for told in args.told:
            search = Search(TestFunction("dtlz2", 0), Strategy("random"), 0)
            while len(search.rows) < told:
                search.finish(search.start())
            search.proposer.definition = search.definition.model_copy(update={"sampler": sampler})
            seconds = []
            for _ in range(args.draws):
                began = time.process_time()
                row = search.start()
                seconds.append(time.process_time() - began)
                search.finish(row)
                print(sampler, told, f"{seconds[-1]:.2f} s", file=sys.stderr, flush=True)
            cells.append(f"{np.median(seconds):.2f}")
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description="Collect trials, replay searches.")
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("collect", help="train short miniature trials")
    one.add_argument("data", type=Path, help="folder of the regime's manifests")
    one.add_argument("cache", type=Path, help="folder of the clip caches")
    one.add_argument("--minutes", type=float, default=60.0)
    one.add_argument("--trials", type=Path, default=TRIALS)
    one.add_argument("--part", type=int, nargs=2, default=(1, 1), metavar=("K", "N"), help="for N processes at once")
    one.set_defaults(call=collect)
    two = commands.add_parser("replay", help="replay searches")
    two.add_argument("raw", type=Path, help="file of JSON lines to append to")
    two.add_argument("--worlds", nargs="+", default=["surrogate", "dtlz2", "dtlz7"])
    two.add_argument(
        "--strategies",
        nargs="+",
        default=["random", "random+stop", "tpe", "tpe+stop", "tpe+early", "tpe+stop+seeds", "nsga2", "nsga3", "qmc"],
    )
    two.add_argument("--repetitions", type=int, default=30)
    two.add_argument("--first", type=int, default=0, help="seed of the first repetition")
    two.add_argument("--budget", type=float, default=100.0, help="trainings' worth of steps")
    two.add_argument("--trials", type=Path, default=TRIALS)
    two.set_defaults(call=replay)
    three = commands.add_parser("report", help="tables and a picture of replayed searches")
    three.add_argument("raw", type=Path)
    three.add_argument("--write", type=Path, help="Markdown to write; a picture goes beside it with the first mark")
    three.add_argument("--mark", default="tables", help="what the tables stand under: tables, transfer or models")
    three.set_defaults(call=report)
    four = commands.add_parser("transfer", help="begin searches with what a search of a like world found")
    four.add_argument("raw", type=Path, help="file of JSON lines to append to")
    four.add_argument("--correlations", nargs="+", type=float, default=[0.0, 0.5, 0.9])
    four.add_argument("--sampler", default="tpe")
    four.add_argument("--repetitions", type=int, default=30)
    four.add_argument("--budget", type=float, default=45.0, help="trainings, of the source and of the target each")
    four.add_argument("--trials", type=Path, default=TRIALS)
    four.set_defaults(call=transfer)
    five = commands.add_parser("suggestions", help="time the samplers")
    five.add_argument("samplers", nargs="+")
    five.add_argument("--told", nargs="+", type=int, default=[20, 40, 60])
    five.add_argument("--draws", type=int, default=3)
    five.set_defaults(call=suggestions)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
