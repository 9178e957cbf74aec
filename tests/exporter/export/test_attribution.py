"""The exact split: additive, and it follows what is in the model."""

import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
import pytest
import support
import torch
from headwise.graphs import SPLIT
from headwise_exporter.data.base import DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.data.images import labelled_images
from headwise_exporter.export.attribution import Classify, ExactSplit
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.model.config import CCTConfig
from headwise_exporter.pruning.compaction import KeptUnits, mask_units
from hypothesis import given, settings
from torch import Tensor

SMALL = support.SMALL


def random_images(count: int = 5, seed: int = 0) -> Tensor:
    """uint8 images of the small model's size."""
    return support.random_pixels(SMALL, count, seed)


def split_of(model: CCT) -> ExactSplit:
    """The split of a model, with random probes, in float64."""
    return support.random_split(model.double())


@torch.no_grad()
def explain(model: CCT, images: Tensor) -> dict[str, Tensor]:
    """The outputs of the model's split."""
    outputs: dict[str, Tensor] = split_of(model)(images)
    return outputs


def total(outputs: dict[str, Tensor]) -> Tensor:
    """Sum of all parts (B, K)."""
    return outputs["heads"].sum(1) + outputs["feed_forwards"].sum(1) + outputs["embedding"] + outputs["biases"]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 50), st.integers(0, 50), st.sampled_from([*support.PRUNED_SHAPES]))
def test_parts_add_up_to_the_logits(model_seed: int, image_seed: int, shape: str) -> None:
    """On random weights, biases, norms and images the parts sum to the logit, to rounding of float64."""
    config = support.PRUNED_SHAPES[shape]
    outputs = explain(support.random_model(config, model_seed), support.random_pixels(config, seed=image_seed))
    residual = (total(outputs) - outputs["logits"]).abs().max() / outputs["logits"].abs().max()
    assert residual < 1e-13


def test_encoder_without_hidden_nodes_contributes_nothing_by_them() -> None:
    """There is a row for each encoder, and heads have rows where there are heads."""
    outputs = explain(support.random_model(support.emptied(SMALL)), random_images())
    assert outputs["feed_forwards"].shape == (5, 2, 10)
    assert outputs["feed_forwards"][:, 0].any()
    assert not outputs["feed_forwards"][:, 1].any()
    assert outputs["heads"].shape == outputs["head_fields"].shape == (5, 2, 10)


def test_logits_are_those_of_classify() -> None:
    """The split carries the very logits that Classify gives."""
    model, images = support.random_model(), random_images()
    with torch.no_grad():
        expected = Classify(split_of(model).normalise, model).double()(images)
    torch.testing.assert_close(explain(model, images)["logits"], expected)


def test_outputs_have_their_names_and_shapes() -> None:
    """Every output has its documented shape, also where encoders differ in their number of heads."""
    model = support.random_model(support.uneven(support.small_config()))
    outputs = explain(model, random_images(3))
    assert tuple(outputs) == SPLIT
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "logits": (3, 10),
        "heads": (3, 5, 10),
        "feed_forwards": (3, 2, 10),
        "embedding": (3, 10),
        "biases": (3, 10),
        "head_fields": (3, 5, 10),
    }


def silenced(model: CCT, encoder: int, head: int) -> CCT:
    """The model without what one head adds to the stream."""
    changed = copy.deepcopy(model)
    size = model.config.encoders[encoder].value_dim
    with torch.no_grad():
        changed.classifier.blocks[encoder].self_attn.proj.weight[:, size * head : size * (head + 1)] = 0.0
    return changed


def test_head_that_adds_nothing_contributes_nothing() -> None:
    """A head whose projection is zero has contribution 0, and the other heads of its encoder keep theirs' signs."""
    model, images = support.random_model(), random_images()
    outputs = explain(silenced(model, 1, 2), images)
    assert torch.equal(outputs["heads"][:, 6], torch.zeros(5, 10, dtype=torch.float64))
    assert outputs["heads"][:, [4, 5, 7]].abs().min() > 0


def test_contribution_of_the_last_encoders_head_is_the_linear_map_of_its_output() -> None:
    """For frozen norms and pooling, a head's contribution is the drop of the logits when its output is taken away."""
    model, images = support.random_model().double(), random_images()
    split = split_of(model)
    with torch.no_grad():
        outputs = split(images)
        _, activations = model(split.normalise(images))
        last = model.classifier.blocks[1]
        heads_BTV = activations["encoders.1.heads"].clone()
        heads_BTV[..., :8] = 0.0  # head 0 of encoder 1
        added_BTD = (activations["encoders.1.heads"] - heads_BTV) @ last.self_attn.proj.weight.T
        before_BTD = activations["encoders.0.feed_forward_out"]
        residual_BTD = before_BTD + last.self_attn.proj(activations["encoders.1.heads"])
        stream_BTD = activations["encoders.1.feed_forward_out"]

        def frozen(norm: torch.nn.LayerNorm, values: Tensor, seen: Tensor) -> Tensor:
            scale = (seen.var(-1, correction=0, keepdim=True) + norm.eps).rsqrt()
            return norm.weight * (values - values.mean(-1, keepdim=True)) * scale

        after = frozen(last.norm1, added_BTD, residual_BTD)
        after = frozen(model.classifier.norm, after, stream_BTD)
        expected = (activations["pooling_weights"].unsqueeze(-1) * after).sum(1) @ model.classifier.fc.weight.T
    torch.testing.assert_close(outputs["heads"][:, 4], expected)


def permuted(model: CCT, order: list[int]) -> CCT:
    """The same function with the heads of encoder 0 in another order."""
    changed = copy.deepcopy(model)
    rows = torch.cat([torch.arange(8 * head, 8 * head + 8) for head in order])
    attention = changed.classifier.blocks[0].self_attn
    with torch.no_grad():
        attention.qkv.weight.copy_(attention.qkv.weight[torch.cat([rows, 32 + rows, 64 + rows])])
        attention.proj.weight.copy_(attention.proj.weight[:, rows])
    return changed


@settings(deadline=None, max_examples=10)
@given(st.permutations(range(4)))
def test_permuting_heads_permutes_the_answer(order: list[int]) -> None:
    """Heads in another order contribute the same in that order; nothing else changes."""
    model, images = support.random_model(), random_images()
    plain, changed = explain(model, images), explain(permuted(model, order), images)
    torch.testing.assert_close(changed["heads"], plain["heads"][:, [*order, 4, 5, 6, 7]])
    for name in ("logits", "feed_forwards", "embedding", "biases"):
        torch.testing.assert_close(changed[name], plain[name])


@pytest.mark.parametrize("layer", ["self_attn.qkv", "self_attn.proj", "linear1", "linear2"])
@pytest.mark.parametrize("encoder", [0, 1])
def test_randomising_a_layer_changes_the_answer(encoder: int, layer: str) -> None:
    """An explanation that did not depend on the weights would explain nothing."""
    model, images = support.random_model(), random_images()
    part = "heads" if layer.startswith("self_attn") else "feed_forwards"
    before = explain(copy.deepcopy(model), images)[part]
    with torch.no_grad():
        weight = model.get_parameter(f"classifier.blocks.{encoder}.{layer}.weight")
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(9)) * 0.3)
    assert (explain(model, images)[part] - before).abs().max() > 0.05


def test_head_fields_are_the_probes() -> None:
    """The fields of all heads of an encoder add up to the probe's output on them."""
    model, images = support.random_model(), random_images()
    split = split_of(model)
    with torch.no_grad():
        outputs = split(images)
        activations = model.double()(split.normalise(images))[1]
        for encoder, probe in enumerate(support.random_probes(model)):
            expected = probe(activations[f"encoders.{encoder}.heads"])
            torch.testing.assert_close(outputs["head_fields"][:, 4 * encoder : 4 * encoder + 4].sum(1), expected)


def test_answer_for_an_image_does_not_depend_on_its_batch() -> None:
    """Alone or among others, an image gets the same explanation."""
    model, images = support.random_model(), random_images(6)
    whole = explain(model, images)
    for name, value in explain(model, images[2:3]).items():
        torch.testing.assert_close(value, whole[name][2:3])


def test_masking_a_head_leaves_its_mean_in_the_bias() -> None:
    """A removed head's mean folds into the projection's bias, so `biases` carries it and the sum stays exact."""
    config: CCTConfig = support.small_config()
    model = support.random_model(config)
    everything, dims = KeptUnits.all(config), (tuple(range(8)),) * 3
    without = replace(everything.encoders[0], heads=(0, 1, 3), query_key=dims, value=dims)
    kept = replace(everything, encoders=(without, everything.encoders[1]))
    means = {group.name: torch.ones(group.units) * (group.kind == "heads") for group in model.unit_groups()}
    outputs = explain(mask_units(model, kept, means), random_images())
    assert torch.equal(outputs["heads"][:, 2], torch.zeros(5, 10, dtype=torch.float64))
    torch.testing.assert_close(total(outputs), outputs["logits"])


@torch.no_grad()
def logits_without(model: CCT, images: Tensor, silent_NR: Tensor, targets: Tensor) -> Tensor:
    """Target logit of each image (N,) with its own heads silenced, those that are true in `silent_NR`."""
    hooks, first = [], 0
    for block, shape in zip(model.classifier.blocks, model.config.encoders, strict=True):
        speaks_NH = ~silent_NR[:, first : first + shape.heads]
        first += shape.heads
        speaks_N1V = speaks_NH.repeat_interleave(shape.value_dim, 1).unsqueeze(1)
        hooks.append(block.self_attn.proj.register_forward_pre_hook(lambda _, x, keep=speaks_N1V: (x[0] * keep,)))
    try:
        return model(images)[0].gather(1, targets.unsqueeze(1)).squeeze(1)
    finally:
        for hook in hooks:
            hook.remove()


def logit_after_silencing(model: CCT, images: Tensor, order_NR: Tensor, targets: Tensor) -> Tensor:
    """Target logit of each image (N,), averaged over silencing the first 1, 2, ... heads in its own order."""
    rank_NR = order_NR.argsort(1)
    return torch.stack(
        [logits_without(model, images, rank_NR < count, targets) for count in range(1, order_NR.shape[1])]
    ).mean(0)


def test_deleting_heads_in_attributed_order_lowers_the_target_fastest(built: Path) -> None:
    """On a trained model: attributed order below random order below reverse, each by more than its 95 % interval."""
    model, digits = load_model(built / "run" / "dense.safetensors"), load(DatasetSettings("digits"))
    data = labelled_images(digits.test, digits.mean, digits.std)
    images, labels = data.normalised(slice(None)), data.labels_N
    with torch.no_grad():
        split = ExactSplit(model, support.random_probes(model), digits.mean, digits.std).eval()
        outputs = split(torch.from_numpy(digits.test.images_NYXC))
    targets = outputs["logits"].argmax(1)
    contribution_NR = outputs["heads"][torch.arange(len(labels)), :, targets]
    attributed = contribution_NR.argsort(1, descending=True)
    shuffled = torch.rand(attributed.shape, generator=torch.Generator().manual_seed(0)).argsort(1)
    orders = (attributed, shuffled, attributed.flip(1))
    left = [logit_after_silencing(model, images, order, targets) for order in orders]
    for sooner_N, later_N in pairwise(left):
        difference_N = later_N - sooner_N
        assert difference_N.mean() > 1.96 * difference_N.std() / len(difference_N) ** 0.5
