"""Remove units for real: the same function in smaller dense layers.

Removable units of an encoder: feed-forward hidden nodes; whole heads; in pairs, query/key dimensions, and value
dimensions with the projection columns that read them. Every kept head keeps the same number of dimensions. The
residual stream keeps its width.

A removed hidden node or value dimension is replaced by its mean activation, which folds into the bias of the layer
that reads it. Query/key pairs only weigh tokens and have no bias to fold into: their product is dropped.

`mask_units` does this with zeros in the full shapes, `remove_masked` then drops the zeros. Invariant: the two models
give the same logits up to rounding (1e-5), for any input. What writes and what reads the units, the model says.

Shape suffixes: H heads, Q query/key dimensions, V value dimensions, F feed-forward hidden nodes.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from headwise_exporter.model.anatomy import FEED_FORWARD_HIDDEN, HEADS, KEY, QUERY, activation_name
from headwise_exporter.model.cct import CCT, EncoderShape
from headwise_exporter.pruning.masks import Masks

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

    def by_kind(self, shape: EncoderShape) -> dict[str, Tensor]:
        """Indices among all units of the dense shape, for each kind of `CCT.unit_groups`."""
        query_key = _flat_indices(self.heads, self.query_key, shape.query_key_dim)
        values = _flat_indices(self.heads, self.value, shape.value_dim)
        return {QUERY: query_key, KEY: query_key, HEADS: values, FEED_FORWARD_HIDDEN: torch.tensor(self.feed_forward)}

    @classmethod
    def all(cls, shape: EncoderShape) -> "KeptUnits":
        """Every unit of an encoder."""
        query_key, value = (tuple(range(size)) for size in (shape.query_key_dim, shape.value_dim))
        heads = shape.heads
        return cls(tuple(range(heads)), (query_key,) * heads, (value,) * heads, tuple(range(shape.feed_forward)))


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

    def eased(self) -> "Budget":
        """A budget that removes half as much."""
        return Budget(**{name: (1 + share) / 2 for name, share in vars(self).items()})

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


def top_indices(scores: Tensor, count: int) -> tuple[int, ...]:
    """Indices of the `count` largest scores, ascending; the first of equals wins."""
    order = scores.argsort(descending=True, stable=True)
    return tuple(sorted(order[:count].tolist()))


def choose(model: CCT, scores: Mapping[str, Tensor], budget: Budget) -> list[KeptUnits]:
    """The units with the largest scores that each encoder keeps within the budget.

    Scores are compared within an encoder and a kind of unit only. A head's score is the sum over its value dimensions,
    taken before those are chosen; a query/key pair's is the product of both.

    Args:
        scores: of every unit, by the name of its group.
    """
    chosen = []
    for encoder, shape in enumerate(model.config.encoders):
        kept, name = budget.kept(shape), partial(activation_name, encoder)
        value_HV = scores[name(HEADS)].unflatten(0, (shape.heads, -1))
        pair_HQ = (scores[name(QUERY)] * scores[name(KEY)]).unflatten(0, (shape.heads, -1))
        heads = top_indices(value_HV.sum(1), kept.heads)
        chosen.append(
            KeptUnits(
                heads=heads,
                query_key=tuple(top_indices(pair_HQ[head], kept.query_key_dim) for head in heads),
                value=tuple(top_indices(value_HV[head], kept.value_dim) for head in heads),
                feed_forward=top_indices(scores[name(FEED_FORWARD_HIDDEN)], kept.feed_forward),
            )
        )
    return chosen


def kept_units(model: CCT, kept: Sequence[KeptUnits]) -> dict[str, Tensor]:
    """Indices of the kept units of every group of `CCT.unit_groups`, by the group's name."""
    return {
        activation_name(encoder, kind): indices
        for encoder, (shape, units) in enumerate(zip(model.config.encoders, kept, strict=True))
        for kind, indices in units.by_kind(shape).items()
    }


@torch.no_grad()
def mask_units(model: CCT, kept: Sequence[KeptUnits], means: Mapping[str, Tensor]) -> CCT:
    """A copy of the model in the same shapes, in which the removed units are replaced by their means.

    Args:
        means: mean activation of every unit of the groups that something reads, by the group's name, over training
            images and tokens.
    """
    masked, indices = copy.deepcopy(model), kept_units(model, kept)
    for group in masked.unit_groups():
        removed = torch.ones(group.units, dtype=torch.bool)
        removed[indices[group.name]] = False
        masked.linear(group.written_by).weight[group.rows][removed] = 0.0
        if group.read_by is not None:
            reader = masked.linear(group.read_by)
            reader.bias.add_(reader.weight[:, removed] @ means[group.name][removed].to(reader.weight.dtype))
            reader.weight[:, removed] = 0.0
    return masked


@torch.no_grad()
def remove_masked(masked: CCT, kept: Sequence[KeptUnits]) -> CCT:
    """The model that `mask_units` made, without the removed units: same function, smaller dense layers."""
    indices = kept_units(masked, kept)
    state = dict(masked.state_dict())
    rows: dict[str, list[Tensor]] = {}  # kept, of each layer that writes units
    for group in masked.unit_groups():
        rows.setdefault(group.written_by, []).append(group.first_row + indices[group.name])
        if group.read_by is not None:
            state[f"{group.read_by}.weight"] = state[f"{group.read_by}.weight"][:, indices[group.name]]
    for layer, pieces in rows.items():
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name in state:
                state[name] = state[name][torch.cat(pieces)]
    small = CCT(replace(masked.config, encoders=tuple(units.shape for units in kept)))
    small.load_state_dict(state)
    return small.eval()


def pruned_masks(masks: Masks, model: CCT, kept: Sequence[KeptUnits]) -> Masks:
    """The masks of the pruned model: of each masked layer the columns of the units that it still reads.

    Args:
        model: before the removal.
    """
    indices = kept_units(model, kept)
    columns = {group.read_by: indices[group.name] for group in model.unit_groups()}
    return Masks({name: mask[:, columns[name]] if name in columns else mask for name, mask in masks.by_layer.items()})


@torch.no_grad()
def largest_difference(model: CCT, other: CCT, images: int = 16, seed: int = 0) -> float:
    """Largest absolute difference of the two models' logits on normally distributed random images."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(images, config.channels, config.image_size, config.image_size, generator=generator)
    return float((model.eval()(inputs)[0] - other.eval()(inputs)[0]).abs().max())
