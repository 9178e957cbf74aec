"""Figures as words."""

import pytest
from headwise_exporter.studies.wording import (
    at_once,
    fine_tuning,
    masks,
    mean_percent,
    p_value,
    percent,
    points,
    spread,
    tally,
)
from hypothesis import given
from hypothesis import strategies as st


@given(st.floats(-1, 1))
def test_difference_has_a_sign_and_no_negative_zero(difference: float) -> None:
    """It reads back as what it was, rounded."""
    shown = points(difference)
    assert shown[0] in "+-"
    assert shown != "-0.00"
    assert float(shown) == pytest.approx(100 * difference, abs=0.0051)


def test_shares_are_shown_as_percent() -> None:
    """Two digits, and means of seeds alike."""
    assert percent(0.6589) == "65.89"
    assert mean_percent([0.5, 0.6]) == "55.00"


def test_difference_is_shown_with_its_extremes() -> None:
    """Nothing where nothing was compared."""
    assert spread({"mean": 0.01, "lowest": -0.001, "highest": 0.02}) == "+1.00 (-0.10 to +2.00)"
    assert spread(None) == ""


@pytest.mark.parametrize(("mask_by", "shown"), [("wanda", "30.00"), ("gradual wanda", "")])
def test_gradual_masks_have_no_accuracy_at_once(mask_by: str, shown: str) -> None:
    """The first masks of a gradual choice keep nearly everything."""
    assert at_once({"mask_by": mask_by, "masked_accuracies": [0.2, 0.4]}) == shown


@pytest.mark.parametrize(("value", "shown"), [(0.0, "<0.001"), (0.00099, "<0.001"), (0.04, "0.040"), (1.0, "1.000")])
def test_small_p_values_are_bounds(value: float, shown: str) -> None:
    """An exact test of many images gives what no float can hold."""
    assert p_value(value) == shown


def test_fine_tuning_is_described_with_what_it_takes_from_the_dense_models() -> None:
    """Batches where none are asked for, optimiser and precision."""
    training = {"batch_size": 256, "optimizer": "muon", "bf16": True}
    own = {"epochs": 1, "images": 10000, "batch_size": 64, "learning_rate": 0.002}
    assert fine_tuning(own, training) == (
        "1 epoch on 10,000 training images in batches of 64, muon, bf16, peak learning rate 0.002"
    )
    inherited = {"epochs": 2, "images": None, "batch_size": None, "learning_rate": 0.001}
    assert fine_tuning(inherited, training).startswith("2 epochs on all training images in batches of 256")


def test_masks_are_named_by_what_chooses_and_where() -> None:
    """In the field's words; without masks there is no where."""
    assert masks("classifier_head", "andc") == "andc, classifier head"
    assert masks("both", "none") == "none"


def test_comparisons_are_counted_or_stated_to_be_missing() -> None:
    """The sentence states what a win takes; without comparisons it names the command."""
    others = [{"outcome": outcome} for outcome in ("wins", "ties", "loses", "loses")]
    assert tally(others).startswith("Against other masks that keep as many connections ANDC wins 1 of 4 comparisons")
    assert "loses 2; to win or lose takes every seed" in tally(others)
    assert "`exporter compare`" in tally([])
