"""One study as its record holds it: what MLflow and the trials' own files say, read back for a later look at it."""

from __future__ import annotations

import contextlib
import functools
import json
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equipoise.platform.errors import StorageError
from equipoise.platform.record.client import RESULT_TAG, TRAIN, TrackingError
from equipoise.platform.record.correctness import read_correctness
from equipoise.platform.record.home import Home
from equipoise.platform.record.runs import Runs
from equipoise.platform.record.tracking import Tracker
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.parts import EARLIER, Part, metric_of
from equipoise.platform.settings.plugins import use
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.settings.variant import BASELINE, CONTROLS, RECORDS
from equipoise.platform.stats.collapse import Health, collapsed, describe, mean_health, share_of
from equipoise.platform.stats.selection import Selection, select
from equipoise.platform.stats.table import COLLAPSED, UNTRAINED, ResultTable, Score
from equipoise.platform.stats.uncertainty import Bools, Sample, StatisticsError, samples

DEFINITION = "study.json"
SETTINGS = "settings.json"


class StudyRecord:
    """One study. Each part is read when it is first asked for, and once.

    Attributes:
        home: where it was written.
        tracker: of its MLflow store.
        run: its parent run.
    """

    def __init__(self, home: Home, tracker: Tracker, run: Any) -> None:
        self.home, self.tracker, self.run = home, tracker, run

    @classmethod
    def open(cls, home: Home, study: str | None = None) -> StudyRecord:
        """A study by name or MLflow run id, the newest if a name was used twice; None: the newest of all.

        Raises:
            TrackingError: if there is none, naming the studies there are, or the homes nearby; nothing is created.
        """
        if study is not None and (why := home.unrecorded()) is not None:
            raise TrackingError(f"no study {study!r}: {why}")
        tracker = home.tracker(create=False)
        return cls(home, tracker, find_study(tracker, study))

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.run.data.tags[RESULT_TAG])

    @property
    def run_id(self) -> str:
        """Its parent run."""
        return str(self.run.info.run_id)

    @property
    def tags(self) -> Mapping[str, str]:
        """Tags of its parent run, as they were when it was opened."""
        found: Mapping[str, str] = self.run.data.tags
        return found

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """What its trials are scored on; empty for a study that scores nothing."""
        return tuple(json.loads(self.tags.get("benchmarks", "[]")))

    @property
    def part(self) -> Part:
        """Part of the benchmarks that its trials are scored on; earlier versions scored everything on ``test``."""
        return "select" if self.tags.get("part", EARLIER) == "select" else "test"

    @property
    def folder(self) -> Path:
        """What its driver wrote; may not be there, where that was another machine."""
        return self.home.folder(self.name)

    @functools.cached_property
    def definition(self) -> dict[str, Any]:
        """What it asked for.

        Raises:
            TrackingError: if the record does not hold it.
        """
        found: dict[str, Any] = self.artifact(DEFINITION, f"the definition of study {self.name!r}")
        use(found.get("plugins", ()))
        return found

    @functools.cached_property
    def trials(self) -> tuple[Any, ...]:
        """MLflow runs of its trials, oldest first."""
        return tuple(self.tracker.children(self.run_id))

    @property
    def finished(self) -> tuple[Any, ...]:
        """Runs of its finished trials, oldest first."""
        return tuple(run for run in self.trials if run.data.tags.get("status") == "finished")

    @property
    def picked(self) -> dict[str, int]:
        """Mixes that earned more seeds, and the seed that earned them: it is left out of what is said of the mix."""
        again = {run.data.tags["variant"] for run in self.finished if run.data.tags["role"] == "repeat"}
        return {
            run.data.tags["variant"]: int(run.data.tags["seed"])
            for run in self.finished
            if run.data.tags["role"] == "search" and run.data.tags["variant"] in again
        }

    @property
    def launched(self) -> int:
        """Mixes that it started, those that were stopped or failed included."""
        return len({run.data.tags["variant"] for run in self.trials} - {*CONTROLS})

    @functools.cached_property
    def table(self) -> ResultTable:
        """Accuracies of its finished trials with their flags, less those of seeds that repeated mixes were picked by.

        Raises:
            TrackingError: if no trial is finished.
        """
        picked, collapses = self.picked, self.collapses
        scores = [
            Score(
                variant=run.data.tags["variant"],
                seed=int(run.data.tags["seed"]),
                benchmark=name,
                accuracy_percent=accuracy,
                items=int(items) if (items := run.data.tags.get(f"items.{name}")) is not None else None,
                flags=_flags(run) | ({COLLAPSED} if run.info.run_id in collapses else frozenset()),
                protocol=run.data.tags.get(f"protocol.{name}"),
            )
            for run in self.finished
            if picked.get(run.data.tags["variant"]) != int(run.data.tags["seed"])
            for name, accuracy in accuracies_of(run, self.benchmarks, self.part).items()
        ]
        if not scores:
            raise TrackingError(f"study {self.name!r} has no finished trial yet")
        meanings = ((COLLAPSED, self._collapse_meaning(collapses)),) if collapses else ()
        return ResultTable(tuple(scores), self.benchmarks, meanings, self.part)

    @functools.cached_property
    def health(self) -> dict[str, Health]:
        """Health of the encoder of every finished trial at the end of its training, by run id; trained ones alone."""
        ends = {run.info.run_id: Health.among(run.data.metrics, TRAIN) for run in self.finished}
        return {key: end for key, end in ends.items() if end is not None}

    @property
    def collapses(self) -> dict[str, Health]:
        """Health of encoders that have collapsed against the mean over the baseline's seeds, by run id."""
        found = collapsed(self.health, self._baselines)
        # One that was never trained is flagged as what it is.
        untrained = {run.info.run_id for run in self.finished if UNTRAINED in _flags(run)}
        return {key: end for key, end in self.health.items() if key in found - untrained}

    @property
    def _baselines(self) -> list[Health]:
        return [
            self.health[run.info.run_id]
            for run in self.finished
            if run.data.tags["variant"] == BASELINE and run.info.run_id in self.health
        ]

    def _collapse_meaning(self, collapses: Mapping[str, Health]) -> str:
        """What the flag of collapsed encoders means here: of each variant the seed that collapsed most."""
        worst: dict[str, Health] = {}
        baseline = mean_health(self._baselines)
        for run in self.finished:
            end, variant = collapses.get(run.info.run_id), run.data.tags["variant"]
            known = worst.get(variant)
            if end is not None and (known is None or share_of(end, baseline) < share_of(known, baseline)):
                worst[variant] = end
        return describe(worst, baseline)

    @functools.cached_property
    def settings(self) -> dict[str, TrialSettings]:
        """Settings of every variant with a finished trial, from one of its trials; they differ in their seed only.

        Raises:
            TrackingError: if the record does not hold them.
        """
        found: dict[str, TrialSettings] = {}
        for run in self.finished:
            variant = run.data.tags["variant"]
            if variant not in found:
                what = f"the settings of trial {run.info.run_name!r}"
                content = read_json(self.tracker, run.info.run_id, SETTINGS, what)
                found[variant] = parse(TrialSettings, content, f"settings of {variant}")
        return found

    @property
    def weights(self) -> dict[str, dict[str, float]]:
        """Weights of every variant: its objectives that are on."""
        return {
            run.data.tags["variant"]: {k: w for k in RECORDS if (w := float(run.data.params.get(k, 0)))}
            for run in self.trials
        }

    def curves(self, metric: str, runs: Sequence[Any] | None = None) -> dict[str, list[tuple[int, float]]]:
        """What training reported as ``metric``, as (step, value) by run name; of all trials, or of ``runs``."""
        found: dict[str, list[tuple[int, float]]] = {}
        for run in self.trials if runs is None else runs:
            if TRAIN + metric in run.data.metrics:
                found[run.info.run_name] = self.tracker.history(run.info.run_id, TRAIN + metric)
        return found

    @functools.cached_property
    def correctness(self) -> dict[tuple[str, int, str], Bools] | None:
        """Which test items each trial got right; None where the study's folder is on another machine.

        Raises:
            StatisticsError: outcomes of test items that are missing or do not fit together.
            StorageError: the place where its trials wrote cannot be reached.
        """
        if not self.home.has_book(self.name):
            return None
        return read_correctness(self.folder, self.home.trials(self.name))

    @property
    def samples(self) -> dict[tuple[str, str], Sample]:
        """(variant, benchmark) to what was scored, with the test items each seed got right where they are at hand.

        Raises:
            TrackingError: if no trial is finished.
            StatisticsError: outcomes of test items that are missing or do not fit together.
            StorageError: the place where its trials wrote cannot be reached.
        """
        return samples(self.table, self.correctness)

    def select(self, tolerance: float | None = None) -> Selection:
        """Its front and its leading candidate.

        Args:
            tolerance: points a candidate may lose on a benchmark; None for the noise floor.

        Raises:
            TrackingError: if no trial is finished.
            SelectionError: the baseline is missing.
        """
        try:
            known = self.correctness
        except (StatisticsError, StorageError):  # the report says what is missing
            known = None
        file = self.home.bundle
        first = "" if file is None else f"equipoise unbundle {shlex.quote(file)}, then "
        command = f"{first}equipoise confirm {shlex.quote(self.name)}"
        found = select(self.table, tolerance=tolerance, launched=self.launched, correctness=known, confirm=command)
        if "confirms" in self.definition:
            of = self.definition["confirms"]
            return found.without_candidate(
                f"This is the confirmation of {of}: what it tests was named beforehand, and nothing is picked here."
            )
        return found.with_notes(
            f"The seed that {v} was picked by ({s}) is left out of its scores." for v, s in self.picked.items()
        )

    def checkpoint(self, run: Any) -> str | None:
        """Where the checkpoint of a trial's run is; None for a trial that has none."""
        tags = run.data.tags
        return self.home.checkpoint(self.name, tags.get("trial", ""), tags.get("checkpoint"))

    def artifact(self, name: str, what: str) -> Any:
        """Content of a JSON artifact of its parent run; ``what`` are the words for the error sentence.

        Raises:
            TrackingError: if the run does not hold it, or it cannot be fetched.
        """
        return read_json(self.tracker, self.run_id, name, what)

    def artifacts(self, folder: str) -> list[Any]:
        """Contents of all JSON artifacts in a folder of its parent run; empty where there is none."""
        if not self.tracker.files(self.run_id, folder):
            return []
        with tempfile.TemporaryDirectory() as temporary:
            kept = self.tracker.fetch(self.run_id, folder, Path(temporary))
            return [json.loads(path.read_text()) for path in sorted(kept.glob("*.json"))]

    def picture(self, out: Path | None, name: str) -> Path:
        """Where a picture goes: ``out``, or the study's folder, or here where that is on another machine."""
        return out or (self.folder if self.folder.is_dir() else Path.cwd()) / name

    def keep(self, *files: Path | None, **contents: Mapping[str, Any]) -> None:
        """Log files, and contents as ``NAME.json``, to its parent run; None is no file.

        A study that is read from a bundle keeps nothing: the file stays as it was written.
        """
        if self.home.bundle is not None:
            return
        with tempfile.TemporaryDirectory() as temporary:
            for name, content in contents.items():
                written = Path(temporary) / f"{name}.json"
                written.write_text(json.dumps(content, indent=1))
                self.tracker.artifacts(self.run_id, written)
        for file in files:
            if file is not None:
                self.tracker.artifacts(self.run_id, file)


def _flags(run: Any) -> frozenset[str]:
    """Flags that a trial's run carries."""
    return frozenset(flag for flag in run.data.tags.get("flags", "").split(",") if flag)


def find_study(tracker: Runs, study: str | None) -> Any:
    """Parent run of a study, as :meth:`StudyRecord.open` finds it.

    Raises:
        TrackingError: if there is none, naming the studies there are.
    """
    found = tracker.studies(study)
    if found:
        return found[0]
    if study is not None:
        with contextlib.suppress(TrackingError):
            return tracker.run(study)
    names = sorted({r.data.tags[RESULT_TAG] for r in tracker.studies()})
    known = f"known: {', '.join(names)}" if names else "there is none yet: run equipoise sweep or ablate"
    raise TrackingError(f"no study{f' {study!r}' if study else ''} in {tracker.uri}; {known}")


def accuracies_of(run: Any, benchmarks: Sequence[str], part: Part) -> dict[str, float]:
    """Accuracies in percent of a trial's run on one part, by benchmark; none of another part.

    A run of an earlier version, which scored on the test part, has them under the benchmark's bare name.
    """
    metrics, earlier = run.data.metrics, part == EARLIER and "part" not in run.data.tags
    names = {name: name if earlier else metric_of(name, part) for name in benchmarks}
    return {name: metrics[metric] for name, metric in names.items() if metric in metrics}


def read_json(tracker: Runs, run_id: str, name: str, what: str) -> Any:
    """Content of a JSON artifact.

    Args:
        tracker: the record.
        run_id: run that holds it.
        name: name of the artifact.
        what: the words for the error sentence.

    Raises:
        TrackingError: if the run does not hold it, or it cannot be fetched.
    """
    with tempfile.TemporaryDirectory() as temporary:
        try:
            kept = tracker.fetch(run_id, name, Path(temporary))
        except TrackingError as error:
            raise TrackingError(f"{what}: {error}") from None
        return json.loads(kept.read_text())
