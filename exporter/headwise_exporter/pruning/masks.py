"""Masks over the connections of a model's layers.

A mask alone makes nothing smaller or faster; `pruning.compaction` does.

Shape suffixes: none of their own; a mask has the shape of its layer's weight, (outputs, inputs).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from headwise_exporter.model.anatomy import MaskableLayer
from headwise_exporter.model.cct import CCT
from headwise_exporter.pruning.names import LAYERS, Layers


def masked_layers(model: CCT, layers: Layers) -> list[MaskableLayer]:
    """The model's layers that are under masks where `layers` says where those go.

    Raises:
        ValueError: it is none of `LAYERS`.
    """
    if layers not in LAYERS:
        raise ValueError(f"expected layers of {', '.join(LAYERS)}, found {layers!r}")
    return [layer for layer in model.maskable_layers() if layers in ("both", layer.group)]


@dataclass(frozen=True)
class Masks:
    """Boolean masks of some layers' weights, by the layer's name; without any, nothing is masked."""

    by_layer: Mapping[str, Tensor] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.by_layer)

    def kept_share(self) -> float:
        """Share of the connections under masks that they keep; 1 without masks."""
        connections = sum(mask.numel() for mask in self.by_layer.values())
        return sum(int(mask.sum()) for mask in self.by_layer.values()) / connections if connections else 1.0

    @torch.no_grad()
    def apply(self, model: CCT) -> None:
        """Set every connection that the masks do not keep to zero, in place."""
        for name, mask in self.by_layer.items():
            weight = model.layer(name).weight
            weight.mul_(mask.to(weight.device))

    def reapply(self, model: CCT) -> Callable[[], None]:
        """A function that applies the masks once more, for after a training step."""
        return lambda: self.apply(model)

    def learning_parameters(self, model: CCT) -> list[nn.Parameter]:
        """Those that learn in fine-tuning under the masks: the masked layers' and the classifier head's."""
        head = [layer.name for layer in masked_layers(model, "classifier_head")]
        names = dict.fromkeys((*self.by_layer, *head))
        return [parameter for name in names for parameter in model.layer(name).parameters()]
