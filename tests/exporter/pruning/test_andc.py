"""ANDC masks: which connections they keep, and that training respects them."""

import pytest
import support
import torch
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.snp import CLASSIFIER_HEAD, THRESHOLD, NodeMeasurement, statistics
from headwise_exporter.pruning import andc
from headwise_exporter.training.loop import TrainingSettings, train
from torch import Tensor


def random_nodes(model: CCT, seed: int = 0) -> dict[str, NodeMeasurement]:
    """Every node of the masked tap points recognises a random set of labels, the first none."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {CLASSIFIER_HEAD: model.config.width}
    for index, shape in enumerate(model.config.encoders):
        sizes[f"encoders.{index}.feed_forward_hidden"] = shape.feed_forward
        sizes[f"encoders.{index}.feed_forward_out"] = model.config.width
    found = {}
    for name, nodes in sizes.items():
        active_KN = (torch.rand(10, nodes, generator=generator) < 0.2).double()
        active_KN[:, 0] = 0.0
        strength_N = 0.5 + torch.rand(nodes, generator=generator)  # of no consequence
        found[name] = NodeMeasurement(active_KN * strength_N, active_KN, correct=1, images=2)
    return found


def graded_nodes(model: CCT) -> dict[str, NodeMeasurement]:
    """Nodes with fields of all sizes, so that every threshold gives other labels."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: NodeMeasurement(torch.rand(10, nodes, generator=generator).double(), torch.ones(10, nodes).double(), 1, 2)
        for name, node in random_nodes(model).items()
        for nodes in [node.weight_KN.shape[1]]
    }


@pytest.fixture
def model() -> CCT:
    """A model with random weights."""
    return support.random_model()


def brute_force_layer_mask(out: NodeMeasurement, hidden: NodeMeasurement) -> Tensor:
    """The layer rule, connection by connection."""
    rows = []
    for target in statistics(out).labels_NK:
        rows.append([bool((target & source).any()) for source in statistics(hidden).labels_NK])
    return torch.tensor(rows)


def test_classifier_head_rule_keeps_a_node_to_its_labels(model: CCT) -> None:
    """Node n keeps output j iff j is in D_n."""
    found = random_nodes(model)
    masks = andc.masks(model, found, "classifier_head", THRESHOLD)
    assert list(masks) == ["classifier.fc"]
    assert torch.equal(masks["classifier.fc"], statistics(found[CLASSIFIER_HEAD]).labels_NK.T)


def test_layer_rule_keeps_nodes_that_share_a_label(model: CCT) -> None:
    """a -> b stays iff D_a and D_b have a label in common, for every encoder."""
    found = random_nodes(model)
    masks = andc.masks(model, found, "layer", THRESHOLD)
    assert list(masks) == ["classifier.blocks.0.linear2", "classifier.blocks.1.linear2"]
    for index, mask in enumerate(masks.values()):
        out, hidden = (found[f"encoders.{index}.feed_forward_{tap}"] for tap in ("out", "hidden"))
        assert torch.equal(mask, brute_force_layer_mask(out, hidden))


def test_node_without_a_cluster_keeps_nothing(model: CCT) -> None:
    """The first node of every tap point has no label: its row or column is empty."""
    masks = andc.masks(model, random_nodes(model), "both", THRESHOLD)
    assert not masks["classifier.fc"][:, 0].any()
    assert not masks["classifier.blocks.0.linear2"][0].any()
    assert not masks["classifier.blocks.0.linear2"][:, 0].any()


def test_no_rule_masks_nothing(model: CCT) -> None:
    """The rule `none` gives no masks."""
    assert andc.masks(model, random_nodes(model), "none", THRESHOLD) == {}


@pytest.mark.parametrize("share", [0.8, 0.5, 0.25, 0.1])
def test_asked_for_share_is_kept_in_every_layer(model: CCT, share: float) -> None:
    """Each layer has a threshold of its own, and misses the share by a few of its connections."""
    for mask in andc.masks_keeping(model, graded_nodes(model), "both", share).values():
        assert float(mask.float().mean()) == pytest.approx(share, abs=0.03)


def test_layer_that_cannot_keep_so_much_keeps_what_it_can(model: CCT) -> None:
    """Nodes that recognise few labels at any threshold share few."""
    found = random_nodes(model)
    most, asked = andc.masks(model, found, "layer", 0.0), andc.masks_keeping(model, found, "layer", 1.0)
    for name, mask in asked.items():
        assert torch.equal(mask, most[name])


def test_unknown_rule_lists_the_known_ones(model: CCT) -> None:
    """A rule that does not exist is refused."""
    with pytest.raises(ValueError, match="expected a rule of classifier_head, layer, both, none"):
        andc.masks(model, {}, "all", THRESHOLD)  # type: ignore[arg-type]  # what a caller must not do


def test_masks_touch_nothing_else(model: CCT) -> None:
    """Kept connections, biases and all other weights stay as they are; the rest become zero."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks = andc.masks(model, random_nodes(model), "both", THRESHOLD)
    andc.apply_masks(model, masks)
    for name, value in model.state_dict().items():
        mask = masks.get(name.removesuffix(".weight"), torch.tensor(True))
        assert torch.equal(value, before[name] * mask) if name.endswith(".weight") else torch.equal(value, before[name])


def test_short_training_learns_in_the_masked_layers_alone_and_keeps_the_masks(model: CCT) -> None:
    """Masked connections are zero after every step, and only masked layers and the classifier head have changed."""
    masks = andc.masks(model, random_nodes(model), "layer", THRESHOLD)
    andc.apply_masks(model, masks)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    data = support.random_images(torch.randint(0, 10, (64,), generator=generator))
    train(
        model,
        data,
        TrainingSettings(epochs=2, batch_size=16),
        parameters=andc.learning_parameters(model, masks),
        after_step=andc.reapply(model, masks),
    )
    changed = {
        name.rpartition(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {*masks, "classifier.fc"}
    for name, mask in masks.items():
        assert not (model.get_parameter(f"{name}.weight") * ~mask).any()
