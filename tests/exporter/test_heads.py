"""Head expertise and its null."""

import torch
from torch import Tensor

from exporter.heads import expertise, recognising_nodes, sharpness
from exporter.snp import NodeStatistics


def statistics_of(labels_NK: Tensor) -> NodeStatistics:
    """Statistics in which each node recognises just these labels, each in a cluster of its own."""
    cluster_NK = torch.where(labels_NK, labels_NK.cumsum(1) - 1, -1)
    count_N = labels_NK.sum(1)
    return NodeStatistics(torch.diag_embed(labels_NK), cluster_NK, count_N, count_N.clamp(max=1), torch.zeros(1))


def test_counts_are_by_head_and_label() -> None:
    """Nodes of a head are contiguous; E counts those that recognise a label."""
    recognises_NK = torch.tensor([[1, 0], [1, 1], [0, 0], [0, 1]]).bool()
    assert recognising_nodes(recognises_NK, 2).tolist() == [[2, 1], [0, 1]]


def test_equal_heads_are_not_sharp() -> None:
    """Heads that know every label in the same share have sharpness 0."""
    assert sharpness(torch.tensor([[3, 6], [1, 2]])).tolist() == [0.0, 0.0]


def test_label_that_nobody_recognises_counts_as_shared() -> None:
    """A label without a recognising node makes nobody sharper."""
    with_nobody = sharpness(torch.tensor([[2, 0, 2], [2, 0, 2]]))
    assert with_nobody.tolist() == [0.0, 0.0]


def test_known_experts_are_found_and_beat_the_null() -> None:
    """Heads whose nodes share labels are their experts, and no random deal is as sharp."""
    labels_NK = torch.zeros(32, 8, dtype=torch.bool)
    for head in range(4):
        labels_NK[8 * head : 8 * head + 8, [head, head + 4]] = True
    found = expertise(statistics_of(labels_NK), heads=4, deals=200)
    assert found.expert_K.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert (found.sharpness_H > found.null_mean_H).all()
    assert torch.equal(found.p_value_H, torch.full((4,), 1 / 201))


def test_random_heads_have_uniform_p_values() -> None:
    """Nodes without any order give p-values spread evenly over 0..1: the null is the right one."""
    generator = torch.Generator().manual_seed(0)
    p_values = torch.cat(
        [
            expertise(statistics_of(torch.rand(32, 10, generator=generator) < 0.3), 4, deals=100, seed=trial).p_value_H
            for trial in range(60)
        ]
    )
    shares = torch.histc(p_values, 4, 0, 1) / len(p_values)
    assert (shares - 0.25).abs().max() < 0.09
    assert abs(float(p_values.mean()) - 0.5) < 0.06


def test_null_depends_on_its_seed_alone() -> None:
    """The same seed gives the same deals."""
    labels_NK = torch.rand(16, 5, generator=torch.Generator().manual_seed(2)) < 0.4
    first, second = (expertise(statistics_of(labels_NK), 2, deals=50, seed=7) for _ in range(2))
    assert torch.equal(first.null_mean_H, second.null_mean_H)
    assert torch.equal(first.p_value_H, second.p_value_H)
