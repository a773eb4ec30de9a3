"""The published table, and CSV files like it."""

from __future__ import annotations

import csv
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TextIO

import yaml

from equipoise.platform.errors import nearest
from equipoise.platform.stats.table import ResultsError, ResultTable, Score

PUBLISHED_BENCHMARKS = ("diving48", "ssv2", "imagenet100")
MAIN_PROBES = ("attentive", "linear")

Rows = list[tuple[int, dict[str, str]]]  # line number and fields
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
    path: str | Path, regime: str, *, benchmarks: Sequence[str] | None = None, baseline: str = "baseline"
) -> ResultTable:
    """Read one regime of a CSV file in the layout of the published table; semicolons and tabs are commas too.

    Needed columns: regime, variant, seed, benchmark, probe, top1_percent; ``val_items`` is read where it is there.
    Rows of other benchmarks and of other probes than ``attentive`` and ``linear`` are left out, counted in the table's
    notes; one that is another in its spelling only is an error. Flags come from a file of the same name ending in
    ``.flags.yaml`` beside the CSV, where there is one.

    Args:
        path: the file.
        regime: whose rows are read.
        benchmarks: that are compared; None for the published ones, or those of the file where it has none of them.
        baseline: variant that has to be there.

    Raises:
        ResultsError: no such file, a missing column or one that is there twice, a value that is no number or out of
            range (named with its line), fractions for percent, a name that is spelled in two ways, a regime the file
            does not have, one score given twice, no baseline.
    """
    path = Path(path)
    rows = _rows(path)
    known = list(dict.fromkeys(row["regime"] for _, row in rows))
    _refuse_twins(path, rows)
    if regime not in known:
        raise ResultsError(f"{path} has no regime {regime!r}; {nearest(regime, known)}")
    variants = {row["variant"] for _, row in rows if row["regime"] == regime}
    flags, meanings = _flags(path.with_suffix(".flags.yaml"), regime, variants)
    own = [(line, row) for line, row in rows if row["regime"] == regime]
    benchmarks = _benchmarks(path, own, benchmarks)
    _check_spelling(path, own, {"benchmark": benchmarks, "probe": MAIN_PROBES})
    scores: dict[tuple[str, int, str], Score] = {}
    lines: dict[tuple[str, int, str], int] = {}
    left_out: Counter[str] = Counter()
    for line, row in own:
        wanted = {"benchmark": benchmarks, "probe": MAIN_PROBES}
        other = next((f"{column} {row[column]}" for column, names in wanted.items() if row[column] not in names), None)
        if other is not None:
            left_out[other] += 1
            continue
        score = _score(path, line, row, flags)
        key = (score.variant, score.seed, score.benchmark)
        if key in scores:
            raise ResultsError(
                f"{path}, lines {lines[key]} and {line} score the same variant, seed and benchmark: keep one"
            )
        scores[key], lines[key] = score, line
    there = list(dict.fromkeys(variant for variant, _, _ in scores))
    if baseline not in there:
        raise ResultsError(
            f"{path} has no row of {baseline!r} in regime {regime!r} on {', '.join(benchmarks)}; gains are measured "
            f"against it: add its rows, or name another with --baseline ({nearest(baseline, there)})"
        )
    _refuse_fractions(path, list(scores.values()))
    used = {flag for score in scores.values() for flag in score.flags}
    notes = [f"{count} rows of {what} are left out." for what, count in left_out.items()]
    return ResultTable(
        tuple(scores.values()),
        tuple(benchmarks),
        tuple(item for item in meanings.items() if item[0] in used),
        notes=(*notes, *_uneven(scores, benchmarks)),
    )


def _benchmarks(path: Path, rows: Rows, asked: Sequence[str] | None) -> Sequence[str]:
    """What is compared: what is asked for, the published benchmarks, or those of the file."""
    there = list(dict.fromkeys(row["benchmark"] for _, row in rows))
    if asked is None:
        like = {_plain(name) for name in PUBLISHED_BENCHMARKS}
        return PUBLISHED_BENCHMARKS if any(_plain(name) in like for name in there) else there
    return asked


def _plain(name: str) -> str:
    """A name without what people write differently: capitals, blanks, hyphens."""
    return "".join(c for c in name.casefold() if c.isalnum())


def _check_spelling(path: Path, rows: Rows, known: Mapping[str, Sequence[str]]) -> None:
    """Rows that would be lost by their spelling are an error, not rows of something else."""
    for column, names in known.items():
        right = {_plain(name): name for name in names}
        wrong = [(line, row[column]) for line, row in rows if row[column] not in names and _plain(row[column]) in right]
        if wrong:
            line, given = wrong[0]
            raise ResultsError(
                f"{path}, line {line}: {column} {given!r} would be left out{_and_more(len(wrong) - 1)}; "
                f"did you mean {right[_plain(given)]!r}? Write it in one way"
            )


def _and_more(rows: int) -> str:
    return f", with {rows} more {'row' if rows == 1 else 'rows'} like it" if rows else ""


def _refuse_twins(path: Path, rows: Rows) -> None:
    """A regime or a variant in two spellings would be two, and rows of one would be missed."""
    for column in ("regime", "variant"):
        seen: dict[str, str] = {}
        for line, row in rows:
            other = seen.setdefault(unicodedata.normalize("NFC", row[column]).casefold(), row[column])
            if other != row[column]:
                raise ResultsError(
                    f"{path}, line {line}: {column} {row[column]!r} is {other!r} elsewhere, and would be another one: "
                    "write it in one way"
                )


def _refuse_fractions(path: Path, scores: Sequence[Score]) -> None:
    """Percent and fractions look alike: a variant that is below 1 everywhere is no bad encoder, it is another unit."""
    of: dict[str, list[float]] = {}
    for score in scores:
        of.setdefault(score.variant, []).append(score.accuracy_percent)
    small = [name for name, values in of.items() if 0 < max(values) <= 1]
    if small:
        who = (
            "every accuracy in the table is"
            if len(small) == len(of)
            else f"every accuracy of {', '.join(small[:3])} is"
        )
        raise ResultsError(f"{path}: {who} at most 1: these look like fractions; top1_percent wants percent, as 20.3")


def _uneven(scores: Mapping[tuple[str, int, str], Score], benchmarks: Sequence[str]) -> list[str]:
    """Variants whose benchmarks have other seeds: a mean over fewer stands beside one over more."""
    seeds: dict[str, dict[str, list[int]]] = {}
    for variant, seed, benchmark in scores:
        seeds.setdefault(variant, {}).setdefault(benchmark, []).append(seed)
    notes = []
    for variant, found in seeds.items():
        if len({tuple(sorted(one)) for one in found.values()}) > 1:
            said = ", ".join(f"{b} {' '.join(map(str, sorted(found[b])))}" for b in benchmarks if b in found)
            notes.append(f"{variant} has other seeds on other benchmarks ({said}): its means are over what there is.")
    return notes


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
            reader = csv.reader(handle, delimiter=_delimiter(handle), strict=True)
            header = [name.strip().casefold() for name in next(reader, [])]
            twice = [name for name, count in Counter(header).items() if count > 1 and name]
            if twice:
                raise ResultsError(f"{path} has the column {twice[0]!r} twice: which one counts? Leave one out")
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


def _delimiter(handle: TextIO) -> str:
    """What separates the columns: the header has all that are needed between it."""
    first = handle.readline()
    handle.seek(0)
    return max((",", ";", "\t"), key=first.count)


def _whole(text: str) -> int:
    """A whole number, also as pandas writes one where a cell of its column is empty: ``1.0``."""
    number = float(text)
    if not number.is_integer():
        raise ValueError(text)
    return int(number)


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
        seed = _whole(row[column])
        column = "val_items"
        count = _whole(items) if items else None
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
            protocol=row["probe"],
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
