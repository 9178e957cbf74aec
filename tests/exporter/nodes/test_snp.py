"""Single-nodal performance: fields, clusters, noise and signal-to-noise."""

from collections.abc import Mapping

import hypothesis.strategies as st
import numpy as np
import pytest
import support
import torch
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.nodes.snp import (
    CLASSIFIER_HEAD,
    NodeMeasurement,
    Probe,
    ProbeSettings,
    clusters,
    measure,
    recognised,
    recognised_labels,
    statistics,
    train_probes,
)
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from torch import Tensor

LABELS = 6
boolean_matrices = arrays(bool, st.tuples(st.integers(1, 4), st.just(LABELS), st.just(LABELS)))

Measured = tuple[dict[str, Probe], dict[str, NodeMeasurement], LabelledImages]


def brute_force_clusters(recognised_KK: Tensor) -> list[list[int]]:
    """Clusters of one node by the published definition, step by step."""
    free = [label for label in range(LABELS) if recognised_KK[label, label]]
    blocks = []
    while free:
        cluster = [free[0]]
        for label in free[1:]:
            block = [*cluster, label]
            if all(recognised_KK[i, j] for i in block for j in block):
                cluster = block
        blocks.append(cluster)
        free = [label for label in free if label not in cluster]
    return blocks


def measurement(label_means: Tensor, weight: Tensor) -> NodeMeasurement:
    """A measurement of given label means (K, N) and weights (K, N)."""
    return NodeMeasurement(label_means.double(), weight.double(), correct=1, images=2)


def known_experts(experts: Mapping[int, list[int]]) -> NodeMeasurement:
    """Nodes that are active on their labels alone and read out to them alone."""
    active = torch.zeros(LABELS, len(experts))
    for node, labels in experts.items():
        active[labels, node] = 1.0
    return measurement(active, active)


@given(boolean_matrices)
def test_clusters_are_those_of_the_published_definition(matrices: np.ndarray) -> None:
    """All nodes at once give what the definition gives for each node alone."""
    recognised_NKK = torch.from_numpy(matrices)
    cluster_NK = clusters(recognised_NKK)
    for node, recognised_KK in enumerate(recognised_NKK):
        expected = [-1] * LABELS
        for number, cluster in enumerate(brute_force_clusters(recognised_KK)):
            for label in cluster:
                expected[label] = number
        assert cluster_NK[node].tolist() == expected


@given(boolean_matrices)
def test_every_candidate_is_in_exactly_one_cluster(matrices: np.ndarray) -> None:
    """Labels on the diagonal have a cluster, the others none, and every cluster is a block of ones."""
    recognised_NKK = torch.from_numpy(matrices)
    cluster_NK = clusters(recognised_NKK)
    assert torch.equal(cluster_NK >= 0, recognised_NKK.diagonal(dim1=1, dim2=2))
    for node in range(len(matrices)):
        for number in range(int(cluster_NK[node].max()) + 1):
            members = (cluster_NK[node] == number).nonzero().flatten()
            assert recognised_NKK[node][members][:, members].all()


@given(st.integers(0, 1000), st.floats(0.05, 0.95))
def test_noise_and_blocks_are_all_that_is_recognised(seed: int, threshold: float) -> None:
    """Ones inside the blocks plus noise are all ones of a node's matrix."""
    generator = torch.Generator().manual_seed(seed)
    node_statistics = statistics(
        measurement(torch.rand(LABELS, 5, generator=generator), torch.randn(LABELS, 5, generator=generator)), threshold
    )
    for node in range(5):
        blocks = brute_force_clusters(node_statistics.recognised_NKK[node])
        inside = sum(len(block) ** 2 for block in blocks)
        assert int(node_statistics.noise_N[node]) == int(node_statistics.recognised_NKK[node].sum()) - inside
        assert int(node_statistics.clusters_N[node]) == len(blocks)
        if blocks:
            mean = sum(map(len, blocks)) / len(blocks)
            assert float(node_statistics.cluster_size_N[node]) == pytest.approx(mean)


@given(st.integers(0, 1000), st.permutations(range(LABELS)))
def test_permuting_labels_permutes_what_is_recognised(seed: int, order: list[int]) -> None:
    """A new order of the labels gives the same matrices in that order, and the same signal and noise."""
    generator = torch.Generator().manual_seed(seed)
    means, weight = torch.rand(LABELS, 4, generator=generator), torch.randn(LABELS, 4, generator=generator)
    plain, permuted = statistics(measurement(means, weight)), statistics(measurement(means[order], weight[order]))
    assert torch.equal(permuted.recognised_NKK, plain.recognised_NKK[:, order][:, :, order])
    assert permuted.signal_and_noise() == pytest.approx(plain.signal_and_noise())


@given(st.integers(0, 1000), st.floats(0.05, 0.95))
def test_labels_of_a_node_need_no_clusters(seed: int, threshold: float) -> None:
    """D_n from the factors is the union of the clusters from the matrices, for fields of either sign."""
    generator = torch.Generator().manual_seed(seed)
    node = measurement(torch.randn(LABELS, 6, generator=generator), torch.randn(LABELS, 6, generator=generator))
    assert torch.equal(recognised_labels(node, threshold), statistics(node, threshold).labels_NK)


def test_node_without_a_positive_field_has_no_labels() -> None:
    """As its clusters say, at any threshold."""
    assert not recognised_labels(measurement(torch.ones(LABELS, 1), -torch.ones(LABELS, 1)), 0.0).any()


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_scale_of_a_node_does_not_matter(seed: int, scale: float) -> None:
    """A node read out more strongly recognises the same labels."""
    generator = torch.Generator().manual_seed(seed)
    matrices_NKK = torch.randn(3, LABELS, LABELS, generator=generator, dtype=torch.float64)
    assert torch.equal(recognised(matrices_NKK), recognised(matrices_NKK * scale))


def test_node_without_a_positive_field_recognises_nothing() -> None:
    """Where the maximum is not positive there is no cluster, no noise and no label."""
    node_statistics = statistics(measurement(torch.ones(LABELS, 1), -torch.ones(LABELS, 1)))
    assert not node_statistics.recognised_NKK.any()
    assert not node_statistics.has_cluster_N.any()
    assert node_statistics.noise_N.tolist() == [0]


def test_known_experts_are_recovered_exactly() -> None:
    """A network built from experts has their labels as clusters, no noise, and no noise in its ratio."""
    experts = {0: [1], 1: [0, 3], 2: [2, 4, 5]}
    node_statistics = statistics(known_experts(experts))
    assert {
        node: labels.nonzero().flatten().tolist() for node, labels in enumerate(node_statistics.labels_NK)
    } == experts
    assert node_statistics.clusters_N.tolist() == [1, 1, 1]
    assert node_statistics.cluster_size_N.tolist() == [1, 2, 3]
    assert node_statistics.noise_N.tolist() == [0, 0, 0]


def test_random_nodes_have_a_ratio_of_one() -> None:
    """Label means and weights without label information give a signal-to-noise ratio of 1."""
    generator = torch.Generator().manual_seed(0)
    means, weight = torch.randn(20, 2000, generator=generator), torch.randn(20, 2000, generator=generator)
    signal, noise = statistics(measurement(means, weight)).signal_and_noise()
    assert signal / noise == pytest.approx(1.0, abs=0.05)


@pytest.fixture(scope="module")
def measured() -> Measured:
    """Probes of a random model after an epoch, and its nodes measured on 60 images of unequal image counts."""
    model = support.random_model()
    generator = torch.Generator().manual_seed(3)
    labels = torch.cat((torch.arange(10), torch.randint(0, 10, (50,), generator=generator)))
    data = support.random_images(labels)
    probes = train_probes(model, data, ProbeSettings(epochs=1))
    return probes, measure(model, probes, data, batch_size=7), data


def test_every_tap_point_has_a_probe(measured: Measured) -> None:
    """Three tap points an encoder, in the order of the forward pass, and the classifier head after them."""
    probes, nodes, _ = measured
    names = [f"encoders.{i}.{tap}" for i in (0, 1) for tap in ("heads", "feed_forward_hidden", "feed_forward_out")]
    assert list(probes) == [tap.name for tap in support.random_model().tap_points() if not tap.pooled] == names
    assert list(nodes) == [*names, CLASSIFIER_HEAD]


def test_fields_of_all_nodes_add_up_to_the_probes_output(
    measured: Measured,
) -> None:
    """The sum over nodes of the fields is the probe's logits, image by image."""
    probes, _, _ = measured
    values = torch.randn(5, 16, 48)
    probe = probes["encoders.1.feed_forward_hidden"]
    fields_BNK = probe.pool(values).unsqueeze(2) * probe.fc.weight.T
    torch.testing.assert_close(fields_BNK.sum(1), probe(values))


def test_matrices_are_label_means_of_the_fields(
    measured: Measured,
) -> None:
    """One pass gives what collecting every field of every image and averaging by label gives."""
    probes, nodes, data = measured
    name = "encoders.0.heads"
    with torch.no_grad():
        values = support.random_model()(data.normalised(slice(None)))[1][name]
    fields_BNK = (probes[name].pool(values).unsqueeze(2) * probes[name].fc.weight.T).double()
    expected = torch.stack([fields_BNK[data.labels_N == label].mean(0) for label in range(10)], 1)
    torch.testing.assert_close(nodes[name].matrices(), expected, rtol=1e-5, atol=1e-6)


def test_probe_accuracy_is_that_of_its_logits(
    measured: Measured,
) -> None:
    """Correct answers are counted over all batches, for probes and for the model's own classifier head."""
    probes, nodes, data = measured
    with torch.no_grad():
        logits, activations = support.random_model()(data.normalised(slice(None)))
    own = int((logits.argmax(1) == data.labels_N).sum())
    tap = "encoders.1.feed_forward_out"
    assert (nodes[CLASSIFIER_HEAD].correct, nodes[CLASSIFIER_HEAD].images) == (own, 60)
    assert nodes[tap].correct == int((probes[tap](activations[tap]).argmax(1) == data.labels_N).sum())


def test_label_without_an_image_is_named(measured: Measured) -> None:
    """Label means of no image are refused, naming the label."""
    probes, _, data = measured
    with pytest.raises(ValueError, match=r"found none of label\(s\) \[4\]"):
        measure(support.random_model(), probes, support.random_images(data.labels_N[data.labels_N != 4]))


@settings(deadline=None, max_examples=5)
@given(st.integers(1, 60))
def test_measurement_does_not_depend_on_the_batch(batch_size: int) -> None:
    """Any batch size gives the same label means."""
    model = support.random_model()
    data = support.random_images(torch.arange(30) % 10)
    whole, pieces = measure(model, {}, data), measure(model, {}, data, batch_size)
    torch.testing.assert_close(
        whole[CLASSIFIER_HEAD].label_means_KN, pieces[CLASSIFIER_HEAD].label_means_KN, rtol=1e-5, atol=1e-6
    )
