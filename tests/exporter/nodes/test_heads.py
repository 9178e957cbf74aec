"""Head expertise and its null, what heads do for a probe, and how stable their experts are."""

import pytest
import torch
from headwise_exporter.nodes.heads import (
    Agreement,
    agreement,
    expertise,
    halves_agreement,
    head_function,
    head_matrices,
    matched_agreement,
    recognising_nodes,
    sharpness,
)
from headwise_exporter.nodes.snp import NodeStatistics, PooledNodes
from torch import Tensor


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


def test_label_that_no_node_recognises_counts_as_shared() -> None:
    """A label without a recognising node makes no head sharper."""
    sharpness_H = sharpness(torch.tensor([[2, 0, 2], [2, 0, 2]]))
    assert sharpness_H.tolist() == [0.0, 0.0]


def test_known_experts_are_identified_and_beat_the_null() -> None:
    """Heads whose nodes share labels are their experts, and no random deal of nodes is as sharp."""
    labels_NK = torch.zeros(32, 8, dtype=torch.bool)
    for head in range(4):
        labels_NK[8 * head : 8 * head + 8, [head, head + 4]] = True
    head_expertise = expertise(statistics_of(labels_NK), heads=4, deals=200)
    assert head_expertise.expert_K.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert (head_expertise.sharpness_H > head_expertise.null_mean_H).all()
    assert torch.equal(head_expertise.p_value_H, torch.full((4,), 1 / 201))


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


def test_nine_tenths_of_heads_without_order_lie_in_the_nulls_interval() -> None:
    """The band in the figure is what chance gives."""
    generator = torch.Generator().manual_seed(3)
    inside = []
    for trial in range(60):
        head_expertise = expertise(
            statistics_of(torch.rand(32, 10, generator=generator) < 0.3), 4, deals=200, seed=trial
        )
        inside.append(
            (head_expertise.sharpness_H >= head_expertise.null_low_H)
            & (head_expertise.sharpness_H <= head_expertise.null_high_H)
        )
        assert (head_expertise.null_low_H < head_expertise.null_mean_H).all()
        assert (head_expertise.null_mean_H < head_expertise.null_high_H).all()
    assert abs(float(torch.cat(inside).double().mean()) - 0.9) < 0.06


def test_null_depends_on_its_seed_alone() -> None:
    """The same seed gives the same deals."""
    labels_NK = torch.rand(16, 5, generator=torch.Generator().manual_seed(2)) < 0.4
    first, second = (expertise(statistics_of(labels_NK), 2, deals=50, seed=7) for _ in range(2))
    assert torch.equal(first.null_mean_H, second.null_mean_H)
    assert torch.equal(first.p_value_H, second.p_value_H)


def random_nodes(images: int = 60, nodes: int = 12, labels: int = 5, seed: int = 0) -> PooledNodes:
    """Pooled nodes and weights without any order; every label has an image."""
    generator = torch.Generator().manual_seed(seed)
    labels_P = torch.cat((torch.arange(labels), torch.randint(labels, (images - labels,), generator=generator)))
    values_PN, weight_KN = (torch.randn(rows, nodes, generator=generator) for rows in (images, labels))
    return PooledNodes(values_PN, labels_P, weight_KN, torch.zeros(labels))


def test_head_matrix_is_the_sum_of_its_nodes() -> None:
    """M_h adds up the SNP matrices of the head's nodes."""
    measurement = random_nodes().measurement()
    expected_HKK = measurement.matrices().unflatten(0, (3, 4)).sum(1)
    torch.testing.assert_close(head_matrices(measurement, 3), expected_HKK)


def test_function_counts_what_the_probe_gets_right_with_the_other_nodes_at_zero() -> None:
    """Alone and silenced are the probe on nodes of which all others, or the head's own, are set to zero."""
    pooled, heads = random_nodes(), 3
    function = head_function(pooled, heads)

    def right(values_PN: Tensor) -> list[int]:
        correct_P = (values_PN @ pooled.weight_KN.T).argmax(1) == pooled.labels_P
        return [int(correct_P[pooled.labels_P == label].sum()) for label in range(5)]

    assert function.together_K.tolist() == right(pooled.values_PN)
    for head in range(heads):
        own_N = torch.arange(12) // 4 == head
        assert function.alone_HK[head].tolist() == right(pooled.values_PN * own_N)
        assert function.silenced_HK[head].tolist() == right(pooled.values_PN * ~own_N)
    assert function.images_K.tolist() == torch.bincount(pooled.labels_P).tolist()


def test_single_head_does_everything() -> None:
    """One head alone is the whole probe, and without it every image gets the first label."""
    function = head_function(random_nodes(), 1)
    assert torch.equal(function.alone_HK[0], function.together_K)
    assert function.silenced_HK.sum() == function.images_K[0]


def test_measurement_agrees_with_itself() -> None:
    """The same counts name the same experts; a label that no node recognises is left out."""
    counts_HK = torch.tensor([[3, 0, 1, 0], [1, 2, 0, 0]])
    own_agreement = agreement(counts_HK, counts_HK)
    assert (own_agreement.labels, own_agreement.agreement) == (3, 1.0)
    assert own_agreement.by_chance == pytest.approx((2 / 3) ** 2 + (1 / 3) ** 2)


def test_counts_of_nothing_agree_about_no_label() -> None:
    """Without a recognising node there is nothing to agree about."""
    assert agreement(torch.zeros(2, 3), torch.zeros(2, 3)) == Agreement(0, 0.0, 0.0)


def test_halves_of_noise_agree_as_by_chance() -> None:
    """Nodes without any label information agree about experts no more than independent ones would."""
    trials = [halves_agreement(random_nodes(200, 32, 10, seed), 4) for seed in range(30)]
    excess = [trial.agreement - trial.by_chance for trial in trials if trial]
    assert len(excess) == 30
    assert abs(sum(excess) / 30) < 0.06


def test_halves_with_known_experts_agree() -> None:
    """Values that determine the label give the same experts in both halves."""
    labels_P = torch.arange(40) % 8
    weight_KN = torch.eye(8).repeat_interleave(2, 1)
    pooled = PooledNodes(weight_KN[labels_P], labels_P, weight_KN, torch.zeros(8))
    halves = halves_agreement(pooled, 4)
    assert halves
    assert (halves.labels, halves.agreement) == (8, 1.0)


def test_heads_of_another_training_may_stand_in_another_order() -> None:
    """The same division of the labels is recognised, and no exchange of labels agrees as much."""
    counts_HK = torch.eye(4, dtype=torch.long).repeat(1, 5)
    matched = matched_agreement(counts_HK, counts_HK[[2, 0, 3, 1]], exchanges=200)
    assert matched
    assert (matched.labels, matched.agreement, matched.p_value) == (20, 1.0, 1 / 201)
    assert matched.by_chance < 0.6


def test_strangers_agree_as_by_chance_after_matching() -> None:
    """Matching makes any two trainings agree; independent ones no more than the null, with p-values spread evenly."""
    generator = torch.Generator().manual_seed(0)
    trials = []
    for seed in range(60):
        first_HK, second_HK = (torch.rand(4, 20, generator=generator) for _ in range(2))
        trials.append(matched_agreement(first_HK, second_HK, exchanges=50, seed=seed))
    excess = [trial.agreement - trial.by_chance for trial in trials if trial]
    assert len(excess) == 60
    assert abs(sum(excess) / 60) < 0.03
    assert 0.3 < sum(trial.p_value for trial in trials if trial) / 60 < 0.75


def test_trainings_without_a_common_label_have_no_agreement() -> None:
    """The result is None."""
    assert matched_agreement(torch.tensor([[1, 0]]), torch.tensor([[0, 1]])) is None


def test_single_image_of_a_label_has_no_halves() -> None:
    """The result is None."""
    assert halves_agreement(random_nodes(images=5), 3) is None
