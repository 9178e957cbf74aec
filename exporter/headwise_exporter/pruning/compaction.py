"""Remove units for real: the same function in smaller dense layers.

Removable: filters of the tokenizer's convolutions before the last; of an encoder feed-forward hidden nodes, whole
heads, query/key dimensions in pairs, and value dimensions with the projection columns that read them; all units of an
encoder. Every kept head keeps the same number of dimensions. The residual stream keeps its width.

A removed hidden node or value dimension is replaced by its mean activation, which folds into the bias of the layer
that reads it; of an encoder without units its norm on the stream and these biases are left. Query/key pairs only weigh
tokens and have no bias to fold into: their product is dropped. Nor have convolutions: what a removed filter gave is
won back as far as the kept ones can, by least squares (`pruning.refit`).

`mask_units` does this with zeros in the full shapes, `remove_masked` then drops the zeros. Invariant: the two models
give the same logits up to rounding (1e-5), for any input. What writes and what reads the units, the model says.

Shape suffixes: H heads, Q query/key dimensions, V value dimensions, F feed-forward hidden nodes, C channels.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from headwise_exporter.model.anatomy import FEED_FORWARD_HIDDEN, HEADS, KEY, QUERY, activation_name, filters_name
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.config import CCTConfig, EncoderShape
from headwise_exporter.pruning.masks import Masks
from headwise_exporter.pruning.refit import refitted

MULTIPLE = 8  # kept counts, where there are that many: what vector units and matrix tiles like
FILTERS_MULTIPLE = 16  # the same of filters


@dataclass(frozen=True)
class KeptEncoder:
    """What one encoder keeps; indices are those before the removal, ascending."""

    heads: tuple[int, ...]
    query_key: tuple[tuple[int, ...], ...]  # for each kept head, within the head
    value: tuple[tuple[int, ...], ...]  # for each kept head, within the head
    feed_forward: tuple[int, ...]

    @property
    def shape(self) -> EncoderShape:
        """Sizes of the pruned encoder."""
        query_key, value = (len(of_heads[0]) if of_heads else 0 for of_heads in (self.query_key, self.value))
        return EncoderShape(len(self.heads), query_key, value, len(self.feed_forward))

    def by_kind(self, shape: EncoderShape) -> dict[str, Tensor]:
        """Indices among all units of the shape before, for each kind of an encoder's `CCT.unit_groups`."""
        query_key = _flat_indices(self.heads, self.query_key, shape.query_key_dim)
        values = _flat_indices(self.heads, self.value, shape.value_dim)
        return {QUERY: query_key, KEY: query_key, HEADS: values, FEED_FORWARD_HIDDEN: _indices(self.feed_forward)}

    def within(self, earlier: "KeptEncoder") -> "KeptEncoder":
        """The same units by their indices before an earlier removal."""

        def mapped(mine: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
            pairs = zip(self.heads, mine, strict=True)
            return tuple(tuple(theirs[head][index] for index in indices) for head, indices in pairs)

        return KeptEncoder(
            heads=tuple(earlier.heads[head] for head in self.heads),
            query_key=mapped(self.query_key, earlier.query_key),
            value=mapped(self.value, earlier.value),
            feed_forward=tuple(earlier.feed_forward[node] for node in self.feed_forward),
        )

    @classmethod
    def all(cls, shape: EncoderShape) -> "KeptEncoder":
        """Every unit of an encoder."""
        query_key, value = (tuple(range(size)) for size in (shape.query_key_dim, shape.value_dim))
        heads = shape.heads
        return cls(tuple(range(heads)), (query_key,) * heads, (value,) * heads, tuple(range(shape.feed_forward)))


NO_UNITS = KeptEncoder((), (), (), ())


def _indices(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


def _flat_indices(heads: Sequence[int], within: Sequence[Sequence[int]], size: int) -> Tensor:
    return _indices([head * size + index for head, indices in zip(heads, within, strict=True) for index in indices])


@dataclass(frozen=True)
class KeptUnits:
    """What a model keeps; indices are those before the removal, ascending."""

    filters: tuple[tuple[int, ...], ...]  # of each convolution before the last
    encoders: tuple[KeptEncoder, ...]

    @classmethod
    def all(cls, config: CCTConfig) -> "KeptUnits":
        """Every unit of a model."""
        filters = tuple(tuple(range(channels)) for channels in config.conv_hidden_channels)
        return cls(filters, tuple(map(KeptEncoder.all, config.encoders)))

    def config(self, config: CCTConfig) -> CCTConfig:
        """The pruned model's shape.

        Args:
            config: before the removal.
        """
        channels = tuple(map(len, self.filters))
        encoders = tuple(encoder.shape for encoder in self.encoders)
        return replace(config, conv_hidden_channels=channels, encoders=encoders)

    def by_group(self, config: CCTConfig) -> dict[str, Tensor]:
        """Indices of the kept units of every group of `CCT.unit_groups`, by the group's name.

        Args:
            config: before the removal.
        """
        encoders = {
            activation_name(encoder, kind): indices
            for encoder, (shape, units) in enumerate(zip(config.encoders, self.encoders, strict=True))
            for kind, indices in units.by_kind(shape).items()
        }
        return {filters_name(layer): _indices(filters) for layer, filters in enumerate(self.filters)} | encoders

    def within(self, earlier: "KeptUnits") -> "KeptUnits":
        """The same units by their indices before an earlier removal."""
        layers = zip(self.filters, earlier.filters, strict=True)
        encoders = zip(self.encoders, earlier.encoders, strict=True)
        return KeptUnits(
            filters=tuple(tuple(theirs[index] for index in mine) for mine, theirs in layers),
            encoders=tuple(mine.within(theirs) for mine, theirs in encoders),
        )


@dataclass(frozen=True)
class Budget:
    """Shares of the units that each layer and each encoder keeps."""

    feed_forward: float = 0.5
    heads: float = 0.75
    query_key: float = 0.75  # of each kept head
    value: float = 0.75  # of each kept head
    filters: float = 1.0
    encoders: float = 1.0  # that keep units at all

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
            heads=max(1, round(self.heads * shape.heads)) if shape.heads else 0,
            query_key_dim=_rounded(self.query_key, shape.query_key_dim),
            value_dim=_rounded(self.value, shape.value_dim),
            feed_forward=_rounded(self.feed_forward, shape.feed_forward),
        )

    def emptied(self, losses_L: Tensor) -> tuple[int, ...]:
        """Encoders that keep no unit: those without whose units the loss is least."""
        kept = max(1, round(self.encoders * len(losses_L)))
        return top_indices(-losses_L, len(losses_L) - kept)

    def config(self, config: CCTConfig, emptied: Sequence[int] = ()) -> CCTConfig:
        """The model's shape after removal.

        Args:
            emptied: encoders that keep no unit.
        """
        channels = tuple(_rounded(self.filters, size, FILTERS_MULTIPLE) for size in config.conv_hidden_channels)
        encoders = tuple(
            NO_UNITS.shape if index in emptied else self.kept(shape) for index, shape in enumerate(config.encoders)
        )
        return replace(config, conv_hidden_channels=channels, encoders=encoders)


def _rounded(share: float, size: int, multiple: int = MULTIPLE) -> int:
    if share == 1:
        return size
    return min(size, max(multiple, round(share * size / multiple) * multiple))


def top_indices(scores: Tensor, count: int) -> tuple[int, ...]:
    """Indices of the `count` largest scores, ascending; the first of equals wins."""
    order = scores.argsort(descending=True, stable=True)
    return tuple(sorted(order[:count].tolist()))


def choose(model: CCT, scores: Mapping[str, Tensor], target: CCTConfig) -> KeptUnits:
    """The units with the largest scores that fill a smaller shape.

    Scores are compared within a convolution, and within an encoder and a kind of unit, only. A head's score is the sum
    over its value dimensions, taken before those are chosen; a query/key pair's is the product of both.

    Args:
        scores: of every unit, by the name of its group.
        target: the shape, as `Budget.config` gives it.
    """
    filters = tuple(
        top_indices(scores[filters_name(layer)], count) for layer, count in enumerate(target.conv_hidden_channels)
    )
    chosen = []
    for encoder, (shape, kept) in enumerate(zip(model.config.encoders, target.encoders, strict=True)):
        name = partial(activation_name, encoder)
        heads: tuple[int, ...] = ()
        if kept.heads:
            value_HV = scores[name(HEADS)].unflatten(0, (shape.heads, -1))
            pair_HQ = (scores[name(QUERY)] * scores[name(KEY)]).unflatten(0, (shape.heads, -1))
            heads = top_indices(value_HV.sum(1), kept.heads)
        hidden = top_indices(scores[name(FEED_FORWARD_HIDDEN)], kept.feed_forward) if kept.feed_forward else ()
        chosen.append(
            KeptEncoder(
                heads=heads,
                query_key=tuple(top_indices(pair_HQ[head], kept.query_key_dim) for head in heads),
                value=tuple(top_indices(value_HV[head], kept.value_dim) for head in heads),
                feed_forward=hidden,
            )
        )
    return KeptUnits(filters, tuple(chosen))


@torch.no_grad()
def mask_units(
    model: CCT, kept: KeptUnits, means: Mapping[str, Tensor], patches: Mapping[str, Tensor] | None = None
) -> CCT:
    """A copy of the model in the same shapes, in which the removed units are replaced.

    Args:
        means: mean activation of every unit of the groups that a layer with a bias reads, by the group's name, over
            training images and tokens.
        patches: second moments of the patches that a layer without a bias reads, by the group's name
            (`refit.collect_patches`); without them, that layer's weights stay, and removed units count as zero.
    """
    masked, indices = copy.deepcopy(model), kept.by_group(model.config)
    for group in masked.unit_groups():
        removed = torch.ones(group.units, dtype=torch.bool)
        removed[indices[group.name]] = False
        masked.layer(group.written_by).weight[group.rows][removed] = 0.0
        if group.read_by is None or not removed.any():
            continue
        reader = masked.layer(group.read_by)
        if reader.bias is not None:
            reader.bias.add_(reader.weight[:, removed] @ means[group.name][removed].to(reader.weight.dtype))
        elif patches is not None and isinstance(reader, nn.Conv2d):
            reader.weight.copy_(refitted(reader, patches[group.name], ~removed))
        reader.weight[:, removed] = 0.0
    return masked


@torch.no_grad()
def remove_masked(masked: CCT, kept: KeptUnits) -> CCT:
    """The model that `mask_units` made, without the removed units: same function, smaller dense layers."""
    indices = kept.by_group(masked.config)
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
    small = CCT(kept.config(masked.config))
    small.load_state_dict({name: state[name] for name in small.state_dict()})  # where no unit is left, no layer is
    return small.eval()


def pruned_masks(masks: Masks, model: CCT, kept: KeptUnits) -> Masks:
    """The masks of the pruned model: of each masked layer the columns of the units that it still reads.

    Args:
        model: before the removal.
    """
    indices = kept.by_group(model.config)
    columns = {group.read_by: indices[group.name] for group in model.unit_groups()}
    of_kept = {name: mask[:, columns[name]] if name in columns else mask for name, mask in masks.by_layer.items()}
    return Masks({name: mask for name, mask in of_kept.items() if mask.numel()})


@torch.no_grad()
def largest_difference(model: CCT, other: CCT, images: int = 16, seed: int = 0) -> float:
    """Largest absolute difference of the two models' logits on normally distributed random images."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(images, config.channels, config.image_size, config.image_size, generator=generator)
    return float((model.eval()(inputs)[0] - other.eval()(inputs)[0]).abs().max())
