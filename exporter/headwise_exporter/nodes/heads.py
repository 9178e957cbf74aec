"""Head expertise: which labels each attention head recognises, against a null that an argmax cannot beat.

E[h,i] = number of nodes of head h with B_n[i,i], the recognising nodes of label i. The expert of label i is
argmax_h E[h,i], the first of equals. An argmax over four heads always "specialises", so sharpness is compared with the
same nodes dealt at random to heads of the same size.

Sharpness of a head [our choice]: with share[h,i] = E[h,i] / sum over heads of E[.,i] (equal shares for a label that no
node recognises), the standard deviation of share[h,:] over the labels, over its mean. 0: it knows all labels equally
well. Its p-value is one-sided, (1 + deals at least as sharp) / (1 + deals).

Head matrix (single-head performance, arXiv:2506.23832): M_h, the sum over the nodes of h; normalised, clipped and
clustered as one unit. Function: what the probe gets right by h alone, and without it, the pooling weights as they are.

Stability [our choice]: the experts on two halves of the images, or by probes trained with other seeds, over the
labels that some node recognises in both; the share that agrees, and the share that would agree if the two knew nothing
of one another. Heads of two trainings of the model have no common order: theirs are matched so that most labels agree,
and the null is the same after exchanging one training's labels at random.

Shape suffixes: N nodes of one tap point, heads contiguous; H heads, K labels, P images, R random deals.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from headwise_exporter.data.images import occurrence
from headwise_exporter.nodes.snp import THRESHOLD, NodeMeasurement, NodeStatistics, PooledNodes, recognised_labels

DEALS = 1000


@dataclass(frozen=True)
class HeadExpertise:
    """What one encoder's heads recognise."""

    recognising_nodes_HK: Tensor  # E
    expert_K: Tensor  # head
    sharpness_H: Tensor
    null_mean_H: Tensor
    null_low_H: Tensor  # 90 % of the deals lie between these two
    null_high_H: Tensor
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
    order_RN = torch.rand(deals, len(recognises_NK), generator=generator).argsort(1)
    dealt_RHK = torch.stack([recognising_nodes(recognises_NK[order_N], heads) for order_N in order_RN])
    null_RH = sharpness(dealt_RHK)
    low_H, high_H = null_RH.quantile(torch.tensor([0.05, 0.95], dtype=null_RH.dtype), dim=0)
    return HeadExpertise(
        recognising_nodes_HK=counts_HK,
        expert_K=counts_HK.argmax(0),
        sharpness_H=observed_H,
        null_mean_H=null_RH.mean(0),
        null_low_H=low_H,
        null_high_H=high_H,
        p_value_H=(1 + (null_RH >= observed_H).sum(0)) / (1 + deals),
        deals=deals,
    )


def head_matrices(measurement: NodeMeasurement, heads: int) -> Tensor:
    """Matrix of every head (H, K, K): the sum over its nodes of their SNP matrices."""
    means_KHV, weight_KHV = (
        values_KN.unflatten(1, (heads, -1)) for values_KN in (measurement.label_means_KN, measurement.weight_KN)
    )
    return torch.einsum("ihv,jhv->hij", means_KHV, weight_KHV)


@dataclass(frozen=True)
class HeadFunction:
    """Images of each label that the probe gets right, counted."""

    images_K: Tensor
    together_K: Tensor  # by all heads
    alone_HK: Tensor  # by one head
    silenced_HK: Tensor  # by all but one


def head_function(pooled: PooledNodes, heads: int) -> HeadFunction:
    """What each head of one encoder does for the probe of its `heads` tap point."""
    labels_P, (labels, nodes) = pooled.labels_P, pooled.weight_KN.shape
    size = nodes // heads

    def right(fields_PK: Tensor) -> Tensor:
        return torch.bincount(labels_P[fields_PK.argmax(1) == labels_P], minlength=labels)

    fields = [pooled.fields(slice(size * head, size * head + size)) for head in range(heads)]
    together_PK = torch.stack(fields).sum(0)
    return HeadFunction(
        images_K=torch.bincount(labels_P, minlength=labels),
        together_K=right(together_PK),
        alone_HK=torch.stack([right(own_PK) for own_PK in fields]),
        silenced_HK=torch.stack([right(together_PK - own_PK) for own_PK in fields]),
    )


@dataclass(frozen=True)
class Agreement:
    """Of the experts that two measurements find."""

    labels: int  # that some node recognises in both
    agreement: float  # share of them with the same expert
    by_chance: float  # expected share for independent experts, each as often as it occurs


def agreement(counts_HK: Tensor, other_HK: Tensor) -> Agreement:
    """How far two counts of recognising nodes (H, K) of the same heads name the same experts."""
    known_K = (counts_HK.sum(0) > 0) & (other_HK.sum(0) > 0)
    experts = [counts[:, known_K].argmax(0) for counts in (counts_HK, other_HK)]
    labels = int(known_K.sum())
    if not labels:
        return Agreement(0, 0.0, 0.0)
    first_H, second_H = (torch.bincount(expert, minlength=len(counts_HK)).double() / labels for expert in experts)
    return Agreement(labels, float((experts[0] == experts[1]).double().mean()), float(first_H @ second_H))


@dataclass(frozen=True)
class MatchedAgreement(Agreement):
    """Of the experts that two trainings come to, their heads matched."""

    p_value: float  # share of exchanges that agree as much


def matched_agreement(
    counts_HK: Tensor, other_HK: Tensor, exchanges: int = DEALS, seed: int = 0
) -> MatchedAgreement | None:
    """How far two trainings (H, K) divide the labels among their heads alike; None where they share no label."""
    from scipy.optimize import linear_sum_assignment  # slow to import, which `exporter --help` need not wait for

    known_K = (counts_HK.sum(0) > 0) & (other_HK.sum(0) > 0)
    labels, heads = int(known_K.sum()), len(counts_HK)
    if not labels:
        return None
    expert_K, other_K = (counts[:, known_K].argmax(0) for counts in (counts_HK, other_HK))

    def best(other_K: Tensor) -> float:
        together_HH = torch.bincount(expert_K * heads + other_K, minlength=heads**2).view(heads, heads).numpy()
        return float(together_HH[linear_sum_assignment(together_HH, maximize=True)].sum() / labels)

    generator = torch.Generator().manual_seed(seed)
    observed = best(other_K)
    null = [best(other_K[torch.randperm(labels, generator=generator)]) for _ in range(exchanges)]
    p_value = (1 + sum(value >= observed for value in null)) / (1 + exchanges)
    return MatchedAgreement(labels, observed, sum(null) / exchanges, p_value)


def measured_recognising_nodes(pooled: PooledNodes, heads: int, threshold: float = THRESHOLD) -> Tensor:
    """E (H, K) of one encoder's heads on the pooled images."""
    return recognising_nodes(recognised_labels(pooled.measurement(), threshold), heads)


def halves_agreement(pooled: PooledNodes, heads: int, threshold: float = THRESHOLD) -> Agreement | None:
    """Agreement of the experts on the first, third ... and on the second, fourth ... image of each label.

    None where a label has a single image.
    """
    if torch.bincount(pooled.labels_P, minlength=len(pooled.weight_KN)).min() < 2:
        return None
    second_P = occurrence(pooled.labels_P) % 2 == 1
    halves = (pooled.chosen(half_P.nonzero().flatten()) for half_P in (~second_P, second_P))
    first_HK, second_HK = (measured_recognising_nodes(half, heads, threshold) for half in halves)
    return agreement(first_HK, second_HK)
