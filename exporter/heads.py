"""Head expertise: which labels each attention head recognises, against a null that an argmax cannot beat.

E[h,i] = number of nodes of head h with B_n[i,i], the recognising nodes of label i. The expert of label i is
argmax_h E[h,i], the first of equals. An argmax over four heads always "specialises", so sharpness is compared with the
same nodes dealt at random to heads of the same size.

Sharpness of a head [our choice]: with share[h,i] = E[h,i] / sum over heads of E[.,i] (equal shares for a label that no
node recognises), the standard deviation of share[h,:] over the labels, over its mean. 0: it knows all labels equally
well. Its p-value is one-sided, (1 + deals at least as sharp) / (1 + deals).

Shape suffixes: N nodes of one tap point, heads contiguous; H heads, K labels, P random deals.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.snp import NodeStatistics

DEALS = 1000


@dataclass(frozen=True)
class HeadExpertise:
    """What one encoder's heads recognise."""

    recognising_nodes_HK: Tensor  # E
    expert_K: Tensor  # head
    sharpness_H: Tensor
    null_mean_H: Tensor
    p_value_H: Tensor
    deals: int


def recognising_nodes(recognises_NK: Tensor, heads: int) -> Tensor:
    """E (H, K), counts."""
    counts_HK: Tensor = recognises_NK.long().unflatten(0, (heads, -1)).sum(1)
    return counts_HK


def sharpness(counts_HK: Tensor) -> Tensor:
    """Sharpness of each head (..., H) from its recognising nodes (..., H, K)."""
    heads = counts_HK.shape[-2]
    totals = counts_HK.sum(-2, keepdim=True)
    share_HK = torch.where(totals > 0, counts_HK / totals.clamp(min=1), 1 / heads)
    return share_HK.std(-1, correction=0) / share_HK.mean(-1).clamp(min=1e-12)


def expertise(statistics: NodeStatistics, heads: int, deals: int = DEALS, seed: int = 0) -> HeadExpertise:
    """Expertise of each head of one encoder, from the statistics of its `heads` tap point."""
    recognises_NK = statistics.labels_NK
    counts_HK = recognising_nodes(recognises_NK, heads)
    observed_H = sharpness(counts_HK)
    generator = torch.Generator().manual_seed(seed)
    order_PN = torch.rand(deals, len(recognises_NK), generator=generator).argsort(1)
    dealt_PHK = torch.stack([recognising_nodes(recognises_NK[order_N], heads) for order_N in order_PN])
    null_PH = sharpness(dealt_PHK)
    return HeadExpertise(
        recognising_nodes_HK=counts_HK,
        expert_K=counts_HK.argmax(0),
        sharpness_H=observed_H,
        null_mean_H=null_PH.mean(0),
        p_value_H=(1 + (null_PH >= observed_H).sum(0)) / (1 + deals),
        deals=deals,
    )
