"""Controls: which connections they keep, and that they keep as many as ANDC."""

import pytest
import support
import torch
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.snp import CLASSIFIER_HEAD, ProbeSettings, measure, relative_fields, train_probes
from headwise_exporter.pruning import andc
from headwise_exporter.pruning.connections import (
    ANDC,
    PERMUTED,
    RULES,
    SCORES,
    Evidence,
    input_scales,
    masks_by,
    scores,
)
from torch import Tensor

LAYER = "classifier.blocks.1.linear2"


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """A random model, measured on random images."""
    model = support.random_model()
    data = support.random_images(torch.arange(60) % 10)
    probes = train_probes(model, data, ProbeSettings(epochs=1))
    return Evidence(model, measure(model, probes, data), input_scales(model, data, batch_size=7))


@pytest.fixture(scope="module")
def andc_masks(evidence: Evidence) -> dict[str, Tensor]:
    """A quarter of every layer's connections."""
    return andc.masks_keeping(evidence.model, evidence.nodes, "both", 0.25)


def weight(model: CCT, layer: str) -> Tensor:
    """Absolute weight of every connection."""
    return model.get_parameter(f"{layer}.weight").detach().abs().double()


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_keeps_as_many_connections_in_each_layer(
    rule: str, evidence: Evidence, andc_masks: dict[str, Tensor]
) -> None:
    """Controls at the same kept number, layer by layer."""
    found = masks_by(rule, andc_masks, evidence)
    assert list(found) == list(andc_masks)
    for layer, mask in found.items():
        assert mask.shape == andc_masks[layer].shape
        assert mask.sum() == andc_masks[layer].sum()


def test_andc_is_left_as_it_is(evidence: Evidence, andc_masks: dict[str, Tensor]) -> None:
    """The rule that the others are compared with."""
    for layer, mask in masks_by(ANDC, andc_masks, evidence).items():
        assert torch.equal(mask, andc_masks[layer])


def test_magnitude_keeps_the_largest_weights(evidence: Evidence, andc_masks: dict[str, Tensor]) -> None:
    """No weight that goes is larger than one that stays."""
    for layer, mask in masks_by("magnitude", andc_masks, evidence).items():
        assert weight(evidence.model, layer)[mask].min() >= weight(evidence.model, layer)[~mask].max()


def test_wanda_weighs_each_weight_with_the_size_of_its_input(evidence: Evidence) -> None:
    """|W| times the root mean square of the hidden node, up to a factor."""
    with torch.no_grad():
        values = evidence.model(support.random_images(torch.arange(60) % 10).normalised(slice(None)))[1]
    scale_F = values["encoders.1.feed_forward_hidden"].flatten(0, 1).double().square().mean(0).sqrt()
    found, expected = scores("wanda", evidence, LAYER, torch.Generator()), weight(evidence.model, LAYER) * scale_F
    torch.testing.assert_close(found / found.mean(), expected / expected.mean(), rtol=1e-5, atol=1e-6)


def test_overlap_is_the_product_of_the_positive_relative_fields(evidence: Evidence) -> None:
    """Connection by connection; for the classifier head a node's own field on the label."""
    hidden_FK, out_DK = (
        relative_fields(evidence.nodes[f"encoders.1.feed_forward_{tap}"]).clamp(min=0) for tap in ("hidden", "out")
    )
    expected = torch.stack([(hidden_FK * target_K).sum(1) for target_K in out_DK])
    found = scores("overlap", evidence, LAYER, torch.Generator())
    torch.testing.assert_close(found / found.mean(), expected / expected.mean())
    head_KN = scores("overlap", evidence, andc.CLASSIFIER_LAYER, torch.Generator())
    fields_NK = relative_fields(evidence.nodes[CLASSIFIER_HEAD]).clamp(min=0)
    torch.testing.assert_close(head_KN / head_KN.mean(), fields_NK.T / fields_NK.mean())


def test_product_is_the_product_of_its_factors(evidence: Evidence) -> None:
    """Up to a factor, which does not change the order."""
    product, magnitude, overlap = (
        scores(rule, evidence, LAYER, torch.Generator()) for rule in ("magnitude*overlap", "magnitude", "overlap")
    )
    torch.testing.assert_close(product, magnitude * overlap)


def test_permuted_mask_has_the_same_rows_and_columns(evidence: Evidence, andc_masks: dict[str, Tensor]) -> None:
    """Nodes are exchanged as a whole: how many connections each has is the same, in another order."""
    for layer, mask in masks_by(PERMUTED, andc_masks, evidence).items():
        for axis in (0, 1):
            counts, before = (one.sum(axis).sort().values for one in (mask, andc_masks[layer]))
            assert torch.equal(counts, before)
        assert not torch.equal(mask, andc_masks[layer])
    classifier_head = masks_by(PERMUTED, andc_masks, evidence)[andc.CLASSIFIER_LAYER]
    assert torch.equal(classifier_head.sum(1), andc_masks[andc.CLASSIFIER_LAYER].sum(1))


@pytest.mark.parametrize("rule", ["random", PERMUTED])
def test_chance_depends_on_the_seed(rule: str, evidence: Evidence, andc_masks: dict[str, Tensor]) -> None:
    """The same seed gives the same mask, another one another."""
    first, second, third = (masks_by(rule, andc_masks, evidence, seed)[LAYER] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_unknown_rule_lists_the_known_ones(evidence: Evidence, andc_masks: dict[str, Tensor]) -> None:
    """A rule that does not exist is refused."""
    with pytest.raises(ValueError, match=f"expected a rule of {SCORES[0]}, .*found 'luck'"):
        masks_by("luck", andc_masks, evidence)
