"""Compact convolutional transformer (CCT), arXiv:2104.05704.

Notable features:
- a convolutional tokenizer instead of patches: `L` times conv without bias, ReLU, max-pool 3/2/1;
- encoder `x = x + MHA(LN_pre(x)); x = LN_1(x); x = x + FF(x)`: LN_1 normalises the residual stream itself, so this
  is not a stock pre-norm block;
- sequence pooling instead of a class token: softmax over tokens of a linear score, then the weighted sum;
- no bias on query, key and value;
- every encoder has its own `EncoderShape`, so a pruned model is the same class with smaller numbers;
- the model itself says what can be measured in it (`CCT.tap_points`), masked (`CCT.maskable_layers`) and removed
  (`CCT.unit_groups`): everything else asks, and knows no name of an activation or of a layer.

`forward` returns `(logits, activations)`: every intermediate by name, which is what the measurements read (no hooks).
Parameter names and initialisation are those of the reference implementation, so its checkpoints load.

Shape suffixes: B batch, C channels, Y rows, X columns, T tokens, D width of the residual stream, H heads, Q query/key
dimensions of a head, V value dimensions of a head, F feed-forward hidden nodes, K labels, N images.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwise_exporter.model.anatomy import (
    CLASSIFIER_HEAD,
    FEED_FORWARD_HIDDEN,
    FEED_FORWARD_OUT,
    HEADS,
    KEY,
    QUERY,
    MaskableLayer,
    TapPoint,
    UnitGroup,
    activation_name,
)


@dataclass(frozen=True)
class EncoderShape:
    """Sizes of one encoder; the width of the residual stream is the model's."""

    heads: int
    query_key_dim: int  # of each head
    value_dim: int  # of each head
    feed_forward: int  # hidden nodes


@dataclass(frozen=True)
class CCTConfig:
    """All that determines a CCT's shape and its function in evaluation mode, apart from the weights."""

    image_size: int  # pixels, images are square
    channels: int
    labels: int
    width: int  # of the residual stream
    encoders: tuple[EncoderShape, ...]
    query_key_scale: float  # 1 / sqrt(head dimension of the dense model); removing dimensions must not change it
    conv_hidden_channels: tuple[int, ...] = ()  # of the tokenizer's layers before the last
    conv_kernel: int = 3
    conv_stride: int = 1
    conv_padding: int = 1

    @property
    def tokens(self) -> int:
        """Number of tokens the tokenizer makes of one image."""
        side = self.image_size
        for _ in range(len(self.conv_hidden_channels) + 1):
            side = (side + 2 * self.conv_padding - self.conv_kernel) // self.conv_stride + 1
            side = (side + 2 - 3) // 2 + 1
        return side * side

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CCTConfig":
        """Inverse of `to_dict`."""
        encoders = tuple(EncoderShape(**encoder) for encoder in values["encoders"])
        hidden = tuple(values["conv_hidden_channels"])
        return cls(**{**values, "encoders": encoders, "conv_hidden_channels": hidden})


def cct(
    *, image_size: int, channels: int, labels: int, depth: int, heads: int, width: int, feed_forward: int, **conv: Any
) -> CCTConfig:
    """Configuration of a dense CCT: `depth` equal encoders, heads of `width / heads` dimensions.

    Raises:
        ValueError: `width` is not a multiple of `heads`.
    """
    if width % heads:
        raise ValueError(f"expected a width that is a multiple of the number of heads, found {width} and {heads}")
    head_dim = width // heads
    return CCTConfig(
        image_size=image_size,
        channels=channels,
        labels=labels,
        width=width,
        encoders=(EncoderShape(heads, head_dim, head_dim, feed_forward),) * depth,
        query_key_scale=head_dim**-0.5,
        **conv,
    )


def cct_7_3x1(image_size: int = 32, labels: int = 100) -> CCTConfig:
    """CCT-7/3x1: 3.78 M parameters at 32 px and 100 labels."""
    return cct(image_size=image_size, channels=3, labels=labels, depth=7, heads=4, width=256, feed_forward=512)


def cct_7_7x2(image_size: int = 224, labels: int = 102) -> CCTConfig:
    """CCT-7/7x2: 4.57 M parameters at 224 px and 102 labels."""
    conv = {"conv_hidden_channels": (64,), "conv_kernel": 7, "conv_stride": 2, "conv_padding": 3}
    return cct(image_size=image_size, channels=3, labels=labels, depth=7, heads=4, width=256, feed_forward=512, **conv)


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
                    nn.MaxPool2d(3, 2, 1),
                )
                for before, after in pairwise(sizes)
            )
        )

    def forward(self, images_BCYX: Tensor) -> Tensor:
        """Tokens (B, T, D)."""
        features_BDYX: Tensor = self.conv_layers(images_BCYX)
        return features_BDYX.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention whose query/key and value dimensions may differ.

    Rows of `qkv.weight`: all queries, all keys, all values, heads contiguous in each.
    """

    def __init__(self, width: int, shape: EncoderShape, query_key_scale: float, dropout: float) -> None:
        super().__init__()
        self.shape, self.scale, self.dropout = shape, query_key_scale, dropout
        query_key, value = shape.heads * shape.query_key_dim, shape.heads * shape.value_dim
        self.sizes = (query_key, query_key, value)
        self.qkv = nn.Linear(width, sum(self.sizes), bias=False)
        self.proj = nn.Linear(value, width)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the sub-block adds (B, T, D), and `query`, `key` (B, T, H*Q) and `heads` (B, T, H*V)."""
        query, key, value = self.qkv(x_BTD).split(self.sizes, dim=-1)
        split = (self.shape.heads, -1)
        query_BHTQ, key_BHTQ, value_BHTV = (part.unflatten(-1, split).transpose(1, 2) for part in (query, key, value))
        dropout = self.dropout if self.training else 0.0
        heads_BHTV = functional.scaled_dot_product_attention(
            query_BHTQ, key_BHTQ, value_BHTV, dropout_p=dropout, scale=self.scale
        )
        heads_BTV = heads_BHTV.transpose(1, 2).flatten(2)
        return self.proj(heads_BTV), {QUERY: query, KEY: key, HEADS: heads_BTV}


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
        self.pre_norm = nn.LayerNorm(config.width)
        self.self_attn = Attention(config.width, shape, config.query_key_scale, attention_dropout)
        self.norm1 = nn.LayerNorm(config.width)
        self.linear1 = nn.Linear(config.width, shape.feed_forward)
        self.linear2 = nn.Linear(shape.feed_forward, config.width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The stream after this encoder (B, T, D), and its intermediates by name."""
        attended_BTD, out = self.self_attn(self.pre_norm(x_BTD))
        x_BTD, scale_BT = norm_and_scale(self.norm1, x_BTD + self.drop_path(attended_BTD))
        hidden_BTF = functional.gelu(self.linear1(x_BTD))
        x_BTD = x_BTD + self.drop_path(self.linear2(hidden_BTF))
        return x_BTD, {**out, "norm1_scale": scale_BT, FEED_FORWARD_HIDDEN: hidden_BTF, FEED_FORWARD_OUT: x_BTD}


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

    def forward(self, tokens_BTD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, K) and the activations by name."""
        x_BTD = tokens_BTD + self.positional_emb
        activations = {"embedding": x_BTD}
        for index, block in enumerate(self.blocks):
            x_BTD, out = block(x_BTD)
            activations |= {activation_name(index, name): value for name, value in out.items()}
        x_BTD, scale_BT = norm_and_scale(self.norm, x_BTD)
        weights_BT = self.attention_pool(x_BTD).squeeze(-1).softmax(dim=-1)
        pooled_BD = (weights_BT.unsqueeze(1) @ x_BTD).squeeze(1)
        activations |= {"norm_scale": scale_BT, "pooling_weights": weights_BT, CLASSIFIER_HEAD: pooled_BD}
        return self.fc(pooled_BD), activations


class CCT(nn.Module):
    """The whole model: normalised images (B, C, Y, X) to `(logits, activations)`.

    Activations by name: `embedding` (B, T, D), the stream that enters the first encoder; for each encoder `l`
    `encoders.<l>.query|key` (B, T, H*Q), `.heads` (B, T, H*V), the head outputs before the projection,
    `.norm1_scale` (B, T), 1/sigma of LN_1, `.feed_forward_hidden` (B, T, F), after the GELU, `.feed_forward_out`
    (B, T, D), the stream after the encoder; `norm_scale` (B, T), 1/sigma of the final norm; `pooling_weights` (B, T)
    and `classifier_head` (B, D), the pooled stream that the classifier head reads.
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

    def forward(self, images_BCYX: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, K) and the activations by name."""
        logits_BK, activations = self.classifier(self.tokenizer(images_BCYX))
        return logits_BK, activations

    @property
    def encoders(self) -> list[Encoder]:
        """The encoders, in the order of the forward pass."""
        return [cast(Encoder, block) for block in self.classifier.blocks]

    def tap_points(self) -> list[TapPoint]:
        """Every place where nodes are measured, in the order of the forward pass.

        For each encoder [our choice, where arXiv:2501.12900 is silent] the concatenated head outputs before the
        projection, the hidden nodes after the GELU and the stream after the encoder; and what the classifier head
        reads.
        """
        taps = []
        for index, shape in enumerate(self.config.encoders):
            sizes = {HEADS: shape.heads * shape.value_dim, FEED_FORWARD_HIDDEN: shape.feed_forward}
            for kind, nodes in (sizes | {FEED_FORWARD_OUT: self.config.width}).items():
                heads = shape.heads if kind == HEADS else 1
                taps.append(TapPoint(activation_name(index, kind), kind, nodes, index, heads))
        return [*taps, TapPoint(CLASSIFIER_HEAD, CLASSIFIER_HEAD, self.config.width, pooled=True)]

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
            for index in range(len(self.encoders))
        ]
        return [*feed_forward, MaskableLayer("classifier.fc", "classifier_head", CLASSIFIER_HEAD, None)]

    def unit_groups(self) -> list[UnitGroup]:
        """What can be removed of each encoder: query and key dimensions, value dimensions and hidden nodes."""
        groups = []
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
        return groups

    def linear(self, name: str) -> nn.Linear:
        """The linear layer of that name, as `MaskableLayer` and `UnitGroup` name it."""
        return cast(nn.Linear, self.get_submodule(name))


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


def count_macs(config: CCTConfig) -> int:
    """Multiply-accumulates of one image: convolutions, linears, attention and pooling; norms and the like are left out.

    Source: counted from the shapes: 1.182 G for CCT-7/3x1 and 1.605 G for CCT-7/7x2.
    """
    tokens, width = config.tokens, config.width
    total, side = 0, config.image_size
    channels = (config.channels, *config.conv_hidden_channels, width)
    for before, after in pairwise(channels):
        side = (side + 2 * config.conv_padding - config.conv_kernel) // config.conv_stride + 1
        total += side * side * before * after * config.conv_kernel**2
        side = (side - 1) // 2 + 1
    for shape in config.encoders:
        query_key, value = shape.heads * shape.query_key_dim, shape.heads * shape.value_dim
        linears = width * (2 * query_key + value) + value * width + 2 * width * shape.feed_forward
        total += tokens * (linears + tokens * (query_key + value))
    return total + 2 * tokens * width + width * config.labels
