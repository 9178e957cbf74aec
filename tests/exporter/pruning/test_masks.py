"""Masks: which layers they are on, and that training respects them."""

import pytest
import support
import torch
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.snp import THRESHOLD
from headwise_exporter.pruning.andc import andc_masks
from headwise_exporter.pruning.masks import Masks, masked_layers
from headwise_exporter.training.loop import train
from headwise_exporter.training.settings import TrainingSettings

FEED_FORWARD = ["classifier.blocks.0.linear2", "classifier.blocks.1.linear2"]


@pytest.fixture
def model() -> CCT:
    """A model with random weights."""
    return support.random_model()


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("feed_forward", FEED_FORWARD),
        ("classifier_head", ["classifier.fc"]),
        ("both", [*FEED_FORWARD, "classifier.fc"]),
    ],
)
def test_layers_are_those_of_the_group(model: CCT, layers: str, names: list[str]) -> None:
    """In the order of the forward pass."""
    assert [layer.name for layer in masked_layers(model, layers)] == names  # type: ignore[arg-type]  # of a table


def test_unknown_layers_list_the_known_ones(model: CCT) -> None:
    """Layers that masks cannot go to are refused."""
    with pytest.raises(ValueError, match="expected layers of feed_forward, classifier_head, both, found 'all'"):
        masked_layers(model, "all")  # type: ignore[arg-type]  # what a caller must not do


def test_kept_share_is_over_all_connections() -> None:
    """Layers weigh by their connections; without masks everything is kept."""
    masks = Masks({"a": torch.tensor([[True, False]]), "b": torch.tensor([[False] * 4, [True] * 4])})
    assert masks.kept_share() == pytest.approx(5 / 10)
    assert Masks().kept_share() == 1.0
    assert not Masks()


def test_masks_touch_nothing_else(model: CCT) -> None:
    """Kept connections, biases and all other weights stay as they are; the rest become zero."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks = andc_masks(model, support.random_nodes(model), "both", THRESHOLD)
    masks.apply(model)
    for name, value in model.state_dict().items():
        mask = masks.by_layer.get(name.removesuffix(".weight"), torch.tensor(True))
        assert torch.equal(value, before[name] * mask) if name.endswith(".weight") else torch.equal(value, before[name])


def test_fine_tuning_learns_in_the_masked_layers_alone_and_keeps_the_masks(model: CCT) -> None:
    """Masked connections are zero after every step, and only masked layers and the classifier head have changed."""
    masks = andc_masks(model, support.random_nodes(model), "feed_forward", THRESHOLD)
    masks.apply(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    data = support.random_images(torch.randint(0, 10, (64,), generator=generator))
    train(
        model,
        data,
        TrainingSettings(epochs=2, batch_size=16),
        parameters=masks.learning_parameters(model),
        after_step=masks.reapply(model),
    )
    changed = {
        name.rpartition(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {*masks.by_layer, "classifier.fc"}
    for name, mask in masks.by_layer.items():
        assert not (model.get_parameter(f"{name}.weight") * ~mask).any()
