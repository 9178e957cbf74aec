"""Explain, as a client on the wire sees it."""

from pathlib import Path

import numpy as np
import pytest
from headwise.bundle import read_manifest
from headwise.graphs import other_part_names
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub
from scipy.stats import spearmanr
from wire import IMAGES, SECONDS, floats, tensor


def kept_heads(stub: HeadwiseServiceStub) -> int:
    """Of the served model."""
    manifest = stub.GetModel(pb.GetModelRequest(), timeout=SECONDS).manifest
    return sum(not card.pruned for card in manifest.head_cards)


def test_explain_splits_every_logit_exactly(stub: HeadwiseServiceStub, bundle: Path) -> None:
    """For every image and label the parts add up to the logit, which is Classify's, within what the reply says."""
    manifest = read_manifest(bundle)
    images = list(map(tensor, IMAGES))
    classified = stub.Classify(pb.ClassifyRequest(images=images), timeout=SECONDS)
    reply = stub.Explain(pb.ExplainRequest(images=images, labels=manifest.labels), timeout=SECONDS)
    assert reply.completeness_tolerance == 1e-4
    for explanation, plain in zip(reply.explanations, classified.classifications, strict=True):
        np.testing.assert_allclose(floats(explanation.logits), floats(plain.logits), rtol=0, atol=1e-5)
        np.testing.assert_allclose(floats(explanation.probabilities), floats(plain.probabilities), rtol=0, atol=1e-5)
        parts = floats(explanation.head_contributions + explanation.other_contributions).reshape(-1, 10)
        total_K = parts.sum(0, dtype=np.float64)
        residual = float(np.abs(total_K - floats(explanation.logits)).max())
        assert residual == pytest.approx(explanation.completeness_residual, abs=1e-6)
        assert explanation.completeness_residual <= 1e-4


def test_explain_has_a_row_for_every_part_that_the_manifest_names(stub: HeadwiseServiceStub, bundle: Path) -> None:
    """Kept heads as the cards count them, then the other parts; the numbers are those of the golden set."""
    with np.load(bundle / "golden.npz") as file:
        golden = dict(file)
    described = stub.GetModel(pb.GetModelRequest(), timeout=SECONDS)
    rows = [card.row for card in described.manifest.head_cards if not card.pruned]
    assert rows == list(range(golden["heads"].shape[1]))
    assert len(rows) < len(described.manifest.head_cards)  # some are removed
    names = other_part_names(described.manifest)
    assert names == ["embedding", "encoders.0.feed_forward", "encoders.1.feed_forward", "biases"]
    reply = stub.Explain(pb.ExplainRequest(images=map(tensor, golden["images"]), top_k=2), timeout=SECONDS)
    assert reply.model.sha256 == described.model.sha256
    for image, explanation in enumerate(reply.explanations):
        targets = list(explanation.target_indices)
        feed_forwards = golden["feed_forwards"][image]
        others = np.stack([golden["embedding"][image], *feed_forwards, golden["biases"][image]])
        for sent, expected in (
            (explanation.head_contributions, golden["heads"][image][:, targets]),
            (explanation.other_contributions, others[:, targets]),
            (explanation.head_fields, golden["head_fields"][image]),
        ):
            np.testing.assert_allclose(floats(sent).reshape(expected.shape), expected, rtol=0, atol=1e-4)


def test_explain_takes_the_labels_asked_for_or_the_first_of_each_image(stub: HeadwiseServiceStub) -> None:
    """Named labels in the order asked, else the top ones by logit; three of them by default, all of them at most."""
    image = tensor(IMAGES[1])
    named = stub.Explain(pb.ExplainRequest(images=[image], labels=["7", "2"]), timeout=SECONDS).explanations[0]
    assert list(named.target_indices) == [7, 2]
    best = stub.Explain(pb.ExplainRequest(images=[image]), timeout=SECONDS).explanations[0]
    order = np.argsort(-floats(best.logits))
    assert list(best.target_indices) == list(order[:3])
    everything = stub.Explain(pb.ExplainRequest(images=[image], top_k=2**32 - 1), timeout=SECONDS).explanations[0]
    assert list(everything.target_indices) == list(order)


def test_means_over_all_labels_are_what_the_labels_get_alike(stub: HeadwiseServiceStub, bundle: Path) -> None:
    """Contributions less them add up to the logit above the mean of all logits."""
    labels = read_manifest(bundle).labels
    request = pb.ExplainRequest(images=[tensor(IMAGES[2])], labels=labels)
    [explanation] = stub.Explain(request, timeout=SECONDS).explanations
    parts_PK = floats(explanation.head_contributions + explanation.other_contributions).reshape(-1, 10)
    means_P = floats(explanation.mean_head_contributions + explanation.mean_other_contributions)
    np.testing.assert_allclose(parts_PK.mean(1), means_P, rtol=0, atol=1e-5)
    logits_K = floats(explanation.logits)
    above_K = (parts_PK - means_P[:, None]).sum(0)
    np.testing.assert_allclose(above_K, logits_K - logits_K.mean(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("labels", [["7", "2"], []])
def test_maps_add_up_to_contributions_and_change_nothing_else(stub: HeadwiseServiceStub, labels: list[str]) -> None:
    """Over the token grid that the reply describes, for labels by name and for the best ones of each image."""
    images = list(map(tensor, IMAGES[:11]))
    plain = stub.Explain(pb.ExplainRequest(images=images, labels=labels, top_k=4), timeout=SECONDS)
    mapped = stub.Explain(pb.ExplainRequest(images=images, labels=labels, top_k=4, maps=True), timeout=SECONDS)
    assert not plain.HasField("token_grid")
    grid, rows = mapped.token_grid, kept_heads(stub)
    assert (grid.rows, grid.columns, grid.stride_pixels) == (4, 4, 2)
    for without, explanation in zip(plain.explanations, mapped.explanations, strict=True):
        assert list(explanation.target_indices) == list(without.target_indices)
        targets = len(explanation.target_indices)
        heads_RJ = floats(explanation.head_contributions).reshape(rows, targets)
        others_PJ = floats(explanation.other_contributions).reshape(-1, targets)
        np.testing.assert_allclose(floats(without.head_contributions).reshape(rows, targets), heads_RJ, atol=1e-5)
        head_maps = floats(explanation.head_maps).reshape(rows, targets, 16)
        other_maps = floats(explanation.other_maps).reshape(-1, targets, 16)
        assert len(other_maps) == len(others_PJ) - 1
        np.testing.assert_allclose(head_maps.sum(-1), heads_RJ, rtol=0, atol=1e-4)
        np.testing.assert_allclose(other_maps.sum(-1), others_PJ[:-1], rtol=0, atol=1e-4)
        assert not without.head_maps
        assert not without.other_maps


def test_each_head_is_removed_in_turn_where_that_is_asked_for(stub: HeadwiseServiceStub) -> None:
    """Its fall is that of the logit with that head alone silent, whatever else is asked; with the rank correlation."""
    images, rows = list(map(tensor, IMAGES[:3])), kept_heads(stub)
    reply = stub.Explain(pb.ExplainRequest(images=images, labels=["4", "9"], causal=True), timeout=SECONDS)
    for row in range(rows):
        request = pb.ExplainRequest(images=images, labels=["4", "9"], silenced_heads=[row], causal=row == 0)
        silenced = stub.Explain(request, timeout=SECONDS).explanations
        for explanation, silent in zip(reply.explanations, silenced, strict=True):
            effects_J = floats(explanation.head_effects).reshape(rows, 2)[row]
            falls_K = floats(silent.logits) - floats(silent.silenced_logits)
            np.testing.assert_allclose(effects_J, falls_K[[4, 9]], rtol=0, atol=1e-5)
            assert bool(silent.head_effects) == (row == 0)
            assert np.abs(effects_J).max() > 0
    for explanation in reply.explanations:
        contributions_RJ = floats(explanation.head_contributions).reshape(rows, 2)
        effects_RJ = floats(explanation.head_effects).reshape(rows, 2)
        expected = [spearmanr(contributions_RJ[:, target], effects_RJ[:, target]).statistic for target in range(2)]
        np.testing.assert_allclose(floats(explanation.effect_correlations), expected, atol=1e-6)
        assert not explanation.silenced_logits


def test_silencing_several_heads_is_more_than_the_sum_of_each(stub: HeadwiseServiceStub) -> None:
    """They are silent together, in any order; what is asked twice is answered alike."""
    image, rows = tensor(IMAGES[5]), kept_heads(stub)
    every = list(range(rows))

    def silenced(heads: list[int]) -> np.ndarray:
        request = pb.ExplainRequest(images=[image], silenced_heads=heads)
        return floats(stub.Explain(request, timeout=SECONDS).explanations[0].silenced_logits)

    np.testing.assert_array_equal(silenced(every), silenced(every[::-1]))
    assert np.abs(silenced(every) - silenced(every[:1])).max() > 1e-3
