"""What chooses the connections that masks keep: ANDC, and controls at the same number kept in each layer.

A score ranks every connection a -> b of a layer, and the largest are kept:
- `random`: a random number;
- `magnitude`: |W[b,a]|;
- `wanda`: |W[b,a]| times the root mean square of a's value (arXiv:2306.11695, there compared within an output, here
  within the layer, as magnitude is);
- `overlap`: how far a and b recognise the same labels, the sum over j of f_a[j] f_b[j], f a node's diagonal fields over
  its matrix's maximum, negative ones 0 [our choice]; for the classifier head f_a[b]. ANDC without a threshold;
- products of `magnitude` and `wanda` with `overlap` (`pruning.scores`).
And `permuted`: ANDC's own mask with its nodes exchanged at random, so that each has the labels of another: rows and
columns of a feed-forward mask, columns of the classifier head's, whose rows are labels.

A choice may be `gradual`: the share falls to the one asked for while the model learns (`studies.comparison`).

Shape suffixes: as in `pruning.andc`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.anatomy import MaskableLayer
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.snp import NodeMeasurement, relative_fields
from headwise_exporter.pruning.masks import Masks
from headwise_exporter.pruning.names import ANDC, DENSE, GRADUAL, PERMUTED, SCORES
from headwise_exporter.pruning.scores import product


@dataclass(frozen=True)
class Evidence:
    """What the scores of a model's connections rest on."""

    model: CCT
    nodes: Mapping[str, NodeMeasurement]
    input_scale: Mapping[str, Tensor]  # root mean square of each input, by the name of the layer


@torch.no_grad()
def input_scales(model: CCT, data: LabelledImages, batch_size: int | None = None) -> dict[str, Tensor]:
    """Root mean square of every input of the layers that masks may cut, over images and tokens."""
    layers = model.maskable_layers()
    sums: dict[str, Tensor] = {}
    values = dict.fromkeys((layer.name for layer in layers), 0)
    model.eval()
    with data.visited_by(model):
        for images_BCYX, _ in data.batches(batch_size):
            _, activations = model(images_BCYX)
            for layer in layers:
                flat = activations[layer.inputs].flatten(0, -2).double()
                sums[layer.name] = sums.get(layer.name, 0.0) + flat.square().sum(0).cpu()
                values[layer.name] += len(flat)
    return {name: (total / values[name]).sqrt() for name, total in sums.items()}


def _overlap(nodes: Mapping[str, NodeMeasurement], layer: MaskableLayer) -> Tensor:
    def fields(tap: str) -> Tensor:
        return relative_fields(nodes[tap]).clamp(min=0)

    inputs_AK = fields(layer.inputs)
    return inputs_AK.T if layer.outputs is None else fields(layer.outputs) @ inputs_AK.T


def _factor(evidence: Evidence, layer: MaskableLayer, generator: torch.Generator, name: str) -> Tensor:
    weight = evidence.model.layer(layer.name).weight.detach().double().cpu()
    match name:
        case "random":
            return torch.rand(weight.shape, generator=generator, dtype=torch.float64)
        case "magnitude":
            return weight.abs()
        case "wanda":
            return weight.abs() * evidence.input_scale[layer.name]
        case "overlap":
            return _overlap(evidence.nodes, layer)
    raise ValueError(f"expected a factor of {', '.join(SCORES)}, found {name!r}")


def scores(name: str, evidence: Evidence, layer: MaskableLayer, generator: torch.Generator) -> Tensor:
    """Score of every connection of a layer (Z, A).

    Raises:
        ValueError: the name is none of `SCORES`.
    """
    if name not in SCORES:
        raise ValueError(f"expected a score of {', '.join(SCORES)}, found {name!r}")
    return product(name, partial(_factor, evidence, layer, generator))


def _largest(scores_ZA: Tensor, count: int) -> Tensor:
    kept = torch.zeros(scores_ZA.numel(), dtype=torch.bool)
    kept[scores_ZA.flatten().argsort(descending=True, stable=True)[:count]] = True
    return kept.view(scores_ZA.shape)


def _permuted(layer: MaskableLayer, mask: Tensor, generator: torch.Generator) -> Tensor:
    mask = mask[:, torch.randperm(mask.shape[1], generator=generator)]
    return mask if layer.outputs is None else mask[torch.randperm(mask.shape[0], generator=generator)]


def choose_masks(mask_by: str, andc: Masks, evidence: Evidence, seed: int = 0) -> Masks:
    """Masks that keep as many connections of each layer as ANDC's do, chosen otherwise; or all, for `dense`.

    Raises:
        ValueError: `mask_by`, but for a `gradual` before it, is none of `MASK_BY` nor `dense`.
    """
    mask_by = mask_by.removeprefix(GRADUAL)
    if mask_by == ANDC:
        return andc
    if mask_by == DENSE:
        return Masks({name: torch.ones_like(mask) for name, mask in andc.by_layer.items()})
    generator = torch.Generator().manual_seed(seed)
    layers = {layer.name: layer for layer in evidence.model.maskable_layers()}
    if mask_by == PERMUTED:
        return Masks({name: _permuted(layers[name], mask, generator) for name, mask in andc.by_layer.items()})
    return Masks(
        {
            name: _largest(scores(mask_by, evidence, layers[name], generator), int(mask.sum()))
            for name, mask in andc.by_layer.items()
        }
    )
