"""Measurements: which images they rest on, and as a file."""

from pathlib import Path

import numpy as np
import support
import torch
from headwise_exporter.model.anatomy import CLASSIFIER_HEAD
from headwise_exporter.nodes.measurements import (
    PRUNING_IMAGES,
    load_measurements,
    measure_model,
    pruning_measurements,
    save_measurements,
)
from headwise_exporter.nodes.snp import ProbeSettings, measure, statistics


def test_measurements_come_back_without_looking_at_an_image(tmp_path: Path) -> None:
    """Matrices, clusters and probes are those that were saved."""
    model, data = support.random_model(), support.random_images(torch.arange(20) % 10)
    saved = measure_model(model, data, data, ProbeSettings(epochs=1))
    save_measurements(tmp_path / "s.safetensors", saved)
    loaded = load_measurements(tmp_path / "s.safetensors")
    assert list(loaded.nodes) == list(saved.nodes)
    assert CLASSIFIER_HEAD not in loaded.probes
    for name, node in saved.nodes.items():
        assert torch.equal(loaded.nodes[name].matrices(), node.matrices())
        assert loaded.nodes[name].accuracy() == node.accuracy()
        assert torch.equal(statistics(loaded.nodes[name]).cluster_NK, statistics(node).cluster_NK)
    values = torch.randn(2, 16, 32)
    assert torch.equal(loaded.probes["encoders.0.heads"](values), saved.probes["encoders.0.heads"](values))


def test_pruning_rests_on_training_images() -> None:
    """At most so many of a label, so that validation and test images play no part in what they compare."""
    labels_N = torch.cat((torch.arange(20) % 10, torch.zeros(PRUNING_IMAGES + 50, dtype=torch.long)))
    model, data = support.random_model(), support.random_images(labels_N)
    probes = measure_model(model, data, data, ProbeSettings(epochs=1)).probes
    images = data.sample_of_each_label(PRUNING_IMAGES)
    assert len(images) == np.minimum(np.bincount(labels_N), PRUNING_IMAGES).sum() < len(data)
    measured = pruning_measurements(model, probes, data)
    for name, node in measure(model, probes, images).items():
        torch.testing.assert_close(measured.nodes[name].label_means_KN, node.label_means_KN)
        assert measured.nodes[name].images == len(images)
