"""What trials cost, and budgets that end a search."""

from __future__ import annotations

import pytest

from equipoise.platform.errors import SettingsError
from equipoise.platform.record.cost import Cost
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.search import Budget, Prices
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.settings.trial import Resources

CONTENT = {"name": "s", "regime": "miniature", "preset": "nano", "trials": 4}
SPACE = CONTENT | {"objectives": {"hard_region": {"low": 0.1, "high": 2.0}}}


@pytest.mark.parametrize(
    ("text", "hours", "unit"), [("40gpu-h", 40, "gpu"), (" 1.5 CPU-h", 1.5, "cpu"), (".5cpu-hours", 0.5, "cpu")]
)
def test_a_budget_is_written_with_its_unit(text: str, hours: float, unit: str) -> None:
    found = Budget.model_validate(text)
    assert (found.hours, found.unit) == (hours, unit)
    assert Budget.model_validate(str(found)) == found
    assert Budget.model_validate(found.model_dump()) == found


@pytest.mark.parametrize("text", ["40", "40h", "gpu-h", "-3gpu-h", "0cpu-h", "40 tpu-h", "1e3gpu-h"])
def test_another_budget_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="budget"):
        parse(SweepDefinition, {**SPACE, "budget": text}, "s")


def test_gpu_hours_need_a_gpu() -> None:
    with pytest.raises(SettingsError, match="budget 40gpu-h is never spent: trials have no GPU"):
        parse(SweepDefinition, {**SPACE, "budget": "40gpu-h"}, "s")
    found = parse(SweepDefinition, {**SPACE, "budget": "40gpu-h", "resources": {"gpus_per_worker": 0.5}}, "s")
    assert found.budget == Budget(hours=40, unit="gpu")


def test_hours_and_money_follow_the_resources() -> None:
    cost = Cost().plus(1800, Resources(workers=4, cpus_per_worker=3, gpus_per_worker=1)).plus(3600, Resources())
    assert cost.seconds == 5400
    assert (cost.hours("cpu"), cost.hours("gpu")) == (0.5 * 12 + 1, 2.0)
    assert cost.price(Prices(cpu_hour=0.05, gpu_hour=2.5)) == pytest.approx(7 * 0.05 + 2 * 2.5)
    assert Cost.of(cost.to_dict()) == cost
    assert Cost.of(None) == Cost()
    assert cost.metrics(None) == {"usage/cpu_hours": 7.0, "usage/gpu_hours": 2.0, "usage/lost_seconds": 0.0}


def test_work_done_twice_is_lost_once() -> None:
    cost = Cost()
    for trained in (10, 20, 30, 15, 25, 35, 35, 32):
        cost = cost.heard(trained)
    assert cost.lost == (30 - 15) + (35 - 32)
