"""Figures of the manifest."""

from pathlib import Path

import pytest
import torch
from headwise.bundle import read_manifest
from headwise.v1.bundle_pb2 import LayerMask, PruningProvenance
from headwise_exporter.export.manifest import kept_share, tap_point_metrics
from headwise_exporter.nodes.snp import NodeMeasurement


def test_kept_share_is_over_all_masked_connections() -> None:
    """Layers weigh by their connections; without masks everything is kept."""
    layers = [LayerMask(layer="a", connections=10, kept=5), LayerMask(layer="b", connections=30, kept=3)]
    assert kept_share(PruningProvenance(layer_masks=layers)) == pytest.approx(0.2)
    assert kept_share(PruningProvenance()) == 1.0


def test_tap_point_without_noise_has_no_ratio() -> None:
    """Where nothing but the diagonal is recognised the ratio is left out rather than infinite."""
    node = NodeMeasurement(torch.eye(4).double(), torch.eye(4).double(), correct=3, images=4)
    metrics = tap_point_metrics("x", node, 0.3)
    assert not metrics.HasField("snr")
    assert (metrics.clusters_per_node, metrics.cluster_size, metrics.noise_per_node) == (1, 1, 0)
    assert metrics.nodes_without_cluster == 0


def test_means_leave_out_nodes_without_a_cluster_and_say_so() -> None:
    """Of two nodes, one without a cluster: means over the other, over both, and their number."""
    label_means = torch.tensor([[1.0, 1.0], [0.0, 1.0]]).double()
    weight = torch.tensor([[1.0, -1.0], [0.0, -1.0]]).double()
    metrics = tap_point_metrics("x", NodeMeasurement(label_means, weight, correct=1, images=2), 0.3)
    assert (metrics.nodes, metrics.nodes_without_cluster) == (2, 1)
    assert (metrics.clusters_per_node, metrics.clusters_per_node_all) == (1.0, 0.5)


def test_manifest_has_every_figure(bundle: Path) -> None:
    """All that the manifest promises is there, plausible, and consistent with itself."""
    manifest = read_manifest(bundle)
    metrics = manifest.metrics
    assert metrics.test_images == 360
    for kind in ("dense", "masked", "pruned"):
        accuracy, interval = getattr(metrics, f"{kind}_accuracy"), getattr(metrics, f"{kind}_accuracy_interval")
        assert 0 < interval.low < accuracy < interval.high < 1
    assert 0 < metrics.kept_connections < 1
    assert metrics.parameters_pruned < metrics.parameters_dense
    assert metrics.macs_pruned < metrics.macs_dense
    taps = [f"encoders.{i}.{tap}" for i in (0, 1) for tap in ("heads", "feed_forward_hidden", "feed_forward_out")]
    assert [tap.name for tap in metrics.tap_points] == [*taps, "classifier_head"]
    assert [tap.name for tap in metrics.pruned_tap_points] == [*taps, "classifier_head"]
    for tap in metrics.tap_points:
        assert tap.probe_accuracy_interval.low <= tap.probe_accuracy <= tap.probe_accuracy_interval.high
        assert tap.clusters_per_node >= 1
        assert 1 <= tap.cluster_size <= 10
        assert tap.snr == pytest.approx(tap.signal / tap.noise)


def test_cards_cover_every_head_and_number_the_kept_ones(bundle: Path) -> None:
    """One card for each dense head; rows count the kept ones; each label has one expert in each encoder."""
    manifest = read_manifest(bundle)
    cards = manifest.head_cards
    dense = [shape.heads for shape in manifest.architecture.dense_encoders]
    expected = [(encoder, head) for encoder, heads in enumerate(dense) for head in range(heads)]
    assert [(card.encoder, card.head) for card in cards] == expected
    kept = [card for card in cards if not card.pruned]
    assert [card.row for card in kept] == list(range(sum(s.heads for s in manifest.architecture.pruned_encoders)))
    assert not any(card.HasField("row") for card in cards if card.pruned)
    for encoder in range(len(dense)):
        labels = [label for card in kept if card.encoder == encoder for label in card.expert_labels]
        assert sorted(labels) == list(manifest.labels)
    assert all(0 < card.p_value <= 1 and card.null_deals == 1000 and card.images == 359 for card in cards)
