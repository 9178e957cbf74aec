"""What a model is made of, in the terms that measuring and pruning use.

A model says of itself where its nodes are measured (`TapPoint`), which of its layers masks may cut (`MaskableLayer`)
and what can be removed from it, with what writes it and what reads it (`UnitGroup`). A tap point, a layer or a group
that a model adds to its answers is measured, masked or removed by the same code.

Shape suffixes: B batch, C channels, T tokens, Y rows, X columns.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from torch import Tensor  # slow to import, and the names here are read by the command's help

# Kinds of activations that are measured.
FILTERS: Final = "filters"
HEADS: Final = "heads"
FEED_FORWARD_HIDDEN: Final = "feed_forward_hidden"
FEED_FORWARD_OUT: Final = "feed_forward_out"
CLASSIFIER_HEAD: Final = "classifier_head"
# Kinds of units that can be removed besides nodes of these.
QUERY: Final = "query"
KEY: Final = "key"
# What a forward pass hands out where it is asked for.
ATTENTION: Final = "attention"
VALUE: Final = "value"

LayerGroup = Literal["feed_forward", "classifier_head"]


def activation_name(encoder: int, kind: str) -> str:
    """Name of an encoder's activation in what `CCT.forward` returns, and of what is measured there."""
    return f"encoders.{encoder}.{kind}"


def filters_name(layer: int) -> str:
    """Name of the maps that a convolution of the tokenizer leaves, by the layer's index."""
    return f"{FILTERS}.{layer}"


def by_token(activation: "Tensor") -> "Tensor":
    """An activation as (B, T, nodes): maps (B, C, Y, X) with a token for each place, all others as they are."""
    return activation.flatten(2).transpose(1, 2) if activation.ndim == 4 else activation


@dataclass(frozen=True)
class TapPoint:
    """Where nodes are measured."""

    name: str  # of the activation, (B, T, nodes) after `by_token`; (B, nodes) where it is pooled
    kind: str
    nodes: int
    encoder: int | None = None  # None outside the encoders
    heads: int = 1  # groups of equal size that the nodes fall into, in order
    pooled: bool = False  # by the model itself, whose classifier reads it; the others need a probe


@dataclass(frozen=True)
class MaskableLayer:
    """A linear layer whose connections a mask may cut, and the tap points at its two ends."""

    name: str  # of the module
    group: LayerGroup
    inputs: str  # tap point of the nodes that it reads
    outputs: str | None  # tap point of the nodes that it writes; None where each output is a label


@dataclass(frozen=True)
class UnitGroup:
    """Units that can be removed: the rows that write them, and the columns that read them.

    Of a convolution's weight (outputs, inputs, rows, columns), outputs are the rows and inputs the columns.
    """

    name: str  # of their activation, (B, T, units) after `by_token`
    kind: str
    encoder: int | None  # None for filters of the tokenizer
    units: int
    written_by: str  # module
    first_row: int  # of theirs in that module's weight
    read_by: str | None  # module, whose columns are these units; None where nothing linear reads them

    @property
    def rows(self) -> slice:
        """Their rows in the weight of `written_by`."""
        return slice(self.first_row, self.first_row + self.units)
