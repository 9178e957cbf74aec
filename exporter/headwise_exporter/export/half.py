"""`classify.onnx` in float16, as a graph that says so itself: for GPUs, which run what a strongly typed graph states.

Weights and most operations are float16. Images go in as uint8 and logits come out as float32, as in every graph of a
bundle. What stays in float32: the normalisation of the images, each softmax and each layer norm, whose sums of squares
are what overflows first in float16.

By `onnxruntime.transformers.float16`. Weights stand in the file itself.

Limit: a CPU stores values as float16 and computes in float32, so what is checked here is the rounding of weights and
activations and not that of a GPU's sums. The server checks again on the GPU that serves. Never run on a GPU so far.
"""

from pathlib import Path

import onnx
from headwise.graphs import CLASSIFY_GRAPH

HALF_GRAPH = "classify.fp16.onnx"
IN_FLOAT32 = ("Softmax", "LayerNormalization")
CONVOLUTION = "Conv"


def _normalisation(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes before the first convolution."""
    operations = [node.op_type for node in graph.node]
    return [node.name for node in graph.node[: operations.index(CONVOLUTION)]]


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in float16; the model itself is left as it is."""
    # Only needed for this, and its import takes seconds.
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    converted: onnx.ModelProto = convert_float_to_float16(
        copy,
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *IN_FLOAT32],
        node_block_list=_normalisation(model.graph),
    )
    OnnxModel(converted).topological_sort()  # the casts are put at the end
    del converted.graph.value_info[:]
    return converted


def write_half_graph(folder: Path) -> Path:
    """Write `classify.fp16.onnx` beside `classify.onnx`; returns it.

    Raises:
        onnx.checker.ValidationError: the converted graph is none, which would be a fault of the converter.
    """
    path = folder / HALF_GRAPH
    onnx.save_model(to_half(onnx.load(folder / CLASSIFY_GRAPH)), path)
    onnx.checker.check_model(path, full_check=True)
    return path
