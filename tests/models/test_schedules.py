from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equipoise.models.schedules import SCHEDULES, Constant, CosineDecay, LinearWarmup, weight_at

REFERENCE = Path(__file__).parents[1] / "reference"


def test_recorded_context_lambda() -> None:
    with np.load(REFERENCE / "context.npz", allow_pickle=False) as data:
        steps, values = data["lambda_schedule_iter"], data["lambda_schedule_value"]
    published = LinearWarmup(fraction=0.5, start=0.5)
    assert [weight_at(published, 0.5, int(s), 30_000) for s in steps] == pytest.approx(
        values.tolist(), rel=1e-9, abs=1e-12
    )


def test_recorded_annealing() -> None:
    with np.load(REFERENCE / "kinematic.npz", allow_pickle=False) as data:
        epochs, values = data["anneal_epoch"], data["anneal_coeff_for_coeff_0p1_epochs_100"]
    found = [weight_at("cosine_decay", 0.1, int(e) * 300, 30_000) for e in epochs]
    assert found == pytest.approx(values.tolist(), rel=1e-9)


def test_shapes() -> None:
    assert [weight_at(Constant(), 3.0, s, 10) for s in (0, 5, 10, 99)] == [3.0] * 4
    warm = LinearWarmup(fraction=0.5, start=0.2)
    assert [weight_at(warm, 2.0, s, 100) for s in (0, 20, 45, 70, 100)] == pytest.approx([0.0, 0.0, 1.0, 2.0, 2.0])
    assert [weight_at(CosineDecay(), 1.0, s, 4) for s in (0, 2, 4, 8)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert weight_at("linear_warmup", 1.0, 5, 100) == pytest.approx(0.5)
    assert tuple(SCHEDULES) == ("constant", "linear_warmup", "cosine_decay")


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="nearest is 'cosine_decay'"):
        weight_at("cosine", 1.0, 0, 10)
    with pytest.raises(ValueError, match="at least one step"):
        weight_at("constant", 1.0, 0, 0)
    with pytest.raises(ValueError, match="0 < fraction <= 1"):
        LinearWarmup(fraction=0.0)
    with pytest.raises(ValueError, match="end within training"):
        LinearWarmup(fraction=0.6, start=0.5)
