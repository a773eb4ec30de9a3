"""The published table, and CSV files like it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import yaml

from equipoise.platform.errors import nearest
from equipoise.platform.stats.table import ResultsError, ResultTable, Score

PUBLISHED_BENCHMARKS = ("diving48", "ssv2", "imagenet100")
MAIN_PROBES = ("attentive", "linear")

REQUIRED_COLUMNS = ("regime", "variant", "seed", "benchmark", "probe", "top1_percent")


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
