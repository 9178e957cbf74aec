"""Compact convolutional transformer (CCT), arXiv:2104.05704.

Notable features:
- a convolutional tokenizer instead of patches: `L` times conv without bias, ReLU, max-pool 3/2/1;
- encoder `x = x + MHA(LN_pre(x)); x = LN_1(x); x = x + FF(x)`: LN_1 normalises the residual stream itself, so this
  is not a stock pre-norm block;
- sequence pooling instead of a class token: softmax over tokens of a linear score, then the weighted sum;
- no bias on query, key and value;
- every encoder has its own `EncoderShape`, so a pruned model is the same class with smaller numbers, down to none:
  without heads, or without hidden nodes, the bias of the sub-block is what is left of it;
- the model itself says what can be measured in it (`CCT.tap_points`), masked (`CCT.maskable_layers`) and removed
  (`CCT.unit_groups`): everything else asks, and knows no name of an activation or of a layer.

`forward` returns `(logits, activations)`: every intermediate by name, which is what the measurements read (no hooks).
Parameter names and initialisation are those of the reference implementation, so its checkpoints load.

Shape suffixes: B batch, C channels, Y rows, X columns, T tokens, D width of the residual stream, H heads, Q query/key
dimensions of a head, V value dimensions of a head, F feed-forward hidden nodes, K labels, N images.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwise_exporter.model.anatomy import (
    ATTENTION,
    CLASSIFIER_HEAD,
    FEED_FORWARD_HIDDEN,
    FEED_FORWARD_OUT,
    FILTERS,
    HEADS,
    KEY,
    QUERY,
    VALUE,
    MaskableLayer,
    TapPoint,
    UnitGroup,
    activation_name,
    filters_name,
)
from headwise_exporter.model.config import POOL_KERNEL, POOL_PADDING, POOL_STRIDE, CCTConfig, EncoderShape

Edit = Callable[[Tensor], Tensor]  # what a projection reads in place of the head outputs (B, T, H*V) of its encoder
EditHeads = Callable[[int, Tensor], Tensor]  # the same by encoder


def conv_name(layer: int) -> str:
    """Name of a convolution of the tokenizer, by its index."""
    return f"tokenizer.conv_layers.{layer}.0"


class Tokenizer(nn.Module):
    """Images (B, C, Y, X) to tokens (B, T, D)."""

    def __init__(self, config: CCTConfig) -> None:
        super().__init__()
        sizes = (config.channels, *config.conv_hidden_channels, config.width)
        self.conv_layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, config.conv_kernel, config.conv_stride, config.conv_padding, bias=False),
                    nn.ReLU(),
                    nn.MaxPool2d(POOL_KERNEL, POOL_STRIDE, POOL_PADDING),
                )
                for before, after in pairwise(sizes)
            )
        )

    def forward(self, images_BCYX: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens (B, T, D), and by name the maps (B, C, Y, X) that each layer before the last leaves."""
        maps_BCYX, out = images_BCYX, {}
        for index, layer in enumerate(self.conv_layers):
            maps_BCYX = layer(maps_BCYX)
            out[filters_name(index)] = maps_BCYX
        del out[filters_name(index)]
        return maps_BCYX.flatten(2).transpose(1, 2), out


class Constant(nn.Module):
    """What is left of a linear layer that reads nothing: its bias (D,)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))


class Attention(nn.Module):
    """Multi-head attention whose query/key and value dimensions may differ.

    Rows of `qkv.weight`: all queries, all keys, all values, heads contiguous in each. Without heads it is a `Constant`.
    """

    def __init__(self, width: int, shape: EncoderShape, query_key_scale: float, dropout: float) -> None:
        super().__init__()
        self.shape, self.scale, self.dropout = shape, query_key_scale, dropout
        query_key, value = shape.heads * shape.query_key_dim, shape.heads * shape.value_dim
        self.sizes = (query_key, query_key, value)
        if shape.heads:
            self.qkv = nn.Linear(width, sum(self.sizes), bias=False)
        self.proj = nn.Linear(value, width) if shape.heads else Constant(width)

    def forward(
        self, x_BTD: Tensor, *, with_attention: bool = False, edit: Edit | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the sub-block adds (B, T, D), and its intermediates by name, as `CCT` has them."""
        if isinstance(self.proj, Constant):
            return self.proj.bias.expand_as(x_BTD), {}
        query, key, value = self.qkv(x_BTD).split(self.sizes, dim=-1)
        split = (self.shape.heads, -1)
        query_BHTQ, key_BHTQ, value_BHTV = (part.unflatten(-1, split).transpose(1, 2) for part in (query, key, value))
        out = {QUERY: query, KEY: key}
        if with_attention:
            attention_BHTT = (self.scale * query_BHTQ @ key_BHTQ.transpose(2, 3)).softmax(-1)
            out |= {ATTENTION: attention_BHTT, VALUE: value_BHTV}
            heads_BHTV = functional.dropout(attention_BHTT, self.dropout, self.training) @ value_BHTV
        else:
            dropout = self.dropout if self.training else 0.0
            heads_BHTV = functional.scaled_dot_product_attention(
                query_BHTQ, key_BHTQ, value_BHTV, dropout_p=dropout, scale=self.scale
            )
        heads_BTV = heads_BHTV.transpose(1, 2).flatten(2)
        if edit is not None:
            heads_BTV = edit(heads_BTV)
        return self.proj(heads_BTV), {**out, HEADS: heads_BTV}


class DropPath(nn.Module):
    """Stochastic depth: drops a sub-block's output for whole samples during training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The input, or zero with probability `rate`, scaled to the same expectation."""
        if not self.training or self.rate == 0.0:
            return x_BTD
        keep = x_BTD.new_empty(x_BTD.shape[0], 1, 1).bernoulli_(1.0 - self.rate)
        return x_BTD * keep / (1.0 - self.rate)


def norm_and_scale(norm: nn.LayerNorm, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """What the norm gives (B, T, D), and its scale 1/sigma for each token (B, T), which it has computed anyway."""
    normed_BTD, _, scale_BT1 = torch.native_layer_norm(x_BTD, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return normed_BTD, scale_BT1.squeeze(-1)


class Encoder(nn.Module):
    """One encoder; LN_1 (`norm1`) stands on the residual stream."""

    def __init__(self, config: CCTConfig, shape: EncoderShape, attention_dropout: float, drop_path: float) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(config.width) if shape.heads else nn.Identity()
        self.self_attn = Attention(config.width, shape, config.query_key_scale, attention_dropout)
        self.norm1 = nn.LayerNorm(config.width)
        if shape.feed_forward:
            self.linear1 = nn.Linear(config.width, shape.feed_forward)
        self.linear2 = nn.Linear(shape.feed_forward, config.width) if shape.feed_forward else Constant(config.width)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x_BTD: Tensor, *, with_attention: bool = False, edit: Edit | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The stream after this encoder (B, T, D), and its intermediates by name."""
        attended_BTD, out = self.self_attn(self.pre_norm(x_BTD), with_attention=with_attention, edit=edit)
        x_BTD, scale_BT = norm_and_scale(self.norm1, x_BTD + self.drop_path(attended_BTD))
        out["norm1_scale"] = scale_BT
        if isinstance(self.linear2, Constant):
            x_BTD = x_BTD + self.drop_path(self.linear2.bias.expand_as(x_BTD))
        else:
            out[FEED_FORWARD_HIDDEN] = functional.gelu(self.linear1(x_BTD))
            x_BTD = x_BTD + self.drop_path(self.linear2(out[FEED_FORWARD_HIDDEN]))
        return x_BTD, {**out, FEED_FORWARD_OUT: x_BTD}


class Classifier(nn.Module):
    """Tokens to logits: encoders, final norm, sequence pooling, linear classifier head."""

    def __init__(self, config: CCTConfig, attention_dropout: float, stochastic_depth: float) -> None:
        super().__init__()
        depth = len(config.encoders)
        self.positional_emb = nn.Parameter(torch.empty(1, config.tokens, config.width))
        self.blocks = nn.ModuleList(
            Encoder(config, shape, attention_dropout, stochastic_depth * index / max(depth - 1, 1))
            for index, shape in enumerate(config.encoders)
        )
        self.norm = nn.LayerNorm(config.width)
        self.attention_pool = nn.Linear(config.width, 1)
        self.fc = nn.Linear(config.width, config.labels)

    def forward(
        self, tokens_BTD: Tensor, *, with_attention: bool = False, edit_heads: EditHeads | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, K) and the activations by name."""
        x_BTD = tokens_BTD + self.positional_emb
        activations = {"embedding": x_BTD}
        for index, block in enumerate(self.blocks):
            edit = None if edit_heads is None else partial(edit_heads, index)
            x_BTD, out = block(x_BTD, with_attention=with_attention, edit=edit)
            activations |= {activation_name(index, name): value for name, value in out.items()}
        x_BTD, scale_BT = norm_and_scale(self.norm, x_BTD)
        weights_BT = self.attention_pool(x_BTD).squeeze(-1).softmax(dim=-1)
        pooled_BD = (weights_BT.unsqueeze(1) @ x_BTD).squeeze(1)
        activations |= {"norm_scale": scale_BT, "pooling_weights": weights_BT, CLASSIFIER_HEAD: pooled_BD}
        return self.fc(pooled_BD), activations


class CCT(nn.Module):
    """The whole model: normalised images (B, C, Y, X) to `(logits, activations)`.

    Activations by name: for each convolution `i` before the last `filters.<i>` (B, C, Y, X), its maps after ReLU and
    pooling; `embedding` (B, T, D), the stream that enters the first encoder; for each encoder `l`
    `encoders.<l>.query|key` (B, T, H*Q), `.heads` (B, T, H*V), the head outputs before the projection,
    `.norm1_scale` (B, T), 1/sigma of LN_1, `.feed_forward_hidden` (B, T, F), after the GELU, `.feed_forward_out`
    (B, T, D), the stream after the encoder; `norm_scale` (B, T), 1/sigma of the final norm; `pooling_weights` (B, T)
    and `classifier_head` (B, D), the pooled stream that the classifier head reads. Those of a sub-block without units
    are missing. With attention also `.attention` (B, H, T, T), how much each token reads of each, and `.value`
    (B, H, T, V), what it reads; softmax and products then stand apart, where else the runtime's own attention does.
    """

    def __init__(self, config: CCTConfig, *, attention_dropout: float = 0.0, stochastic_depth: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = Tokenizer(config)
        self.classifier = Classifier(config, attention_dropout, stochastic_depth)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the reference implementation: linears 0.02, positions 0.2, both truncated; convs Kaiming."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.trunc_normal_(self.classifier.positional_emb, std=0.2)

    def forward(
        self, images_BCYX: Tensor, *, with_attention: bool = False, edit_heads: EditHeads | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, K) and the activations by name.

        Args:
            with_attention: also hand out attention and values.
            edit_heads: gives what stands in place of an encoder's head outputs, from there on.
        """
        tokens_BTD, maps = self.tokenizer(images_BCYX)
        logits_BK, activations = self.classifier(tokens_BTD, with_attention=with_attention, edit_heads=edit_heads)
        return logits_BK, maps | activations

    @property
    def encoders(self) -> list[Encoder]:
        """The encoders, in the order of the forward pass."""
        return [cast(Encoder, block) for block in self.classifier.blocks]

    def tap_points(self) -> list[TapPoint]:
        """Every place where nodes are measured, in the order of the forward pass.

        The filters of each convolution before the last, pooled over the image (arXiv:2501.12880); for each encoder
        [our choice, where arXiv:2501.12900 is silent] the concatenated head outputs before the projection, the hidden
        nodes after the GELU and the stream after the encoder; and what the classifier head reads. Without nodes, as
        removal may leave it, a place is none.
        """
        taps = [
            TapPoint(filters_name(layer), FILTERS, channels)
            for layer, channels in enumerate(self.config.conv_hidden_channels)
        ]
        for index, shape in enumerate(self.config.encoders):
            sizes = {HEADS: shape.heads * shape.value_dim, FEED_FORWARD_HIDDEN: shape.feed_forward}
            for kind, nodes in (sizes | {FEED_FORWARD_OUT: self.config.width}).items():
                heads = shape.heads if kind == HEADS else 1
                taps.append(TapPoint(activation_name(index, kind), kind, nodes, index, heads))
        head = TapPoint(CLASSIFIER_HEAD, CLASSIFIER_HEAD, self.config.width, pooled=True)
        return [tap for tap in (*taps, head) if tap.nodes]

    def maskable_layers(self) -> list[MaskableLayer]:
        """The second feed-forward layer of each encoder, hidden nodes to the stream after it; and the classifier head.

        Never the residual stream itself, biases or norms.
        """
        feed_forward = [
            MaskableLayer(
                f"classifier.blocks.{index}.linear2",
                "feed_forward",
                activation_name(index, FEED_FORWARD_HIDDEN),
                activation_name(index, FEED_FORWARD_OUT),
            )
            for index, shape in enumerate(self.config.encoders)
            if shape.feed_forward
        ]
        return [*feed_forward, MaskableLayer("classifier.fc", "classifier_head", CLASSIFIER_HEAD, None)]

    def unit_groups(self) -> list[UnitGroup]:
        """What can be removed: filters of every convolution but the last, whose outputs are the residual stream's; and
        of each encoder query and key dimensions, value dimensions and hidden nodes."""
        groups = [
            UnitGroup(filters_name(layer), FILTERS, None, channels, conv_name(layer), 0, conv_name(layer + 1))
            for layer, channels in enumerate(self.config.conv_hidden_channels)
        ]
        for index, shape in enumerate(self.config.encoders):
            block = f"classifier.blocks.{index}"
            queries, values = shape.heads * shape.query_key_dim, shape.heads * shape.value_dim
            for kind, units, written_by, first_row, read_by in (
                (QUERY, queries, "self_attn.qkv", 0, None),
                (KEY, queries, "self_attn.qkv", queries, None),
                (HEADS, values, "self_attn.qkv", 2 * queries, "self_attn.proj"),
                (FEED_FORWARD_HIDDEN, shape.feed_forward, "linear1", 0, "linear2"),
            ):
                reader = f"{block}.{read_by}" if read_by else None
                name = activation_name(index, kind)
                groups.append(UnitGroup(name, kind, index, units, f"{block}.{written_by}", first_row, reader))
        return [group for group in groups if group.units]

    def layer(self, name: str) -> nn.Linear | nn.Conv2d:
        """The layer of that name, as `MaskableLayer` and `UnitGroup` name it."""
        return cast(nn.Linear | nn.Conv2d, self.get_submodule(name))


class InputNormalisation(nn.Module):
    """uint8 images (B, Y, X, C) to normalised float images (B, C, Y, X): (x / 255 - mean) / std."""

    scale_C11: Tensor
    shift_C11: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        mean_C, std_C = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        self.register_buffer("scale_C11", (1.0 / (255.0 * std_C)).float().view(-1, 1, 1))
        self.register_buffer("shift_C11", (-mean_C / std_C).float().view(-1, 1, 1))

    def forward(self, images_BYXC: Tensor) -> Tensor:
        """Normalised images (B, C, Y, X)."""
        return images_BYXC.permute(0, 3, 1, 2).to(self.scale_C11.dtype) * self.scale_C11 + self.shift_C11


def count_parameters(model: nn.Module) -> int:
    """Number of learnt values."""
    return sum(parameter.numel() for parameter in model.parameters())
