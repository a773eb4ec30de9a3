"""Does a preset learn? Trains ``baseline``, scores it and ``random_init`` over seeds, prints both in Markdown.

    python bench/learning.py DATA CACHE --preset nano --seeds 0 1 2

DATA is the folder that holds the regime's manifests (``equipoise data build miniature`` writes them), CACHE the folder
of the clip caches. Seconds are CPU seconds of this process on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from equipoise.platform.settings.preset import load_preset
from equipoise.platform.settings.trial import TrialSettings, load_regime
from equipoise.platform.settings.variant import load_variant
from equipoise.platform.storage import Paths
from equipoise.platform.trial import checkpoint
from equipoise.platform.trial.encoders import frozen_encoder, untrained_encoder
from equipoise.platform.trial.evaluation import BenchmarkResult, score
from equipoise.platform.trial.reporter import LocalReporter
from equipoise.platform.trial.trainer import Trainer


@dataclass
class Outcome:
    """One trial: accuracy in percent by benchmark, CPU seconds, and the last effective rank and target spread."""

    variant: str
    seed: int
    accuracy: dict[str, float]
    train_s: float
    probe_s: float
    rank: float = float("nan")
    spread: float = float("nan")
    direction: float = float("nan")


def direction_within_pair(result: BenchmarkResult) -> float:
    """Percent right among ``mini_ssv2`` items of the right action pair; classes 2k and 2k+1 are a pair."""
    pair = result.predicted // 2 == result.labels // 2
    return float(100 * (result.predicted == result.labels)[pair].mean()) if pair.any() else float("nan")


def run_trial(variant: str, seed: int, args: argparse.Namespace) -> Outcome:
    """Train (unless the variant is untrained) and score one trial."""
    settings = TrialSettings(
        variant_name=variant,
        variant=load_variant(variant),
        seed=seed,
        preset=load_preset(args.preset, args.set),
        regime=load_regime(args.regime),
        benchmarks=tuple(args.benchmarks),
    )
    paths = Paths(args.data, args.cache)
    last: dict[str, float] = {}
    began = time.process_time()
    if settings.variant.untrained:
        encoder = untrained_encoder(settings)
    else:
        with tempfile.TemporaryDirectory() as folder:
            Trainer(settings, paths, LocalReporter(Path(folder), last.update, torch.device("cpu"))).run()
            encoder = frozen_encoder(checkpoint.load(Path(folder)))
    trained = time.process_time()
    results = score(encoder, settings, paths, torch.device("cpu"))
    outcome = Outcome(
        variant,
        seed,
        {r.benchmark: r.accuracy for r in results},
        trained - began,
        time.process_time() - trained,
        last.get("effective_rank", float("nan")),
        last.get("target_std", float("nan")),
    )
    for result in results:
        if result.benchmark == "mini_ssv2":
            outcome.direction = direction_within_pair(result)
    return outcome


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def trial_table(outcomes: Sequence[Outcome]) -> str:
    """One row per trial."""
    names = list(outcomes[0].accuracy)
    head = ["variant", "seed", *names, "direction", "effective rank", "target std", "train s", "probe s"]
    rows = [_row(head), _row(["---"] * len(head))]
    for o in outcomes:
        health = [f"{v:.1f}" for v in (o.direction, o.rank)] + [f"{o.spread:.2f}"]
        seconds = [f"{o.train_s:.0f}", f"{o.probe_s:.0f}"]
        rows.append(_row([o.variant, str(o.seed), *(f"{o.accuracy[n]:.1f}" for n in names), *health, *seconds]))
    return "\n".join(rows).replace("nan", "")


def comparison_table(outcomes: Sequence[Outcome]) -> str:
    """Mean of both variants, paired gain, and the larger of their two standard deviations over seeds (n - 1)."""
    head = ["benchmark", "random_init", "baseline", "gain", "smallest gain of a seed", "spread over seeds"]
    rows = [_row(head), _row(["---"] * len(head))]
    for name in outcomes[0].accuracy:
        by: Mapping[str, list[float]] = {
            v: [o.accuracy[name] for o in outcomes if o.variant == v] for v in ("random_init", "baseline")
        }
        gains = [b - r for r, b in zip(by["random_init"], by["baseline"], strict=True)]
        spread = max(statistics.stdev(v) for v in by.values()) if len(gains) > 1 else float("nan")
        values = [statistics.mean(by["random_init"]), statistics.mean(by["baseline"]), statistics.mean(gains)]
        rows.append(_row([name, *(f"{v:.1f}" for v in values), f"{min(gains):+.1f}", f"{spread:.1f}"]))
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare a preset's trained baseline with its untrained encoder.")
    parser.add_argument("data", type=Path, help="folder of the regime's manifests")
    parser.add_argument("cache", type=Path, help="folder of the clip caches")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--regime", default="miniature")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--benchmarks", nargs="*", default=[], help="all of the regime's if none is named")
    parser.add_argument("--set", nargs="*", default=[], help="overrides, e.g. optimisation.steps=600")
    args = parser.parse_args()
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    for seed in args.seeds:
        for variant in ("random_init", "baseline"):
            outcomes.append(run_trial(variant, seed, args))
            print(trial_table(outcomes[-1:]).splitlines()[-1], flush=True)
    print(f"\n{trial_table(outcomes)}\n\n{comparison_table(outcomes)}")


if __name__ == "__main__":
    main()
