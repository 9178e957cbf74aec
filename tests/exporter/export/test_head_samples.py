"""Pictures for which a head spoke: the right ones, and each where the manifest says."""

import io

import hypothesis.strategies as st
import numpy as np
import pytest
import support
from headwise_exporter.data.base import Split
from headwise_exporter.export.attribution import ExactSplit
from headwise_exporter.export.head_samples import (
    CANDIDATES,
    SAMPLES,
    TILE_PIXELS,
    Sample,
    candidates,
    choose,
    contributions,
    head_samples,
    sheet,
)
from hypothesis import given
from PIL import Image

NAMES = tuple("abc")


@pytest.fixture(scope="module")
def split() -> ExactSplit:
    """Of a random model for three labels."""
    return support.random_split(support.random_model()).eval()


def images_of(split: ExactSplit, images: int, side: int | None = None) -> Split:
    """Noise, with the labels that the model gives it."""
    config = split.model.config
    pixels = support.random_pixels(config, images)
    labels_N = split(pixels)["logits"].argmax(1).numpy()
    images_NYXC = pixels.numpy() if side is None else np.zeros((images, side, side, 3), np.uint8)
    return Split(images_NYXC, labels_N, np.arange(images))


@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 6), st.integers(0, 99))
def test_each_head_has_the_largest_contributions_to_different_labels(
    images: int, heads: int, labels: int, seed: int
) -> None:
    """Positive, of images that the model has right, and the best of their labels; as many as there are, up to four."""
    random = np.random.default_rng(seed)
    own_PR, right_P = random.normal(size=(images, heads)), random.random(images) < 0.7
    labels_P = random.integers(0, labels, images)
    chosen = choose(own_PR, right_P, labels_P)
    for row in range(heads):
        own = [sample for sample in chosen if sample.row == row]
        fitting = right_P & (own_PR[:, row] > 0)
        assert [sample.column for sample in own] == list(range(min(SAMPLES, len(set(labels_P[fitting])))))
        best = sorted(
            (max(own_PR[fitting & (labels_P == label), row]) for label in set(labels_P[fitting])), reverse=True
        )
        assert [sample.contribution for sample in own] == best[:SAMPLES]
        for sample in own:
            assert (labels_P[sample.image], own_PR[sample.image, row]) == (sample.label, sample.contribution)


def test_contribution_is_that_of_the_split_above_the_mean_of_the_labels(split: ExactSplit) -> None:
    """To each image's own label, whether the model gives it or not."""
    data = images_of(split, 5)
    labels_P = (data.labels_N + np.arange(5) % 2) % split.model.config.labels
    own_PR, right_P = contributions(split, data.images_NYXC, labels_P)
    heads_PRK = split(support.random_pixels(split.model.config, 5))["heads"].detach().numpy()
    expected = heads_PRK[np.arange(5), :, labels_P] - heads_PRK.mean(2)
    np.testing.assert_allclose(own_PR, expected, atol=1e-5)
    assert right_P.tolist() == [True, False, True, False, True]


def test_every_sample_is_the_tile_that_the_manifest_says(split: ExactSplit) -> None:
    """Small images pixel by pixel, with the names of their labels."""
    data = images_of(split, 40)
    names = tuple(f"label {number}" for number in range(split.model.config.labels))
    described, content = head_samples(split, data, names) or pytest.fail("no head has a sample")
    own_PR, _ = contributions(split, data.images_NYXC, data.labels_N)
    width, height = described.tile_width, described.tile_height
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert described.path == "head_samples.png"
    assert picture.shape[:2] == (own_PR.shape[1] * height, described.columns * width)
    assert described.images == 40
    for sample in described.samples:
        image = int(np.argmin(abs(own_PR[:, sample.row] - sample.contribution)))
        assert names[data.labels_N[image]] == sample.label
        top, left = sample.row * height, sample.column * width
        tile = picture[top : top + height, left : left + width]
        assert (tile == np.broadcast_to(data.images_NYXC[image], tile.shape)).all()


def test_photos_are_reduced_and_kept_as_jpeg(split: ExactSplit) -> None:
    """To tiles of 64 pixels a side at most, with their proportions."""
    photos = np.full((2, 96, 192, 3), 200, np.uint8)
    drawn = sheet([Sample(0, 1, 0, 0, 1.0)], 2, photos)
    assert drawn.size == (SAMPLES * TILE_PIXELS, 2 * TILE_PIXELS // 2)
    assert drawn.getpixel((0, 0)) == (0, 0, 0)
    assert drawn.getpixel((TILE_PIXELS + 1, 1)) == (200, 200, 200)


def test_heads_of_a_model_that_has_nothing_right_have_none(split: ExactSplit) -> None:
    """Pictures of its errors would say nothing."""
    data = images_of(split, 4)
    wrong = Split(data.images_NYXC, (data.labels_N + 1) % split.model.config.labels, data.source_indices_N)
    assert head_samples(split, wrong, NAMES) is None


@pytest.mark.parametrize("images", [1, 7, CANDIDATES, 5 * CANDIDATES])
def test_candidates_are_spread_over_all_images(images: int) -> None:
    """So many at most, each once, first and last among them."""
    indices = candidates(images)
    assert len(set(indices.tolist())) == len(indices) == min(images, CANDIDATES)
    assert (indices[0], indices[-1]) == (0, images - 1)
