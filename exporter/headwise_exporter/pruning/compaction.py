"""Remove units for real: the same function in smaller dense layers.

Removable units of an encoder: feed-forward hidden nodes; whole heads; in pairs, query/key dimensions, and value
dimensions with the projection columns that read them. Every kept head keeps the same number of dimensions. The
residual stream keeps its width.

A removed hidden node or value dimension is replaced by its mean activation, which folds into the bias of the layer
that reads it. Query/key pairs only weigh tokens and have no bias to fold into: their product is dropped.

`mask_units` does this with zeros in the full shapes, `remove_masked` then drops the zeros. Invariant: the two models give the
same logits up to rounding (1e-5), for any input.

Shape suffixes: H heads, Q query/key dimensions, V value dimensions, F feed-forward hidden nodes.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from headwise_exporter.model.cct import CCT, Encoder, EncoderShape

MULTIPLE = 8  # kept counts, where there are that many: what vector units and matrix tiles like


@dataclass(frozen=True)
class KeptUnits:
    """What one encoder keeps; indices are those of the dense model, ascending."""

    heads: tuple[int, ...]
    query_key: tuple[tuple[int, ...], ...]  # for each kept head, within the head
    value: tuple[tuple[int, ...], ...]  # for each kept head, within the head
    feed_forward: tuple[int, ...]

    @property
    def shape(self) -> EncoderShape:
        """Sizes of the pruned encoder."""
        return EncoderShape(len(self.heads), len(self.query_key[0]), len(self.value[0]), len(self.feed_forward))

    def query_key_nodes(self, shape: EncoderShape) -> Tensor:
        """Kept query (or key) rows among all heads' rows of the dense shape."""
        return _flat_indices(self.heads, self.query_key, shape.query_key_dim)

    def value_nodes(self, shape: EncoderShape) -> Tensor:
        """Kept value rows among all heads' rows of the dense shape."""
        return _flat_indices(self.heads, self.value, shape.value_dim)


def _flat_indices(heads: Sequence[int], within: Sequence[Sequence[int]], size: int) -> Tensor:
    return torch.tensor([head * size + index for head, indices in zip(heads, within, strict=True) for index in indices])


@dataclass(frozen=True)
class Budget:
    """Shares of the units that each encoder keeps."""

    feed_forward: float = 0.5
    heads: float = 0.75
    query_key: float = 0.75  # of each kept head
    value: float = 0.75  # of each kept head

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            if not 0 < share <= 1:
                raise ValueError(f"expected a kept share in (0, 1] for {name}, found {share}")

    def kept(self, shape: EncoderShape) -> EncoderShape:
        """Sizes after removal: heads rounded, the rest rounded to a multiple of 8, at least 1 and at least 8."""
        return EncoderShape(
            heads=max(1, round(self.heads * shape.heads)),
            query_key_dim=_rounded(self.query_key, shape.query_key_dim),
            value_dim=_rounded(self.value, shape.value_dim),
            feed_forward=_rounded(self.feed_forward, shape.feed_forward),
        )


def _rounded(share: float, size: int) -> int:
    if share == 1:
        return size
    return min(size, max(MULTIPLE, round(share * size / MULTIPLE) * MULTIPLE))


@dataclass(frozen=True)
class UnitMeans:
    """Mean activations of one encoder's removable units over training images and tokens."""

    heads_N: Tensor  # (H*V,)
    feed_forward_hidden_F: Tensor


def top_indices(scores: Tensor, count: int) -> tuple[int, ...]:
    """Indices of the `count` largest scores, ascending; the first of equals wins."""
    order = scores.argsort(descending=True, stable=True)
    return tuple(sorted(order[:count].tolist()))


def _everything_but(kept: Tensor, size: int) -> Tensor:
    removed = torch.ones(size, dtype=torch.bool)
    removed[kept] = False
    return removed


def _blocks(model: CCT) -> list[Encoder]:
    return [block for block in model.classifier.blocks if isinstance(block, Encoder)]


def _fold_and_zero(layer: nn.Linear, removed: Tensor, means: Tensor) -> None:
    """Replace the removed inputs of a layer by their means."""
    layer.bias.add_(layer.weight[:, removed] @ means[removed].to(layer.weight.dtype))
    layer.weight[:, removed] = 0.0


@torch.no_grad()
def mask_units(model: CCT, kept: Sequence[KeptUnits], means: Sequence[UnitMeans]) -> CCT:
    """A copy of the model in the same shapes, in which the removed units are replaced by their means."""
    masked = copy.deepcopy(model)
    for block, units, mean in zip(_blocks(masked), kept, means, strict=True):
        shape = block.self_attn.shape
        query_key_removed = _everything_but(units.query_key_nodes(shape), shape.heads * shape.query_key_dim)
        value_removed = _everything_but(units.value_nodes(shape), shape.heads * shape.value_dim)
        block.self_attn.qkv.weight[torch.cat((query_key_removed, query_key_removed, value_removed))] = 0.0
        _fold_and_zero(block.self_attn.proj, value_removed, mean.heads_N)
        hidden_removed = _everything_but(torch.tensor(units.feed_forward), shape.feed_forward)
        _fold_and_zero(block.linear2, hidden_removed, mean.feed_forward_hidden_F)
    return masked


@torch.no_grad()
def remove_masked(masked: CCT, kept: Sequence[KeptUnits]) -> CCT:
    """The model that `mask_units` made, without the removed units: same function, smaller dense layers."""
    config = replace(masked.config, encoders=tuple(units.shape for units in kept))
    state = dict(masked.state_dict())
    for index, (block, units) in enumerate(zip(_blocks(masked), kept, strict=True)):
        prefix, shape = f"classifier.blocks.{index}.", block.self_attn.shape
        query_key, value = units.query_key_nodes(shape), units.value_nodes(shape)
        offset = shape.heads * shape.query_key_dim
        hidden = torch.tensor(units.feed_forward)
        state[f"{prefix}self_attn.qkv.weight"] = block.self_attn.qkv.weight[
            torch.cat((query_key, offset + query_key, 2 * offset + value))
        ]
        state[f"{prefix}self_attn.proj.weight"] = block.self_attn.proj.weight[:, value]
        state[f"{prefix}linear1.weight"] = block.linear1.weight[hidden]
        state[f"{prefix}linear1.bias"] = block.linear1.bias[hidden]
        state[f"{prefix}linear2.weight"] = block.linear2.weight[:, hidden]
    small = CCT(config)
    small.load_state_dict(state)
    return small.eval()


def pruned_masks(masks: Mapping[str, Tensor], kept: Sequence[KeptUnits]) -> dict[str, Tensor]:
    """The ANDC masks of the pruned model: the columns of the kept hidden nodes, the classifier head as it is."""
    columns = {f"classifier.blocks.{index}.linear2": list(units.feed_forward) for index, units in enumerate(kept)}
    return {name: mask[:, columns[name]] if name in columns else mask for name, mask in masks.items()}


@torch.no_grad()
def largest_difference(model: CCT, other: CCT, images: int = 16, seed: int = 0) -> float:
    """Largest absolute difference of the two models' logits on normally distributed random images."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(images, config.channels, config.image_size, config.image_size, generator=generator)
    return float((model.eval()(inputs)[0] - other.eval()(inputs)[0]).abs().max())
