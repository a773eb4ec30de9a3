"""Claims judged: on the published table, on tables made to be clear, and on the record of a study."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import norm

from equipoise.platform.analysis.claims.evidence import from_csv, from_studies
from equipoise.platform.analysis.claims.judge import Evidence, Finding, Judgement, judge_claims
from equipoise.platform.analysis.claims.scene import REFUTED, SUPPORTED, UNCLEAR, UNTESTABLE
from equipoise.platform.analysis.claims.vocabulary import (
    BalancedCheck,
    ClaimFile,
    CountCheck,
    GainCheck,
    LargestCheck,
    load_claims,
)
from equipoise.platform.errors import SettingsError
from equipoise.platform.record.client import TrackingError
from equipoise.platform.record.home import Home
from equipoise.platform.record.ledger import Ledger
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.files import shipped
from equipoise.platform.settings.preset import load_preset
from equipoise.platform.settings.trial import TrialSettings, load_regime
from equipoise.platform.settings.variant import load_variant
from equipoise.platform.stats.published import published_path
from equipoise.platform.stats.table import ResultTable, Score

ROLES = ("diving48", "ssv2", "imagenet100")
Accuracies = Mapping[str, Mapping[int, float]]
Call = Callable[..., tuple[int, str, str]]


def rows() -> list[dict[str, str]]:
    with published_path().open() as handle:
        return list(csv.DictReader(handle))


def write(folder: Path, content: list[dict[str, str]], flags: bool = True) -> Path:
    """A CSV file of these rows, with the published flags beside it."""
    path = folder / "table.csv"
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, content[0])
        writer.writeheader()
        writer.writerows(content)
    if flags:
        beside = published_path().with_suffix(".flags.yaml")
        path.with_suffix(".flags.yaml").write_text(beside.read_text())
    return path


def with_repeats(content: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows, and so many equal runs of one more variant in each regime that seeds are known to matter little."""
    kept = [r for r in content if r["probe"] in ("attentive", "linear")]
    last = {(r["regime"], r["benchmark"]): r for r in kept}.values()
    runs = range(1000, 1600)
    return [
        *content,
        *({**r, "variant": "again", "seed": str(s), "top1_percent": f"{50 + s % 2 / 50}"} for r in last for s in runs),
    ]


def judged(path: Path, *numbers: int) -> dict[int, Finding]:
    """Findings of these claims of the paper."""
    loaded = load_claims()
    chosen = loaded.model_copy(update={"claims": tuple(c for c in loaded.claims if c.id in numbers)})
    return {f.claim.id: f for f in judge_claims(chosen, from_csv(path, chosen)).findings}


@pytest.fixture(scope="module")
def judgement() -> Judgement:
    loaded = load_claims()
    return judge_claims(loaded, from_csv(published_path(), loaded))


@pytest.fixture(scope="module")
def known_seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Finding]:
    """The published table, were seeds known to matter little."""
    return judged(write(tmp_path_factory.mktemp("known"), with_repeats(rows())), *range(1, 13))


@pytest.fixture(scope="module")
def published(judgement: Judgement) -> dict[int, Finding]:
    return {f.claim.id: f for f in judgement.findings}


def only(check: dict[str, Any], regime: str = "mixed", **more: Any) -> ClaimFile:
    """A file of one claim with one check."""
    claim = {"id": 1, "title": "t", "statement": "s", "regime": regime, "checks": [check]}
    return parse(ClaimFile, {"source": "made up", "claims": [claim], **more}, "made up")


REPEATED: Mapping[int, float] = {100 + s: 40 + s % 2 / 20 for s in range(20)}


def verdict(
    check: dict[str, Any],
    accuracies: Mapping[str, Accuracies],
    items: int | None = 5000,
    repeats: Mapping[int, float] = REPEATED,
    **more: Any,
) -> Any:
    """The finding of one check on benchmark -> variant -> seed -> percent; ``repeats`` show what seeds do."""
    if repeats:
        accuracies = {b: {**variants, "again": repeats} for b, variants in accuracies.items()}
    scores = [
        Score(variant=v, seed=s, benchmark=b, accuracy_percent=a, items=items)
        for b, variants in accuracies.items()
        for v, seeds in variants.items()
        for s, a in seeds.items()
    ]
    evidence = Evidence(title="made up", tables={"mixed": ResultTable(tuple(scores), tuple(accuracies))}, **more)
    return judge_claims(only(check), evidence).findings[0]


# ---- the shipped file


def test_the_shipped_claims_are_twelve_and_name_what_ships() -> None:
    loaded = load_claims()
    assert [claim.id for claim in loaded.claims] == list(range(1, 13))
    regimes = shipped("regimes")
    assert set(loaded.regimes()) <= set(regimes)
    scored = {b for name in regimes for b in load_regime(name).benchmarks} | {"synthetic_motion"}
    assert set(loaded.benchmarks()) <= scored
    for claim in loaded.claims:
        for check in claim.checks:
            content = check.content
            names: tuple[str, ...] = ()
            if isinstance(content, GainCheck | LargestCheck):
                names += content.variants
            if isinstance(content, LargestCheck | CountCheck | BalancedCheck):
                names += content.among
            for name in names:
                assert claim.regime in load_variant(name).regimes, name


def test_every_claimed_gain_is_a_difference_of_published_accuracies(published: dict[int, Finding]) -> None:
    """Against the file itself; the baseline is the one the paper quotes: seed 42 in the mixed regime."""
    table = {
        (r["regime"], r["variant"], r["seed"], r["benchmark"]): float(r["top1_percent"])
        for r in rows()
        if r["probe"] in ("attentive", "linear")
    }
    compared = 0
    for finding in published.values():
        for check, record in zip(finding.claim.checks, finding.numbers, strict=True):
            if check.gain is None:
                continue
            regime, benchmark = finding.claim.regime, check.gain.benchmark
            base = table[regime, "baseline", "42" if regime == "mixed" else "239", benchmark]
            expected = {v: table[regime, v, "239", benchmark] - base for v in check.gain.variants}
            assert record["found"] == pytest.approx(expected)
            if isinstance(check.gain.claimed, float):
                assert list(expected.values()) == [pytest.approx(check.gain.claimed, abs=0.005)]
                assert record["agrees"] is True
                compared += 1
    assert compared == 9, "the points of claims 1, 3, 4, 7 and 8"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"claims": [{"id": 1, "title": "t", "statement": "s", "regime": "mixed"}]}, ["checks is missing"]),
        ({"sauce": "x"}, ["unknown key 'sauce'", "did you mean 'source'?"]),
        ({"gain": {"variant": ["ld"], "benchmark": "ssv2", "direction": "up"}}, ["did you mean 'variants'?"]),
        ({"gain": {"variants": ["ld"], "benchmark": "ssv2"}}, ["a direction (up or down) or a margin (within)"]),
        ({"gain": {"variants": ["ld"], "benchmark": "ssv2", "direction": "up", "claimed": [2, 1]}}, ["backwards"]),
        ({"gian": {}}, ["unknown key", "did you mean 'gain'?"]),
        ({}, ["a check has one kind, none given"]),
        ({"largest": {"variants": ["lx"], "benchmark": "b", "direction": "up", "among": ["ld", "hw"]}}, ["'ld'"]),
        ({"largest": {"variants": ["ld"], "benchmark": "b", "direction": "up", "among": ["ld", "ld"]}}, ["others too"]),
        ({"count": {"benchmark": "b", "lose_more_than": 5, "claimed": 3, "among": ["ld"]}}, ["claimed 3 of 1"]),
        ({"association": {"objectives": ["deltas"], "benchmark": "b"}}, ["unknown objective", "'delta'"]),
        ({"balanced": {"variant": "x", "among": ["ld", "hw"], "benchmarks": ["a", "b"]}}, ["not in among"]),
    ],
)
def test_a_mistake_in_a_file_of_claims_is_named(change: dict[str, Any], words: list[str]) -> None:
    top = {k: v for k, v in change.items() if k in ("claims", "sauce")}
    check = {k: v for k, v in change.items() if k not in top}
    with pytest.raises(SettingsError) as caught:
        only(check if check or not top else {"embedding": {"width": 1, "benchmarks": ["b"]}}, **top)
    for word in words:
        assert word in str(caught.value)


def test_two_claims_with_one_number_and_two_kinds_in_one_check_are_refused() -> None:
    gain = {"variants": ["ld"], "benchmark": "b", "direction": "up"}
    width = {"width": 1, "benchmarks": ["b"]}
    with pytest.raises(SettingsError, match="a check has one kind, gain, embedding given"):
        only({"gain": gain, "embedding": width})
    claim = {"id": 3, "title": "t", "statement": "s", "regime": "mixed", "checks": [{"gain": gain}]}
    with pytest.raises(SettingsError, match="claim 3 is there twice"):
        only({"gain": gain}, claims=[claim, claim])


# ---- the published table


def test_which_claims_survive_on_the_published_table(judgement: Judgement) -> None:
    assert {f.claim.id: f.verdict for f in judgement.findings} == {
        **dict.fromkeys(range(1, 13), UNTESTABLE),
        8: UNCLEAR,  # one difference: all that one degree of freedom can be asked about
    }
    assert judgement.sentence == "0 of 12 claims supported, 0 refuted, 1 not distinguishable, 11 not testable here."
    for finding in judgement.findings:
        assert any(phrase.startswith("seeds: ") for phrase in finding.missing) == (finding.claim.id not in (8, 11))
    assert any("2.55 points on imagenet100 (1 degree of freedom), 1.25 points on ssv2" in n for n in judgement.notes)
    assert any(n.startswith("ucf101: single seeds, and nothing that was trained ran with two") for n in judgement.notes)


def test_the_claims_were_seeds_known_to_matter_little(known_seeds: dict[int, Finding]) -> None:
    """What the test items alone would say, which another seed might undo."""
    supported = {number for number, finding in known_seeds.items() if finding.verdict == SUPPORTED}
    assert supported == {4, 8, 12}
    assert not any(finding.verdict == REFUTED for finding in known_seeds.values())


@pytest.mark.parametrize("benchmark", ["ssv2", "imagenet100"])
@pytest.mark.parametrize("move", [{"direction": "up"}, {"direction": "down"}, {"within": 0.5}])
def test_the_published_baseline_does_not_beat_its_own_other_seed(benchmark: str, move: dict[str, Any]) -> None:
    """Passed through as a variant, with and without the repeat that it is itself."""
    one, other = (
        float(r["top1_percent"])
        for seed in ("42", "239")
        for r in rows()
        if (r["regime"], r["variant"], r["seed"], r["benchmark"]) == ("mixed", "baseline", seed, benchmark)
    )
    check = {"gain": {"variants": ["a"], "benchmark": benchmark, **move}}
    for first, second in ((one, other), (other, one)):
        alone = verdict(check, {benchmark: {"baseline": {0: first}, "a": {1: second}}}, repeats={})
        assert alone.verdict == UNTESTABLE
        assert alone.missing == (f"seeds: a trained variant that ran with two of them on {benchmark}",)
        for seed in (0, 1, 2):
            both = {"baseline": {0: first, 1: second}, "a": {seed: second}}
            assert verdict(check, {benchmark: both}, repeats={}).verdict == UNCLEAR


def test_one_repeat_tells_nothing_of_several_differences() -> None:
    """One degree of freedom: a single difference may be asked, two at once may not; untrained rows are no repeats."""
    check = {"gain": {"variants": ["a", "b"], "benchmark": "x", "direction": "up"}}
    table = {"baseline": {0: 40.0, 1: 40.1}, "a": {2: 60.0}, "b": {3: 60.0}}
    found = verdict(check, {"x": table}, repeats={}, items=10**6)
    assert found.verdict == UNTESTABLE
    (missing,) = found.missing
    assert missing.startswith("seeds: more than the 1 degree of freedom")
    one = {"gain": {**check["gain"], "variants": ["a"]}}
    assert verdict(one, {"x": table}, repeats={}, items=10**6).verdict == SUPPORTED
    untrained = {"baseline": {0: 40.0}, "a": {2: 60.0}, "random_init": {0: 1.0, 1: 1.1, 2: 1.2}}
    assert verdict(one, {"x": untrained}, repeats={}).verdict == UNTESTABLE


def test_rows_of_untrained_encoders_and_dead_losses_are_flagged(published: dict[int, Finding]) -> None:
    flagged = {
        number: {f["flag"]: set(f["variants"]) for f in finding.flags if f["flag"] != "baseline_below_untrained"}
        for number, finding in published.items()
        if finding.flags
    }
    kinematic = {r["variant"] for r in rows() if r["variant"].startswith("kinematic")}
    assert flagged[2] == {"untrained_encoder": kinematic}
    assert flagged[10] == {"untrained_encoder": {"kinematic", "kinematic_0_1"}}
    assert flagged[3] == {"dead_loss": {"fwm_hw_ld"}}
    for number in (4, 5, 9, 12):
        assert flagged[number] == {"dead_loss": {"hw_ld", "fwm_hw_ld"}}
    assert all(f["meaning"] for finding in published.values() for f in finding.flags)
    assert not any(f["flag"] in ("untrained_encoder", "dead_loss") for n in (1, 6, 7, 8) for f in published[n].flags)


def test_a_row_of_an_untrained_encoder_neither_supports_nor_refutes(
    published: dict[int, Finding], tmp_path: Path
) -> None:
    """Its numbers are shown all the same; without the flag they would decide."""
    assert published[10].verdict == UNTESTABLE
    assert published[10].numbers[0]["found"] == {"kinematic": 40.0, "kinematic_0_1": 45.0}
    assert any("trained encoders" in phrase for phrase in published[10].missing)
    assert {c["verdict"] for c in published[10].numbers[0]["against"]["all"]["comparisons"]} == {UNTESTABLE}
    believed = judged(write(tmp_path, with_repeats(rows()), flags=False), 2, 10)
    assert believed[10].verdict == SUPPORTED
    assert believed[2].verdict != UNTESTABLE


def test_the_trained_baseline_below_the_untrained_rows_is_said(published: dict[int, Finding]) -> None:
    below = {
        n: f["detail"] for n, found in published.items() for f in found.flags if f["flag"] == "baseline_below_untrained"
    }
    assert set(below) == {1, 2, 10}
    untrained = [float(r["top1_percent"]) for r in rows() if r["variant"] in ("kinematic_0_1", "kinematic_accel")]
    assert untrained
    assert "imagenet100 12.02 against 13.6" in below[1]
    assert "ssv2 2.07 against 3.12" in below[1]
    assert "diving48" not in below[1]


def test_intervals_come_from_the_test_set_sizes_of_the_file(published: dict[int, Finding]) -> None:
    z = norm.isf(0.025)
    sizes = {r["benchmark"]: int(r["val_items"]) for r in rows()}
    for record in published[1].numbers:
        (one,) = record["against"]["all"]["comparisons"]
        n = sizes[one["benchmark"]]
        p, q = one["accuracy"]["percent"] / 100, one["against_accuracy"]["percent"] / 100
        reach = 100 * z * math.sqrt(p * (1 - p) / n + q * (1 - q) / n)
        assert one["low"] == pytest.approx(one["difference"] - reach, abs=1e-5)
        assert one["high"] == pytest.approx(one["difference"] + reach, abs=1e-5)
        assert one["accuracy"]["low"] == pytest.approx(100 * (p - z * math.sqrt(p * (1 - p) / n)), abs=1e-5)
        assert one["interval_over"] == "items"
        assert one["items"] == n


def test_larger_test_sets_decide_and_unknown_ones_cannot(tmp_path: Path) -> None:
    larger = [{**r, "val_items": str(200 * int(r["val_items"]))} for r in rows()]
    assert judged(write(tmp_path, with_repeats(larger)), 1)[1].verdict == SUPPORTED
    unknown = judged(write(tmp_path, [{**r, "val_items": ""} for r in rows()]), 1)[1]
    assert unknown.verdict == UNTESTABLE
    assert any("number of test items of diving48" in phrase for phrase in unknown.missing)
    assert unknown.numbers[0]["found"] == {"motion_guided": pytest.approx(0.30)}


def test_a_gain_that_is_a_loss_refutes(tmp_path: Path) -> None:
    lost = [
        {**r, "top1_percent": "0.5"}
        if (r["regime"], r["variant"], r["benchmark"]) == ("ucf101", "motion_guided", "ssv2")
        else r
        for r in rows()
    ]
    found = judged(write(tmp_path, with_repeats(lost)), 1)[1]
    assert found.verdict == REFUTED
    assert [record["verdict"] for record in found.numbers] == [UNCLEAR, UNCLEAR, REFUTED]
    assert found.numbers[2]["agrees"] is False


def test_both_baselines_must_say_so(known_seeds: dict[int, Finding], tmp_path: Path) -> None:
    """ld on ImageNet-100: below the quoted baseline, above that of its own seed."""
    appearance = known_seeds[6].numbers[2]["against"]
    assert appearance["quoted"]["comparisons"][0]["against_seeds"] == [42]
    assert appearance["quoted"]["verdict"] == SUPPORTED
    assert appearance["same_seed"]["comparisons"][0]["against_seeds"] == [239]
    assert appearance["same_seed"]["comparisons"][0]["difference"] == pytest.approx(22.80 - 21.26)
    assert appearance["same_seed"]["verdict"] == UNCLEAR
    assert known_seeds[6].numbers[2]["depends_on_baseline_seed"] is True
    assert set(known_seeds[6].numbers[1]["against"]) == {"quoted"}, "seed 239 has no baseline on Diving-48"
    quoted_only = [r for r in rows() if (r["regime"], r["variant"], r["seed"]) != ("mixed", "baseline", "239")]
    assert judged(write(tmp_path, with_repeats(quoted_only)), 6)[6].verdict == SUPPORTED


def test_differences_of_one_claim_are_corrected_together(known_seeds: dict[int, Finding]) -> None:
    """fwm on ImageNet-100: its own interval leaves out 0, but it is one of three differences."""
    quoted = [record["against"]["quoted"]["comparisons"][0] for record in known_seeds[7].numbers]
    assert quoted[0]["low"] > 0
    assert quoted[0]["verdict"] == UNCLEAR
    order = sorted(quoted, key=lambda c: c["p_value"])
    running = 0.0
    for place, one in enumerate(order):
        running = max(running, min(1.0, (3 - place) * one["p_value"]))
        assert one["p_adjusted"] == pytest.approx(running, abs=1e-5)


def test_the_count_of_claim_5_by_an_independent_formula(known_seeds: dict[int, Finding]) -> None:
    count, most = known_seeds[5].numbers
    quoted, own = count["against"]["quoted"], count["against"]["same_seed"]
    assert (quoted["found"], quoted["of"], own["found"]) == (10, 14, 5)
    assert quoted["at_least"] <= 10 <= quoted["at_most"]
    assert own["at_most"] < 10, "against the baseline of their own seed ten cannot lose that much"
    assert (quoted["verdict"], own["verdict"]) == (UNCLEAR, REFUTED)
    seeds = ((24.86 - 21.26) ** 2 / 2 + 600 * 0.01**2) / 600  # 600 degrees of freedom, and two equal runs each
    for one in quoted["comparisons"]:
        p, q = one["accuracy"]["percent"], one["against_accuracy"]["percent"]
        error = math.sqrt((p * (100 - p) + q * (100 - q)) / 5000 + 2 * seeds)
        expected = 2 * norm.sf(abs(p - q + 5) / error)
        assert one["p_value"] == pytest.approx(expected, rel=1e-2, abs=2e-6), one["variant"]
    assert most["found"] == ["fac", "ltc"], "ac is not among the two lowest"
    assert most["agrees"] is False


# ---- the checks, on tables that leave no doubt


def test_largest() -> None:
    check = {"largest": {"variants": ["b"], "benchmark": "x", "direction": "up", "among": ["a", "b", "c"]}}
    assert verdict(check, {"x": {"a": {0: 30.0}, "b": {0: 50.0}, "c": {0: 40.0}}}).verdict == SUPPORTED
    assert verdict(check, {"x": {"a": {0: 30.0}, "b": {0: 50.0}, "c": {0: 49.9}}}).verdict == UNCLEAR
    assert verdict(check, {"x": {"a": {0: 30.0}, "b": {0: 50.0}, "c": {0: 60.0}}}).verdict == REFUTED
    found = verdict(check, {"x": {"a": {0: 30.0}, "b": {0: 50.0}}})
    assert found.verdict == UNTESTABLE
    assert found.missing == ("a score of c on x",)
    down = {"largest": {**check["largest"], "direction": "down", "variants": ["a"]}}
    assert verdict(down, {"x": {"a": {0: 30.0}, "b": {0: 50.0}, "c": {0: 40.0}}}).verdict == SUPPORTED


def test_within_a_margin_takes_evidence() -> None:
    check = {"gain": {"variants": ["a"], "benchmark": "x", "within": 2.0}}
    assert verdict(check, {"x": {"baseline": {0: 40.0}, "a": {0: 39.0}}}, items=100_000).verdict == SUPPORTED
    assert verdict(check, {"x": {"baseline": {0: 40.0}, "a": {0: 39.0}}}, items=500).verdict == UNCLEAR
    assert verdict(check, {"x": {"baseline": {0: 40.0}, "a": {0: 30.0}}}).verdict == REFUTED


def test_count() -> None:
    check = {"count": {"benchmark": "x", "lose_more_than": 5.0, "claimed": 2, "among": ["a", "b", "c"]}}
    base = {"baseline": {0: 40.0}}
    assert verdict(check, {"x": {**base, "a": {0: 20.0}, "b": {0: 20.0}, "c": {0: 40.0}}}).verdict == SUPPORTED
    assert verdict(check, {"x": {**base, "a": {0: 20.0}, "b": {0: 39.0}, "c": {0: 40.0}}}).verdict == REFUTED
    assert verdict(check, {"x": {**base, "a": {0: 20.0}, "b": {0: 34.8}, "c": {0: 40.0}}}).verdict == UNCLEAR
    assert verdict(check, {"x": {**base, "a": {0: 20.0}, "c": {0: 40.0}}}).verdict == UNTESTABLE
    decided = verdict(check, {"x": {**base, "a": {0: 40.0}, "b": {0: 40.0}}})
    assert decided.verdict == REFUTED, "whatever c would score"


def test_balanced() -> None:
    check = {"balanced": {"variant": "a", "among": ["a", "b"], "benchmarks": ["x", "y"]}}
    base = {"baseline": {0: 40.0}}

    def found(a: tuple[float, float], b: tuple[float, float]) -> Any:
        table = {name: {**base, "a": {0: 40 + a[i]}, "b": {0: 40 + b[i]}} for i, name in enumerate(("x", "y"))}
        return verdict(check, table, items=20_000)

    assert found((2, 2), (20, -6)).verdict == SUPPORTED, "the largest gain somewhere does not make a balance"
    assert found((20, -6), (2, 2)).verdict == REFUTED
    assert found((2.0, 2.1), (2.1, 2.0)).verdict == UNCLEAR
    assert found((2, 2), (20, -6)).numbers[0]["found"] == "a"
    table = {"x": {**base, "a": {0: 41.0}, "b": {0: 41.0}}, "y": {**base, "a": {0: 41.0}}}
    assert verdict(check, table).verdict == UNTESTABLE


MIXES = {
    **{f"t{i}": frozenset({"delta"}) for i in range(4)},
    **{f"o{i}": frozenset({"hard_region"}) for i in range(4)},
}


@pytest.mark.parametrize(
    ("inside", "outside", "expected"),
    [
        ((30, 31, 29, 30), (40, 41, 39, 40), SUPPORTED),
        ((50, 51, 49, 50), (30, 31, 29, 30), REFUTED),
        ((30, 31, 29, 30), (30, 31, 29, 30), UNCLEAR),  # below the baseline, but so is everyone
        ((30, 31, 29), (40, 41), UNTESTABLE),
    ],
)
def test_association(inside: tuple[float, ...], outside: tuple[float, ...], expected: str) -> None:
    check = {"association": {"objectives": ["delta"], "benchmark": "x"}}
    scores = {"baseline": {0: 40.0}, **{f"t{i}": {0: float(v)} for i, v in enumerate(inside)}}
    scores |= {f"o{i}": {0: float(v)} for i, v in enumerate(outside)}
    assert verdict(check, {"x": scores}, mixes=MIXES).verdict == expected


def test_all_variants_share_the_luck_of_one_baseline() -> None:
    """Below one baseline and below the others, but no further than another seed of the baseline might put it."""
    check = {"association": {"objectives": ["delta"], "benchmark": "x"}}
    scores = {"baseline": {0: 34.0}, **{f"t{i}": {0: 30.0 + i / 2} for i in range(4)}}
    scores |= {f"o{i}": {0: 40.0 + i / 2} for i in range(4)}
    wide = {100 + s: 40.0 + 3 * (s % 2) for s in range(20)}
    assert verdict(check, {"x": scores}, mixes=MIXES).verdict == SUPPORTED
    assert verdict(check, {"x": scores}, mixes=MIXES, repeats=wide).verdict == UNCLEAR
    assert verdict(check, {"x": scores}, mixes=MIXES, repeats={}).verdict == UNTESTABLE


def test_association_leaves_out_what_it_does_not_know_or_what_is_flagged() -> None:
    check = {"association": {"objectives": ["delta"], "benchmark": "x"}}
    scores = {
        "baseline": {0: 40.0},
        "random_init": {0: 1.0},
        "unknown": {0: 1.0},
        **{v: {0: 35.0 + i % 3} for i, v in enumerate(MIXES)},
    }
    found = verdict(check, {"x": scores}, mixes=MIXES, flags={"t3": frozenset({"dead_loss"})})
    arm = found.numbers[0]["against"]["all"]
    assert arm["group"] == ["t0", "t1", "t2"]
    assert arm["left_out"] == ["unknown", "t3", "again"]
    assert {f["flag"]: f["variants"] for f in found.flags}["dead_loss"] == ["t3"]


@pytest.mark.parametrize(("width", "expected"), [(768, SUPPORTED), (64, UNTESTABLE), (None, UNTESTABLE)])
def test_embedding(width: int | None, expected: str) -> None:
    check = {"embedding": {"width": 768, "benchmarks": ["x", "y"]}}
    table = {"x": {"baseline": {0: 40.0}}, "y": {"baseline": {0: 40.0}}}
    found = verdict(check, table, width=width)
    assert found.verdict == expected
    assert bool(found.missing) == (expected == UNTESTABLE)


def test_seeds_are_used_where_there_are_several() -> None:
    """The same mean gain, steady over seeds or not."""
    check = {"gain": {"variants": ["a"], "benchmark": "x", "direction": "up"}}
    steady = {"baseline": {0: 40.0, 1: 40.1, 2: 39.9}, "a": {0: 45.0, 1: 45.2, 2: 44.9}}
    shaky = {"baseline": {0: 40.0, 1: 48.0, 2: 32.0}, "a": {0: 45.0, 1: 35.0, 2: 55.0}}
    assert verdict(check, {"x": steady}).verdict == SUPPORTED
    assert verdict(check, {"x": shaky}).verdict == UNCLEAR


# ---- a study


SEEDS = (0, 1, 2)
STUDY = {
    "baseline": (30.0, 60.0, 12.0),
    "random_init": (35.0, 50.0, 9.0),
    "ld": (30.0, 66.0, 6.0),
    "hw_ld": (24.0, 61.0, 12.0),
}


@pytest.fixture(scope="module")
def study_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The record of a small study in the published reading, as its driver writes it."""
    home = Home(tmp_path_factory.mktemp("claims"))
    tracker = home.tracker()
    parent = tracker.start_study("small", "ablation", {"regime": "miniature"})
    benchmarks = ("mini_dive", "mini_ssv2", "mini_in")
    tracker.tag(parent, benchmarks=json.dumps(benchmarks))
    for spread, (variant, accuracies) in enumerate(STUDY.items(), 1):
        for seed in SEEDS:
            settings = TrialSettings(
                variant_name=variant,
                variant=load_variant(variant),
                reading="as_published",
                seed=seed,
                preset=load_preset("nano"),
                regime=load_regime("miniature"),
            )
            run = tracker.start_trial(parent, "small", f"{variant}-{seed}", "ablation", settings, "hash")
            shift = 0.1 * spread * (seed - 1)
            tracker.metrics(run, {b: a + shift for b, a in zip(benchmarks, accuracies, strict=True)}, 0)
            tracker.tag(run, **{f"items.{b}": "1000" for b in benchmarks})
            tracker.end(run, "finished")
    return home


def test_a_miniature_study_stands_in(study_home: Home) -> None:
    loaded = load_claims()
    evidence = from_studies(StudyRecord.open(study_home, "small"))
    assert evidence.width == load_preset("nano").model.encoder.width
    found = {f.claim.id: f for f in judge_claims(loaded, evidence).findings}
    ld_alone = found[6]
    assert [record["benchmarks"] for record in ld_alone.numbers] == [["mini_ssv2"], ["mini_dive"], ["mini_in"]]
    assert [record["verdict"] for record in ld_alone.numbers] == [SUPPORTED, UNCLEAR, SUPPORTED]
    assert ld_alone.stand_ins == {
        "mixed": "miniature",
        "ssv2": "mini_ssv2",
        "diving48": "mini_dive",
        "imagenet100": "mini_in",
    }
    assert found[3].missing[0] == "a score of fwm_hw_ld on mini_in, mini_ssv2, mini_dive"
    gain, largest = found[4].numbers
    assert (gain["verdict"], gain["agrees"]) == (SUPPORTED, None), "a direction, but no published points"
    assert largest["verdict"] == UNTESTABLE
    assert found[4].verdict == UNTESTABLE
    assert any(phrase.startswith("a score of motion_guided, amg") for phrase in found[4].missing)
    assert found[9].flags[0] == {**found[9].flags[0], "flag": "dead_loss", "variants": ["hw_ld"]}
    assert found[11].verdict == UNTESTABLE
    assert any("64 wide" in phrase for phrase in found[11].missing)
    assert found[10].verdict == UNTESTABLE
    assert {f["flag"] for f in found[6].flags} == {"baseline_below_untrained"}, "on mini_dive"


def test_outcomes_of_items_are_paired_where_they_are_at_hand(study_home: Home) -> None:
    """ld is right wherever the baseline is, and on a few items more: by accuracies alone not to be told apart."""
    home = Home(study_home.root, None)
    tracker = home.tracker()
    parent = tracker.start_study("paired", "ablation", {"regime": "miniature"})
    tracker.tag(parent, benchmarks=json.dumps(["mini_ssv2"]))
    ledger = Ledger(home.folder("paired") / "ledger.db")
    items = 400
    for variant, right in (("baseline", 200), ("ld", 208)):
        settings = TrialSettings(
            variant_name=variant,
            variant=load_variant(variant),
            preset=load_preset("nano"),
            regime=load_regime("miniature"),
        )
        row = ledger.open_trial(variant, "ablation", settings.model_dump_json())
        correct = [i < right for i in range(items)]
        outcomes = {"path": [f"{i}.mp4" for i in range(items)], "label": [0] * items, "correct": correct}
        folder = home.folder("paired") / "trials" / row.key / "correctness"
        folder.mkdir(parents=True)
        pq.write_table(pa.table(outcomes), folder / "mini_ssv2.parquet")
        accuracy = 100 * right / items
        ledger.update(row.number, status="finished", result={"accuracies": {"mini_ssv2": accuracy}})
        run = tracker.start_trial(parent, "paired", row.key, "ablation", settings, "hash")
        tracker.metrics(run, {"mini_ssv2": accuracy}, 0)
        tracker.tag(run, **{"items.mini_ssv2": str(items)})
        tracker.end(run, "finished")
    ledger.close()
    claims = only({"gain": {"variants": ["ld"], "benchmark": "mini_ssv2", "direction": "up"}}, regime="miniature")
    evidence = from_studies(StudyRecord.open(home, "paired"))
    lows = []
    for one in (evidence, dataclasses.replace(evidence, correctness={})):
        finding = judge_claims(claims, one).findings[0]
        assert finding.verdict == UNTESTABLE, "one seed each"
        lows.append(finding.numbers[0]["against"]["all"]["comparisons"][0]["low"])
    assert lows[0] > 0 > lows[1]


def test_a_margin_of_real_points_is_no_margin_of_a_stand_in() -> None:
    check = {"gain": {"variants": ["a"], "benchmark": "x", "within": 2.0}}
    loaded = only(check, counterparts={"benchmarks": {"x": ["small_x"]}})
    scores = [
        Score(variant=v, seed=0, benchmark="small_x", accuracy_percent=40.0, items=10**6) for v in ("baseline", "a")
    ]
    table = ResultTable.from_scores(scores)
    found = judge_claims(loaded, Evidence(title="made up", tables={"mixed": table})).findings[0]
    assert found.verdict == UNTESTABLE
    assert "a margin for small_x: 2 points are of x" in found.missing


def test_a_regime_that_is_not_there_is_named() -> None:
    table = ResultTable.from_scores([Score(variant="baseline", seed=0, benchmark="x", accuracy_percent=40.0)])
    evidence = Evidence(title="made up", tables={"synthetic": table})
    found = judge_claims(only({"gain": {"variants": ["a"], "benchmark": "x", "direction": "up"}}), evidence).findings[0]
    assert found.verdict == UNTESTABLE
    assert found.missing == ("rows of the regime mixed (there: synthetic)",)


# ---- the command


@pytest.fixture
def call(call: Call, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run `equipoise claims` in this process."""
    monkeypatch.setenv("COLUMNS", "160")
    return functools.partial(call, "claims")


def test_json_is_strict_and_complete(call: Call) -> None:
    code, out, _ = call("--published", "--json")
    assert code == 0

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    found = json.loads(out, parse_constant=refuse)
    assert [claim["id"] for claim in found["claims"]] == list(range(1, 13))
    assert {"id", "verdict", "numbers", "flags"} <= set(found["claims"][0])
    assert sum(found["counts"].values()) == 12


def test_the_table_of_a_study(call: Call, study_home: Home) -> None:
    code, out, _ = call("small", "--home", study_home.root, "--details")
    assert code == 0
    assert "study small, miniature regime, preset nano, read as_published" in out
    assert "mini_ssv2: ld +6.00 [" in out
    assert "of 12 claims supported" in out.splitlines()[-1]


def test_the_table_of_the_published_file(call: Call) -> None:
    code, out, _ = call("--published")
    assert code == 0
    short = [line.strip() for line in out.splitlines()]
    assert len(short) < 25
    assert "4  ? not testable here    ld gains most on SSv2 (mixed); missing: seeds" in short
    assert short[-1].startswith("0 of 12 claims supported")
    code, out, _ = call("--published", "--details")
    assert code == 0
    lines = [line.strip() for line in out.splitlines()]
    assert set(short[1:13]) < set(lines)
    assert any(line.startswith("2   ? not testable here") for line in lines)
    assert "? diving48: motion_guided +0.30 [-1.44, +2.04] as published" in lines
    assert any(line.startswith("! untrained_encoder: kinematic, kinematic_0_1") for line in lines)
    assert any(line.startswith("! dead_loss: fwm_hw_ld") for line in lines)


def test_own_claims_by_path(call: Call, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    check = {"gain": {"variants": ["fac"], "benchmark": "imagenet100", "direction": "down"}}
    mine.write_text(json.dumps(only(check).model_dump(mode="json", exclude_none=True)))
    code, out, _ = call(write(tmp_path, with_repeats(rows())), "--claims", mine, "--json")
    assert code == 0
    assert [claim["verdict"] for claim in json.loads(out)["claims"]] == [SUPPORTED]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "give one of: a STUDY, a file ending in .csv, --published, or --reference NAME"),
        (("x.csv", "--published"), "give one of"),
        (("x.csv",), "no results file at x.csv"),
        (("smal", "--home", "."), "no study 'smal'"),
        (("--published", "--claims", "factorised_latent_dynamics"), "did you mean 'factorized_latent_dynamics'?"),
        (("--published", "--claims", "none.yaml"), "claims file none.yaml does not exist"),
    ],
)
def test_mistakes_get_one_sentence(words: tuple[str, ...], expected: str, call: Call) -> None:
    code, _, err = call(*words)
    assert code != 0
    assert "Traceback" not in err
    assert expected in " ".join(err.split())


def test_a_study_without_a_finished_trial_says_so(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    tracker = home.tracker()
    parent = tracker.start_study("empty", "ablation", {"regime": "miniature"})
    tracker.tag(parent, benchmarks="[]")
    with pytest.raises(TrackingError, match="no finished trial"):
        from_studies(StudyRecord.open(home, "empty"))
