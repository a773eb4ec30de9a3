"""Tables of benchmark scores: who scored what, with which seed, on how many items.

A table says nothing about what is better; :mod:`equipoise.platform.selection` does.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import yaml

from equipoise.platform.errors import EquipoiseError, nearest

PUBLISHED_BENCHMARKS = ("diving48", "ssv2", "imagenet100")
MAIN_PROBES = ("attentive", "linear")
UNTRAINED = "untrained_encoder"
REQUIRED_COLUMNS = ("regime", "variant", "seed", "benchmark", "probe", "top1_percent")


class ResultsError(EquipoiseError, ValueError):
    """A result table that cannot be read or used; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One accuracy of one frozen encoder.

    Attributes:
        variant: name of the objective mix.
        seed: seed of the pretraining run.
        benchmark: name of the benchmark.
        accuracy_percent: top-1 accuracy, 0 to 100.
        items: test items behind it, None where unknown.
        flags: what is known about the run that the number does not say, such as ``untrained_encoder``.
    """

    variant: str
    seed: int
    benchmark: str
    accuracy_percent: float
    items: int | None = None
    flags: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        where = f"score of {self.variant!r}, seed {self.seed}, on {self.benchmark!r}"
        if not (math.isfinite(self.accuracy_percent) and 0 <= self.accuracy_percent <= 100):
            raise ResultsError(f"{where} is {self.accuracy_percent}; expected an accuracy in percent, 0 to 100")
        if self.items is not None and self.items < 1:
            raise ResultsError(f"{where} was taken on {self.items} items; expected at least 1, or none given")


@dataclass(frozen=True)
class ResultTable:
    """Scores of one regime, at most one for each variant, seed and benchmark.

    Attributes:
        scores: every score.
        benchmarks: the benchmarks in the order in which they are shown; all of them count for completeness.
        flag_meanings: (flag, meaning) pairs for the flags that ``scores`` carry.

    Raises:
        ResultsError: no score, a benchmark outside ``benchmarks``, or one score given twice.
    """

    scores: tuple[Score, ...]
    benchmarks: tuple[str, ...]
    flag_meanings: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.scores:
            raise ResultsError("the result table has no scores; expected at least those of the baseline")
        if len(set(self.benchmarks)) != len(self.benchmarks):
            raise ResultsError(f"benchmarks are named twice: {', '.join(self.benchmarks)}; name each once")
        seen: set[tuple[str, int, str]] = set()
        for score in self.scores:
            if score.benchmark not in self.benchmarks:
                raise ResultsError(
                    f"{score.variant!r} has a score on {score.benchmark!r}, which is not a benchmark of the table: "
                    f"{', '.join(self.benchmarks)}"
                )
            key = (score.variant, score.seed, score.benchmark)
            if key in seen:
                raise ResultsError(
                    f"{score.variant!r}, seed {score.seed}, has two scores on {score.benchmark!r}; keep one"
                )
            seen.add(key)

    @classmethod
    def from_scores(cls, scores: Iterable[Score], benchmarks: Sequence[str] | None = None) -> ResultTable:
        """Make a table; without ``benchmarks`` they come in the order of their first score."""
        rows = tuple(scores)
        return cls(
            rows, tuple(benchmarks) if benchmarks is not None else tuple(dict.fromkeys(r.benchmark for r in rows))
        )

    @cached_property
    def variants(self) -> tuple[str, ...]:
        """Every variant, in the order of its first score."""
        return tuple(dict.fromkeys(score.variant for score in self.scores))

    @cached_property
    def _of_variant(self) -> dict[str, list[Score]]:
        """Scores by variant: a study may have a thousand, and each is asked for many times."""
        found: dict[str, list[Score]] = {}
        for score in self.scores:
            found.setdefault(score.variant, []).append(score)
        return found

    def values(self, variant: str, benchmark: str) -> dict[int, float]:
        """Accuracy in percent by seed, seeds ascending; empty where there is no score."""
        found = {s.seed: s.accuracy_percent for s in self._of_variant.get(variant, ()) if s.benchmark == benchmark}
        return dict(sorted(found.items()))

    def seeds(self, variant: str) -> tuple[int, ...]:
        """Seeds with a score on any benchmark, ascending."""
        return tuple(sorted({score.seed for score in self._of_variant.get(variant, ())}))

    def means(self) -> dict[str, dict[str, float]]:
        """Variant to benchmark to the mean accuracy in percent, over the seeds that have a score there."""
        return {variant: self.mean_of(variant) for variant in self.variants}

    def mean_of(self, variant: str) -> dict[str, float]:
        """Benchmark to the mean accuracy of one variant in percent, over the seeds that have a score there."""
        found = {benchmark: self.values(variant, benchmark) for benchmark in self.benchmarks}
        return {b: math.fsum(v.values()) / len(v) for b, v in found.items() if v}

    def items(self, variant: str, benchmark: str) -> int | None:
        """Test items behind the scores (the fewest over seeds), None where any is unknown or there is no score."""
        counts = [s.items for s in self._of_variant.get(variant, ()) if s.benchmark == benchmark]
        known = [count for count in counts if count is not None]
        return min(known) if known and len(known) == len(counts) else None

    def flags(self, variant: str) -> frozenset[str]:
        """Every flag on any score of the variant."""
        return frozenset().union(*(score.flags for score in self._of_variant.get(variant, ())))

    def incomplete(self) -> dict[str, tuple[str, ...]]:
        """Variants that lack a benchmark, each with the benchmarks it lacks."""
        means = self.means()
        lacking = {v: tuple(b for b in self.benchmarks if b not in means[v]) for v in self.variants}
        return {variant: names for variant, names in lacking.items() if names}

    def complete_variants(self) -> tuple[str, ...]:
        """Variants with at least one score on every benchmark."""
        lacking = self.incomplete()
        return tuple(variant for variant in self.variants if variant not in lacking)

    def only_seeds(self, variant: str, seeds: Collection[int]) -> ResultTable:
        """The same table with only these seeds of one variant.

        Raises:
            ResultsError: none of ``seeds`` has a score of ``variant``.
        """
        if not set(seeds) & set(self.seeds(variant)):
            have = ", ".join(map(str, self.seeds(variant))) or "none"
            raise ResultsError(f"{variant!r} has no score with seed {sorted(seeds)}; seeds it has: {have}")
        kept = tuple(score for score in self.scores if score.variant != variant or score.seed in seeds)
        return ResultTable(kept, self.benchmarks, self.flag_meanings)


def published_path() -> Path:
    """The table of every accuracy published with the paper (arXiv 2605.17165), as shipped with the package.

    Raises:
        ResultsError: the package was installed without it.
    """
    path = Path(str(resources.files("equipoise.search_spaces") / "published" / "factorized_latent_dynamics.csv"))
    if not path.is_file():
        raise ResultsError(f"the published table is not at {path}; install the package again")
    return path


def read_csv(
    path: str | Path, regime: str, *, benchmarks: Sequence[str] = PUBLISHED_BENCHMARKS, baseline: str = "baseline"
) -> ResultTable:
    """Read one regime of a CSV file in the layout of the published table.

    Needed columns: regime, variant, seed, benchmark, probe, top1_percent; ``val_items`` is read where it is there.
    Rows of other benchmarks and of other probes than ``attentive`` and ``linear`` are left out. Flags come from a
    file of the same name ending in ``.flags.yaml`` beside the CSV, where there is one.

    Raises:
        ResultsError: no such file, a missing column, a value that is no number or out of range (named with its line),
            a regime the file does not have, one score given twice, no baseline.
    """
    path = Path(path)
    rows = _rows(path)
    known = list(dict.fromkeys(row["regime"] for _, row in rows))
    if regime not in known:
        raise ResultsError(f"{path} has no regime {regime!r}; {nearest(regime, known)}")
    names = {row["variant"] for _, row in rows if row["regime"] == regime}
    flags, meanings = _flags(path.with_suffix(".flags.yaml"), regime, names)
    scores: dict[tuple[str, int, str], Score] = {}
    lines: dict[tuple[str, int, str], int] = {}
    for line, row in rows:
        if row["regime"] != regime or row["benchmark"] not in benchmarks or row["probe"] not in MAIN_PROBES:
            continue
        score = _score(path, line, row, flags)
        key = (score.variant, score.seed, score.benchmark)
        if key in scores:
            raise ResultsError(
                f"{path}, lines {lines[key]} and {line} score the same variant, seed and benchmark: keep one"
            )
        scores[key], lines[key] = score, line
    if baseline not in {variant for variant, _, _ in scores}:
        raise ResultsError(
            f"{path} has no row of {baseline!r} in regime {regime!r} on {', '.join(benchmarks)}; gains are measured "
            "against it: add its rows or name another baseline"
        )
    used = {flag for score in scores.values() for flag in score.flags}
    return ResultTable(
        tuple(scores.values()), tuple(benchmarks), tuple(item for item in meanings.items() if item[0] in used)
    )


def regimes_in(path: str | Path) -> tuple[str, ...]:
    """Regimes that a CSV file of results has rows of, in its order.

    Raises:
        ResultsError: as :func:`read_csv`.
    """
    return tuple(dict.fromkeys(row["regime"] for _, row in _rows(Path(path))))


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and stripped fields of every row."""
    if not path.is_file():
        raise ResultsError(
            f"no results file at {path}; give the path of a CSV file with columns {', '.join(REQUIRED_COLUMNS)}"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, strict=True)
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in REQUIRED_COLUMNS if name not in header]
            if missing:
                raise ResultsError(
                    f"{path} lacks the column {', '.join(missing)}; its header has: {', '.join(header) or 'nothing'}"
                )
            rows: list[tuple[int, dict[str, str]]] = []
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise ResultsError(
                        f"{path}, line {reader.line_num}: {len(fields)} fields; the header has {len(header)} columns"
                    )
                rows.append((reader.line_num, {k: v.strip() for k, v in zip(header, fields, strict=True)}))
            return rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise ResultsError(f"{path} is not a CSV file in UTF-8 ({error}); save it as one") from error
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror}") from error


def _score(path: Path, line: int, row: dict[str, str], flags: dict[str, frozenset[str]]) -> Score:
    """One score from one row; every complaint names the line."""
    items = row.get("val_items", "")
    expected = {
        "seed": "a whole number",
        "val_items": "a whole number of items, or nothing",
        "top1_percent": "a number",
    }
    column = "seed"
    try:
        seed = int(row[column])
        column = "val_items"
        count = int(items) if items else None
        column = "top1_percent"
        accuracy = float(row[column])
    except ValueError as error:
        raise ResultsError(f"{path}, line {line}: {column} is {row[column]!r}; expected {expected[column]}") from error
    try:
        return Score(
            variant=row["variant"],
            seed=seed,
            benchmark=row["benchmark"],
            accuracy_percent=accuracy,
            items=count,
            flags=flags.get(row["variant"], frozenset()),
        )
    except ResultsError as error:
        raise ResultsError(f"{path}, line {line}: {error}") from error


def _flags(path: Path, regime: str, variants: set[str]) -> tuple[dict[str, frozenset[str]], dict[str, str]]:
    """Flags by variant and meaning by flag; both empty where the file is not there."""
    if not path.is_file():
        return {}, {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ResultsError(f"{path} is not a YAML file ({error})") from error
    shape = "expected flag: {meaning: text, variants: {regime: [names]}}"
    if not isinstance(content, dict):
        raise ResultsError(f"{path} holds {type(content).__name__}; {shape}")
    found: dict[str, set[str]] = {}
    meanings: dict[str, str] = {}
    for flag, entry in content.items():
        if (
            not isinstance(entry, dict)
            or set(entry) != {"meaning", "variants"}
            or not isinstance(entry["variants"], dict)
        ):
            raise ResultsError(f"{path}: entry {flag!r} is not understood; {shape}")
        named = entry["variants"].get(regime, [])
        if not isinstance(named, list) or not isinstance(entry["meaning"], str):
            raise ResultsError(f"{path}: entry {flag!r} is not understood; {shape}")
        unknown = [str(name) for name in named if name not in variants]
        if unknown:
            raise ResultsError(
                f"{path} flags {', '.join(unknown)} in regime {regime!r}, which the CSV file does not have"
            )
        meanings[str(flag)] = entry["meaning"]
        for name in named:
            found.setdefault(name, set()).add(str(flag))
    return {name: frozenset(names) for name, names in found.items()}, meanings
