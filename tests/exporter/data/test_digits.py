"""The scans of handwritten digits and their split."""

import numpy as np
import pytest
from headwise_exporter.data.base import DatasetSettings
from headwise_exporter.data.datasets import load

DIGITS = DatasetSettings("digits")


def test_digits_are_split_once_and_whole() -> None:
    """Every scan is in exactly one part, and the test part has at least 350."""
    digits = load(DIGITS)
    parts = (digits.train, digits.calibration, digits.test)
    assert [len(part) for part in parts] == [1078, 359, 360]
    indices = np.concatenate([part.source_indices_N for part in parts])
    assert sorted(indices.tolist()) == list(range(1797))


def test_digits_split_is_stratified() -> None:
    """Each part has each label in the same share, give or take one image."""
    digits = load(DIGITS)
    whole = np.bincount(np.concatenate([digits.train.labels_N, digits.calibration.labels_N, digits.test.labels_N]))
    for part in (digits.train, digits.calibration, digits.test):
        assert np.abs(np.bincount(part.labels_N) - whole * len(part) / 1797).max() <= 1


def test_split_never_changes() -> None:
    """Loading twice gives the same images in the same order."""
    first, second = load(DIGITS), load(DIGITS)
    np.testing.assert_array_equal(first.test.source_indices_N, second.test.source_indices_N)
    np.testing.assert_array_equal(first.test.images_NYXC, second.test.images_NYXC)


def test_mean_and_std_are_those_of_the_training_pixels() -> None:
    """Normalising the training part gives mean 0 and deviation 1."""
    digits = load(DIGITS)
    normalised = (digits.train.images_NYXC / 255 - digits.mean) / digits.std
    assert normalised.mean() == pytest.approx(0, abs=1e-9)
    assert normalised.std() == pytest.approx(1, abs=1e-9)


def test_description_states_split_and_counts() -> None:
    """One line with the name, the counts and the split."""
    expected = "digits: 1,078 training, 359 calibration, 360 test images (stratified 60/20/20, seed 0)"
    assert load(DIGITS).describe() == expected
