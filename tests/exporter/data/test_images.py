"""Labelled images: uint8 in memory, normalised by the batch."""

import hypothesis.strategies as st
import numpy as np
import torch
from headwise_exporter.data.base import Split
from headwise_exporter.data.images import LabelledImages, labelled_images, occurrence
from hypothesis import given

MEAN, STD = (0.2, 0.4, 0.6), (0.1, 0.2, 0.3)


def random_split(images: int = 10) -> Split:
    """Coloured images of 5 x 4 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, 5, 4, 3), dtype=np.uint8)
    return Split(pixels, np.arange(images), np.arange(images))


def test_pixels_are_normalised_channel_by_channel() -> None:
    """(x / 255 - mean) / std, channels first."""
    split = random_split()
    data = labelled_images(split, MEAN, STD)
    expected = (split.images_NYXC[3] / 255 - np.array(MEAN)) / np.array(STD)
    image_BCYX = data.normalised(torch.tensor([3]))
    assert image_BCYX.shape == (1, 3, 5, 4)
    np.testing.assert_allclose(image_BCYX[0].permute(1, 2, 0), expected, atol=1e-6)
    np.testing.assert_array_equal(data.pixels(slice(3, 4))[0], split.images_NYXC[3])


@given(st.integers(1, 12))
def test_batches_are_all_images_in_order(batch_size: int) -> None:
    """Whatever the batch size, every image and label once."""
    data = labelled_images(random_split(), MEAN, STD)
    images, labels = zip(*data.batches(batch_size), strict=True)
    assert torch.equal(torch.cat(labels), torch.arange(10))
    assert torch.equal(torch.cat(images), data.normalised(slice(None)))


@given(st.integers(1, 12), st.integers(0, 5))
def test_sample_is_of_different_images_with_their_labels(images: int, seed: int) -> None:
    """So many, or all there are; the same seed draws the same."""
    data = labelled_images(random_split(), MEAN, STD)
    drawn = data.sample(images, seed)
    assert len(drawn) == len(drawn.labels_N.unique()) == min(images, 10)
    assert torch.equal(drawn.images_NYXC, data.images_NYXC[drawn.labels_N])  # a label is its image's number
    assert torch.equal(drawn.labels_N, data.sample(images, seed).labels_N)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(1, 5), st.integers(0, 5))
def test_sample_of_each_label_misses_none(labels: list[int], images: int, seed: int) -> None:
    """So many of each, or all that a label has, each once; the same seed draws the same."""
    labels_N = torch.tensor(labels)
    images_NYXC = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 2, 2, 3)
    data = LabelledImages(images_NYXC, labels_N, MEAN, STD)
    drawn = data.sample_of_each_label(images, seed)
    numbers_N = drawn.images_NYXC[:, 0, 0, 0].long()
    assert torch.equal(drawn.labels_N, labels_N[numbers_N])
    assert len(numbers_N.unique()) == len(numbers_N)
    assert torch.equal(torch.bincount(drawn.labels_N), torch.bincount(labels_N).clamp(max=images))
    assert torch.equal(data.sample_of_each_label(images, seed).images_NYXC, drawn.images_NYXC)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_occurrence_counts_the_same_label_before_an_image(labels: list[int]) -> None:
    """0 for the first of a label, in the order that the images are in."""
    expected = [labels[:index].count(label) for index, label in enumerate(labels)]
    assert occurrence(torch.tensor(labels)).tolist() == expected


def test_no_number_of_images_means_all() -> None:
    """Nothing is copied then."""
    data = labelled_images(random_split(), MEAN, STD)
    assert data.sample(None) is data


def test_pixels_are_not_copied() -> None:
    """A split that is memory-mapped stays on the disk."""
    split = random_split()
    data = labelled_images(split, MEAN, STD)
    split.images_NYXC[0] = 7
    assert (data.images_NYXC[0] == 7).all()


def test_everything_moves_to_the_device() -> None:
    """Pixels and labels, and with them what is normalised."""
    moved: LabelledImages = labelled_images(random_split(), MEAN, STD).to(torch.device("meta"))
    assert {values.device.type for values in (*next(moved.batches(2)), moved.images_NYXC)} == {"meta"}
