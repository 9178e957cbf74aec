"""What a pruned model mistakes, and the thumbnails of its errors."""

import base64
import io

import numpy as np
import pytest
import torch
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.studies.validation import (
    SHOWN_ERRORS,
    THUMBNAIL_PIXELS,
    as_record,
    confident_errors,
    confusion_matrix,
    mistakes,
    thumbnail,
    without_pictures,
)
from headwise_exporter.training.evaluation import predict
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

LABELS = 4
LABEL = st.integers(0, LABELS - 1)


@given(st.lists(st.tuples(LABEL, LABEL), max_size=60))
def test_counts_give_the_confusion_matrix_back(pairs: list[tuple[int, int]]) -> None:
    """Of any labels and first labels; the most frequent mistakes stand first."""
    labels_N, first_N = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    counted = mistakes(first_N, labels_N)
    images = [images for *_, images in counted]
    assert images == sorted(images, reverse=True)
    correct_K = torch.bincount(labels_N[labels_N == first_N], minlength=LABELS).tolist()
    matrix = confusion_matrix({"correct_K": correct_K, "mistakes": counted})
    assert all(matrix[row, column] == pairs.count((row, column)) for row in range(LABELS) for column in range(LABELS))


@given(st.integers(0, 2**16), st.integers(0, SHOWN_ERRORS + 4))
def test_errors_are_the_surest_ones(seed: int, most: int) -> None:
    """No error that is left out is surer than one that is shown, and nothing right is shown."""
    generator = torch.Generator().manual_seed(seed)
    logits_NK, labels_N = torch.randn(40, LABELS, generator=generator), torch.arange(40) % LABELS
    errors = confident_errors(logits_NK, labels_N, most)
    probabilities_N, first_N = logits_NK.double().softmax(1).max(1)
    wrong = sorted(probabilities_N[first_N != labels_N].tolist(), reverse=True)
    assert [error.probability for error in errors] == pytest.approx(wrong[:most])
    for error in errors:
        assert (error.label, error.predicted) == (int(labels_N[error.image]), int(first_N[error.image]))
        assert error.label_probability <= error.probability


def decoded(uri: str) -> Image.Image:
    """The image of a data URI."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_keep_every_pixel(channels: int) -> None:
    """Grey or in colour."""
    image_YXC = np.random.default_rng(0).integers(0, 256, (8, 8, channels), dtype=np.uint8)
    assert (np.asarray(decoded(thumbnail(image_YXC))).reshape(image_YXC.shape) == image_YXC).all()


def test_large_images_become_small() -> None:
    """Within the pixels that the page states, and a few kilobytes."""
    uri = thumbnail(np.random.default_rng(0).integers(0, 256, (384, 384, 3), dtype=np.uint8))
    assert decoded(uri).size == (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS)
    assert len(uri) < 16384


def test_record_counts_every_image_once(dense: CCT, data: LabelledImages) -> None:
    """Among labels, first labels and errors; a model against itself loses nothing; pictures only where wanted."""
    logits_NK = predict(dense, data)
    arguments = ({"dense": dense, "pruned": dense}, {"dense": logits_NK, "pruned": logits_NK}, data.labels_N)
    names = [str(label) for label in range(10)]
    record = as_record(*arguments, names, data.images_NYXC.numpy())
    correct = record["models"]["pruned"]["correct"]
    wrong = sum(images for *_, images in record["mistakes"])
    assert sum(record["images_K"]) == sum(record["predicted_K"]) == record["images"] == len(data)
    assert sum(record["correct_K"]) == correct == len(data) - wrong
    assert record["lost"] == record["won"] == 0
    assert len(record["errors"]) == min(wrong, SHOWN_ERRORS)
    assert record["pictures"]
    assert all(error["picture"].startswith("data:image/png") for error in record["errors"])
    assert as_record(*arguments, names, None) == without_pictures(record)
