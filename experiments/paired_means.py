"""Means over images and their paired differences: intervals, p-values, and what is left of these among many.

Intervals are bias-corrected and accelerated (BCa) bootstraps over the images, which come close to their 95 % for means
of a hundred skewed values (tests/experiments/test_paired_means.py). P-values are of paired t-tests, which Holm's
step-down procedure adjusts together.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, ttest_1samp

RESAMPLES = 2000


def mean_interval(values_N: NDArray[np.float64], resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % interval of the mean; the mean itself where all values are the same."""
    if np.ptp(values_N) == 0:
        return float(values_N[0]), float(values_N[0])
    interval = bootstrap((values_N,), np.mean, n_resamples=resamples, method="BCa", rng=0).confidence_interval
    return float(interval.low), float(interval.high)


def p_value_of_zero(differences_N: NDArray[np.float64]) -> float:
    """That the mean difference is zero; 1 where all differences are."""
    if np.ptp(differences_N) == 0:
        return float(differences_N[0] == 0)
    return float(ttest_1samp(differences_N, 0.0).pvalue)


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """P-values that can be compared with 0.05 one by one, by Holm's step-down procedure."""
    adjusted, least = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = least
    return adjusted
