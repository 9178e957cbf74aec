"""Removal of units: the same function in smaller layers."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
import support
import torch
from headwise_exporter.model.cct import CCT, count_parameters
from headwise_exporter.model.config import CCTConfig, EncoderShape, cct, count_macs
from headwise_exporter.pruning.compaction import (
    NO_UNITS,
    Budget,
    KeptEncoder,
    KeptUnits,
    choose,
    largest_difference,
    mask_units,
    pruned_masks,
    remove_masked,
    top_indices,
)
from headwise_exporter.pruning.masks import Masks
from headwise_exporter.pruning.refit import collect_patches
from hypothesis import given, settings
from torch import Tensor

Means = dict[str, Tensor]  # of every unit, by the name of its group
Removal = tuple[CCT, KeptUnits, Means, dict[str, Tensor] | None]


def subset(draw: st.DrawFn, size: int, count: int) -> tuple[int, ...]:
    """A sorted choice of `count` of `size` indices."""
    return tuple(sorted(draw(st.permutations(range(size)))[:count]))


@st.composite
def kept_encoder(draw: st.DrawFn, shape: EncoderShape) -> KeptEncoder:
    """Any choice of units that an encoder of the shape may keep, none among them."""
    heads = subset(draw, shape.heads, draw(st.integers(0, shape.heads)))
    query_key, value = (draw(st.integers(min(1, dim), dim)) for dim in (shape.query_key_dim, shape.value_dim))
    return KeptEncoder(
        heads=heads,
        query_key=tuple(subset(draw, shape.query_key_dim, query_key) for _ in heads),
        value=tuple(subset(draw, shape.value_dim, value) for _ in heads),
        feed_forward=subset(draw, shape.feed_forward, draw(st.integers(0, shape.feed_forward))),
    )


@st.composite
def kept_units(draw: st.DrawFn, config: CCTConfig) -> KeptUnits:
    """Any choice of filters, and of units of every encoder."""
    filters = tuple(subset(draw, size, draw(st.integers(1, size))) for size in config.conv_hidden_channels)
    return KeptUnits(filters, tuple(draw(kept_encoder(shape)) for shape in config.encoders))


@st.composite
def removals(draw: st.DrawFn) -> Removal:
    """A random model, what to keep of it, any means and the patches of random images."""
    small = support.small_config()
    shapes = [small, support.uneven(small), support.convolved(support.uneven(small)), support.emptied(small)]
    model = support.random_model(draw(st.sampled_from(shapes)), seed=draw(st.integers(0, 10)))
    kept = draw(kept_units(model.config))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10)))
    means = {group.name: torch.randn(group.units, generator=generator) for group in model.unit_groups()}
    images = support.random_images(torch.zeros(20, dtype=torch.long), side=model.config.image_size)
    patches = collect_patches(model, images)
    return model, kept, means, draw(st.sampled_from([None, patches]))


def everything(config: CCTConfig) -> KeptUnits:
    """Keep all units."""
    return KeptUnits.all(config)


def with_hidden(kept: KeptUnits, hidden: tuple[int, ...], encoders: tuple[int, ...] = (0, 1)) -> KeptUnits:
    """The same with only these hidden nodes in those encoders."""
    changed = [
        replace(units, feed_forward=hidden) if index in encoders else units for index, units in enumerate(kept.encoders)
    ]
    return replace(kept, encoders=tuple(changed))


def zero_means(model: CCT) -> Means:
    """Means of 0 for all units."""
    return {group.name: torch.zeros(group.units) for group in model.unit_groups()}


@settings(deadline=None, max_examples=40)
@given(removals())
def test_pruned_model_is_the_masked_model(removal: Removal) -> None:
    """Whatever is removed, the smaller model gives the masked model's logits on random images, to 1e-5."""
    model, kept, means, patches = removal
    masked = mask_units(model, kept, means, patches)
    small = remove_masked(masked, kept)
    with torch.no_grad():
        side = model.config.image_size
        scale = float(masked(torch.randn(4, 1, side, side))[0].abs().max().clamp(min=1))
    assert largest_difference(masked, small) <= 1e-5 * scale


@settings(deadline=None, max_examples=20)
@given(removals())
def test_pruned_model_has_the_shapes_that_were_kept(removal: Removal) -> None:
    """Sizes, parameters and multiply-accumulates follow from what is kept, and never grow."""
    model, kept, means, patches = removal
    small = remove_masked(mask_units(model, kept, means, patches), kept)
    assert small.config.encoders == tuple(units.shape for units in kept.encoders)
    assert small.config.conv_hidden_channels == tuple(map(len, kept.filters))
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
    remaining = tuple(index for index in range(48) if index != constant)
    kept = with_hidden(everything(model.config), remaining, (0,))
    small = remove_masked(mask_units(model, kept, means), kept)
    assert largest_difference(model, small) <= 1e-5


def test_masks_follow_the_kept_columns() -> None:
    """The ANDC mask of a second feed-forward layer loses the removed nodes' columns, the classifier head's stays."""
    model = support.random_model()
    kept = with_hidden(everything(model.config), (1, 3))
    masks = Masks({"classifier.blocks.1.linear2": torch.arange(4).repeat(2, 1), "classifier.fc": torch.ones(10, 32)})
    pruned = pruned_masks(masks, model, kept).by_layer
    assert pruned["classifier.blocks.1.linear2"].tolist() == [[1, 3], [1, 3]]
    assert pruned["classifier.fc"] is masks.by_layer["classifier.fc"]


def test_original_model_is_not_changed() -> None:
    """Masking works on a copy."""
    model = support.random_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = with_hidden(everything(model.config), (0,))
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
    budget = Budget(feed_forward=1 / 6, heads=0.5, query_key=1.0, value=1.0)
    for units in choose(model, scores, budget.config(model.config)).encoders:
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
    budget = Budget(1, 1, query_key=0.5, value=1)
    [units] = choose(support.random_model(config), scores, budget.config(config)).encoders
    assert units.query_key == (tuple(range(8, 16)), tuple(range(8)))


def test_emptied_encoder_leaves_its_norm_and_its_means() -> None:
    """An encoder whose units do not depend on the image is removed whole at no cost."""
    model = support.random_model()
    block = model.classifier.blocks[0]
    with torch.no_grad():
        block.self_attn.qkv.weight.zero_()
        block.linear1.weight.zero_()
    means = zero_means(model)
    means["encoders.0.feed_forward_hidden"] = torch.nn.functional.gelu(block.linear1.bias.detach())
    dense = everything(model.config)
    kept = replace(dense, encoders=(NO_UNITS, dense.encoders[1]))
    small = remove_masked(mask_units(model, kept, means), kept)
    assert small.config.encoders[0] == EncoderShape(0, 0, 0, 0)
    assert largest_difference(model, small) <= 1e-5


def test_budget_empties_the_encoders_that_are_missed_least() -> None:
    """Of four encoders half keep units, those without which the loss is largest; one is always left."""
    losses = torch.tensor([3.0, 1.0, 2.0, 4.0])
    assert Budget(encoders=0.5).emptied(losses) == (1, 2)
    assert Budget(encoders=0.01).emptied(losses) == (0, 1, 2)
    assert Budget().emptied(losses) == ()


def test_budget_keeps_filters_in_multiples_of_sixteen() -> None:
    """Half of 64 and of 80 filters, of the last convolution none: its outputs are the residual stream's."""
    config = replace(support.small_config(), conv_hidden_channels=(64, 80))
    assert Budget(filters=0.5).config(config).conv_hidden_channels == (32, 32)


@settings(deadline=None, max_examples=20)
@given(st.data())
def test_two_removals_are_one_in_the_first_models_indices(data: st.DataObject) -> None:
    """Units that stay after two removals are named by where they stood at first."""
    model = support.random_model(support.convolved(support.uneven(support.small_config())))
    first = data.draw(kept_units(model.config))
    means = zero_means(model)
    once = remove_masked(mask_units(model, first, means), first)
    second = data.draw(kept_units(once.config))
    twice = remove_masked(mask_units(once, second, zero_means(once)), second)
    both = second.within(first)
    assert both.config(model.config) == twice.config
    assert largest_difference(twice, remove_masked(mask_units(model, both, means), both)) <= 1e-4
