"""Two models on the same images or subsets."""

import pytest
import torch
from headwise_exporter.studies.paired import mean_difference, paired


def test_difference_has_an_interval_and_a_test() -> None:
    """Of 100 images one model gets 80 right and the other 60 of these."""
    better, worse = torch.arange(100) < 80, torch.arange(100) < 60
    compared = paired(better, worse)
    assert (compared.images, compared.accuracy, compared.baseline_accuracy) == (100, 0.8, 0.6)
    assert compared.difference == pytest.approx(0.2)
    assert 0.1 < compared.low < 0.2 < compared.high < 0.3
    assert compared.p_value < 1e-5


def test_models_that_agree_do_not_differ() -> None:
    """No difference on any image: nothing to draw from."""
    same = torch.arange(10) < 7
    compared = paired(same, same.clone())
    assert (compared.low, compared.high, compared.p_value) == (0.0, 0.0, 1.0)


def test_difference_over_subsets_counts_where_the_model_is_no_worse() -> None:
    """Subset by subset; of one subset the interval is its difference."""
    over = mean_difference([0.9, 0.8, 0.7], [0.8, 0.8, 0.8])
    assert over.mean == pytest.approx(0.0)
    assert over.low < 0 < over.high
    assert over.not_lower == 2
    one = mean_difference([0.75], [0.5])
    assert (one.mean, one.low, one.high) == (0.25, 0.25, 0.25)
