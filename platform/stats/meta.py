"""Random-effects meta-analysis: what several studies say of one difference together, and how much they disagree."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

FEWEST_FOR_PREDICTION = 3  # studies


@dataclass(frozen=True)
class Pooled:
    """One difference over several studies, in points.

    Attributes:
        estimate: mean effect of the population of studies.
        low: lower end of its interval.
        high: upper end.
        p_value: two-sided.
        tau: standard deviation of true effects between studies (Paule and Mandel).
        i2: share of the scatter that is heterogeneity, 0 to 1.
        heterogeneity: p-value of Cochran's Q: that all studies have one effect.
        prediction: where the effect in a further study lies; None for fewer than three.
        p_adjusted: Holm's, where it was asked for.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    tau: float
    i2: float
    heterogeneity: float
    prediction: tuple[float, float] | None
    p_adjusted: float | None = None


def pool(estimates: Sequence[float], variances: Sequence[float], level: float = 0.05) -> Pooled:
    """Put together what two or more independent studies found.

    The interval is Hartung's and Knapp's, by Student's t with one degree of freedom less than there are studies, and
    never narrower than without their scale, which a few studies that happen to agree would make it.

    Args:
        estimates: ``[k]`` of the studies.
        variances: ``[k]`` of the estimates, above 0.
        level: 0.05 for intervals of 95 %.
    """
    from statsmodels.stats.meta_analysis import combine_effects

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about intervals of single studies, which are not used
        found = combine_effects(np.asarray(estimates), np.asarray(variances), method_re="iterated", use_t=True)
    freedom = len(estimates) - 1
    estimate, error = float(found.mean_effect_re), max(float(found.sd_eff_w_re), float(found.sd_eff_w_re_hksj))
    reach = -float(stdtrit(freedom, level / 2))
    q = float(found.q)  # below 0 by rounding where the studies agree to the last digit
    tau2 = max(float(found.tau2), 0.0)
    prediction = None
    if len(estimates) >= FEWEST_FOR_PREDICTION:
        wide = -float(stdtrit(freedom - 1, level / 2)) * math.sqrt(tau2 + error**2)
        prediction = (estimate - wide, estimate + wide)
    return Pooled(
        estimate=estimate,
        low=estimate - reach * error,
        high=estimate + reach * error,
        p_value=2 * float(stdtr(freedom, -abs(estimate) / error)),
        tau=math.sqrt(tau2),
        i2=max(0.0, 1 - freedom / q) if q > 0 else 0.0,
        heterogeneity=float(found.test_homogeneity().pvalue),
        prediction=prediction,
    )


def adjust(p_values: Sequence[float]) -> list[float]:
    """Holm's p-values of one family."""
    from statsmodels.stats.multitest import multipletests

    if not p_values:
        return []
    found: list[float] = multipletests(list(p_values), method="holm")[1].tolist()
    return found
