"""Criteria that rank removable units."""

import pytest
import support
import torch
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.snp import THRESHOLD, NodeMeasurement, ProbeSettings, measure, statistics, train_probes
from headwise_exporter.pruning.criteria import GroupMoments, collect_moments, distinct_scores, scores, snp_scores
from headwise_exporter.pruning.names import CRITERIA
from torch.nn import functional

Measured = tuple[CCT, GroupMoments, dict[str, NodeMeasurement], LabelledImages]


@pytest.fixture(scope="module")
def measured() -> Measured:
    """A random model with its moments and measurements on 40 random images."""
    model = support.random_model()
    data = support.random_images(torch.arange(40) % 10)
    nodes = measure(model, train_probes(model, data, ProbeSettings(epochs=1)), data)
    return model, collect_moments(model, data, batch_size=9), nodes, data


def test_moments_are_those_of_all_images_and_tokens(measured: Measured) -> None:
    """Mean, energy and variance over batches equal those over everything at once."""
    model, moments, _, data = measured
    with torch.no_grad():
        values = model(data.normalised(slice(None)))[1]["encoders.1.feed_forward_hidden"].flatten(0, 1).double()
    hidden = moments["encoders.1.feed_forward_hidden"]
    torch.testing.assert_close(hidden.mean(), values.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(hidden.energy(), values.square().mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(hidden.variance(), values.var(0, correction=0), rtol=1e-4, atol=1e-5)


def test_taylor_is_the_squared_first_order_change_image_by_image(measured: Measured) -> None:
    """The running sums give what each image's own gradient gives."""
    model, moments, _, data = measured
    mean = moments["encoders.0.heads"].mean()
    terms = []
    for images, labels in data.batches(1):
        logits, activations = model(images)
        value = activations["encoders.0.heads"]
        (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, labels), value)
        terms.append(((value.detach() - mean) * gradient).sum((0, 1)).double().square())
    torch.testing.assert_close(moments["encoders.0.heads"].taylor(), torch.stack(terms).mean(0), rtol=1e-3, atol=1e-9)


def test_snp_score_is_the_diagonal_field_on_recognised_labels(measured: Measured) -> None:
    """Sum over D_n of M_n[j,j], node by node."""
    _, _, nodes, _ = measured
    name = "encoders.0.feed_forward_hidden"
    matrices_NKK = nodes[name].matrices()
    expected = [
        sum(float(matrix[label, label]) for label in range(10) if labels[label])
        for matrix, labels in zip(matrices_NKK, statistics(nodes[name]).labels_NK, strict=True)
    ]
    torch.testing.assert_close(snp_scores(nodes[name], THRESHOLD), torch.tensor(expected, dtype=torch.float64))


def test_node_that_repeats_a_stronger_one_is_not_distinct() -> None:
    """The stronger keeps its score, a node with another matrix too, and half a copy counts half."""
    means_KN = torch.tensor([[2.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]).double()
    weight_KN = torch.tensor([[1.0, 1.0, 0.0, 0.4], [0.0, 0.0, 1.0, 0.4], [0.0, 0.0, 0.0, 0.0]]).double()
    distinct = distinct_scores(NodeMeasurement(means_KN, weight_KN, 1, 2), THRESHOLD)
    torch.testing.assert_close(distinct, torch.tensor([1.0, 0.0, 1.0, 0.5]).double())


def test_distinct_is_one_minus_the_cosine_of_whole_matrices(measured: Measured) -> None:
    """From the factors as from the matrices themselves."""
    _, _, nodes, _ = measured
    node = nodes["encoders.0.heads"]
    flat_NM = functional.normalize(node.matrices().flatten(1), dim=1)
    strength = snp_scores(node, THRESHOLD)
    expected = []
    for index, own_M in enumerate(flat_NM):
        stronger = (strength > strength[index]).nonzero().flatten()
        expected.append(1 - max([0.0, *(flat_NM[stronger] @ own_M).tolist()]))
    has_own = strength > 0  # nodes of equal score, which are those of none, count by their index
    torch.testing.assert_close(
        distinct_scores(node, THRESHOLD)[has_own], torch.tensor(expected, dtype=torch.float64)[has_own]
    )


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_scores_every_removable_node(measured: Measured, criterion: str) -> None:
    """One finite score for each unit of every group."""
    model, moments, nodes, _ = measured
    by_group = scores(model, moments, nodes, THRESHOLD, criterion)
    sizes = {"query": 32, "key": 32, "heads": 32, "feed_forward_hidden": 48}
    expected = {f"encoders.{encoder}.{kind}": size for encoder in (0, 1) for kind, size in sizes.items()}
    assert {name: len(score) for name, score in by_group.items()} == expected
    assert all(score.isfinite().all() for score in by_group.values())


def test_product_is_the_product_of_both(measured: Measured) -> None:
    """`taylor*snp` ranks as the two scores multiplied."""
    model, moments, nodes, _ = measured
    both, taylor, snp = (scores(model, moments, nodes, THRESHOLD, name) for name in ("taylor*snp", "taylor", "snp"))
    for name, score in both.items():
        is_read = not name.endswith(("query", "key"))
        torch.testing.assert_close(score, taylor[name] * snp[name] if is_read else taylor[name])


def test_unread_node_is_worth_nothing(measured: Measured) -> None:
    """A hidden node whose outgoing weights are zero has no magnitude and no lost energy."""
    _, moments, nodes, _ = measured
    model = support.random_model()
    with torch.no_grad():
        model.classifier.blocks[0].linear2.weight[:, 7] = 0.0
    for criterion in ("magnitude", "variance"):
        assert scores(model, moments, nodes, THRESHOLD, criterion)["encoders.0.feed_forward_hidden"][7] == 0.0


def test_unknown_criterion_lists_the_known_ones(measured: Measured) -> None:
    """A criterion that does not exist is refused."""
    model, moments, nodes, _ = measured
    with pytest.raises(ValueError, match=r"expected a criterion of magnitude, .*found 'luck'"):
        scores(model, moments, nodes, THRESHOLD, "luck")
