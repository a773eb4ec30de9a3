"""Which test items every trial of a study got right, read back from where its trials wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.platform.errors import StudyError
from equipoise.platform.record.home import BOOK
from equipoise.platform.record.ledger import Ledger, TrialRow
from equipoise.platform.stats.uncertainty import Bools, StatisticsError
from equipoise.platform.storage import Place

FOLDER = "correctness"  # below a trial's folder: one Parquet file per benchmark


def read_correctness(folder: Path, trials: Place | None = None) -> dict[tuple[str, int, str], Bools]:
    """Per-item correctness of a study's finished trials.

    Args:
        folder: the study's folder, which holds its book.
        trials: where its trials wrote; None for ``trials/`` of ``folder``.

    Returns:
        (variant, seed, benchmark) to bool [N], N test items in one order for all trials of a benchmark.

    Raises:
        StatisticsError: no study there, a scored trial without its outcomes, two trials of one variant and seed, or
            trials that were scored on different items or on the same ones in another order.
        StorageError: ``trials`` cannot be reached.
    """
    book = folder / BOOK
    if not book.is_file():
        raise StatisticsError(f"{folder} holds no study (there is no {book.name}); give the folder of a study")
    try:
        with Ledger(book) as ledger:
            rows = ledger.rows("finished")
    except StudyError as error:  # what needs no test items is shown without it
        raise StatisticsError(str(error)) from None
    place = Place.at(folder / "trials") if trials is None else trials
    found: dict[tuple[str, int, str], Bools] = {}
    orders: dict[str, tuple[str, pa.Table]] = {}
    for row in rows:
        settings = row.asked
        for benchmark in (row.result or {}).get("accuracies", {}):
            key = (settings.variant_name, settings.seed, benchmark)
            if key in found:
                raise StatisticsError(
                    f"the study in {folder} has two trials of {key[0]!r}, seed {key[1]}: the second is {row.key}"
                )
            outcomes = _outcomes(place, row, benchmark)
            first, order = orders.setdefault(benchmark, (row.key, outcomes.select(["path", "label"])))
            _check_order(benchmark, first, order, row.key, outcomes)
            found[key] = np.asarray(outcomes.column("correct").to_numpy(), dtype=np.bool_)
    return found


def _outcomes(trials: Place, row: TrialRow, benchmark: str) -> pa.Table:
    place = trials / row.key / FOLDER / f"{benchmark}.parquet"
    try:
        return pq.read_table(pa.BufferReader(place.read()), columns=["path", "label", "correct"])
    except FileNotFoundError:
        raise StatisticsError(
            f"trial {row.key} ({row.name}) has a score on {benchmark!r} but its outcomes are not at {place}"
        ) from None
    except pa.ArrowInvalid as error:
        raise StatisticsError(f"{place} holds no outcomes of a trial: {str(error).splitlines()[0]}") from None


def _check_order(benchmark: str, first: str, order: pa.Table, second: str, outcomes: pa.Table) -> None:
    """One test set in one order: items are compared by their position."""
    if len(order) != len(outcomes):
        raise StatisticsError(
            f"trials {first} and {second} were scored on {len(order)} and {len(outcomes)} items of {benchmark!r}; "
            "items are compared one by one: score both again on the same manifest"
        )
    for column in ("path", "label"):
        one, other = (table.column(column).to_numpy() for table in (order, outcomes))
        differ = np.flatnonzero(one != other)
        if differ.size:
            at = differ[0]
            raise StatisticsError(
                f"trials {first} and {second} were scored on other items of {benchmark!r}: item {at} has {column} "
                f"{one[at]!r} in {first} and {other[at]!r} in {second}; score both again on the same manifest"
            )
