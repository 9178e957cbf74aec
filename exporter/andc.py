"""Applied nodal diagonal connection (ANDC): keep the connections between nodes that recognise a common label.

- Read-out rule [the group's, arXiv:2501.12880]: keep node n -> output j iff j is in D_n.
- Layer rule [our reading of "nodal diagonal connection"]: keep a -> b iff D_a and D_b share a label; applied to the
  second feed-forward layer of each encoder, from its hidden nodes to the stream after the encoder.

A node without a cluster keeps nothing. Norms, biases and the residual stream itself are never masked. After masking, a
short training in which only the masked layers and the read-out learn, the masks re-applied after each step.

A mask alone makes nothing smaller or faster; `exporter.compaction` does.

Shape suffixes: N nodes, K labels, D width, F feed-forward units.
"""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from exporter.cct import CCT
from exporter.snp import READOUT, NodeStatistics

Rule = Literal["readout", "layer", "both", "none"]
RULES: tuple[Rule, ...] = get_args(Rule)
READOUT_LAYER = "classifier.fc"


def masks(model: CCT, statistics: Mapping[str, NodeStatistics], rule: Rule) -> dict[str, Tensor]:
    """Boolean mask of each masked layer's weight (outputs, inputs), by the layer's name in the model.

    Raises:
        ValueError: the rule is none of `RULES`.
    """
    if rule not in RULES:
        raise ValueError(f"expected a rule of {', '.join(RULES)}, found {rule!r}")
    found: dict[str, Tensor] = {}
    if rule in ("layer", "both"):
        for index in range(len(model.config.encoders)):
            hidden_FK = statistics[f"encoders.{index}.feed_forward_hidden"].labels_NK.float()
            out_DK = statistics[f"encoders.{index}.feed_forward_out"].labels_NK.float()
            found[f"classifier.blocks.{index}.linear2"] = out_DK @ hidden_FK.T > 0
    if rule in ("readout", "both"):
        found[READOUT_LAYER] = statistics[READOUT].labels_NK.T
    return found


def masked_layers(model: CCT, masks: Mapping[str, Tensor]) -> dict[str, nn.Linear]:
    """The layers that the masks belong to."""
    return {name: layer for name in masks if isinstance(layer := model.get_submodule(name), nn.Linear)}


@torch.no_grad()
def apply_masks(model: CCT, masks: Mapping[str, Tensor]) -> None:
    """Set every connection that the masks do not keep to zero, in place."""
    for name, layer in masked_layers(model, masks).items():
        layer.weight.mul_(masks[name].to(layer.weight.device))


def reapply(model: CCT, masks: Mapping[str, Tensor]) -> Callable[[], None]:
    """A function that applies the masks once more, for after a training step."""
    return lambda: apply_masks(model, masks)


def learning_parameters(model: CCT, masks: Mapping[str, Tensor]) -> list[nn.Parameter]:
    """Those that learn in the short training: the masked layers' and the read-out's."""
    layers = {**masked_layers(model, masks), READOUT_LAYER: model.classifier.fc}
    return [parameter for layer in layers.values() for parameter in layer.parameters()]
