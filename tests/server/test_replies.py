"""Replies to Classify from outputs of any shape, and the size that they are known to have before anything has run."""

import numpy as np
from answers import MODELS, TOP, make_answer
from headwise_server.models import Model
from headwise_server.replies import classify_reply_bytes, classify_response, softmax, top_indices
from hypothesis import given
from hypothesis import strategies as st


@given(MODELS, st.integers(1, 6), TOP, st.integers(0, 9))
def test_reply_takes_no_more_than_was_known_before_it(model: Model, images: int, top: int, seed: int) -> None:
    """An upper bound from the request alone; close where every label is named."""
    answer, labels = make_answer(model, images, seed), len(model.manifest.labels)
    classified = classify_response(model, answer, top, 0.0).ByteSize()
    assert classified <= classify_reply_bytes(model, images, top)
    everything = classify_response(model, answer, labels, 0.0).ByteSize()
    assert everything <= classify_reply_bytes(model, images, labels) <= 1.1 * everything + 64


def test_equal_logits_are_ranked_by_their_place() -> None:
    """So that an answer does not depend on how it was sorted."""
    assert top_indices(np.array([[1.0, 2.0, 1.0, 2.0]], np.float32), 3).tolist() == [[1, 3, 0]]


def test_softmax_of_large_logits_is_finite() -> None:
    """Logits of any size give probabilities."""
    probabilities = softmax(np.array([[1e4, 1e4 - 1, -1e4]], np.float32))
    np.testing.assert_allclose(probabilities, [[0.7310586, 0.2689414, 0.0]], atol=1e-6)
