"""Where each part of the exact split read what it said: its contribution to a label, token by token.

With the names of `export.attribution`, A[t,t'] the attention of a head and v[t'] its values:

    head h of encoder l   a[t'] = sum_t q_l[t] A[t,t']        map[t'] = a[t'] (v[t'] . (R_l W_O[:,h])_k)
    feed-forward of l     map[t] = q_{l+1}[t] (gelu[l,t,:] . (R_{l+1} W_2)_k)
    embedding             map[t] = q_0[t] (x_0[t] . (R_0)_k)

Invariant: a map adds up over the tokens to the contribution, up to rounding. Biases read no token and have no map.

Limits: an account of the sum, and not "the region that matters". Tokens of later encoders have been mixed with others.

Only the columns of the labels that are asked for are multiplied by each token. For three of them that is
`count_map_macs`: 0.52 % of a pass through CCT-7/3x1.

Shape suffixes as in `export.attribution`; J targets.
"""

import torch
from torch import Tensor, nn

from headwise_exporter.export.attribution import ExactSplit
from headwise_exporter.model.anatomy import ATTENTION, FEED_FORWARD_HIDDEN, VALUE
from headwise_exporter.model.config import CCTConfig


def target_positions(logits_BK: Tensor, targets_BJ: Tensor) -> Tensor:
    """Targets as positions of labels (B, J): -1 becomes that of the largest logit, -2 that of the next, and so on.

    The first of equal logits comes first. Ranks are counted and not sorted: what runtimes make of equal values in a
    sort is their own, and torch's stable sort has no ONNX operation.
    """
    labels_K = torch.arange(logits_BK.shape[1], device=logits_BK.device)
    logits_BK1, others_B1K = logits_BK.unsqueeze(2), logits_BK.unsqueeze(1)
    before_BKK = (others_B1K > logits_BK1) | ((others_B1K == logits_BK1) & (labels_K < labels_K.unsqueeze(1)))
    ranks_BK = before_BKK.long().sum(2)
    has_rank_BJK = ranks_BK.unsqueeze(1) == (-1 - targets_BJ).unsqueeze(2)
    return torch.where(targets_BJ < 0, (has_rank_BJK.long() * labels_K).sum(2), targets_BJ)


def count_map_macs(config: CCTConfig, targets: int) -> int:
    """Multiply-accumulates that maps of so many targets add to the exact split of one image."""
    tokens = config.tokens
    total = config.width * targets * tokens
    for shape in config.encoders:
        total += tokens * (shape.heads * (tokens + shape.value_dim * targets) + shape.feed_forward * targets)
    return total


class TokenMaps(nn.Module):
    """uint8 images (B, Y, X, C) and targets (B, J) to the exact split of the logits, and of that over the tokens.

    Beside what `ExactSplit` gives: target_indices (B, J), the targets as positions; head_maps (B, R, J, T), in the
    order of `heads`; feed_forward_maps (B, L, J, T), zero of an encoder without hidden nodes; embedding_maps (B, J, T).

    A target is the position of a label, 0 to K - 1, or its rank as -1 to -K, as `target_positions` has it.
    """

    def __init__(self, split: ExactSplit) -> None:
        super().__init__()
        self.split = split

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The tensors by name."""
        split = self.split
        logits_BK, activations = split.model(split.normalise(images), with_attention=True)
        weights = split.token_weights(activations)
        targets_BJ = target_positions(logits_BK, targets)
        values = split.of_encoders(activations, VALUE)
        columns = split.head_columns(targets_BJ)
        head_maps = [
            _head_maps(weights[index], attention_BHTT, values[index], columns[index])
            for index, attention_BHTT in split.of_encoders(activations, ATTENTION).items()
        ]
        embedding_BJT = _maps(weights[0], activations["embedding"], split.embedding_columns(targets_BJ))
        hidden, columns = split.of_encoders(activations, FEED_FORWARD_HIDDEN), split.feed_forward_columns(targets_BJ)
        feed_forward_maps = [
            _maps(weights[index + 1], hidden[index], columns[index])
            if index in hidden
            else torch.zeros_like(embedding_BJT)
            for index in range(len(split.model.config.encoders))
        ]
        return {
            **split.parts(logits_BK, activations, weights),
            "target_indices": targets_BJ,
            "head_maps": torch.cat(head_maps, 1),
            "feed_forward_maps": torch.stack(feed_forward_maps, 1),
            "embedding_maps": embedding_BJT,
        }


def _maps(weights_BT: Tensor, values_BTN: Tensor, columns_BNJ: Tensor) -> Tensor:
    """Each token's share of what a part contributes to the targets (B, J, T)."""
    return (values_BTN @ columns_BNJ).transpose(1, 2) * weights_BT.unsqueeze(1)


def _head_maps(weights_BT: Tensor, attention_BHTT: Tensor, values_BHTV: Tensor, columns_BHVJ: Tensor) -> Tensor:
    """The same of the heads of an encoder (B, H, J, T)."""
    read_BH1T = weights_BT.unsqueeze(1).unsqueeze(1) @ attention_BHTT
    return (values_BHTV @ columns_BHVJ).transpose(2, 3) * read_BH1T
