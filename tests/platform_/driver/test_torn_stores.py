"""Stores of a study that are torn or damaged, under a driver without Ray: what can be mended is, nothing is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from equipoise.platform.record.ledger import Ledger, TrialRow

Begin = Callable[..., Any]
TRIALS = 4


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, begin: Begin) -> Path:
    """Folder of a search that is finished; its driver has gone."""
    folder = tmp_path_factory.mktemp("finished")
    sweep = begin(folder, trials=TRIALS)
    sweep.finish()
    sweep.ledger.close()
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Callable[[], Path]:
    def made() -> Path:
        shutil.rmtree(tmp_path / "study", ignore_errors=True)
        shutil.copytree(finished, tmp_path / "study")
        return tmp_path / "study"

    return made


def results(rows: list[TrialRow]) -> list[Any]:
    return [(r.number, r.name, r.status, r.settings, r.optuna_number, r.result) for r in rows]


def agree(sweep: Any, before: list[Any]) -> None:
    """Every finished trial is in the book as it was, and in Optuna with its values."""
    rows = sweep.ledger.rows()
    assert results(rows) == before
    told = {t.number: t for t in sweep.optuna()}
    for row in rows:
        if row.optuna_number is not None:
            trial = told[row.optuna_number]
            assert (trial.state, trial.values) == (TrialState.COMPLETE, list(row.result["accuracies"].values()))
            assert sweep.definition.variant(trial.params) == row.asked.variant or row.name in sweep.definition.starts


def ends(content: bytes) -> Iterator[bytes]:
    """A journal cut at every byte of its last record, with zeros or half a line behind it, and more of it gone."""
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    yield from (content[:at] for at in range(last, len(content)))
    yield content[:-1] + bytes(512)
    yield content + bytes(512)
    yield content + bytes(7) + b"\n"
    yield content + b'{"op_code": 5, "wor\n'
    lines = content.splitlines(keepends=True)
    yield from (b"".join(lines[:count]) for count in range(len(lines)))


def test_a_torn_journal_is_mended_before_anything_is_appended(
    copy: Callable[[], Path], begin: Begin, finished: Path
) -> None:
    content = (finished / "optuna.journal").read_bytes()
    with Ledger(finished / "ledger.db") as book:
        before = results(book.rows())
    cases = list(ends(content))
    for case in cases:
        folder = copy()
        (folder / "optuna.journal").write_bytes(case)
        sweep = begin(folder, trials=TRIALS)
        agree(sweep, before)
        assert sweep.trial() is None, "nothing is left to do"
        sweep.ledger.close()
