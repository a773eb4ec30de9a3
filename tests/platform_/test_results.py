from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import pytest

from equipoise.platform.errors import EquipoiseError
from equipoise.platform.stats.published import PUBLISHED_BENCHMARKS, published_path, read_csv
from equipoise.platform.stats.table import UNTRAINED, ResultsError, ResultTable, Score

HEADER = "regime,variant,seed,benchmark,probe,classes,train_items,val_items,top1_percent"
GOOD = ["mixed,baseline,1,ssv2,attentive,174,10,50,8.5", "mixed,ld,1,ssv2,attentive,174,10,50,9.5"]


def write(folder: Path, rows: list[str], header: str = HEADER) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def score(variant: str = "baseline", seed: int = 1, benchmark: str = "a", accuracy: float = 50.0) -> Score:
    return Score(variant=variant, seed=seed, benchmark=benchmark, accuracy_percent=accuracy)


def test_published_mixed_holds_every_main_probe_row_of_the_file() -> None:
    table = read_csv(published_path(), "mixed")
    with published_path().open(newline="") as handle:
        expected = {
            (r["variant"], int(r["seed"]), r["benchmark"]): (float(r["top1_percent"]), int(r["val_items"]))
            for r in csv.DictReader(handle)
            if r["regime"] == "mixed"
        }
    assert {(s.variant, s.seed, s.benchmark): (s.accuracy_percent, s.items) for s in table.scores} == expected
    assert len(expected) == 49
    assert table.benchmarks == ("diving48", "ssv2", "imagenet100")
    assert table.incomplete() == {"motion_guided": ("diving48",)}
    assert table.seeds("baseline") == (42, 239)
    assert table.values("baseline", "diving48") == {42: 8.68}
    assert table.means()["baseline"] == pytest.approx({"diving48": 8.68, "ssv2": 7.505, "imagenet100": 23.06})


def test_published_ucf101_leaves_out_the_alternative_probes_and_other_benchmarks() -> None:
    table = read_csv(published_path(), "ucf101")
    assert table.values("baseline", "diving48") == {239: 8.38}  # the attentive probe among eight
    assert {s.benchmark for s in table.scores} == set(PUBLISHED_BENCHMARKS)
    assert set(table.complete_variants()) == {"baseline", "kinematic_0_1", "kinematic_accel", "motion_guided"}


def test_published_flags_are_those_of_the_design() -> None:
    ucf = read_csv(published_path(), "ucf101")
    flagged = {v for v in ucf.variants if UNTRAINED in ucf.flags(v)}
    assert flagged == {v for v in ucf.variants if v.startswith("kinematic")} | {"sigreg_no_ema"}
    assert len(flagged) == 7
    mixed = read_csv(published_path(), "mixed")
    assert {v for v in mixed.variants if mixed.flags(v)} == {"hw_ld", "fwm_hw_ld"}
    assert [flag for flag, _ in mixed.flag_meanings] == ["dead_loss"]


def test_flagged_rows_agree_with_one_another_as_one_random_initialisation_would() -> None:
    table = read_csv(published_path(), "ucf101")
    values = [s.accuracy_percent for s in table.scores if s.flags and s.benchmark == "imagenet100"]
    assert max(values) - min(values) < 0.2
    assert min(values) > table.means()["baseline"]["imagenet100"]


def test_rows_of_other_regimes_are_not_even_parsed(tmp_path: Path) -> None:
    path = write(tmp_path, [*GOOD, "ucf101,baseline,one,ssv2,attentive,1,1,1,many"])
    assert len(read_csv(path, "mixed").scores) == 2


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("mixed,hw,1,ssv2,attentive,174,10,50,n/a", ["line 4", "top1_percent", "'n/a'"]),
        ("mixed,hw,1,ssv2,attentive,174,10,50,nan", ["line 4", "nan"]),
        ("mixed,hw,1,ssv2,attentive,174,10,50,100.5", ["line 4", "100.5", "0 to 100"]),
        ("mixed,hw,1,ssv2,attentive,174,10,50,-0.1", ["line 4", "-0.1"]),
        ("mixed,hw,1.5,ssv2,attentive,174,10,50,5", ["line 4", "seed", "'1.5'"]),
        ("mixed,hw,1,ssv2,attentive,174,10,few,5", ["line 4", "val_items", "'few'"]),
        ("mixed,hw,1,ssv2,attentive,174,10,0,5", ["line 4", "0 items"]),
        ("mixed,ld,1,ssv2,linear,174,10,50,9.6", ["lines 3 and 4", "keep one"]),
        ("mixed,hw,1,ssv2", ["line 4", "4 fields", "9 columns"]),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, row: str, words: list[str]) -> None:
    with pytest.raises(ResultsError) as caught:
        read_csv(write(tmp_path, [*GOOD, row]), "mixed")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def plain(**change: list[str]) -> list[list[str]]:
    """Rows of a table with two variants, two seeds and two benchmarks."""
    rows = [
        ["mixed", v, s, b, "attentive", "1000", f"{20 + 3 * (v == 'hw') + 0.3 * int(s):.1f}"]
        for v in ("baseline", "hw")
        for s in ("1", "2")
        for b in ("diving48", "ssv2")
    ]
    for at, column in enumerate(HEAD):
        if column in change:
            for row, value in zip(rows, change[column], strict=False):
                row[at] = value
    return rows


HEAD = ["regime", "variant", "seed", "benchmark", "probe", "val_items", "top1_percent"]


def saved(folder: Path, rows: list[list[str]], head: list[str] = HEAD, sign: str = ",", mark: str = "") -> Path:
    path = folder / "own.csv"
    path.write_text(mark + "\n".join(sign.join(row) for row in (head, *rows)) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("sign", [",", ";", "\t", " , "])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_separators_marks_and_blanks_change_nothing(sign: str, mark: str, tmp_path: Path) -> None:
    found = read_csv(saved(tmp_path, plain(), sign=sign, mark=mark), "mixed", benchmarks=("diving48", "ssv2"))
    assert found.scores == read_csv(saved(tmp_path, plain()), "mixed", benchmarks=("diving48", "ssv2")).scores


def test_whole_numbers_as_pandas_writes_them(tmp_path: Path) -> None:
    rows = plain(seed=["1.0", "1.0", "2.0", "2.0"] * 2, val_items=["1000.0"] * 8)
    found = read_csv(saved(tmp_path, rows), "mixed")
    assert found.seeds("hw") == (1, 2)
    assert found.items("hw", "ssv2") == 1000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"benchmark": ["diving48", "SSv2"]},
            "line 3: benchmark 'SSv2' would be left out; did you mean",
        ),
        ({"benchmark": ["Diving-48"] * 8}, "line 2: benchmark 'Diving-48' would be left out, with 7 more"),
        ({"probe": ["Attentive"]}, "probe 'Attentive' would be left out"),
        (
            {"variant": ["Baseline"] * 4},
            r"no row of 'baseline' .* --baseline \(did you mean 'Baseline'",
        ),
        ({"top1_percent": ["0.20", "0.21"] * 4}, "every accuracy in the table is at most 1: these look like fractions"),
        ({"top1_percent": ["20", "21", "22", "23", "0.20", "0.21", "0.2", "0.3"]}, "every accuracy of hw is at most 1"),
    ],
)
def test_what_its_spelling_would_lose_is_refused(change: dict[str, list[str]], words: str, tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=words):
        read_csv(saved(tmp_path, plain(**change)), "mixed")


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, [[*row, "99"] for row in plain()], [*HEAD, "top1_percent"])
    with pytest.raises(ResultsError, match="has the column 'top1_percent' twice"):
        read_csv(path, "mixed")


def test_what_is_left_out_is_counted_and_uneven_seeds_are_said(tmp_path: Path) -> None:
    rows = [*plain()[:-1], ["mixed", "hw", "1", "kinetics400", "attentive", "100", "50"]]
    found = read_csv(saved(tmp_path, rows), "mixed", benchmarks=("diving48", "ssv2"))
    assert found.notes[0] == "1 rows of benchmark kinetics400 are left out."
    assert found.notes[1].startswith("hw has other seeds on other benchmarks (diving48 1 2, ssv2 1)")


def test_a_file_with_benchmarks_of_its_own_is_compared_on_those(tmp_path: Path) -> None:
    found = read_csv(saved(tmp_path, plain(benchmark=["kinetics400", "hmdb51"] * 4)), "mixed")
    assert found.benchmarks == ("kinetics400", "hmdb51")


def test_missing_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, ["mixed,baseline,1,ssv2,8.5"], "regime,variant,seed,benchmark,top1_percent")
    with pytest.raises(ResultsError, match="lacks the column probe"):
        read_csv(path, "mixed")


@pytest.mark.parametrize(
    ("column", "written"), [("regime", "Mixed"), ("variant", "HW"), ("variant", "mode\u0301le"), ("variant", "MODÈLE")]
)
def test_a_name_in_two_spellings_is_refused_and_not_two(column: str, written: str, tmp_path: Path) -> None:
    rows = [
        ["mixed", v, str(s), b, "attentive", "100", "50"]
        for v in ("baseline", "hw", "modéle", "modèle")
        for s in (1, 2)
        for b in ("diving48", "ssv2")
    ]
    at = {"regime": 0, "variant": 1}[column]
    rows[-1 if written != "HW" else 6][at] = written
    with pytest.raises(ResultsError, match=f"{column} .* elsewhere, and would be another one: write it in one way"):
        read_csv(saved(tmp_path, rows), "mixed", benchmarks=("diving48", "ssv2"))


def test_columns_may_be_written_with_capitals(tmp_path: Path) -> None:
    path = write(tmp_path, ["mixed,baseline,1,ssv2,linear,8.5"], "Regime,Variant,SEED,benchmark,Probe,Top1_percent")
    assert read_csv(path, "mixed").mean_of("baseline") == {"ssv2": 8.5}


def test_items_column_may_be_missing_or_blank(tmp_path: Path) -> None:
    path = write(tmp_path, ["mixed,baseline,1,ssv2,linear,8.5"], "regime,variant,seed,benchmark,probe,top1_percent")
    assert read_csv(path, "mixed").items("baseline", "ssv2") is None
    assert read_csv(write(tmp_path, ["mixed,baseline,1,ssv2,linear,1,1,,8"]), "mixed").items("baseline", "ssv2") is None


def test_unknown_regime_names_the_nearest_or_the_known(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="did you mean 'mixed'"):
        read_csv(published_path(), "mixd")
    with pytest.raises(ResultsError, match="known: mixed, ucf101"):
        read_csv(published_path(), "zzzzzzz")


def test_no_file_no_rows_no_baseline_no_text(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no results file"):
        read_csv(tmp_path / "absent.csv", "mixed")
    with pytest.raises(ResultsError, match="no results file"):
        read_csv(tmp_path, "mixed")
    with pytest.raises(ResultsError, match="no regime"):
        read_csv(write(tmp_path, []), "mixed")
    with pytest.raises(ResultsError, match="no row of 'baseline'"):
        read_csv(write(tmp_path, GOOD[1:]), "mixed")
    with pytest.raises(ResultsError, match="no row of 'control'"):
        read_csv(write(tmp_path, GOOD), "mixed", baseline="control")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ResultsError, match="UTF-8"):
        read_csv(tmp_path / "binary.csv", "mixed")


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(("\ufeff" + HEADER + "\r\n" + GOOD[0] + "\r\n\r\n" + GOOD[1] + "\r\n").encode())
    assert read_csv(path, "mixed").variants == ("baseline", "ld")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("dead: {meaning: m, variants: {mixed: [lx]}}", "lx"),
        ("dead: {meaning: m, variant: {mixed: [ld]}}", "'dead' is not understood"),
        ("dead: {meaning: m, variants: {mixed: ld}}", "'dead' is not understood"),
        ("[1, 2]", "holds list"),
        ("a: [", "not a YAML file"),
    ],
)
def test_a_bad_flag_file_is_an_error(tmp_path: Path, content: str, words: str) -> None:
    path = write(tmp_path, GOOD)
    path.with_suffix(".flags.yaml").write_text(content)
    with pytest.raises(ResultsError, match=words):
        read_csv(path, "mixed")


def test_flags_beside_a_file_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    path.with_suffix(".flags.yaml").write_text("dead: {meaning: why, variants: {mixed: [ld], other: [x]}}")
    table = read_csv(path, "mixed")
    assert table.flags("ld") == {"dead"}
    assert table.flags("baseline") == frozenset()
    assert table.flag_meanings == (("dead", "why"),)


def test_table_means_are_over_the_scores_there_are() -> None:
    table = ResultTable.from_scores(
        [score(seed=1, accuracy=10), score(seed=2, accuracy=20), score(seed=3, benchmark="b", accuracy=5)]
    )
    assert table.benchmarks == ("a", "b")
    assert table.means() == {"baseline": {"a": 15.0, "b": 5.0}}
    assert table.seeds("baseline") == (1, 2, 3)


def test_table_checks_itself_and_cannot_be_changed() -> None:
    with pytest.raises(ResultsError, match="no scores"):
        ResultTable((), ("a",))
    with pytest.raises(ResultsError, match="two scores"):
        ResultTable.from_scores([score(), score(accuracy=1)])
    with pytest.raises(ResultsError, match="not a benchmark"):
        ResultTable.from_scores([score(benchmark="b")], ["a"])
    with pytest.raises(ResultsError, match="twice"):
        ResultTable.from_scores([score()], ["a", "a"])
    with pytest.raises(ResultsError):
        score(accuracy=math.inf)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ResultTable.from_scores([score()]).benchmarks = ("b",)  # type: ignore[misc]
    assert issubclass(ResultsError, EquipoiseError)
    assert issubclass(ResultsError, ValueError)


def test_only_seeds_touches_one_variant() -> None:
    table = ResultTable.from_scores([score(v, seed) for v in ("baseline", "x") for seed in (1, 2)])
    less = table.only_seeds("baseline", {2, 9})
    assert (less.seeds("baseline"), less.seeds("x"), table.seeds("baseline")) == ((2,), (1, 2), (1, 2))
    with pytest.raises(ResultsError, match="seeds it has: 1, 2"):
        table.only_seeds("baseline", {7})


def test_items_are_the_fewest_and_unknown_if_any_is() -> None:
    one = Score(variant="v", seed=1, benchmark="a", accuracy_percent=1, items=10)
    assert ResultTable.from_scores([one, dataclasses.replace(one, seed=2, items=8)]).items("v", "a") == 8
    assert ResultTable.from_scores([one, dataclasses.replace(one, seed=2, items=None)]).items("v", "a") is None
