"""Coverage and width of the intervals of a 2 x 2 x 2 design, with its spread over seeds pooled and not.

``python bench/effects.py`` prints the table of ``bench/effects.md``: made-up studies of eight cells, their truth known.
"""

from __future__ import annotations

import numpy as np

from equipoise.platform.analysis.effects import estimate
from equipoise.platform.settings.study import AblationDefinition
from equipoise.platform.stats.uncertainty import Sample

STUDIES = 1000
TRUTH = {"fwm": 3.0, "hw": 2.0, "ld": 2.0, "fwm × hw": 0.0, "fwm × ld": 0.0, "hw × ld": 4.0}
DESIGN = {"kind": "factorial", "factors": ["fwm", "hw", "ld"]}
# Name, seeds, standard deviation of every second cell (the others: 1), and of what a seed does to cells with fwm.
CASES = (
    ("2 seeds, cells alike", 2, 1.0, 0.0),
    ("3 seeds, cells alike", 3, 1.0, 0.0),
    ("5 seeds, cells alike", 5, 1.0, 0.0),
    ("3 seeds, half of the cells vary 3 times as much", 3, 3.0, 0.0),
    ("3 seeds, half of the cells vary 10 times as much", 3, 10.0, 0.0),
    ("3 seeds, a seed favours fwm (sd 0.5)", 3, 1.0, 0.5),
    ("3 seeds, a seed favours fwm (sd 1)", 3, 1.0, 1.0),
    ("5 seeds, a seed favours fwm (sd 1)", 5, 1.0, 1.0),
)


def main() -> None:
    """Print one row per case: coverage of all effects, and of fwm's, mean width, how often hw × ld is found."""
    content = {"name": "x", "regime": "miniature", "preset": "nano", "design": DESIGN}
    plan = AblationDefinition.model_validate(content).plan()
    assert plan is not None
    print("| case | spread | all effects % | fwm % | width | hw × ld found % |\n|---|---|---|---|---|---|")
    for name, seeds, unequal, favour in CASES:
        for pooled in (True, False):
            stream = np.random.default_rng(0)
            hits, widths, found = [], [], 0
            for _ in range(STUDIES):
                shift, liked = 2 * stream.normal(size=seeds), favour * stream.normal(size=seeds)
                samples = {}
                for i, cell in enumerate(plan.cells):
                    mean = 40 + 3 * ("fwm" in cell.on) + 4 * ("hw" in cell.on and "ld" in cell.on)
                    own = (1.0, unequal)[i % 2] * stream.normal(size=seeds)
                    values = mean + shift + liked * ("fwm" in cell.on) + own
                    samples[cell.variant_name, "b"] = Sample(
                        variant=cell.variant_name,
                        benchmark="b",
                        accuracy=dict(enumerate(values.tolist())),
                        items=None,
                    )
                effects = estimate("x", plan, ("b",), samples, draws=200, pooled=pooled).effects
                hits.append([e.low <= TRUTH[e.name] <= e.high for e in effects])
                widths.append(np.mean([e.high - e.low for e in effects]))
                found += effects[-1].distinguishable
            covered = 100 * np.mean(hits, axis=0)
            row = f"{covered.mean():.1f} | {covered[0]:.1f} | {np.mean(widths):.1f} | {100 * found / STUDIES:.0f}"
            print(f"| {name} | {'pooled' if pooled else 'own'} | {row} |", flush=True)


if __name__ == "__main__":
    main()
