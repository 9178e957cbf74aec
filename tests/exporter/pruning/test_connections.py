"""Controls: which connections they keep, and that they keep as many as ANDC."""

import pytest
import torch
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.anatomy import CLASSIFIER_HEAD, MaskableLayer
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.measurements import Measurements
from headwise_exporter.nodes.snp import relative_fields
from headwise_exporter.pruning.andc import andc_masks_keeping
from headwise_exporter.pruning.connections import Evidence, choose_masks, input_scales, scores
from headwise_exporter.pruning.masks import Masks
from headwise_exporter.pruning.names import ANDC, DENSE, MASK_BY, PERMUTED, SCORES
from torch import Tensor

HEAD = "classifier.fc"


@pytest.fixture(scope="module")
def evidence(dense: CCT, measurements: Measurements, data: LabelledImages) -> Evidence:
    """The dense model, its measured nodes and the scales of its layers' inputs."""
    return Evidence(dense, measurements.nodes, input_scales(dense, data, batch_size=7))


@pytest.fixture(scope="module")
def andc(evidence: Evidence) -> Masks:
    """ANDC masks that keep a quarter of every layer's connections."""
    return andc_masks_keeping(evidence.model, evidence.nodes, "both", 0.25)


def layer_named(model: CCT, name: str) -> MaskableLayer:
    """One of the layers that masks may cut."""
    return next(layer for layer in model.maskable_layers() if layer.name == name)


def score(name: str, evidence: Evidence, layer: str = "classifier.blocks.1.linear2") -> Tensor:
    """Score of every connection of a layer."""
    return scores(name, evidence, layer_named(evidence.model, layer), torch.Generator())


def weight(model: CCT, layer: str) -> Tensor:
    """Absolute weight of every connection."""
    return model.get_parameter(f"{layer}.weight").detach().abs().double()


@pytest.mark.parametrize("mask_by", MASK_BY)
def test_every_choice_keeps_as_many_connections_in_each_layer(mask_by: str, evidence: Evidence, andc: Masks) -> None:
    """Every control keeps ANDC's number of connections, layer by layer."""
    masks = choose_masks(mask_by, andc, evidence).by_layer
    assert list(masks) == list(andc.by_layer)
    for layer, mask in masks.items():
        assert mask.shape == andc.by_layer[layer].shape
        assert mask.sum() == andc.by_layer[layer].sum()


def test_dense_keeps_every_connection(evidence: Evidence, andc: Masks) -> None:
    """The kept share of the layers that would be masked is 1."""
    assert choose_masks(DENSE, andc, evidence).kept_share() == 1.0


def test_andc_is_left_as_it_is(evidence: Evidence, andc: Masks) -> None:
    """The chosen masks are the ANDC masks themselves."""
    for layer, mask in choose_masks(ANDC, andc, evidence).by_layer.items():
        assert torch.equal(mask, andc.by_layer[layer])


def test_magnitude_keeps_the_largest_weights(evidence: Evidence, andc: Masks) -> None:
    """No weight that goes is larger than one that stays."""
    for layer, mask in choose_masks("magnitude", andc, evidence).by_layer.items():
        assert weight(evidence.model, layer)[mask].min() >= weight(evidence.model, layer)[~mask].max()


def test_wanda_weighs_each_weight_with_the_size_of_its_input(evidence: Evidence, data: LabelledImages) -> None:
    """|W| times the root mean square of the hidden node, up to a factor."""
    with torch.no_grad():
        values = evidence.model(data.normalised(slice(None)))[1]
    scale_F = values["encoders.1.feed_forward_hidden"].flatten(0, 1).double().square().mean(0).sqrt()
    wanda = score("wanda", evidence)
    expected = weight(evidence.model, "classifier.blocks.1.linear2") * scale_F
    torch.testing.assert_close(wanda / wanda.mean(), expected / expected.mean(), rtol=1e-5, atol=1e-6)


def test_overlap_is_the_product_of_the_positive_relative_fields(evidence: Evidence) -> None:
    """Connection by connection; for the classifier head a node's own field on the label."""
    hidden_FK, out_DK = (
        relative_fields(evidence.nodes[f"encoders.1.feed_forward_{tap}"]).clamp(min=0) for tap in ("hidden", "out")
    )
    expected = torch.stack([(hidden_FK * target_K).sum(1) for target_K in out_DK])
    overlap = score("overlap", evidence)
    torch.testing.assert_close(overlap / overlap.mean(), expected / expected.mean())
    head_KN = score("overlap", evidence, HEAD)
    fields_NK = relative_fields(evidence.nodes[CLASSIFIER_HEAD]).clamp(min=0)
    torch.testing.assert_close(head_KN / head_KN.mean(), fields_NK.T / fields_NK.mean())


def test_product_is_the_product_of_its_factors(evidence: Evidence) -> None:
    """Up to a factor, which does not change the order."""
    product, magnitude, overlap = (score(name, evidence) for name in ("magnitude*overlap", "magnitude", "overlap"))
    torch.testing.assert_close(product, magnitude * overlap)


def test_permuted_mask_has_the_same_rows_and_columns(evidence: Evidence, andc: Masks) -> None:
    """Nodes are exchanged as a whole: how many connections each has is the same, in another order."""
    permuted = choose_masks(PERMUTED, andc, evidence).by_layer
    for layer, mask in permuted.items():
        for axis in (0, 1):
            counts, before = (one.sum(axis).sort().values for one in (mask, andc.by_layer[layer]))
            assert torch.equal(counts, before)
        assert not torch.equal(mask, andc.by_layer[layer])
    assert torch.equal(permuted[HEAD].sum(1), andc.by_layer[HEAD].sum(1))


@pytest.mark.parametrize("mask_by", ["random", PERMUTED])
def test_random_masks_depend_on_the_seed(mask_by: str, evidence: Evidence, andc: Masks) -> None:
    """The same seed gives the same masks, another seed other masks."""
    first, second, third = (choose_masks(mask_by, andc, evidence, seed).by_layer[HEAD] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_unknown_choice_lists_the_known_ones(evidence: Evidence, andc: Masks) -> None:
    """A score that does not exist is refused."""
    with pytest.raises(ValueError, match=f"expected a score of {SCORES[0]}, .*found 'luck'"):
        choose_masks("luck", andc, evidence)
