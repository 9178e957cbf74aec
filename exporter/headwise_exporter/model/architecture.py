"""What a CCT's weights are weights of: the settings that two models must share to share weights.

Named as the settings of a recipe are. The image size and the labels are not among them: positions are resized and a
classifier head is replaced (`initial_weights`).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from headwise_exporter.model.config import CCTConfig

Architecture = Mapping[str, Any]
CONVOLUTION = re.compile(r"tokenizer\.conv_layers\.(\d+)\.0\.weight")
BLOCK = re.compile(r"classifier\.blocks\.(\d+)\.")
DERIVED = ("query_key_dim", "value_dim", "query_key_scale")  # from width and heads, unless the model was pruned


def _alike(values: Sequence[Any]) -> Any:
    """One value for all encoders, or the tuple if they differ."""
    return values[0] if len(set(values)) == 1 else tuple(values)


def architecture(config: CCTConfig) -> Architecture:
    """Every setting that weights depend on."""
    shapes = config.encoders
    return {
        "channels": config.channels,
        "conv_hidden_channels": config.conv_hidden_channels,
        "conv_kernel": config.conv_kernel,
        "conv_stride": config.conv_stride,
        "conv_padding": config.conv_padding,
        "depth": len(shapes),
        "width": config.width,
        "heads": _alike([shape.heads for shape in shapes]),
        "feed_forward": _alike([shape.feed_forward for shape in shapes]),
        "query_key_dim": _alike([shape.query_key_dim for shape in shapes]),
        "value_dim": _alike([shape.value_dim for shape in shapes]),
        "query_key_scale": config.query_key_scale,
    }


def visible_architecture(tensors: Mapping[str, Tensor]) -> Architecture:
    """The settings that shapes show, and those alone: neither heads nor the convolutions' stride and padding."""
    shown: dict[str, Any] = {}
    convolutions = {
        int(match[1]): tensor.shape for name, tensor in tensors.items() if (match := CONVOLUTION.fullmatch(name))
    }
    if convolutions and all(len(shape) == 4 for shape in convolutions.values()):
        *hidden, last = (convolutions[index] for index in sorted(convolutions))
        shown["channels"] = [*hidden, last][0][1]
        shown["conv_hidden_channels"] = tuple(shape[0] for shape in hidden)
        shown["conv_kernel"] = last[2]
        shown["width"] = last[0]
    blocks = sorted({int(match[1]) for name in tensors if (match := BLOCK.match(name))})
    if blocks:
        shown["depth"] = len(blocks)
        hidden_layers = [tensors.get(f"classifier.blocks.{index}.linear1.bias") for index in blocks]
        if all(layer is not None and layer.dim() == 1 for layer in hidden_layers):
            shown["feed_forward"] = _alike([len(layer) for layer in hidden_layers if layer is not None])
    return shown


def differences(own: Architecture, other: Architecture) -> dict[str, tuple[Any, Any]]:
    """Settings in which the two differ, of those that both have; derived ones only where no other differs."""
    pairs = {name: (own[name], other[name]) for name in own if name in other and own[name] != other[name]}
    return {name: pair for name, pair in pairs.items() if name not in DERIVED} or pairs


def in_words(settings: Architecture) -> str:
    """As in `depth 4, width 192`."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())
