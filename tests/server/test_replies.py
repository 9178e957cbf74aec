"""Replies from outputs of any shape, and the size that they are known to have before anything has run."""

from typing import Any, cast

import hypothesis.strategies as st
import numpy as np
import pytest
from google.protobuf.message import Message
from headwise.messages import explanations, names_of
from headwise.results import Explanation
from headwise.v1 import bundle_pb2
from headwise.v1 import service_pb2 as pb
from headwise_server.batching import Answer
from headwise_server.errors import InvalidArgument
from headwise_server.replies import (
    classify_reply_bytes,
    classify_response,
    explain_reply_bytes,
    explain_response,
    softmax,
    target_indices,
    top_indices,
)
from headwise_server.repository import Model
from hypothesis import given


class Session:
    """What a reply names of a session."""

    precision = "f32"


def make_model(labels: list[str], kept: list[list[bool]]) -> Model:
    """A model with these labels, and heads that are kept or not, by encoder."""
    manifest = bundle_pb2.Bundle(name="any", version="12", labels=labels, completeness_tolerance=np.inf)
    for encoder, heads in enumerate(kept):
        manifest.architecture.pruned_encoders.add(heads=sum(heads))
        for head, is_kept in enumerate(heads):
            card = manifest.head_cards.add(encoder=encoder, head=head, pruned=not is_kept)
            if is_kept:
                card.row = sum(not card.pruned for card in manifest.head_cards) - 1
    session = cast(Any, Session())
    return Model(manifest, "0" * 64, "onnxruntime", session, session)


def make_answer(model: Model, images: int, seed: int) -> Answer:
    """Random outputs."""
    labels, encoders = len(model.manifest.labels), len(model.manifest.architecture.pruned_encoders)
    heads = sum(shape.heads for shape in model.manifest.architecture.pruned_encoders)
    shapes = {
        "logits": (labels,),
        "heads": (heads, labels),
        "feed_forwards": (encoders, labels),
        "embedding": (labels,),
        "biases": (labels,),
        "head_fields": (heads, labels),
    }
    random = np.random.default_rng(seed)
    outputs = {name: random.normal(size=(images, *shape)).astype(np.float32) for name, shape in shapes.items()}
    return Answer(outputs, 0.25, 0.5)


MODELS = st.builds(
    make_model,
    st.lists(st.text(max_size=24), min_size=1, max_size=160, unique=True),
    st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=4),
)
TOP = st.integers(0, 200) | st.just(2**32 - 1)


@given(MODELS, st.integers(1, 6), TOP, st.integers(0, 9))
def test_reply_takes_no_more_than_was_known_before_it(model: Model, images: int, top: int, seed: int) -> None:
    """An upper bound from the request alone; close, since only names of labels and small numbers may be shorter."""
    answer = make_answer(model, images, seed)
    classified = classify_response(model, answer, top, 0.0).ByteSize()
    assert classified <= classify_reply_bytes(model, images, top)
    explained = explain_response(model, answer, [], top, 0.0).ByteSize()
    assert explained <= explain_reply_bytes(model, images, top) <= 1.1 * explained + 32


@given(MODELS, st.integers(1, 6), st.integers(0, 9), st.data())
def test_bound_is_close_where_all_labels_or_some_are_asked_for(
    model: Model, images: int, seed: int, data: st.DataObject
) -> None:
    """Of Classify with every label named, and of Explain with labels by name."""
    answer, labels = make_answer(model, images, seed), list(model.manifest.labels)
    classified = classify_response(model, answer, len(labels), 0.0).ByteSize()
    assert classified <= classify_reply_bytes(model, images, len(labels)) <= 1.1 * classified + 64
    targets = target_indices(data.draw(st.lists(st.sampled_from(labels), unique=True, min_size=1)), model)
    explained = explain_response(model, answer, targets, 0, 0.0).ByteSize()
    assert explained <= explain_reply_bytes(model, images, len(targets)) <= 1.1 * explained + 32


@given(MODELS, st.integers(1, 3), st.integers(0, 9), st.data())
def test_client_reads_the_numbers_that_the_engine_gave(
    model: Model, images: int, seed: int, data: st.DataObject
) -> None:
    """For any heads kept and any targets: each contribution and field by its name, removed heads silent."""
    answer, manifest = make_answer(model, images, seed), model.manifest
    asked = data.draw(st.lists(st.integers(0, len(manifest.labels) - 1), unique=True, min_size=1))
    sent = _over_the_wire(explain_response(model, answer, asked, 0, 0.0))
    described = pb.GetModelResponse(model=model.served(model.explain), manifest=manifest)
    results = explanations(cast(pb.ExplainResponse, sent), names_of(described))
    assert len(results) == images
    for image, result in enumerate(results):
        _assert_reads(result, answer, model, image, asked)


def _over_the_wire(message: Message) -> Message:
    return type(message).FromString(message.SerializeToString())


def _assert_reads(result: Explanation, answer: Answer, model: Model, image: int, asked: list[int]) -> None:
    outputs = {name: values[image] for name, values in answer.outputs.items()}
    assert [target.label for target in result.targets] == [model.manifest.labels[index] for index in asked]
    assert [target.logit for target in result.targets] == outputs["logits"][asked].tolist()
    for position, card in enumerate(model.manifest.head_cards):
        if card.pruned:
            assert not result.heads_RJ[position].any()
            assert np.isnan(result.head_fields_RK[position]).all()
        else:
            assert result.heads_RJ[position].tolist() == outputs["heads"][card.row][asked].tolist()
            assert result.head_fields_RK[position].tolist() == outputs["head_fields"][card.row].tolist()
    for encoder, expected_K in enumerate(outputs["feed_forwards"]):
        assert result.other_parts[f"encoders.{encoder}.feed_forward"].tolist() == expected_K[asked].tolist()
    for name in ("embedding", "biases"):
        assert result.other_parts[name].tolist() == outputs[name][asked].tolist()


@given(MODELS, st.integers(0, 2**31))
def test_too_many_labels_are_refused_before_they_are_looked_at(model: Model, more: int) -> None:
    """However many there are: none of them is read."""
    labels = cast(Any, range(len(model.manifest.labels) + 1 + more))  # of numbers, which no model has
    with pytest.raises(InvalidArgument, match="expected at most the model's") as caught:
        target_indices(labels, model)
    assert caught.value.field == "labels"


def test_equal_logits_are_ranked_by_their_place() -> None:
    """So that an answer does not depend on how it was sorted."""
    assert top_indices(np.array([[1.0, 2.0, 1.0, 2.0]], np.float32), 3).tolist() == [[1, 3, 0]]


def test_softmax_of_large_logits_is_finite() -> None:
    """Logits of any size give probabilities."""
    probabilities = softmax(np.array([[1e4, 1e4 - 1, -1e4]], np.float32))
    np.testing.assert_allclose(probabilities, [[0.7310586, 0.2689414, 0.0]], atol=1e-6)
