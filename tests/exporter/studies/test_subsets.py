"""Removal of hidden nodes for a subset of the labels."""

import pytest
import support
import torch
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.measurements import Measurements
from headwise_exporter.nodes.snp import NodeMeasurement
from headwise_exporter.pruning import criteria
from headwise_exporter.studies.settings import SubsetSettings
from headwise_exporter.studies.subsets import (
    CRITERIA,
    SubsetRow,
    accuracy_among,
    contrast,
    draw_subsets,
    keep_hidden,
    of_labels,
    positive_fields,
    remove_for_subsets,
    results,
    scores,
)
from headwise_exporter.training.evaluation import predict

SETTINGS = SubsetSettings(labels=3, subsets=2, shares=(1.0, 0.25), images=20)


@pytest.fixture(scope="module")
def data() -> LabelledImages:
    """80 random images, eight of each label."""
    return support.random_images(torch.arange(80) % 10)


def random_node(nodes: int = 7) -> NodeMeasurement:
    """Label means and weights of six labels."""
    generator = torch.Generator().manual_seed(0)
    means, weight = (torch.randn(6, nodes, generator=generator).double() for _ in range(2))
    return NodeMeasurement(means, weight, 1, 2)


def test_subsets_are_different_labels_and_the_same_for_a_seed() -> None:
    """Labels of a subset ascend, without repetition."""
    drawn = draw_subsets(10, SubsetSettings(labels=4, subsets=30))
    assert drawn == draw_subsets(10, SubsetSettings(labels=4, subsets=30))
    assert all(list(labels) == sorted(set(labels)) and len(labels) == 4 for labels in drawn)
    assert len(set(drawn)) > 20


def test_larger_subset_than_labels_is_refused() -> None:
    """The message has the number of labels that there are."""
    with pytest.raises(ValueError, match="expected subsets of at most 3 labels, found 4"):
        draw_subsets(3, SubsetSettings(labels=4))


def test_contrast_is_the_norm_of_the_doubly_centred_part_of_the_matrix() -> None:
    """Rows and columns of the subset, without what they have in common."""
    node, labels = random_node(), [0, 2, 5]
    part_NSS = node.matrices()[:, labels][:, :, labels]
    centred = part_NSS - part_NSS.mean(1, keepdim=True)
    centred = centred - centred.mean(2, keepdim=True)
    torch.testing.assert_close(contrast(node, labels), centred.flatten(1).norm(dim=1))


def test_positive_fields_are_those_of_the_diagonal() -> None:
    """Negative fields count nothing."""
    node, labels = random_node(), [1, 4]
    diagonal_NK = node.matrices().diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(positive_fields(node, labels), diagonal_NK[:, labels].clamp(min=0).sum(1))


def test_images_and_accuracy_are_of_the_subset_alone(dense: CCT, data: LabelledImages) -> None:
    """A label outside the subset cannot be predicted."""
    labels = [2, 3, 7]
    chosen = of_labels(data, labels)
    assert sorted(set(chosen.labels_N.tolist())) == labels
    logits_NK = predict(dense, chosen)
    expected = sum(
        max(labels, key=lambda label: float(logits[label])) == own
        for logits, own in zip(logits_NK, chosen.labels_N.tolist(), strict=True)
    )
    assert accuracy_among(dense, chosen, labels) == pytest.approx(expected / len(chosen))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_scores_every_hidden_node(
    criterion: str, dense: CCT, data: LabelledImages, measurements: Measurements
) -> None:
    """Scores are finite and not negative."""
    moments = criteria.collect_moments(dense, data)
    for score_F in scores(dense, moments, measurements.nodes, [1, 2, 3], criterion, torch.Generator()):
        assert score_F.shape == (48,)
        assert torch.isfinite(score_F).all()
        assert (score_F >= 0).all()


def test_unknown_criterion_lists_the_known_ones(dense: CCT, measurements: Measurements) -> None:
    """A criterion that does not exist is refused."""
    with pytest.raises(ValueError, match=r"expected a criterion of random, .*found 'luck'"):
        scores(dense, {}, measurements.nodes, [1], "luck", torch.Generator())


def test_nodes_with_the_largest_scores_stay(dense: CCT, data: LabelledImages) -> None:
    """No weight reads the other hidden nodes any more; a share of 1 leaves the model as it is."""
    means = criteria.mean_activations(criteria.collect_moments(dense, data))
    ranked = [torch.arange(48.0), torch.arange(48.0).flip(0)]
    kept = [range(36, 48), range(12)]
    for encoder, stay in zip(keep_hidden(dense, ranked, means, 0.25).encoders, kept, strict=True):
        assert encoder.linear2.weight.abs().sum(0).nonzero().flatten().tolist() == list(stay)
    whole = keep_hidden(dense, ranked, means, 1.0)
    assert torch.equal(predict(whole, data), predict(dense, data))


def test_rows_cover_everything_and_a_share_of_one_costs_nothing(
    dense: CCT, measurements: Measurements, data: LabelledImages
) -> None:
    """Subsets x criteria x shares; with all nodes each row has the dense model's accuracy."""
    notes: list[str] = []
    rows = remove_for_subsets(dense, measurements, data, data, SETTINGS, notes.append)
    assert len(rows) == 2 * len(CRITERIA) * 2
    assert notes == ["subset 1", "subset 2"]
    assert all(row.accuracy == row.dense_accuracy for row in rows if row.share == 1.0)
    assert rows == remove_for_subsets(dense, measurements, data, data, SETTINGS)


def test_results_are_means_and_paired_with_taylor() -> None:
    """A criterion that is always a tenth better differs by a tenth, and not by chance."""
    rows = []
    for number in range(12):
        base = 0.5 + 0.01 * number
        rows.append(SubsetRow((number,), "taylor", 0.5, base, 0.9, 10))
        rows.append(SubsetRow((number,), "contrast", 0.5, base + 0.1, 0.9, 10))
    taylor, better = results(rows)
    assert (taylor.to_baseline, taylor.p_value) == (0.0, 1.0)
    assert better.to_baseline == pytest.approx(0.1)
    assert better.p_value < 0.001
    assert better.low < better.accuracy < better.high


def test_equal_accuracies_have_an_interval_of_nothing() -> None:
    """No warning and no NaN where every subset comes out the same."""
    [only] = results([SubsetRow((number,), "taylor", 0.5, 0.7, 0.9, 10) for number in range(3)])
    assert (only.accuracy, only.low, only.high) == pytest.approx((0.7, 0.7, 0.7))
