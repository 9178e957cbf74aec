"""The shape of a CCT, dense or pruned: all that determines it apart from its weights, and what it costs.

Imports no torch: recipes and the command's options are made of these.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

POOL_KERNEL, POOL_STRIDE, POOL_PADDING = 3, 2, 1  # of the max-pool after each convolution of the tokenizer


@dataclass(frozen=True)
class EncoderShape:
    """Sizes of one encoder; the width of the residual stream is the model's."""

    heads: int  # 0: no attention, its dimensions then being 0 too
    query_key_dim: int  # of each head
    value_dim: int  # of each head
    feed_forward: int  # hidden nodes; 0: no feed-forward


@dataclass(frozen=True)
class TokenGrid:
    """The tokens that the convolutions make, row by row, as the manifest has it; in pixels of the image."""

    rows: int
    columns: int
    stride_pixels: int  # from a token to the next one
    receptive_field_pixels: int  # side of the square that a token sees, which may reach beyond the image
    first_center_pixels: float  # of the first token's square, from the image's upper left corner, in both directions


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

    def conv_side(self, side: int) -> int:
        """Rows, and columns, of what a convolution makes of maps with so many, before pooling."""
        return (side + 2 * self.conv_padding - self.conv_kernel) // self.conv_stride + 1

    @property
    def map_sides(self) -> tuple[int, ...]:
        """Rows, and columns, of the maps that each layer of the tokenizer leaves."""
        sides = [self.image_size]
        for _ in range(len(self.conv_hidden_channels) + 1):
            sides.append((self.conv_side(sides[-1]) + 2 * POOL_PADDING - POOL_KERNEL) // POOL_STRIDE + 1)
        return tuple(sides[1:])

    @property
    def tokens(self) -> int:
        """Number of tokens the tokenizer makes of one image."""
        return self.map_sides[-1] ** 2

    @property
    def token_grid(self) -> TokenGrid:
        """Where the tokens are in the image, and what each of them sees before encoders mix them."""
        stride, field, center = 1, 1, 0.5
        convolution, pool = (
            (self.conv_kernel, self.conv_stride, self.conv_padding),
            (POOL_KERNEL, POOL_STRIDE, POOL_PADDING),
        )
        for kernel, step, padding in (convolution, pool) * (len(self.conv_hidden_channels) + 1):
            field += (kernel - 1) * stride
            center += ((kernel - 1) / 2 - padding) * stride
            stride *= step
        return TokenGrid(self.map_sides[-1], self.map_sides[-1], stride, field, center)

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


def count_macs(config: CCTConfig) -> int:
    """Multiply-accumulates of one image: convolutions, linears, attention and pooling; norms and the like are left out.

    Source: counted from the shapes: 1.182 G for CCT-7/3x1 and 1.605 G for CCT-7/7x2.
    """
    tokens, width = config.tokens, config.width
    total, side = 0, config.image_size
    channels = (config.channels, *config.conv_hidden_channels, width)
    for (before, after), pooled_side in zip(pairwise(channels), config.map_sides, strict=True):
        side = config.conv_side(side)
        total += side * side * before * after * config.conv_kernel**2
        side = pooled_side
    for shape in config.encoders:
        query_key, value = shape.heads * shape.query_key_dim, shape.heads * shape.value_dim
        linears = width * (2 * query_key + value) + value * width + 2 * width * shape.feed_forward
        total += tokens * (linears + tokens * (query_key + value))
    return total + 2 * tokens * width + width * config.labels
