"""Intervals and p-values of means over images."""

import numpy as np
import paired_means
import pytest
from headwise_exporter.studies.verdicts import holm
from hypothesis import given
from hypothesis import strategies as st

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_intervals_of_skewed_values_cover_the_mean() -> None:
    """Of 200 samples of 100 lognormal values, about 95 % have the true mean in the interval."""
    samples = np.random.default_rng(0).lognormal(0.0, 0.75, (200, 100))
    intervals = [paired_means.mean_interval(sample, resamples=400) for sample in samples]
    covered = np.mean([low <= np.exp(0.75**2 / 2) <= high for low, high in intervals])
    assert 0.9 <= covered <= 0.98


def test_interval_of_equal_values_is_that_value() -> None:
    """No bootstrap of what does not vary."""
    assert paired_means.mean_interval(np.full(5, 0.5)) == (0.5, 0.5)


@pytest.mark.parametrize(("shift", "least", "most"), [(0.0, 0.05, 1.0), (0.5, 0.0, 0.001)])
def test_p_value_tells_a_shift_from_none(shift: float, least: float, most: float) -> None:
    """Of 200 differences with a deviation of 1."""
    differences = np.random.default_rng(1).normal(size=200)
    assert least <= paired_means.p_value_of_zero(differences - differences.mean() + shift) <= most


def test_differences_that_are_all_the_same_need_no_test() -> None:
    """Two methods that order all patches alike have none; any other is sure."""
    assert paired_means.p_value_of_zero(np.zeros(4)) == 1.0
    assert paired_means.p_value_of_zero(np.full(4, -0.5)) == 0.0


@given(P_VALUES)
def test_adjusted_p_values_decide_as_holms_procedure_does(p_values: list[float]) -> None:
    """At 0.05; and none is below what it was."""
    adjusted = paired_means.holm_adjusted(p_values)
    decided = [p <= 0.05 for p in adjusted]
    borderline = any(abs(p - 0.05) < 1e-9 for p in adjusted)
    assert borderline or decided == holm(p_values)
    assert all(after >= before for after, before in zip(adjusted, p_values, strict=True))
    assert max(adjusted) <= 1.0
