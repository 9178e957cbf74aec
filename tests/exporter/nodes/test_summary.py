"""Figures over the nodes of a tap point, and their bootstrap."""

import itertools
import math

import hypothesis.strategies as st
import pytest
import torch
from headwise_exporter.nodes.snp import PooledNodes, statistics
from headwise_exporter.nodes.summary import THRESHOLDS, bootstrap, draw_images, summarise, sweep
from hypothesis import given

LABELS = 5


def pooled_nodes(images_a_label: int, noise: float, seed: int = 0) -> PooledNodes:
    """Two nodes a label that are active on it, with noise."""
    generator = torch.Generator().manual_seed(seed)
    labels_P = torch.arange(LABELS * images_a_label) % LABELS
    weight_KN = torch.eye(LABELS).repeat_interleave(2, 1)
    values_PN = weight_KN[labels_P] + noise * torch.randn(len(labels_P), 2 * LABELS, generator=generator)
    return PooledNodes(values_PN, labels_P, weight_KN, torch.zeros(LABELS))


def test_pure_experts_have_one_cluster_of_one_label_and_no_noise() -> None:
    """The ratios are absent where nothing is noise."""
    summary = summarise(statistics(pooled_nodes(3, noise=0.0).measurement()))
    assert (summary.clusters_per_node, summary.cluster_size, summary.noise_per_node) == (1.0, 1.0, 0.0)
    assert (summary.signal, summary.noise, summary.nodes_without_cluster) == (2.0, 0.0, 0)
    assert summary.snr is summary.cluster_noise_ratio is None


def test_node_without_a_cluster_counts_zero_in_the_means_over_all() -> None:
    """Half the nodes silent: the means over all are half of those over nodes with a cluster."""
    pooled = pooled_nodes(3, noise=0.0)
    pooled.values_PN[:, ::2] = 0.0
    summary = summarise(statistics(pooled.measurement()))
    assert (summary.clusters_per_node, summary.clusters_per_node_all) == (1.0, 0.5)
    assert (summary.cluster_size_all, summary.nodes_without_cluster) == (0.5, LABELS)


def test_higher_threshold_recognises_no_more() -> None:
    """Signal and noise fall along the sweep."""
    swept = list(sweep(pooled_nodes(5, noise=0.5).measurement()).values())
    assert len(swept) == len(THRESHOLDS)
    for lower, higher in itertools.pairwise(swept):
        assert higher.signal <= lower.signal
        assert higher.noise <= lower.noise


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 99))
def test_draw_has_as_many_images_of_each_label(labels: list[int], seed: int) -> None:
    """Drawn with replacement within a label; unbalanced ones stay as they are."""
    labels_P = torch.tensor(labels)
    drawn_P = draw_images(labels_P, torch.Generator().manual_seed(seed))
    assert torch.equal(labels_P[drawn_P].bincount(), labels_P.bincount())


def test_draws_differ_and_reach_every_image() -> None:
    """Each image of a label is as likely as the others."""
    labels_P, generator = torch.zeros(10, dtype=torch.long), torch.Generator().manual_seed(0)
    counts_P = torch.stack([draw_images(labels_P, generator).bincount(minlength=10) for _ in range(500)]).sum(0)
    assert ((counts_P - 500).abs() < 5 * math.sqrt(500)).all()


def test_images_that_are_all_alike_leave_no_doubt() -> None:
    """Without scatter among a label's images every draw gives the figure itself."""
    for uncertainty in bootstrap(pooled_nodes(4, noise=0.0), draws=5).values():
        assert uncertainty.low == uncertainty.high
        assert uncertainty.bias == 0.0


def test_interval_narrows_with_the_images() -> None:
    """Four times the images give about half the width."""
    widths = []
    for images_a_label in (50, 200):
        interval = bootstrap(pooled_nodes(images_a_label, noise=3.0), draws=60)["signal"]
        widths.append(interval.high - interval.low)
    assert widths[1] < 0.8 * widths[0]


def test_interval_covers_what_many_images_give() -> None:
    """Of 20 samples most have the figure of a sample 40 times as large in their interval."""
    truth = summarise(statistics(pooled_nodes(4000, noise=2.0, seed=99).measurement())).signal
    intervals = [bootstrap(pooled_nodes(100, noise=2.0, seed=seed), draws=40)["signal"] for seed in range(20)]
    assert sum(interval.low <= truth <= interval.high for interval in intervals) >= 16


def test_bootstrap_depends_on_its_seed_alone() -> None:
    """The same seed gives the same intervals."""
    first, second = (bootstrap(pooled_nodes(5, noise=1.0), draws=5, seed=3) for _ in range(2))
    assert first == second


def test_label_without_an_image_is_named() -> None:
    """A label without an image is refused, as in a measurement."""
    pooled = pooled_nodes(3, noise=0.0)
    with pytest.raises(ValueError, match=r"found none of label\(s\) \[2\]"):
        bootstrap(pooled.chosen((pooled.labels_P != 2).nonzero().flatten()), draws=1)
