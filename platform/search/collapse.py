"""A collapse under way: which trials of a search are stopped because their features collapse.

A decision is a function of what the trial and the finished trials of the baseline reported at the same steps. Both are
in the study's book, so a resumed study decides as the one that was killed would have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from equipoise.platform.stats.collapse import Health, describe, mean_health, share_of

STOPPED_BELOW = 0.25
"""Share of the baseline's directions in use below which a trial is stopped.

Lower than what flags it at its end, because a trial that is stopped cannot recover.
"""
WATCHED_FROM = 0.25
"""Share of the training before which nothing is stopped: features may narrow at first and open again."""
IN_A_ROW = 3
"""Reports in a row that have to show a collapse."""


def collapse_under_way(
    reports: Mapping[int, Health], baselines: Sequence[Mapping[int, Health]], steps: int
) -> str | None:
    """Why a trial is to be stopped at its newest report, in a clause; None: it goes on.

    It is stopped if its newest ``IN_A_ROW`` reports, all from ``WATCHED_FROM`` of the training on, have less than
    ``STOPPED_BELOW`` of the directions in use that the baseline has in the mean at the same steps.
    Nothing is stopped where no trial of the baseline has finished, at a step that none of them reported, or at the last
    step, where the result tells all.

    Args:
        reports: of the trial, by step.
        baselines: those of every finished trial of the baseline.
        steps: of the whole training.
    """
    newest = sorted(step for step in reports if step >= WATCHED_FROM * steps)[-IN_A_ROW:]
    if len(newest) < IN_A_ROW or newest[-1] >= steps:
        return None
    for step in newest:
        there = [curve[step] for curve in baselines if step in curve]
        if not there or share_of(reports[step], mean_health(there)) >= STOPPED_BELOW:
            return None
    return describe({"": reports[step]}, mean_health(there), f"at step {step}", " there")
