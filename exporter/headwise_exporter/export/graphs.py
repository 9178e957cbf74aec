"""Export a model as ONNX graphs that share one file of weights, and check them against torch.

`classify.onnx`: images -> logits. `explain.onnx`: images -> logits and their exact split (`export.attribution`).
`maps.onnx`: images and targets -> the same, and its split over tokens (`export.maps`). `silenced.onnx`: images and
heads -> logits without these heads (`export.silencing`). What they take and give is in `headwise.graphs`; N and J are
free. Normalisation is inside. All refer to `weights.bin`, in which a tensor that several use stands once.

Opset 18: int8 graphs in the S8S8 form load in ONNX Runtime from it, and not from 21 on (measured with 1.32).
"""

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from headwise.graphs import (
    CLASSIFY_GRAPH,
    EXPLAIN_GRAPH,
    INPUTS,
    MAPS_GRAPH,
    OUTPUTS,
    SILENCED_GRAPH,
    golden_differences,
)
from numpy.typing import NDArray
from onnx import external_data_helper, numpy_helper
from torch import nn

from headwise_exporter.errors import ExporterError
from headwise_exporter.export.attribution import Classify, ExactSplit
from headwise_exporter.export.maps import TokenMaps
from headwise_exporter.export.silencing import SilencedHeads
from headwise_exporter.progress import Advance, unseen

WEIGHTS = "weights.bin"
OPSET = 18
ALIGNMENT_BYTES = 64  # a cache line; lets a runtime map the file
INLINE_BYTES = 1024  # smaller tensors stay in the graph, where runtimes can fold them
FREE = {"targets": {1: torch.export.Dim("targets")}}  # dimensions of inputs beside the first


class ExportError(ExporterError):
    """A graph does not compute what the model does."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow the exporter's chatter; its errors are exceptions and pass."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def to_onnx(module: nn.Module, inputs: Mapping[str, torch.Tensor], outputs: Sequence[str]) -> onnx.ModelProto:
    """The graph of a module, weights inside; the first dimension of each input is free, and the second of targets.

    Args:
        inputs: examples by name, in the order of the module's arguments. What is free must be more than 1 in them: the
            exporter takes 1 for a fixed size.
        outputs: names of what it gives, in that order.

    Raises:
        ExportError: torch's exporter gave no graph.
    """
    batch = torch.export.Dim("batch")
    free = [{0: batch} | FREE.get(name, {}) for name in inputs]
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple(free),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ExportError("expected torch's exporter to return a graph, found none. Is onnxscript installed?")
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces: half of the file, and paths of the machine that exported it
        node.doc_string = ""
    del model.graph.value_info[:]
    return model


class _SharedWeights:
    """A file of tensors in which equal ones stand once."""

    def __init__(self, path: Path) -> None:
        self.path, self.offsets = path, dict[str, int]()
        self.content = bytearray()

    def take(self, tensor: onnx.TensorProto) -> None:
        """Move a tensor's data into the file and leave a reference."""
        data = numpy_helper.to_array(tensor).tobytes()
        if len(data) < INLINE_BYTES:
            return
        key = hashlib.sha256(data).hexdigest()
        if key not in self.offsets:
            self.content.extend(bytes(-len(self.content) % ALIGNMENT_BYTES))
            self.offsets[key] = len(self.content)
            self.content.extend(data)
        tensor.raw_data = data
        external_data_helper.set_external_data(tensor, self.path.name, self.offsets[key], len(data))
        tensor.ClearField("raw_data")

    def write(self) -> None:
        """Write what was taken."""
        self.path.write_bytes(self.content)


def export_graphs(split: ExactSplit, silenced: SilencedHeads, folder: Path, advance: Advance = unseen) -> None:
    """Write the graphs and their weights into an existing folder.

    Args:
        split, silenced: of the model that is exported.
        advance: counts graphs.

    Raises:
        ExportError: torch's exporter gave no graph.
    """
    config = split.model.config
    examples = {
        "images": torch.zeros(2, config.image_size, config.image_size, config.channels, dtype=torch.uint8),
        "targets": torch.zeros(2, 2, dtype=torch.int64),
        "silenced": torch.zeros(2, sum(shape.heads for shape in config.encoders), dtype=torch.bool),
    }
    modules = {
        CLASSIFY_GRAPH: Classify(split.normalise, split.model),
        EXPLAIN_GRAPH: split,
        MAPS_GRAPH: TokenMaps(split),
        SILENCED_GRAPH: silenced,
    }
    graphs = {}
    for name, module in modules.items():
        advance(0, name)
        graphs[name] = to_onnx(module, {key: examples[key] for key in INPUTS[name]}, OUTPUTS[name])
        advance()
    weights = _SharedWeights(folder / WEIGHTS)
    for name, graph in graphs.items():
        for tensor in graph.graph.initializer:
            weights.take(tensor)
        onnx.save_model(graph, folder / name)
    weights.write()
    for name in graphs:
        onnx.checker.check_model(folder / name, full_check=True)


def run_graph(path: Path, images: NDArray[np.uint8], **others: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Every output of a graph by name, as ONNX Runtime computes it in float32 on the CPU.

    Args:
        others: what else it takes, by name.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images, **others}), strict=True))


def run_on_golden_set(folder: Path, graph: str, golden: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What a graph of a bundle gives for the inputs of the golden set, as `run_graph` has it."""
    return run_graph(folder / graph, **{name: golden[name] for name in INPUTS[graph]})


def check_graphs(folder: Path, golden: Mapping[str, NDArray[Any]], tolerance: float) -> dict[str, float]:
    """Largest absolute difference to the golden set of each output of each graph.

    Args:
        golden: inputs, and by name the outputs that torch gives for them.

    Raises:
        ExportError: an output differs by more than the tolerance; it is named, with the figure.
    """
    differences = {
        f"{graph}:{name}": difference
        for graph in INPUTS
        for name, difference in golden_differences(run_on_golden_set(folder, graph, golden), golden).items()
    }
    for name, difference in differences.items():
        if not difference <= tolerance:
            raise ExportError(
                f"{name} differs from torch by {difference:.3g}, expected at most {tolerance:.0e}. Nothing was "
                f"written; please report it with the checkpoint."
            )
    return differences
