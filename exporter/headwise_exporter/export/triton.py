"""A bundle as a model repository for NVIDIA's Triton Inference Server.

    <repository>/<name>/config.pbtxt, labels.txt                classify.onnx as a model of its own
    <repository>/<name>/<version>/model.onnx, weights.bin
    <repository>/<name>_explain/...                             explain.onnx, with every output of the exact split

Both are models of Triton's ONNX Runtime backend: uint8 images of the model's size (height, width, channels) in, batched
by Triton. Decoding and resizing are the client's. `classification` requests get label names with the logits.

A configuration holds for all versions of a model, so a version with other labels or sizes than those that are there
needs another name. The text is checked in the tests against the message `inference.ModelConfig` that NVIDIA publishes.

Limits: Triton does not check the golden set, nor refuse an explanation whose parts do not add up; the server of this
project does both. Never loaded by a running Triton.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from headwise.bundle import read_bundle
from headwise.graphs import CLASSIFY_GRAPH, EXPLAIN_GRAPH, OUTPUTS, golden_shapes
from headwise.v1.bundle_pb2 import Bundle

from headwise_exporter.errors import ExporterError
from headwise_exporter.export.graphs import WEIGHTS
from headwise_exporter.files import atomic_folder, atomic_write

CONFIG, LABELS, MODEL = "config.pbtxt", "labels.txt", "model.onnx"
EXPLAIN_SUFFIX = "_explain"
Device = Literal["auto", "cpu", "gpu"]
DEVICES: Final[tuple[Device, ...]] = ("auto", "cpu", "gpu")


class TritonError(ExporterError):
    """A bundle cannot be written into a Triton repository."""


@dataclass(frozen=True)
class TritonSettings:
    """How Triton is to run both models."""

    max_batch: int = 64  # images
    instances: int = 1  # of each model, on each device of the kind
    device: Device = "auto"  # a GPU where Triton has one
    versions: int = 1  # newest that Triton loads
    queue_delay_microseconds: int = 0  # that a request may wait for others


def _tensor(name: str, data_type: str, dims: Sequence[int], label_file: str | None = None) -> str:
    labels = "" if label_file is None else f'\n    label_filename: "{label_file}"'
    return (
        f'  {{\n    name: "{name}"\n    data_type: {data_type}\n    dims: [ {", ".join(map(str, dims))} ]{labels}\n  }}'
    )


def tensors(manifest: Bundle, outputs: Sequence[str]) -> str:
    """Inputs and outputs without their first dimension: what must hold for every version of a model."""
    shapes = {name: shape[1:] for name, shape in golden_shapes(manifest, 1).items()}
    images = _tensor("images", "TYPE_UINT8", shapes["images"])
    given = ",\n".join(
        _tensor(name, "TYPE_FP32", shapes[name], LABELS if name == "logits" else None) for name in outputs
    )
    return f"input [\n{images}\n]\noutput [\n{given}\n]\n"


def config(name: str, manifest: Bundle, outputs: Sequence[str], settings: TritonSettings) -> str:
    """The text of a `config.pbtxt`, an `inference.ModelConfig`."""
    image = ", ".join(str(size) for size in golden_shapes(manifest, 1)["images"][1:])
    return (
        f'name: "{name}"\n'
        f'backend: "onnxruntime"\n'
        f'default_model_filename: "{MODEL}"\n'
        f"max_batch_size: {settings.max_batch}\n"
        f"{tensors(manifest, outputs)}"
        f"version_policy: {{ latest {{ num_versions: {settings.versions} }} }}\n"
        f"dynamic_batching {{ max_queue_delay_microseconds: {settings.queue_delay_microseconds} }}\n"
        f"instance_group [ {{ count: {settings.instances}, kind: KIND_{settings.device.upper()} }} ]\n"
        f"model_warmup [ {{\n"
        f'  name: "one image"\n'
        f"  batch_size: 1\n"
        f'  inputs {{ key: "images" value {{ data_type: TYPE_UINT8, dims: [ {image} ], zero_data: true }} }}\n'
        f"}} ]\n"
    )


def _labels(manifest: Bundle) -> str:
    broken = [name for name in manifest.labels if len(name.splitlines()) > 1 or name != name.strip("\r\n")]
    if broken:
        raise TritonError(
            f"expected labels on one line each, as {LABELS} has them, found {broken[0]!r}. Rename the label and train "
            f"again."
        )
    return "".join(f"{name}\n" for name in manifest.labels)


def _check_fits(folder: Path, version: str, labels: str, stated: str) -> None:
    """That a model's folder can take another version.

    Raises:
        TritonError: it has this version, or others with other labels or sizes.
    """
    if (folder / version).exists():
        raise TritonError(f"{folder / version} is there already. Remove it, or choose another name or folder.")
    if not (folder / CONFIG).is_file():
        return
    if (folder / LABELS).read_text("utf-8") != labels or stated not in (folder / CONFIG).read_text("utf-8"):
        raise TritonError(
            f"expected the versions in {folder} to have this model's labels and sizes, as one {CONFIG} holds for all; "
            f"found others. Choose another name with --name."
        )


def _write_model(folder: Path, version: str, labels: str, text: str, files: Mapping[str, bytes]) -> None:
    with atomic_write(folder / LABELS) as temporary:
        temporary.write_text(labels, "utf-8")
    with atomic_write(folder / CONFIG) as temporary:
        temporary.write_text(text, "utf-8")
    with atomic_folder(folder / version) as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(content)


def write_triton_repository(
    bundle: Path, repository: Path, name: str | None = None, settings: TritonSettings | None = None
) -> list[Path]:
    """Add `classify.onnx` and `explain.onnx` of a bundle to a Triton model repository; returns their folders.

    Args:
        name: of the model; the bundle's by default. Explain has it with `_explain` at its end.

    Raises:
        BundleError: no bundle, or a damaged one.
        TritonError: the version is there, does not go with the others, or a label has a line break.
        OutputError: the system refused a write.
    """
    content, settings = read_bundle(bundle), settings or TritonSettings()
    manifest = content.manifest
    name, labels = name or manifest.name, _labels(manifest)
    models = {name: CLASSIFY_GRAPH, f"{name}{EXPLAIN_SUFFIX}": EXPLAIN_GRAPH}
    for model, graph in models.items():
        _check_fits(repository / model, manifest.version, labels, tensors(manifest, OUTPUTS[graph]))
    for model, graph in models.items():
        files = {MODEL: content.files[graph], WEIGHTS: content.files[WEIGHTS]}
        text = config(model, manifest, OUTPUTS[graph], settings)
        _write_model(repository / model, manifest.version, labels, text, files)
    return [repository / model / manifest.version for model in models]
