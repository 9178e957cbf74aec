"""Applied nodal diagonal connection (ANDC): keep the connections between nodes that recognise a common label.

- Classifier head [the group's rule, arXiv:2501.12880]: keep node n -> output j iff j is in D_n.
- Feed-forward [our reading of "nodal diagonal connection"]: keep a -> b iff D_a and D_b share a label; applied to the
  second feed-forward layer of each encoder, from its hidden nodes to the stream after the encoder.

D_n is that of `nodes.snp` at one threshold for all layers; or, where a share of the connections is asked for, at the
threshold of each layer that keeps the share closest to it [our choice].

A node without a cluster keeps nothing. After masking, fine-tuning in which only the masked layers and the classifier
head learn, the masks re-applied after each step (`pruning.masks`).

Shape suffixes: A nodes that a layer reads, Z nodes that it writes or labels, K labels.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from headwise_exporter.model.anatomy import MaskableLayer
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.snp import NodeMeasurement, recognised_labels
from headwise_exporter.pruning.masks import Masks, masked_layers
from headwise_exporter.pruning.names import Layers

BISECTIONS = 30  # of a threshold in 0 .. 1


def layer_mask(layer: MaskableLayer, nodes: Mapping[str, NodeMeasurement], threshold: float) -> Tensor:
    """Boolean mask (Z, A) of one layer at a threshold."""
    inputs_AK = recognised_labels(nodes[layer.inputs], threshold)
    if layer.outputs is None:
        return inputs_AK.T
    outputs_ZK = recognised_labels(nodes[layer.outputs], threshold)
    return outputs_ZK.float() @ inputs_AK.float().T > 0


def andc_masks(model: CCT, nodes: Mapping[str, NodeMeasurement], layers: Layers, threshold: float) -> Masks:
    """The masks of every layer that `layers` names, at one threshold.

    Raises:
        ValueError: `layers` is none of `pruning.masks.LAYERS`.
    """
    return Masks({layer.name: layer_mask(layer, nodes, threshold) for layer in masked_layers(model, layers)})


def andc_masks_keeping(model: CCT, nodes: Mapping[str, NodeMeasurement], layers: Layers, share: float) -> Masks:
    """The same, each layer at the threshold that keeps a share of its connections closest to the one asked for.

    The share is that of all thresholds at most: a node recognises at least the labels of its largest field.

    Raises:
        ValueError: `layers` is none of `pruning.masks.LAYERS`.
    """

    def mask_of(layer: MaskableLayer) -> Callable[[float], Tensor]:
        return lambda threshold: layer_mask(layer, nodes, threshold)

    return Masks({layer.name: _closest(mask_of(layer), share) for layer in masked_layers(model, layers)})


def _closest(mask: Callable[[float], Tensor], share: float) -> Tensor:
    low, high = 0.0, 1.0  # the higher the threshold, the less is kept
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if float(mask(middle).float().mean()) > share:
            low = middle
        else:
            high = middle
    return min((mask(low), mask(high)), key=lambda kept: abs(float(kept.float().mean()) - share))
