"""Some labels of a data set, as a data set of its own."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from headwise_exporter.data.base import Dataset, DatasetError, DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.data.label_subsets import OTHER, check_labels, choose_labels
from pydantic import TypeAdapter

CHOSEN = ("8", "3", "9")
KNOWN = ("rose", "Daisy", "tulip", "pansy")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """All ten labels."""
    return load(DatasetSettings("digits"))


def test_images_of_the_labels_stay_in_every_split(digits: Dataset) -> None:
    """Labels are numbered as they were asked for; normalisation stays that of all images."""
    few = choose_labels(digits, CHOSEN)
    assert (few.label_names, few.mean, few.std) == (CHOSEN, digits.mean, digits.std)
    for name in ("train", "validation", "test"):
        before, after = digits.split(name), few.split(name)
        assert len(after) == np.isin(before.labels_N, [3, 8, 9]).sum()
        sources = dict(zip(before.source_indices_N.tolist(), before.labels_N.tolist(), strict=True))
        named = [str(sources[index]) for index in after.source_indices_N.tolist()]
        assert named == [CHOSEN[label] for label in after.labels_N]
    assert few.protocol == f"{digits.protocol}; 3 of 10 labels"


def test_other_has_as_many_images_as_the_labels_together(digits: Dataset) -> None:
    """Half of every split, drawn from all other labels, always the same."""
    few = choose_labels(digits, CHOSEN, other=True)
    assert few.label_names == (*CHOSEN, OTHER)
    for name in ("train", "validation", "test"):
        is_other = few.split(name).labels_N == len(CHOSEN)
        assert is_other.sum() * 2 == len(is_other)
        again = choose_labels(digits, CHOSEN, other=True).split(name)
        assert np.array_equal(again.source_indices_N, few.split(name).source_indices_N)
    originals = np.isin(digits.train.source_indices_N, few.train.source_indices_N[few.train.labels_N == len(CHOSEN)])
    assert set(digits.train.labels_N[originals].tolist()) == {0, 1, 2, 4, 5, 6, 7}


def test_settings_load_the_same_labels_again(digits: Dataset) -> None:
    """Through JSON, as a run records them."""
    few = choose_labels(digits, CHOSEN, other=True)
    settings = TypeAdapter(DatasetSettings).validate_python(json.loads(json.dumps(asdict(few.settings))))
    again = load(settings)
    assert (settings, again.label_names) == (few.settings, few.label_names)
    assert np.array_equal(again.train.images_NYXC, few.train.images_NYXC)


@pytest.mark.parametrize(
    ("chosen", "other", "expected"),
    [
        (["rose", "dasy"], False, r"found 'dasy' \(nearest: Daisy, pansy\). It has 4 labels"),
        (["rose", "xyz"], False, r"found 'xyz'. It has 4 labels"),
        (["rose", "tulip", "rose"], False, "expected each label once, found rose more than once"),
        (["rose"], False, "expected at least 2 labels, found 1"),
        (list(KNOWN), True, "expected some labels that are not chosen for 'other' to stand for, found none"),
    ],
)
def test_labels_that_cannot_be_chosen_are_named(chosen: list[str], other: bool, expected: str) -> None:
    """A mistyped one is answered with those that are most like it."""
    with pytest.raises(DatasetError, match=expected):
        check_labels(KNOWN, chosen, other=other)


def test_label_of_the_name_other_leaves_none_for_the_rest() -> None:
    """Two labels of one name would be one too many."""
    with pytest.raises(DatasetError, match="expected no label of the name 'other'"):
        check_labels((*KNOWN, OTHER), KNOWN[:2], other=True)
