"""Probes of a model's tap points and what was measured with them, as one file.

The file holds, for each tap point, its probe, the weights that read it and the label means: with them every SNP matrix,
cluster and card follows without looking at an image again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import load_tensors, save_tensors
from headwise_exporter.nodes.snp import NodeMeasurement, Probe, ProbeSettings, measure, train_probes
from headwise_exporter.progress import Count, uncounted

KIND = "measurements"
PRUNING_IMAGES = 100  # training images of a label that masks and scores rest on


@dataclass(frozen=True)
class Measurements:
    """Probes of the tap points, and what was measured with them and with the model's own classifier head."""

    probes: dict[str, Probe]
    nodes: dict[str, NodeMeasurement]


def measure_model(
    model: CCT,
    train_data: LabelledImages,
    held_out: LabelledImages,
    settings: ProbeSettings,
    on_images: Count = uncounted,
) -> Measurements:
    """Train the probes on training images, and measure every node on held-out ones.

    Args:
        on_images: counts `measured_images` in all.

    Raises:
        ValueError: a label has no held-out image.
    """
    probes = train_probes(model, train_data.sample(settings.images), settings, on_images)
    return Measurements(probes, measure(model, probes, held_out, on_images=on_images))


def measured_images(train_data: LabelledImages, held_out: LabelledImages, settings: ProbeSettings) -> int:
    """Images that `measure_model` goes through: those of every epoch of the probes, and the held-out ones."""
    return settings.epochs * min(len(train_data), settings.images or len(train_data)) + len(held_out)


def pruning_measurements(model: CCT, probes: Mapping[str, Probe], train_data: LabelledImages) -> Measurements:
    """Nodes measured on training images, at most `PRUNING_IMAGES` of each label.

    Masks and scores look better than they are on the images that they rest on. So these are not the images that masks
    and scores are compared on; and of those there may be too few of a label to say what a node recognises.

    Raises:
        ValueError: a label has no image.
    """
    return Measurements(dict(probes), measure(model, probes, train_data.sample_of_each_label(PRUNING_IMAGES)))


def save_measurements(path: Path, measurements: Measurements) -> None:
    """Write probes and label means, whole or not at all.

    Raises:
        OutputError: the system refused the write.
    """
    tensors: dict[str, Tensor] = {}
    for name, probe in measurements.probes.items():
        tensors |= {f"{name}|probe.{key}": value for key, value in probe.state_dict().items()}
    for name, node in measurements.nodes.items():
        tensors |= {f"{name}|label_means": node.label_means_KN, f"{name}|weight": node.weight_KN}
    counts = {name: [node.correct, node.images] for name, node in measurements.nodes.items()}
    save_tensors(path, tensors, KIND, counts=counts)


def load_measurements(path: Path) -> Measurements:
    """Read what `save_measurements` wrote.

    Raises:
        CheckpointError: no file, or a damaged one.
    """
    tensors, metadata = load_tensors(path, KIND)
    nodes, probes = {}, {}
    for name, (correct, images) in metadata["counts"].items():
        nodes[name] = NodeMeasurement(tensors[f"{name}|label_means"], tensors[f"{name}|weight"], correct, images)
        prefix = f"{name}|probe."
        if state := {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}:
            labels, size = state["fc.weight"].shape
            probe = Probe(size, labels)
            probe.load_state_dict(state)
            probes[name] = probe.eval().requires_grad_(False)
    return Measurements(probes, nodes)
