"""Figures over the nodes of a tap point, and their bootstrap."""

import itertools
import math

import hypothesis.strategies as st
import pytest
import torch
from headwise_exporter.nodes.snp import NodeMeasurement, PooledNodes, statistics
from headwise_exporter.nodes.summary import (
    ANY_THRESHOLD,
    THRESHOLDS,
    bootstrap,
    draw_images,
    ratios,
    summarise,
    sweep,
)
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
        assert uncertainty.low == pytest.approx(uncertainty.high)
        assert uncertainty.bias == pytest.approx(0.0)


def test_interval_narrows_with_the_images() -> None:
    """Four times the images give about half the width."""
    widths = []
    for images_a_label in (50, 200):
        interval = bootstrap(pooled_nodes(images_a_label, noise=3.0), draws=60)["signal"]
        widths.append(interval.high - interval.low)
    assert widths[1] < 0.8 * widths[0]


@given(st.integers(0, 99), st.floats(0.1, 3))
def test_ratio_at_each_threshold_is_that_of_the_clipped_matrices(seed: int, noise: float) -> None:
    """Without finding clusters."""
    measurement = pooled_nodes(4, noise=noise, seed=seed).measurement()
    given_ratios = ratios(measurement)
    for threshold, summary in sweep(measurement).items():
        assert given_ratios[f"snr_{threshold}"] == pytest.approx(summary.snr)


def test_ratio_without_a_threshold_is_one_where_labels_say_nothing() -> None:
    """As the mean over many thresholds of signal over that of noise has it; more where nodes tell labels apart."""
    measurement = pooled_nodes(6, noise=1.0).measurement()
    clipped = [statistics(measurement, (step + 0.5) / 500).signal_and_noise() for step in range(500)]
    signal, noise = (sum(values) for values in zip(*clipped, strict=True))
    assert ratios(measurement)[ANY_THRESHOLD] == pytest.approx(signal / noise, rel=1e-2)
    same = NodeMeasurement(torch.ones(LABELS, 3), torch.randn(LABELS, 3), 0, 1)
    assert ratios(same)[ANY_THRESHOLD] == pytest.approx(1.0)
    assert float(ratios(measurement)[ANY_THRESHOLD] or 0) > 1.5


def test_node_that_recognises_nothing_adds_neither_signal_nor_noise() -> None:
    """Its largest field is not positive."""
    silent = NodeMeasurement(torch.zeros(LABELS, 2), torch.ones(LABELS, 2), 0, 1)
    assert set(ratios(silent).values()) == {None}


def test_bootstrap_depends_on_its_seed_alone() -> None:
    """The same seed gives the same intervals."""
    first, second = (bootstrap(pooled_nodes(5, noise=1.0), draws=5, seed=3) for _ in range(2))
    assert first == second


def test_label_without_an_image_is_named() -> None:
    """A label without an image is refused, as in a measurement."""
    pooled = pooled_nodes(3, noise=0.0)
    with pytest.raises(ValueError, match=r"found none of label\(s\) \[2\]"):
        bootstrap(pooled.chosen((pooled.labels_P != 2).nonzero().flatten()), draws=1)
