"""Other ways to choose the connections that ANDC's layers keep: controls at the same number kept in each layer.

A rule gives every connection a -> b of a layer a score, and the largest are kept:
- `random`: a random number;
- `magnitude`: |W[b,a]|;
- `wanda`: |W[b,a]| times the root mean square of a's value (arXiv:2306.11695, there compared within an output, here
  within the layer, as magnitude is);
- `overlap`: how far a and b recognise the same labels, the sum over j of f_a[j] f_b[j], f a node's diagonal fields over
  its matrix's maximum, negative ones 0 [our choice]; for the classifier head f_a[b]. ANDC without a threshold;
- products of `magnitude` and `wanda` with `overlap`, both over their means [our choice].
And `permuted`: ANDC's own mask with its nodes exchanged at random, so that each has the labels of another: rows and
columns of a hidden layer's mask, columns of the classifier head's, whose rows are labels.

A rule may be `gradual`: the share falls to the one asked for while the model learns (`studies.comparison`).

Shape suffixes: as in `pruning.andc`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.snp import CLASSIFIER_HEAD, NodeMeasurement, relative_fields
from headwise_exporter.pruning.andc import CLASSIFIER_LAYER, masked_layers

ANDC, PERMUTED = "andc", "permuted"
DENSE = "dense"  # no rule: everything is kept
SCORES = ("random", "magnitude", "wanda", "overlap", "magnitude*overlap", "wanda*overlap")
CHANCE = ("random", PERMUTED)  # the seed draws their masks
GRADUAL = "gradual "  # prefix
RULES = (ANDC, PERMUTED, *SCORES, *(GRADUAL + rule for rule in (ANDC, "wanda", "wanda*overlap")))


@dataclass(frozen=True)
class Evidence:
    """What the scores of a model's connections rest on."""

    model: CCT
    nodes: Mapping[str, NodeMeasurement]
    input_scale: Mapping[str, Tensor]  # root mean square of each input, by the name of the layer


@torch.no_grad()
def input_scales(model: CCT, data: LabelledImages, batch_size: int | None = None) -> dict[str, Tensor]:
    """Root mean square of every input of the layers that ANDC may mask, over images and tokens."""
    taps = {
        f"classifier.blocks.{index}.linear2": f"encoders.{index}.feed_forward_hidden"
        for index in range(len(model.config.encoders))
    } | {CLASSIFIER_LAYER: "pooled"}
    sums: dict[str, Tensor] = {}
    values = dict.fromkeys(taps, 0)
    model.eval()
    with data.visited_by(model):
        for images_BCYX, _ in data.batches(batch_size):
            _, activations = model(images_BCYX)
            for layer, tap in taps.items():
                flat = activations[tap].flatten(0, -2).double()
                sums[layer] = sums.get(layer, 0.0) + flat.square().sum(0).cpu()
                values[layer] += len(flat)
    return {layer: (total / values[layer]).sqrt() for layer, total in sums.items()}


def _overlap(evidence: Evidence, layer: str) -> Tensor:
    def fields(tap: str) -> Tensor:
        return relative_fields(evidence.nodes[tap]).clamp(min=0)

    if layer == CLASSIFIER_LAYER:
        return fields(CLASSIFIER_HEAD).T
    encoder = f"encoders.{layer.split('.')[2]}"
    return fields(f"{encoder}.feed_forward_out") @ fields(f"{encoder}.feed_forward_hidden").T


def _score(rule: str, evidence: Evidence, layer: str, weight: Tensor, generator: torch.Generator) -> Tensor:
    match rule:
        case "random":
            return torch.rand(weight.shape, generator=generator, dtype=torch.float64)
        case "magnitude":
            return weight.abs()
        case "wanda":
            return weight.abs() * evidence.input_scale[layer]
        case _:
            return _overlap(evidence, layer)


def scores(rule: str, evidence: Evidence, layer: str, generator: torch.Generator) -> Tensor:
    """Score of every connection of a layer, in the shape of its weight.

    Raises:
        ValueError: the rule is none of `SCORES`.
    """
    if rule not in SCORES:
        raise ValueError(f"expected a rule of {', '.join(SCORES)}, found {rule!r}")
    weight = evidence.model.get_parameter(f"{layer}.weight").detach().double().cpu()
    factors = [_score(factor, evidence, layer, weight, generator) for factor in rule.split("*")]
    return torch.stack([factor / factor.mean().clamp(min=1e-300) for factor in factors]).prod(0)


def _largest(scores: Tensor, count: int) -> Tensor:
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[scores.flatten().argsort(descending=True, stable=True)[:count]] = True
    return kept.view(scores.shape)


def _permuted(layer: str, mask: Tensor, generator: torch.Generator) -> Tensor:
    mask = mask[:, torch.randperm(mask.shape[1], generator=generator)]
    return mask if layer == CLASSIFIER_LAYER else mask[torch.randperm(mask.shape[0], generator=generator)]


def masks_by(rule: str, andc_masks: Mapping[str, Tensor], evidence: Evidence, seed: int = 0) -> dict[str, Tensor]:
    """Masks that keep as many connections of each layer as ANDC's do, chosen by a rule; or all, for `dense`.

    Raises:
        ValueError: the rule, but for a `gradual` before it, is none of `RULES`.
    """
    rule = rule.removeprefix(GRADUAL)
    generator = torch.Generator().manual_seed(seed)
    if rule == ANDC:
        return dict(andc_masks)
    if rule == DENSE:
        return {layer: torch.ones_like(mask) for layer, mask in andc_masks.items()}
    if rule == PERMUTED:
        return {layer: _permuted(layer, mask, generator) for layer, mask in andc_masks.items()}
    return {
        layer: _largest(scores(rule, evidence, layer, generator), int(andc_masks[layer].sum()))
        for layer in masked_layers(evidence.model, andc_masks)
    }
