"""Early stopping inside Ray Tune: a scheduler that stops on several metrics at once, which Tune's own cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from equipoise.platform.trial import PHASE

SCORES = "scores/"  # Tune hands over a nested result with its keys joined


class MultiObjectiveHalving(FIFOScheduler):  # type: ignore[misc]  # Ray Tune's schedulers are not typed
    """Starts trials in their order, and stops those that the judge does not let go on from a rung.

    Tune's schedulers read one metric and keep their own state; this one keeps none: the judge decides, and books what
    it decided before Tune hears of it.

    Args:
        judge: whether a trial goes on, from its configuration, the step, the scores by benchmark, and the seconds that
            taking them took.
    """

    def __init__(self, judge: Callable[[Mapping[str, Any], int, Mapping[str, float], float], bool]) -> None:
        super().__init__()
        self.judge = judge
        self.stopped = 0

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """STOP for a trial that is not among the best at its rung, CONTINUE for every other report."""
        if result.get(PHASE) != "rung":
            return str(self.CONTINUE)
        scores = {k.removeprefix(SCORES): float(v) for k, v in result.items() if k.startswith(SCORES)}
        if self.judge(trial.config, int(result["step"]), scores, float(result["seconds"])):
            return str(self.CONTINUE)
        self.stopped += 1
        return str(self.STOP)

    def debug_string(self) -> str:
        """For Tune's own display."""
        return f"multi-objective halving: {self.stopped} trials stopped early"

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's book is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study's book is the state."""
