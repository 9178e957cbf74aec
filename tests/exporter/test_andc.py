"""ANDC masks: which connections they keep, and that training respects them."""

import pytest
import support
import torch
from torch import Tensor

from exporter import andc
from exporter.cct import CCT
from exporter.snp import READOUT, NodeStatistics
from exporter.training import TrainingSettings, train


def random_statistics(model: CCT, seed: int = 0) -> dict[str, NodeStatistics]:
    """Every node of the masked tap points recognises a random set of labels, the first none."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {READOUT: model.config.width}
    for index, shape in enumerate(model.config.encoders):
        sizes[f"encoders.{index}.feed_forward_hidden"] = shape.feed_forward
        sizes[f"encoders.{index}.feed_forward_out"] = model.config.width
    found = {}
    for name, nodes in sizes.items():
        labels_NK = torch.rand(nodes, 10, generator=generator) < 0.2
        labels_NK[0] = False
        cluster_NK = torch.where(labels_NK, 0, -1)
        found[name] = NodeStatistics(
            torch.zeros(nodes, 10, 10), cluster_NK, labels_NK.any(1), labels_NK.sum(1), cluster_NK[:, 0]
        )
    return found


@pytest.fixture
def model() -> CCT:
    """A model with random weights."""
    return support.random_model()


def brute_force_layer_mask(out: NodeStatistics, hidden: NodeStatistics) -> Tensor:
    """The layer rule, connection by connection."""
    rows = []
    for target in out.labels_NK:
        rows.append([bool((target & source).any()) for source in hidden.labels_NK])
    return torch.tensor(rows)


def test_readout_rule_keeps_a_node_to_its_labels(model: CCT) -> None:
    """Node n keeps output j iff j is in D_n."""
    found = random_statistics(model)
    masks = andc.masks(model, found, "readout")
    assert list(masks) == ["classifier.fc"]
    assert torch.equal(masks["classifier.fc"], found[READOUT].labels_NK.T)


def test_layer_rule_keeps_nodes_that_share_a_label(model: CCT) -> None:
    """a -> b stays iff D_a and D_b have a label in common, for every encoder."""
    found = random_statistics(model)
    masks = andc.masks(model, found, "layer")
    assert list(masks) == ["classifier.blocks.0.linear2", "classifier.blocks.1.linear2"]
    for index, mask in enumerate(masks.values()):
        out, hidden = (found[f"encoders.{index}.feed_forward_{tap}"] for tap in ("out", "hidden"))
        assert torch.equal(mask, brute_force_layer_mask(out, hidden))


def test_node_without_a_cluster_keeps_nothing(model: CCT) -> None:
    """The first node of every tap point has no label: its row or column is empty."""
    masks = andc.masks(model, random_statistics(model), "both")
    assert not masks["classifier.fc"][:, 0].any()
    assert not masks["classifier.blocks.0.linear2"][0].any()
    assert not masks["classifier.blocks.0.linear2"][:, 0].any()


def test_no_rule_masks_nothing(model: CCT) -> None:
    """The rule `none` gives no masks."""
    assert andc.masks(model, random_statistics(model), "none") == {}


def test_unknown_rule_lists_the_known_ones(model: CCT) -> None:
    """A rule that does not exist is refused."""
    with pytest.raises(ValueError, match="expected a rule of readout, layer, both, none"):
        andc.masks(model, {}, "all")  # type: ignore[arg-type]  # what a caller must not do


def test_masks_touch_nothing_else(model: CCT) -> None:
    """Kept connections, biases and all other weights stay as they are; the rest become zero."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks = andc.masks(model, random_statistics(model), "both")
    andc.apply_masks(model, masks)
    for name, value in model.state_dict().items():
        mask = masks.get(name.removesuffix(".weight"), torch.tensor(True))
        assert torch.equal(value, before[name] * mask) if name.endswith(".weight") else torch.equal(value, before[name])


def test_short_training_learns_in_the_masked_layers_alone_and_keeps_the_masks(model: CCT) -> None:
    """Masked connections are zero after every step, and only masked layers and the read-out have changed."""
    masks = andc.masks(model, random_statistics(model), "layer")
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
