"""The scans of handwritten digits and their split."""

import numpy as np
import pytest
from headwise_exporter.data.base import DatasetSettings
from headwise_exporter.data.datasets import load

DIGITS = DatasetSettings("digits")


def test_digits_are_split_once_and_whole() -> None:
    """Every scan is in exactly one split, and the test split has at least 350."""
    digits = load(DIGITS)
    splits = (digits.train, digits.validation, digits.test)
    assert [len(split) for split in splits] == [1078, 359, 360]
    indices = np.concatenate([split.source_indices_N for split in splits])
    assert sorted(indices.tolist()) == list(range(1797))


def test_digits_split_is_stratified() -> None:
    """Each split has each label in the same share, give or take one image."""
    digits = load(DIGITS)
    whole = np.bincount(np.concatenate([digits.train.labels_N, digits.validation.labels_N, digits.test.labels_N]))
    for split in (digits.train, digits.validation, digits.test):
        assert np.abs(np.bincount(split.labels_N) - whole * len(split) / 1797).max() <= 1


def test_split_never_changes() -> None:
    """Loading twice gives the same images in the same order."""
    first, second = load(DIGITS), load(DIGITS)
    np.testing.assert_array_equal(first.test.source_indices_N, second.test.source_indices_N)
    np.testing.assert_array_equal(first.test.images_NYXC, second.test.images_NYXC)


def test_mean_and_std_are_those_of_the_training_pixels() -> None:
    """Normalising the training split gives mean 0 and deviation 1."""
    digits = load(DIGITS)
    normalised = (digits.train.images_NYXC / 255 - digits.mean) / digits.std
    assert normalised.mean() == pytest.approx(0, abs=1e-9)
    assert normalised.std() == pytest.approx(1, abs=1e-9)


def test_description_states_split_and_counts() -> None:
    """One line with the name, the counts and the protocol."""
    counts = "1,078 training, 359 validation, 360 test images of 10 labels: 0, 1, 2 and 7 more"
    expected = f"digits: {counts} (stratified 60/20/20, seed 0)"
    assert load(DIGITS).describe() == expected
