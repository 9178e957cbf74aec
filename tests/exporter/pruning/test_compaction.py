"""Removal of units: the same function in smaller layers."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
import support
import torch
from headwise_exporter.model.cct import CCT, CCTConfig, EncoderShape, cct, count_macs, count_parameters
from headwise_exporter.pruning.compaction import (
    Budget,
    KeptUnits,
    choose,
    largest_difference,
    mask_units,
    pruned_masks,
    remove_masked,
    top_indices,
)
from headwise_exporter.pruning.masks import Masks
from hypothesis import given, settings
from torch import Tensor

Means = dict[str, Tensor]  # of every unit, by the name of its group


def subset(draw: st.DrawFn, size: int, count: int) -> tuple[int, ...]:
    """A sorted choice of `count` of `size` indices."""
    return tuple(sorted(draw(st.permutations(range(size)))[:count]))


@st.composite
def kept_units(draw: st.DrawFn, shape: EncoderShape) -> KeptUnits:
    """Any choice of units that an encoder of the shape may keep."""
    heads = subset(draw, shape.heads, draw(st.integers(1, shape.heads)))
    query_key, value = draw(st.integers(1, shape.query_key_dim)), draw(st.integers(1, shape.value_dim))
    return KeptUnits(
        heads=heads,
        query_key=tuple(subset(draw, shape.query_key_dim, query_key) for _ in heads),
        value=tuple(subset(draw, shape.value_dim, value) for _ in heads),
        feed_forward=subset(draw, shape.feed_forward, draw(st.integers(1, shape.feed_forward))),
    )


@st.composite
def removals(draw: st.DrawFn) -> tuple[CCT, list[KeptUnits], Means]:
    """A random model, what to keep of each encoder, and any means."""
    config = draw(st.sampled_from([support.small_config(), support.uneven(support.small_config())]))
    model = support.random_model(config, seed=draw(st.integers(0, 10)))
    kept = [draw(kept_units(shape)) for shape in config.encoders]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10)))
    means = {group.name: torch.randn(group.units, generator=generator) for group in model.unit_groups()}
    return model, kept, means


def everything(config: CCTConfig) -> list[KeptUnits]:
    """Keep all units of all encoders."""
    return [KeptUnits.all(shape) for shape in config.encoders]


def zero_means(model: CCT) -> Means:
    """Means of 0 for all units."""
    return {group.name: torch.zeros(group.units) for group in model.unit_groups()}


@settings(deadline=None, max_examples=40)
@given(removals())
def test_pruned_model_is_the_masked_model(removal: tuple[CCT, list[KeptUnits], Means]) -> None:
    """Whatever is removed, the smaller model gives the masked model's logits on random images, to 1e-5."""
    model, kept, means = removal
    masked = mask_units(model, kept, means)
    small = remove_masked(masked, kept)
    with torch.no_grad():
        scale = float(masked(torch.randn(4, 1, 8, 8))[0].abs().max().clamp(min=1))
    assert largest_difference(masked, small) <= 1e-5 * scale


@settings(deadline=None, max_examples=20)
@given(removals())
def test_pruned_model_has_the_shapes_that_were_kept(removal: tuple[CCT, list[KeptUnits], Means]) -> None:
    """Sizes, parameters and multiply-accumulates follow from what is kept, and never grow."""
    model, kept, means = removal
    small = remove_masked(mask_units(model, kept, means), kept)
    assert small.config == replace(model.config, encoders=tuple(units.shape for units in kept))
    assert count_parameters(small) <= count_parameters(model)
    assert count_macs(small.config) <= count_macs(model.config)


def test_keeping_everything_changes_nothing() -> None:
    """With all units kept the pruned model has the dense model's weights."""
    model = support.random_model()
    kept = everything(model.config)
    small = remove_masked(mask_units(model, kept, zero_means(model)), kept)
    for name, value in model.state_dict().items():
        assert torch.equal(small.state_dict()[name], value)


def test_constant_unit_folds_into_the_bias_without_loss() -> None:
    """A hidden node that does not depend on the image is removed at no cost: its mean replaces it exactly."""
    model = support.random_model()
    constant = 5
    with torch.no_grad():
        model.classifier.blocks[0].linear1.weight[constant] = 0.0
        bias = model.classifier.blocks[0].linear1.bias[constant]
    means = zero_means(model)
    means["encoders.0.feed_forward_hidden"][constant] = torch.nn.functional.gelu(bias.detach())
    kept = everything(model.config)
    remaining = tuple(index for index in range(48) if index != constant)
    kept[0] = replace(kept[0], feed_forward=remaining)
    small = remove_masked(mask_units(model, kept, means), kept)
    assert largest_difference(model, small) <= 1e-5


def test_masks_follow_the_kept_columns() -> None:
    """The ANDC mask of a second feed-forward layer loses the removed nodes' columns, the classifier head's stays."""
    model = support.random_model()
    kept = [replace(units, feed_forward=(1, 3)) for units in everything(model.config)]
    masks = Masks({"classifier.blocks.1.linear2": torch.arange(4).repeat(2, 1), "classifier.fc": torch.ones(10, 32)})
    pruned = pruned_masks(masks, model, kept).by_layer
    assert pruned["classifier.blocks.1.linear2"].tolist() == [[1, 3], [1, 3]]
    assert pruned["classifier.fc"] is masks.by_layer["classifier.fc"]


def test_original_model_is_not_changed() -> None:
    """Masking works on a copy."""
    model = support.random_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = [replace(units, feed_forward=(0,)) for units in everything(model.config)]
    mask_units(model, kept, zero_means(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_budget_rounds_to_multiples_of_eight() -> None:
    """Kept counts are what vector units like, and never nothing."""
    dense = EncoderShape(heads=4, query_key_dim=32, value_dim=32, feed_forward=256)
    assert Budget().kept(dense) == EncoderShape(3, 24, 24, 128)
    assert Budget(0.01, 0.01, 0.01, 0.01).kept(dense) == EncoderShape(1, 8, 8, 8)
    assert Budget(1, 1, 1, 1).kept(dense) == dense


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_share_outside_its_range_is_named(share: float) -> None:
    """A budget of nothing or of more than all is refused, naming which."""
    with pytest.raises(ValueError, match=r"expected a kept share in \(0, 1\] for heads, found"):
        Budget(heads=share)


def test_largest_scores_are_taken_in_order() -> None:
    """The best indices, ascending; the first of equals wins."""
    assert top_indices(torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0]), 3) == (1, 2, 3)


def test_choice_keeps_the_best_heads_and_nodes() -> None:
    """The heads with the largest sums, the nodes and dimensions with the largest scores, as many as the budget says."""
    model = support.random_model()
    by_kind = {
        "query": torch.ones(32),
        "key": torch.ones(32),
        "heads": torch.arange(32.0),
        "feed_forward_hidden": -torch.arange(48.0),
    }
    scores = {f"encoders.{encoder}.{kind}": score for encoder in (0, 1) for kind, score in by_kind.items()}
    for units in choose(model, scores, Budget(feed_forward=1 / 6, heads=0.5, query_key=1.0, value=1.0)):
        assert units.heads == (2, 3)
        assert units.feed_forward == tuple(range(8))
        assert units.shape.value_dim == units.shape.query_key_dim == 8


def test_pair_counts_by_the_product_of_query_and_key() -> None:
    """A strong query whose key is silent weighs no token."""
    config = cct(image_size=8, channels=1, labels=10, depth=1, heads=2, width=32, feed_forward=48)
    query, key = torch.ones(32), torch.ones(32)
    query[:8], key[:8] = 100.0, 0.0
    by_kind = {"query": query, "key": key, "heads": torch.ones(32), "feed_forward_hidden": torch.ones(48)}
    scores = {f"encoders.0.{kind}": score for kind, score in by_kind.items()}
    [units] = choose(support.random_model(config), scores, Budget(1, 1, query_key=0.5, value=1))
    assert units.query_key == (tuple(range(8, 16)), tuple(range(8)))
