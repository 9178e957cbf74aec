"""Applied nodal diagonal connection (ANDC): keep the connections between nodes that recognise a common label.

- Classifier-head rule [the group's, arXiv:2501.12880]: keep node n -> output j iff j is in D_n.
- Layer rule [our reading of "nodal diagonal connection"]: keep a -> b iff D_a and D_b share a label; applied to the
  second feed-forward layer of each encoder, from its hidden nodes to the stream after the encoder.

D_n is that of `nodes.snp` at one threshold for all layers; or, where a share of the connections is asked for, at the
threshold of each layer that keeps the share closest to it [our choice].

A node without a cluster keeps nothing. Norms, biases and the residual stream itself are never masked. After masking, a
fine-tuning in which only the masked layers and the classifier head learn, the masks re-applied after each step.

A mask alone makes nothing smaller or faster; `pruning.compaction` does.

Shape suffixes: N nodes, K labels, D width, F feed-forward hidden nodes.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.snp import CLASSIFIER_HEAD, NodeMeasurement, recognised_labels

Rule = Literal["classifier_head", "layer", "both", "none"]
RULES: tuple[Rule, ...] = get_args(Rule)
CLASSIFIER_LAYER = "classifier.fc"
BISECTIONS = 30  # of a threshold in 0 .. 1


def rule_named(name: str) -> Rule:
    """The rule of that name.

    Raises:
        ValueError: the rule is none of `RULES`.
    """
    found = next((rule for rule in RULES if rule == name), None)
    if found is None:
        raise ValueError(f"expected a rule of {', '.join(RULES)}, found {name!r}")
    return found


def _classifier_head_mask(nodes: NodeMeasurement, threshold: float) -> Tensor:
    return recognised_labels(nodes, threshold).T


def _layer_mask(hidden: NodeMeasurement, out: NodeMeasurement, threshold: float) -> Tensor:
    hidden_FK, out_DK = (recognised_labels(nodes, threshold).float() for nodes in (hidden, out))
    return out_DK @ hidden_FK.T > 0


def _masks_by_threshold(
    model: CCT, nodes: Mapping[str, NodeMeasurement], rule: Rule
) -> dict[str, Callable[[float], Tensor]]:
    rule_named(rule)  # raises where there is none
    found: dict[str, Callable[[float], Tensor]] = {}
    if rule in ("layer", "both"):
        for index in range(len(model.config.encoders)):
            hidden, out = (nodes[f"encoders.{index}.feed_forward_{tap}"] for tap in ("hidden", "out"))
            found[f"classifier.blocks.{index}.linear2"] = partial(_layer_mask, hidden, out)
    if rule in ("classifier_head", "both"):
        found[CLASSIFIER_LAYER] = partial(_classifier_head_mask, nodes[CLASSIFIER_HEAD])
    return found


def masks(model: CCT, nodes: Mapping[str, NodeMeasurement], rule: Rule, threshold: float) -> dict[str, Tensor]:
    """Boolean mask of each masked layer's weight (outputs, inputs), by the layer's name in the model.

    Raises:
        ValueError: the rule is none of `RULES`.
    """
    return {name: mask(threshold) for name, mask in _masks_by_threshold(model, nodes, rule).items()}


def masks_keeping(model: CCT, nodes: Mapping[str, NodeMeasurement], rule: Rule, share: float) -> dict[str, Tensor]:
    """The same, each layer at the threshold that keeps a share of its connections closest to the one asked for.

    The share is that of all thresholds at most: a node recognises at least the labels of its largest field.

    Raises:
        ValueError: the rule is none of `RULES`.
    """
    return {name: _closest(mask, share) for name, mask in _masks_by_threshold(model, nodes, rule).items()}


def _closest(mask: Callable[[float], Tensor], share: float) -> Tensor:
    low, high = 0.0, 1.0  # the higher the threshold, the less is kept
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if float(mask(middle).float().mean()) > share:
            low = middle
        else:
            high = middle
    return min((mask(low), mask(high)), key=lambda kept: abs(float(kept.float().mean()) - share))


def kept_share(masks: Mapping[str, Tensor]) -> float:
    """Share of the connections under masks that they keep; 1 without masks."""
    connections = sum(mask.numel() for mask in masks.values())
    return sum(int(mask.sum()) for mask in masks.values()) / connections if connections else 1.0


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
    """Those that learn in the fine-tuning: the masked layers' and the classifier head's."""
    layers = {**masked_layers(model, masks), CLASSIFIER_LAYER: model.classifier.fc}
    return [parameter for layer in layers.values() for parameter in layer.parameters()]
