"""ANDC masks: which connections they keep."""

import pytest
import support
import torch
from headwise_exporter.model.anatomy import CLASSIFIER_HEAD
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.snp import THRESHOLD, NodeMeasurement, statistics
from headwise_exporter.pruning.andc import andc_masks, andc_masks_keeping
from torch import Tensor


def graded_nodes(model: CCT) -> dict[str, NodeMeasurement]:
    """Nodes with fields of all sizes, so that every threshold gives other labels."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: NodeMeasurement(torch.rand(10, nodes, generator=generator).double(), torch.ones(10, nodes).double(), 1, 2)
        for name, node in support.random_nodes(model).items()
        for nodes in [node.weight_KN.shape[1]]
    }


def brute_force_layer_mask(out: NodeMeasurement, hidden: NodeMeasurement) -> Tensor:
    """The mask of a feed-forward layer, connection by connection."""
    rows = []
    for target in statistics(out).labels_NK:
        rows.append([bool((target & source).any()) for source in statistics(hidden).labels_NK])
    return torch.tensor(rows)


def test_node_keeps_its_labels_in_the_classifier_head(dense: CCT) -> None:
    """Node n keeps output j iff j is in D_n."""
    nodes = support.random_nodes(dense)
    masks = andc_masks(dense, nodes, "classifier_head", THRESHOLD).by_layer
    assert list(masks) == ["classifier.fc"]
    assert torch.equal(masks["classifier.fc"], statistics(nodes[CLASSIFIER_HEAD]).labels_NK.T)


def test_feed_forward_nodes_that_share_a_label_stay_connected(dense: CCT) -> None:
    """a -> b stays iff D_a and D_b have a label in common, for every encoder."""
    nodes = support.random_nodes(dense)
    masks = andc_masks(dense, nodes, "feed_forward", THRESHOLD).by_layer
    assert list(masks) == ["classifier.blocks.0.linear2", "classifier.blocks.1.linear2"]
    for index, mask in enumerate(masks.values()):
        out, hidden = (nodes[f"encoders.{index}.feed_forward_{tap}"] for tap in ("out", "hidden"))
        assert torch.equal(mask, brute_force_layer_mask(out, hidden))


def test_node_without_a_cluster_keeps_nothing(dense: CCT) -> None:
    """The first node of every tap point has no label: its row or column is empty."""
    masks = andc_masks(dense, support.random_nodes(dense), "both", THRESHOLD).by_layer
    assert not masks["classifier.fc"][:, 0].any()
    assert not masks["classifier.blocks.0.linear2"][0].any()
    assert not masks["classifier.blocks.0.linear2"][:, 0].any()


@pytest.mark.parametrize("share", [0.8, 0.5, 0.25, 0.1])
def test_every_layer_keeps_the_given_share(dense: CCT, share: float) -> None:
    """Each layer has its own threshold, and comes within a few connections of the share."""
    for mask in andc_masks_keeping(dense, graded_nodes(dense), "both", share).by_layer.values():
        assert float(mask.float().mean()) == pytest.approx(share, abs=0.03)


def test_layer_that_cannot_keep_the_share_keeps_what_it_can(dense: CCT) -> None:
    """Nodes that recognise few labels at any threshold share few."""
    nodes = support.random_nodes(dense)
    most, masks = andc_masks(dense, nodes, "feed_forward", 0.0), andc_masks_keeping(dense, nodes, "feed_forward", 1.0)
    for name, mask in masks.by_layer.items():
        assert torch.equal(mask, most.by_layer[name])
