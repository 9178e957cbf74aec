"""Models and measurements as safetensors files, with the configuration that they need beside the tensors.

A model file holds the state dict under the reference implementation's names, and the `CCTConfig` as JSON in the
file's metadata. A measurement file holds, for each tap point, its probe, the weights and the label means: with
them every SNP matrix, cluster and card follows without looking at an image again.

The same values give the same bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from headwise_exporter.files import atomic_write
from headwise_exporter.model.cct import CCT, CCTConfig
from headwise_exporter.nodes.snp import NodeMeasurement, Probe

METADATA = "headwise"  # key of the JSON in the file's metadata


class CheckpointError(Exception):
    """A file of weights or measurements is missing, damaged or of another kind."""


@dataclass(frozen=True)
class Measurements:
    """Probes of the tap points, and what was measured with them and with the model's own classifier head."""

    probes: dict[str, Probe]
    nodes: dict[str, NodeMeasurement]


def _save(path: Path, tensors: Mapping[str, Tensor], kind: str, **metadata: Any) -> None:
    # One key alone: the library writes several in an order that changes from run to run.
    told = {METADATA: json.dumps({"kind": kind, **metadata})}
    # Not written by the library: what it raises on a full disk is no OSError.
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, told)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def _load(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a mapping
    except FileNotFoundError:
        raise CheckpointError(f"expected {kind} at {path}, found no such file. Run the stage that makes it.") from None
    except SafetensorError as error:
        raise CheckpointError(f"expected {kind} at {path}, found a damaged file: {error}. Make it again.") from error
    if metadata.get("kind") != kind:
        raise CheckpointError(f"expected {kind} at {path}, found {metadata.get('kind', 'something else')}.")
    return tensors, metadata


def save_model(path: Path, model: CCT) -> None:
    """Write weights and configuration, whole or not at all.

    Raises:
        OutputError: the system refused the write.
    """
    _save(path, model.state_dict(), "model", config=model.config.to_dict())


def load_model(path: Path) -> CCT:
    """Read what `save_model` wrote; in evaluation mode.

    Raises:
        CheckpointError: no file, a damaged file, or weights that do not fit the configuration.
    """
    tensors, metadata = _load(path, "model")
    model = CCT(CCTConfig.from_dict(metadata["config"]))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {path} do not fit its configuration: {error}") from error
    return model.eval()


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
    _save(path, tensors, "measurements", counts=counts)


def load_measurements(path: Path) -> Measurements:
    """Read what `save_measurements` wrote.

    Raises:
        CheckpointError: no file, or a damaged one.
    """
    tensors, metadata = _load(path, "measurements")
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
