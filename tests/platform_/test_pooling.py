"""Several studies together: the numbers by independent formulas, refusals, and the command on real bundles."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.optimize import brentq
from scipy.stats import t as student

from equipoise.platform.analysis.pooling import HELPS, HURTS, UNCLEAR, PooledMix
from equipoise.platform.record.bundle import Bundle, Outcomes
from equipoise.platform.record.runs import KeptRun
from equipoise.platform.settings.trial import TrialSettings
from equipoise.platform.stats.meta import adjust, pool
from equipoise.platform.study.bundling import references

Call = Callable[..., tuple[int, str, str]]
Settings = Callable[[TrialSettings], TrialSettings]


def by_hand(y: np.ndarray[Any, Any], v: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Mean, standard error and tau by Paule and Mandel, with the larger of the two standard errors."""

    def scatter(tau2: float) -> float:
        w = 1 / (v + tau2)
        return float((w * (y - (w @ y) / w.sum()) ** 2).sum()) - (len(y) - 1)

    tau2 = float(brentq(scatter, 0, 1e4)) if scatter(0) > 0 else 0.0
    w = 1 / (v + tau2)
    mean = float(w @ y / w.sum())
    scaled = float((w * (y - mean) ** 2).sum() / (len(y) - 1))
    return mean, math.sqrt(max(1.0, scaled) / w.sum()), math.sqrt(tau2)


@pytest.mark.parametrize("studies", [2, 3, 7])
def test_a_pooled_difference_is_its_formula(studies: int) -> None:
    rng = np.random.default_rng(studies)
    for spread in (0.0, 0.3, 3.0):
        v = rng.uniform(0.2, 2.0, studies)
        y = rng.normal(1.0, spread, studies) + rng.normal(0, np.sqrt(v))
        found = pool(y.tolist(), v.tolist())
        mean, error, tau = by_hand(y, v)
        reach = float(student.ppf(0.975, studies - 1))
        assert found.estimate == pytest.approx(mean, abs=1e-5)
        assert found.tau == pytest.approx(tau, abs=1e-4)
        assert (found.low, found.high) == pytest.approx((mean - reach * error, mean + reach * error), abs=1e-4)
        assert found.p_value == pytest.approx(2 * float(student.sf(abs(mean) / error, studies - 1)), abs=1e-5)
        assert 0 <= found.i2 <= 1
        assert (found.prediction is None) == (studies == 2)
        if found.prediction is not None:
            assert found.prediction[0] < found.low < found.high < found.prediction[1]


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_intervals_cover_where_studies_truly_differ(tau: float) -> None:
    rng = np.random.default_rng(5)
    covered = []
    for _ in range(400):
        v = rng.uniform(0.3, 1.5, 4)
        found = pool((2 + rng.normal(0, tau, 4) + rng.normal(0, np.sqrt(v))).tolist(), v.tolist())
        covered.append(found.low <= 2 <= found.high)
    assert np.mean(covered) > 0.95 - 3 * math.sqrt(0.95 * 0.05 / len(covered))


def test_holm_is_its_formula() -> None:
    assert adjust([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert adjust([]) == []


def test_a_verdict_takes_the_family() -> None:
    found = pool([5.0, 5.1, 4.9], [0.01, 0.01, 0.01])
    for estimate, p, verdict in ((5.0, 0.01, HELPS), (-5.0, 0.01, HURTS), (5.0, 0.06, UNCLEAR)):
        pooled = dataclasses.replace(found, estimate=estimate, p_adjusted=p)
        assert PooledMix("m", "b", {}, pooled, 0.05).verdict == verdict


def elsewhere(kept: Bundle, name: str = "other", change: Settings = lambda s: s, seeds: int = 10) -> Bundle:
    """The same study as another laboratory's: its own name, runs and seeds, and settings that ``change`` gives."""

    def settings(text: str | None) -> str | None:
        if text is None:
            return None
        one = TrialSettings.model_validate_json(text)
        return change(one.model_copy(update={"seed": one.seed + seeds})).model_dump_json()

    def run(one: KeptRun) -> KeptRun:
        tags = {**one.data.tags, "equipoise.study": name}
        if tags["role"] != "study":
            tags |= {"seed": str(int(tags["seed"]) + seeds), "mlflow.parentRunId": f"x{tags['mlflow.parentRunId']}"}
        info = dataclasses.replace(one.info, run_id=f"x{one.info.run_id}")
        return dataclasses.replace(one, info=info, data=dataclasses.replace(one.data, tags=tags))

    rows = [
        dataclasses.replace(r, settings=settings(r.settings), run_id=r.run_id and f"x{r.run_id}") for r in kept.rows
    ]
    return dataclasses.replace(
        kept,
        about={**kept.about, "study": name},
        facts={**kept.facts, "parent": f"x{kept.facts['parent']}"},
        rows=tuple(rows),
        runs=tuple(run(one) for one in kept.runs),
    )


@pytest.fixture(scope="module")
def kept() -> Bundle:
    return Bundle.read(references()["miniature"])


def other_probe(one: TrialSettings) -> TrialSettings:
    probes = dict(one.preset.probes)
    probes["attentive"] = probes["attentive"].model_copy(update={"epochs": 7})
    return one.model_copy(update={"preset": one.preset.model_copy(update={"probes": probes})})


def longer(one: TrialSettings) -> TrialSettings:
    more = one.preset.optimisation.model_copy(update={"steps": 9000})
    return one.model_copy(update={"preset": one.preset.model_copy(update={"optimisation": more})})


def reordered(one: Outcomes) -> Outcomes:
    return dataclasses.replace(one, path=tuple(reversed(one.path)))


@pytest.mark.slow
def test_studies_of_two_laboratories_are_pooled(kept: Bundle, call: Call, tmp_path: Path) -> None:
    elsewhere(kept, change=longer).write(tmp_path / "other.bundle")
    words = ("pool", "miniature", tmp_path / "other.bundle", "--home", tmp_path / "home")
    code, out, err = call(*words, "--json", "--out", tmp_path / "pool.png")
    assert code == 0, err
    found = json.loads(out)
    assert [study["steps"] for study in found["studies"]] == [1200, 9000], "how long is trained may differ"
    assert {one["mix"] for one in found["mixes"]} >= {"hw", "amg"}
    for one in found["mixes"]:
        # The same outcomes twice: their mean, no scatter, and a narrower error than each alone.
        estimates = [study["estimate"] for study in one["studies"].values()]
        assert one["estimate"] == pytest.approx(np.mean(estimates))
        assert (one["tau"], one["i2"]) == (0, 0)
    assert [one["mix"] for one in found["untrained"]] == ["random_init"] * len(found["benchmarks"])
    assert "one degree of freedom" in found["notes"][0]
    with Image.open(tmp_path / "pool.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5
    assert "2 studies, test items" in call(*words)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"change": other_probe}, "by unlike protocols: probe"),
        ({"outcomes": True}, "by unlike protocols: items of the test part"),
        ({"seeds": 0}, "hold the same trial"),
        ({"name": "reference_miniature"}, "is given twice"),
    ],
)
def test_what_cannot_be_pooled_is_refused(
    change: dict[str, Any], message: str, kept: Bundle, call: Call, tmp_path: Path
) -> None:
    moved = change.pop("outcomes", False)
    other = elsewhere(kept, **change)
    if moved:
        other = dataclasses.replace(other, outcomes=tuple(reordered(one) for one in other.outcomes))
    folder = tmp_path / "there"
    folder.mkdir()
    other.write(folder / "other.bundle")
    code, _, err = call("pool", "miniature", folder / "other.bundle", "--home", tmp_path / "home")
    assert (code, message in err) == (1, True), err


def test_one_study_is_not_several(call: Call, tmp_path: Path) -> None:
    code, _, err = call("pool", "miniature", "--home", tmp_path)
    assert (code, "1 study given; pooling takes two or more" in err) == (1, True)
