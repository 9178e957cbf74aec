"""Torch-Pruning on a CCT: the same function with query, key and value apart, which it can take, and back.

Torch-Pruning [Fang et al., arXiv:2301.12900] follows which layers share channels and removes the least important ones
of all layers together. It does not take one linear layer for query, key and value. Its ratio of channels is searched
for the share of the multiply-accumulates that is asked for.

Shape suffixes as in `headwise_exporter.model.cct`.
"""

import copy
from dataclasses import replace
from typing import Any, cast

import torch
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT, Attention, Encoder
from headwise_exporter.model.config import CCTConfig, EncoderShape, count_macs
from torch import Tensor, nn
from torch.nn import functional

RATIOS = 12  # halvings of the range of the ratio
ROUND_TO = 8  # channels


class _Attention(nn.Module):
    """Attention with a linear layer each for query, key and value."""

    def __init__(self, attention: Attention, width: int) -> None:
        super().__init__()
        self.heads, self.scale, self.proj = attention.shape.heads, attention.scale, attention.proj
        parts = attention.qkv.weight.detach().split(attention.sizes)
        self.query, self.key, self.value = (nn.Linear(width, len(part), bias=False) for part in parts)
        for layer, part in zip((self.query, self.key, self.value), parts, strict=True):
            layer.weight.data.copy_(part)

    def forward(self, x_BTD: Tensor) -> Tensor:
        split = (*x_BTD.shape[:2], self.heads, -1)
        query, key, value = (layer(x_BTD).view(split).transpose(1, 2) for layer in (self.query, self.key, self.value))
        weights_BHTT = (query @ key.transpose(-1, -2) * self.scale).softmax(-1)
        attended_BTD: Tensor = self.proj((weights_BHTT @ value).transpose(1, 2).flatten(2))
        return attended_BTD


class Separate(nn.Module):
    """A CCT's logits, by operations that Torch-Pruning follows."""

    def __init__(self, model: CCT) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        width = model.config.width
        self.attention = nn.ModuleList(_Attention(encoder.self_attn, width) for encoder in self.model.encoders)
        for encoder in self.model.encoders:
            del encoder.self_attn

    @property
    def attentions(self) -> list[_Attention]:
        """Of the encoders, in their order."""
        return [cast(_Attention, attention) for attention in self.attention]

    def _stream(self, encoder: Encoder, attention: nn.Module, x_BTD: Tensor) -> Tensor:
        x_BTD = encoder.norm1(x_BTD + attention(encoder.pre_norm(x_BTD)))
        stream_BTD: Tensor = x_BTD + encoder.linear2(functional.gelu(encoder.linear1(x_BTD)))
        return stream_BTD

    def forward(self, images_BCYX: Tensor) -> Tensor:
        """Logits (B, K)."""
        classifier = self.model.classifier
        x_BTD = self.model.tokenizer(images_BCYX)[0] + classifier.positional_emb
        for encoder, attention in zip(self.model.encoders, self.attention, strict=True):
            x_BTD = self._stream(encoder, attention, x_BTD)
        x_BTD = classifier.norm(x_BTD)
        weights_BT1 = classifier.attention_pool(x_BTD).softmax(1)
        logits_BK: Tensor = classifier.fc((weights_BT1.transpose(1, 2) @ x_BTD).squeeze(1))
        return logits_BK

    def config(self) -> CCTConfig:
        """The shape that is left."""
        convolutions = [block[0] for block in self.model.tokenizer.conv_layers]  # type: ignore[index]  # a Sequential
        shapes = []
        for encoder, attention in zip(self.model.encoders, self.attentions, strict=True):
            query_key, value = (layer.out_features // attention.heads for layer in (attention.query, attention.value))
            shapes.append(EncoderShape(attention.heads, query_key, value, encoder.linear1.out_features))
        hidden = tuple(conv.out_channels for conv in convolutions[:-1])
        return replace(self.model.config, conv_hidden_channels=hidden, encoders=tuple(shapes))

    def joined(self) -> CCT:
        """The same as a CCT of that shape."""
        state = dict(self.model.state_dict())
        for index, attention in enumerate(self.attentions):
            prefix = f"classifier.blocks.{index}.self_attn."
            parts = (attention.query, attention.key, attention.value)
            state[f"{prefix}qkv.weight"] = torch.cat([layer.weight for layer in parts])
            state[f"{prefix}proj.weight"], state[f"{prefix}proj.bias"] = attention.proj.weight, attention.proj.bias
        small = CCT(self.config())
        small.load_state_dict(state)
        return small.eval()


def _pruned(model: CCT, importance: Any, ratio: float, data: LabelledImages | None) -> Separate:
    import torch_pruning

    apart = Separate(model)
    size = model.config.image_size
    heads: dict[nn.Module, int] = {}
    for attention in apart.attentions:
        heads |= dict.fromkeys((attention.query, attention.key, attention.value), attention.heads)
    classifier = apart.model.classifier
    pruner = torch_pruning.pruner.BasePruner(
        apart,
        torch.zeros(2, model.config.channels, size, size),
        importance=importance,
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=0.9,
        round_to=ROUND_TO,
        ignored_layers=[classifier.fc, classifier.attention_pool],
        num_heads=heads,
        prune_head_dims=True,
        prune_num_heads=False,
        unwrapped_parameters=[(classifier.positional_emb, 2)],
    )
    if data is not None:
        for images_BCYX, labels_B in data.batches(None):
            functional.cross_entropy(apart(images_BCYX), labels_B).backward()
    pruner.step()
    return apart


def prune_to(model: CCT, share: float, by: str, data: LabelledImages) -> CCT:
    """The model at about that share of its multiply-accumulates, not above it.

    Args:
        by: "taylor" or "magnitude", the library's importances of groups.
        data: training images, whose gradients the first needs.
    """
    import torch_pruning

    low, high, best = 0.0, 0.9, None
    for _ in range(RATIOS):
        ratio = (low + high) / 2
        if by == "taylor":
            apart = _pruned(model, torch_pruning.importance.GroupTaylorImportance(), ratio, data)
        else:
            apart = _pruned(model, torch_pruning.importance.GroupMagnitudeImportance(p=2), ratio, None)
        if count_macs(apart.config()) <= share * count_macs(model.config):
            best, high = apart, ratio
        else:
            low = ratio
    if best is None:
        raise ValueError(f"expected Torch-Pruning to reach {share:.0%} of the operations, found that it does not")
    return best.joined()
