"""Products of scores."""

import torch
from headwise_exporter.pruning.scores import product

FACTORS = {"a": torch.tensor([1.0, 2.0, 3.0]).double(), "b": torch.tensor([4.0, 0.0, 2.0]).double()}


def test_factor_counts_by_its_shape_and_not_by_its_scale() -> None:
    """Each factor is taken over its mean, so a thousand times as large it gives the same."""
    scaled = {**FACTORS, "a": 1000 * FACTORS["a"]}
    expected = (FACTORS["a"] / 2) * (FACTORS["b"] / 2)
    for factors in (FACTORS, scaled):
        torch.testing.assert_close(product("a*b", factors.__getitem__), expected)


def test_score_without_an_asterisk_is_its_only_factor() -> None:
    """Over its mean."""
    torch.testing.assert_close(product("a", FACTORS.__getitem__), FACTORS["a"] / 2)


def test_factor_that_is_zero_everywhere_gives_zero() -> None:
    """Not a number would win every comparison or none."""
    assert product("a", lambda name: torch.zeros(3).double()).tolist() == [0.0, 0.0, 0.0]
