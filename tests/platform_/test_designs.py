"""Ablation designs: their cells and aliases against hand-made tables, and a sentence for every mistake."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from equipoise.platform.errors import SettingsError
from equipoise.platform.settings.base import parse
from equipoise.platform.settings.design import MOST_CELLS
from equipoise.platform.settings.factorial import Fraction, best_fraction, order
from equipoise.platform.settings.plan import Plan
from equipoise.platform.settings.study import AblationDefinition, load_ablation
from equipoise.platform.settings.variant import load_variant


def study(design: dict[str, Any], **changes: Any) -> AblationDefinition:
    content = {"name": "mine", "regime": "miniature", "preset": "nano", "design": design, **changes}
    return parse(AblationDefinition, content, "mine.yaml")


def plan(**design: Any) -> Plan:
    found = study(design).plan()
    assert found is not None
    return found


def weights(found: Plan) -> dict[str, dict[str, float]]:
    return {c.label: {k: s.weight for k, s in c.variant.objectives.items()} for c in found.cells}


# ---- fractions


@pytest.mark.parametrize(
    ("factors", "generated", "resolution", "shortest_words"),
    [  # Box, Hunter and Hunter, table 6.22: the best resolution, and how many words are as short as that
        (3, 1, 3, 1),
        (4, 1, 4, 1),
        (5, 1, 5, 1),
        (5, 2, 3, 2),
        (6, 1, 6, 1),
        (6, 2, 4, 3),
        (6, 3, 3, 4),
        (7, 2, 4, 1),
        (7, 3, 4, 7),
        (7, 4, 3, 7),
        (8, 2, 5, 2),
        (8, 3, 4, 3),
        (8, 4, 4, 14),
    ],
)
def test_best_fractions_are_those_of_the_tables(
    factors: int, generated: int, resolution: int, shortest_words: int
) -> None:
    found = best_fraction(factors, generated)
    assert found is not None
    assert found.resolution == resolution
    assert sum(word.bit_count() == resolution for word in found.words) == shortest_words
    assert len(set(found.cells)) == len(found.cells) == 2 ** (factors - generated)
    assert found.cells[0] == 0, "the baseline is a cell of every fraction"


def test_there_is_no_fraction_where_main_effects_would_be_confused() -> None:
    assert best_fraction(3, 2) is None
    assert best_fraction(7, 5) is None
    with pytest.raises(ValueError, match="too many fractions"):
        best_fraction(12, 6)


def columns(fraction: Fraction, effect: int) -> list[float]:
    """The effect's column in -1 and +1, one entry per cell, by multiplication."""
    return [
        float(np.prod([1.0 if cell >> i & 1 else -1.0 for i in range(fraction.factors) if effect >> i & 1]))
        for cell in fraction.cells
    ]


@pytest.mark.parametrize(("factors", "generated"), [(3, 0), (3, 1), (4, 1), (5, 2), (6, 2), (7, 4)])
def test_coefficients_and_aliases_follow_from_the_columns(factors: int, generated: int) -> None:
    """Two effects are confused exactly where their columns are equal or opposite."""
    fraction = best_fraction(factors, generated)
    assert fraction is not None
    every = range(1, 2**factors)
    for effect in [e for e in every if e.bit_count() <= 2]:
        mine = columns(fraction, effect)
        scale = 2.0 ** effect.bit_count() / len(fraction.cells)
        coefficients = fraction.coefficients(effect)
        assert [coefficients[c] for c in fraction.cells] == [scale * x for x in mine]
        expected = {}
        for other in (o for o in every if o != effect):
            sign = np.dot(mine, columns(fraction, other)) / len(mine)
            if sign:
                expected[other] = sign * 2.0 ** (effect.bit_count() - other.bit_count())
        assert fraction.aliases(effect) == expected


def test_a_contrast_estimates_its_effect_plus_its_aliases() -> None:
    """Cell means made of known effects, each in points of switching on, come back as the aliases say."""
    stream = np.random.default_rng(3)
    fraction = best_fraction(5, 2)
    assert fraction is not None
    effects = {mask: stream.normal() for mask in range(1, 32)}

    def mean(cell: int) -> float:
        # An effect of m factors is 2**(m-1) times that on coded units, whose column counts half.
        return math.fsum(
            value / 2.0 ** mask.bit_count() * (-1.0) ** (mask & ~cell).bit_count() for mask, value in effects.items()
        )

    for effect in (1, 2, 4, 8, 16, 3, 12):
        found = sum(value * mean(cell) for cell, value in fraction.coefficients(effect).items())
        assert found == pytest.approx(
            effects[effect] + sum(value * effects[other] for other, value in fraction.aliases(effect).items())
        )


# ---- cells


def test_the_2x2x2_of_the_paper() -> None:
    found = load_ablation("factorial_fwm_hw_ld", {})
    worked_out = found.plan()
    assert worked_out is not None
    fwm, hw, ld = {"static_appearance": 0.05, "cross_covariance": 0.01}, {"hard_region": 0.3}, {"latent_dynamics": 1.0}
    assert weights(worked_out) == {
        "baseline": {},
        "fwm": fwm,
        "hw": hw,
        "ld": ld,
        "fwm+hw": fwm | hw,
        "fwm+ld": fwm | ld,
        "hw+ld": hw | ld,
        "fwm+hw+ld": fwm | hw | ld,
    }
    assert [c.name for c in worked_out.contrasts] == ["fwm", "hw", "ld", "fwm × hw", "fwm × ld", "hw × ld"]
    assert all(not c.aliases for c in worked_out.contrasts)
    assert worked_out.resolution is None
    # A cell that is a shipped mix is that variant's own trial; one with other weights never takes its name.
    runs = {c.label: c.variant_name for c in worked_out.cells}
    assert runs["fwm+ld"] == "fwm_ld"
    assert runs["hw+ld"] == "hw+ld"
    preset, regime = found.load()
    members = {n: v for n, v, _ in found.members()}
    mine = found.trial("fwm_ld", members["fwm_ld"], 0, preset, regime)
    assert mine.key == found.trial("fwm_ld", load_variant("fwm_ld"), 0, preset, regime).key
    assert len(found.members()) == 7 * len(found.seeds)
    assert {s for _, _, s in found.controls()} == set(found.seeds)


def test_published_cells_have_their_published_weights_and_say_so() -> None:
    found = plan(kind="factorial", factors=["fwm", "hw", "ld"], cells="published")
    assert [c.variant_name for c in found.cells] == [
        "baseline", "fwm", "hw", "ld", "fwm+hw", "fwm_ld", "hw_ld", "fwm_hw_ld",
    ]  # fmt: skip
    assert weights(found)["hw"]["hard_region"] == 0.3
    assert weights(found)["hw+ld"]["hard_region"] == weights(found)["fwm+hw+ld"]["hard_region"] == 1.0
    assert {c.label for c in found.cells if c.published} == {"hw+ld", "fwm+hw+ld"}
    assert found.notes[0].endswith("hw+ld (hw_ld), fwm+hw+ld (fwm_hw_ld).")


def test_a_half_fraction_names_what_it_cannot_tell_apart() -> None:
    found = plan(kind="factorial", factors=["fwm", "hw", "ld", "delta"], fraction="half")
    assert found.resolution == 4
    assert found.words == ("fwm × hw × ld × delta",)
    assert [c.label for c in found.cells] == [
        "baseline", "fwm+hw", "fwm+ld", "fwm+delta", "hw+ld", "hw+delta", "ld+delta", "fwm+hw+ld+delta",
    ]  # fmt: skip
    aliases = {c.name: dict(c.aliases) for c in found.contrasts}
    assert aliases["fwm × hw"] == {"ld × delta": 1.0}
    assert "ld × delta" not in aliases, "one number is shown once"
    assert aliases["delta"] == {"fwm × hw × ld": 0.25}
    small = plan(kind="factorial", factors=["fwm", "hw", "ld"], fraction="half")
    # With the baseline among the cells, fwm minus half of what hw and ld do together.
    assert {c.name: dict(c.aliases) for c in small.contrasts} == {
        "fwm": {"hw × ld": -0.5},
        "hw": {"fwm × ld": -0.5},
        "ld": {"fwm × hw": -0.5},
    }


def test_generators_can_be_given() -> None:
    given = {"delta": ["fwm", "hw"]}
    found = plan(kind="factorial", factors=["delta", "fwm", "hw", "ld"], fraction="half", generators=given)
    assert found.resolution == 3
    assert found.words == ("fwm × hw × delta",)
    for cell in found.cells:
        assert ("delta" in cell.on) == (("fwm" in cell.on) != ("hw" in cell.on))


def test_leave_one_out_and_add_one_in() -> None:
    found = plan(kind="leave_one_out", factors=["fwm", "hw", "delta=0.2"])
    assert {c.label: c.on for c in found.cells} == {
        "full": ("fwm", "hw", "delta-0.2"),
        "full-fwm": ("hw", "delta-0.2"),
        "full-hw": ("fwm", "delta-0.2"),
        "full-delta-0.2": ("fwm", "hw"),
    }
    assert {c.name: dict(c.coefficients) for c in found.contrasts}["without hw"] == {"full-hw": 1.0, "full": -1.0}
    two = plan(kind="leave_one_out", factors=["fwm", "ld"])
    assert [c.variant_name for c in two.cells] == ["fwm_ld", "ld", "fwm"]
    found = plan(kind="add_one_in", factors=["hw", {"hard_region": 0.5}, "kinematic"])
    assert [c.variant_name for c in found.cells] == ["baseline", "hw", "hard_region-0.5", "kinematic"]
    assert dict(found.contrasts[1].coefficients) == {"hard_region-0.5": 1.0, "baseline": -1.0}


def test_factors_have_many_forms() -> None:
    long = {"hard_region": {"weight": 0.4, "schedule": "cosine_decay", "params": {"tau": 0.5}}}
    inline = {"name": "both", "objectives": {"spectral": 0.2, "action": 0.1}}
    own = {"soft": {"objectives": {"delta": 0.01}}, "other": {"objectives": {"delta": 7}}}
    found = study({"kind": "factorial", "factors": [long, inline, "soft", "latent_dynamics=1.0"]}, custom=own)
    worked_out = found.plan()
    assert worked_out is not None
    singles = {c.label: c for c in worked_out.cells if len(c.on) == 1}
    assert list(singles) == ["hard_region-0.4", "both", "soft", "latent_dynamics-1"]
    assert singles["latent_dynamics-1"].variant_name == "ld"
    assert singles["hard_region-0.4"].variant.objectives["hard_region"].params == {"tau": 0.5}
    assert singles["soft"].variant.objectives["delta"].weight == 0.01
    names = {n for n, _, _ in found.members()}
    assert "other" in names, "a custom variant that is no factor runs besides the design"
    assert len(names) == 15 + 1
    # In leave_one_out no cell is a factor alone.
    left = study({"kind": "leave_one_out", "factors": ["fwm", "hw", "soft"]}, custom=own)
    assert {n for n, _, _ in left.members()} == {"other", "full", "full-fwm", "full-hw", "full-soft"}


def test_doses_are_spaced_on_a_logarithmic_scale() -> None:
    found = plan(kind="dose_response", objective="delta", low=0.05, high=5, points=5)
    assert [c.dose for c in found.cells] == [None, 0.05, 0.158, 0.5, 1.58, 5.0]
    assert [c.variant_name for c in found.cells][3] == "delta", "weight 0.5 is the shipped variant"
    trend = found.contrasts[-1]
    assert (trend.name, trend.kind) == ("trend", "trend")
    x = np.log10([0.05, 0.158, 0.5, 1.58, 5.0])
    slope = np.array([trend.coefficients[c.label] for c in found.cells[1:]])
    assert slope @ (3 + 2 * x) == pytest.approx(2), "points for a tenfold weight"
    given = plan(kind="dose_response", objective="delta", weights=[0.3, 0, 0.1])
    assert [c.label for c in given.cells] == ["baseline", "delta-0.1", "delta-0.3"]
    assert [c.kind for c in given.contrasts] == ["dose", "dose"], "two doses show no trend beside their difference"


def test_every_name_of_a_large_design_is_its_own() -> None:
    factors = ["fwm", "hw", "ld", "delta", "spectral", "ltc", "ac"]
    found = plan(kind="factorial", factors=factors)
    assert len(found.cells) == MOST_CELLS
    assert len({c.label for c in found.cells}) == len({c.variant_name for c in found.cells}) == MOST_CELLS
    mixes = [tuple(sorted(c.variant.objectives)) for c in found.cells]
    assert len(set(mixes)) == MOST_CELLS
    on = {c.on for c in found.cells}
    assert on == {c for n in range(8) for c in itertools.combinations(factors, n)}


def test_a_study_with_a_design_survives_its_record() -> None:
    for design in (
        {"kind": "factorial", "factors": ["fwm", "hw", {"delta": 0.3}], "fraction": "half"},
        {"kind": "dose_response", "objective": "delta", "low": 0.1, "high": 1, "points": 3},
    ):
        found = study(design, seeds=[0, 1])
        assert AblationDefinition.model_validate(found.model_dump(mode="json")) == found


def test_order_lists_members() -> None:
    assert order(0b10110) == (1, 2, 4)


FACTORIAL: dict[str, Any] = {"kind": "factorial", "factors": ["fwm", "hw"]}
DOSES: dict[str, Any] = {"kind": "dose_response", "objective": "delta", "weights": [0.1]}


@pytest.mark.parametrize(
    ("design", "changes", "sentence"),
    [
        ({"kind": "factorail"}, {}, "design.kind is 'factorail': input should be 'add_one_in', 'leave_one_out'"),
        ({**FACTORIAL, "fractoin": "half"}, {}, "unknown key 'design.fractoin'; did you mean 'fraction'?"),
        ({**FACTORIAL, "factors": ["fwm"]}, {}, "factors: 1 given; a design of kind factorial needs at least 2"),
        ({**FACTORIAL, "factors": ["fwm", "fwm"]}, {}, "factor 'fwm' is named twice"),
        ({**FACTORIAL, "factors": ["fwm", "hww"]}, {}, "unknown variant 'hww'; did you mean 'hw'?"),
        ({**FACTORIAL, "factors": ["fwm", {"delat": 1}]}, {}, "unknown objective 'delat'; did you mean 'delta'?"),
        ({**FACTORIAL, "factors": ["fwm", {"delta": -1}]}, {}, "objectives.delta.weight is -1"),
        ({**FACTORIAL, "factors": ["fwm", "delta=much"]}, {}, "'much' is no weight; write delta=0.5"),
        ({**FACTORIAL, "factors": ["fwm", {"delta": 1, "action": 1}]}, {}, "holds 2 objectives; write one as"),
        ({**FACTORIAL, "factors": ["fwm", "baseline"]}, {}, "'baseline' has no objective that could be switched on"),
        ({**FACTORIAL, "factors": ["hw", "ac_hw"]}, {}, "'hw' and 'ac_hw' both set hard_region"),
        ({**FACTORIAL, "factors": ["hw", "sigreg_no_ema"]}, {}, "'sigreg_no_ema' changes the teacher too"),
        ({**FACTORIAL, "factors": ["hw", "kinematic"]}, {"reading": "as_published"}, "'kinematic' changes the teacher"),
        ({**FACTORIAL, "factors": ["hw", {"name": "fwm", "objectives": {"delta": 1}}]}, {}, "rename it"),
        ({**FACTORIAL, "weights": [0.1]}, {}, "weights cannot take effect in a design of kind factorial"),
        ({**DOSES, "factors": ["hw"]}, {}, "factors cannot take effect in a design of kind dose_response"),
        ({"kind": "add_one_in", "factors": ["hw"], "cells": "published"}, {}, "cells cannot take effect"),
        ({**FACTORIAL, "fraction": "half"}, {}, "2 factors in a half fraction cannot be told apart at all"),
        ({**FACTORIAL, "factors": ["fwm", "hw", "ld", "delta", "spectral", "ltc", "ac", "sigreg"]}, {},
         "8 factors make 256 cells at fraction full, expected at most 128"),
        ({**FACTORIAL, "generators": {"hw": ["fwm"]}}, {}, "a full fraction has 0 generators; 1 given"),
        ({"kind": "factorial", "factors": ["fwm", "hw", "ld"], "fraction": "half", "generators": {"ld": ["fwm", "hv"]}},
         {}, "generators name 'hv', which is no factor; did you mean 'hw'?"),
        ({"kind": "factorial", "factors": ["fwm", "hw", "ld"], "fraction": "half", "generators": {"ld": ["fwm"]}},
         {}, "'ld' needs at least two different factors"),
        ({"kind": "factorial", "factors": ["fwm", "hw", "ld", "delta"], "fraction": "quarter",
          "generators": {"ld": ["fwm", "hw"], "delta": ["hw", "fwm"]}}, {},
         "ld × delta are always switched together"),
        ({"kind": "dose_response", "weights": [1]}, {}, "objective is missing"),
        ({"kind": "dose_response", "objective": "detla", "weights": [1]}, {}, "did you mean 'delta'?"),
        ({**DOSES, "low": 0.1}, {}, "give the doses either as weights, or as low, high and points"),
        ({**DOSES, "weights": [], "low": 0.1, "high": 1}, {}, "give the doses either as weights"),
        ({**DOSES, "weights": [], "low": 1, "high": 0.1, "points": 3}, {}, "low 1 is not below high 0.1"),
        ({**DOSES, "weights": [0.1, 0.1]}, {}, "[0.1, 0.1] given as doses; expected different weights above 0"),
        ({**DOSES, "weights": [-0.1]}, {}, "expected different weights above 0"),
        ({**DOSES, "objective": "motion_guided", "weights": [2]}, {}, "its weight is a share of clips, at most 1"),
        (FACTORIAL, {"refuse_controls": True, "control_seeds": []}, "has the baseline as a cell"),
        (FACTORIAL, {"custom": {"fwm+hw": {"objectives": {"delta": 1}}}}, "'fwm+hw' cannot be a name"),
    ],
)  # fmt: skip
def test_a_wrong_design_is_answered_in_one_sentence(
    design: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError) as found:
        study(design, **changes)
    assert sentence in str(found.value)
    assert "\n" not in str(found.value)
