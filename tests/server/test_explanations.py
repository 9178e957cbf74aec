"""Replies to Explain from outputs of any shape, and the size that they are known to have before anything has run."""

from dataclasses import replace
from typing import Any, cast

import hypothesis.strategies as st
import numpy as np
import pytest
from answers import MODELS, TOKENS, TOP, make_answer, make_model, make_silent_answer
from google.protobuf.message import Message
from headwise.messages import explanations, names_of
from headwise.results import Explanation
from headwise.v1 import service_pb2 as pb
from headwise_server.batching import Answer
from headwise_server.errors import Internal, InvalidArgument
from headwise_server.explanations import (
    Question,
    explain_reply_bytes,
    explain_response,
    head_count,
    question,
    rank_correlations,
)
from headwise_server.models import Model
from hypothesis import given
from scipy.stats import spearmanr


@given(MODELS, st.integers(1, 6), TOP, st.integers(0, 9))
def test_reply_takes_no_more_than_was_known_before_it(model: Model, images: int, top: int, seed: int) -> None:
    """An upper bound from the request alone; close, since only small numbers may be shorter."""
    asked = Question([], top)
    explained = explain_response(model, asked, make_answer(model, images, seed), None, 0.0).ByteSize()
    assert explained <= explain_reply_bytes(model, images, asked) <= 1.1 * explained + 16 * images + 32


@given(MODELS, st.integers(1, 4), st.integers(0, 9), st.booleans(), st.data())
def test_bound_is_close_for_whatever_is_asked(
    model: Model, images: int, seed: int, causal: bool, data: st.DataObject
) -> None:
    """Labels by name, maps, falls and silent heads."""
    heads = head_count(model)
    targets = data.draw(st.lists(st.integers(0, len(model.manifest.labels) - 1), unique=True, min_size=1))
    silenced = data.draw(st.lists(st.integers(0, heads - 1), unique=True)) if heads else []
    asked = Question(targets, 0, True, causal and heads > 0, tuple(silenced))
    inferences = len(asked.silences(model))
    silent = make_silent_answer(model, images, inferences, seed) if inferences else None
    explained = explain_response(model, asked, make_answer(model, images, seed, targets), silent, 0.0).ByteSize()
    assert explained <= explain_reply_bytes(model, images, asked) <= 1.1 * explained + 24 * images + 48


@given(MODELS, st.integers(1, 3), st.integers(0, 9), st.data())
def test_client_reads_the_numbers_that_the_engine_gave(
    model: Model, images: int, seed: int, data: st.DataObject
) -> None:
    """For any heads kept and any targets: each contribution, mean, map and field by its name, removed heads silent."""
    manifest = model.manifest
    asked = data.draw(st.lists(st.integers(0, len(manifest.labels) - 1), unique=True, min_size=1))
    answer = make_answer(model, images, seed, asked)
    answer = replace(answer, outputs=answer.outputs | _summing_maps(answer, asked))
    sent = _over_the_wire(explain_response(model, Question(asked, 0, True), answer, None, 0.0))
    described = pb.GetModelResponse(model=model.served(model.explain), manifest=manifest)
    results = explanations(cast(pb.ExplainResponse, sent), names_of(described))
    assert len(results) == images
    for image, result in enumerate(results):
        _assert_reads(result, answer, model, image, asked)


def _over_the_wire(message: Message) -> Message:
    return type(message).FromString(message.SerializeToString())


def _summing_maps(answer: Answer, asked: list[int]) -> dict[str, np.ndarray]:
    """Maps that add up to the contributions to the targets, all of each at one token."""
    maps = {}
    for name in ("heads", "feed_forwards", "embedding"):
        contributions = answer.outputs[name][..., asked]
        values = np.zeros((*contributions.shape, TOKENS[0] * TOKENS[1]), np.float32)
        values[..., 4] = contributions
        maps[f"{name.removesuffix('s')}_maps"] = values
    return maps


def _assert_reads(result: Explanation, answer: Answer, model: Model, image: int, asked: list[int]) -> None:
    outputs = {name: values[image] for name, values in answer.outputs.items()}
    assert [target.label for target in result.targets] == [model.manifest.labels[index] for index in asked]
    assert [target.logit for target in result.targets] == outputs["logits"][asked].tolist()
    assert result.head_maps_RJYX is not None
    assert result.other_maps is not None
    for position, card in enumerate(model.manifest.head_cards):
        if card.pruned:
            assert not result.heads_RJ[position].any()
            assert np.isnan(result.head_fields_RK[position]).all()
        else:
            assert result.heads_RJ[position].tolist() == outputs["heads"][card.row][asked].tolist()
            assert result.head_fields_RK[position].tolist() == outputs["head_fields"][card.row].tolist()
            assert result.mean_heads_R[position] == outputs["heads"][card.row].mean()
            assert result.head_maps_RJYX[position][:, 1, 1].tolist() == result.heads_RJ[position].tolist()
    for encoder, expected_K in enumerate(outputs["feed_forwards"]):
        name = f"encoders.{encoder}.feed_forward"
        assert result.other_parts[name].tolist() == expected_K[asked].tolist()
        assert result.other_maps[name][:, 1, 1].tolist() == expected_K[asked].tolist()
    for name in ("embedding", "biases"):
        assert result.other_parts[name].tolist() == outputs[name][asked].tolist()


def test_maps_that_do_not_add_up_are_withheld() -> None:
    """The error gives the figure; without maps the same split is answered."""
    model = make_model(["a", "b"], [[True]])
    model.manifest.completeness_tolerance = 1e-4
    answer = make_answer(model, 2, 0, [1])
    outputs = {name: np.zeros_like(values) for name, values in answer.outputs.items()}
    outputs["target_indices"][:] = 1
    outputs["head_maps"][1, 0, 0, 3] = 0.25
    tampered = replace(answer, outputs=outputs)
    with pytest.raises(Internal, match=r"a map misses its contribution by 0\.25, tolerance 0\.0001"):
        explain_response(model, Question([1], 0, True), tampered, None, 0.0)
    assert explain_response(model, Question([1], 0), tampered, None, 0.0).explanations


@given(MODELS, st.integers(0, 2**31))
def test_too_many_labels_are_refused_before_they_are_looked_at(model: Model, more: int) -> None:
    """However many there are: none of them is read."""
    labels = range(len(model.manifest.labels) + 1 + more)  # of numbers, which no model has
    request = cast(Any, pb.ExplainRequest())
    asking = type("Asking", (), {"labels": labels, "silenced_heads": request.silenced_heads})
    with pytest.raises(InvalidArgument, match="expected at most the model's") as caught:
        question(cast(Any, asking), model)
    assert caught.value.field == "labels"


@pytest.mark.parametrize(
    ("rows", "field", "match"),
    [
        ([2], "silenced_heads[0]", "found 2 but the model has kept 2"),
        ([1, 1], "silenced_heads[1]", "each once, found 1 again"),
        ([0, 1, 0], "silenced_heads", "expected at most the model's 2 heads, found 3"),
    ],
)
def test_heads_that_the_model_has_not_are_refused(rows: list[int], field: str, match: str) -> None:
    """A removed head has no row."""
    model = make_model(["a"], [[True, False, True]])
    with pytest.raises(InvalidArgument, match=match) as caught:
        question(pb.ExplainRequest(silenced_heads=rows), model)
    assert caught.value.field == field


def test_heads_are_silent_one_at_a_time_and_then_together() -> None:
    """Each inference of an image has its row."""
    model = make_model(["a"], [[True, True], [True]])
    assert Question([], 0, causal=True, silenced=(2, 0)).silences(model).tolist() == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
        [True, False, True],
    ]
    assert Question([], 0).silences(model).shape == (0, 3)


@given(st.integers(2, 12), st.integers(0, 99), st.booleans())
def test_rank_correlation_is_that_of_spearman(heads: int, seed: int, ties: bool) -> None:
    """Equal values have their mean rank; where all are equal there is none."""
    random = np.random.default_rng(seed)
    one, other = random.normal(size=(2, 1, heads, 3)).astype(np.float32)
    if ties:
        one, other = one.round(), other.round()
    one[..., 2] = 1.0
    given_J = rank_correlations(one, other)[0]
    assert np.isnan(given_J[2])
    for target in range(2):
        if np.ptp(one[0, :, target]) and np.ptp(other[0, :, target]):
            expected = spearmanr(one[0, :, target], other[0, :, target]).statistic
            assert given_J[target] == pytest.approx(expected, abs=1e-6)
