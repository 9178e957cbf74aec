"""float16 graphs: nearly the same answers, the sensitive operations in float32, inputs and outputs as ever."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from headwise.bundle import read_golden_set, read_manifest
from headwise_exporter.export.graphs import run_graph
from headwise_exporter.export.half import HALF_GRAPH, to_half, write_half_graph
from onnx import TensorProto, helper


@pytest.fixture(scope="module")
def half(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's graph in float16."""
    folder = Path(shutil.copytree(bundle, tmp_path_factory.mktemp("half") / "1"))
    return write_half_graph(folder)


def test_golden_set_is_given_within_the_reduced_tolerance(half: Path, bundle: Path) -> None:
    """Not exactly: it is another type."""
    golden, manifest = read_golden_set(bundle), read_manifest(bundle)
    logits = run_graph(half, golden["images"])["logits"]
    assert logits.dtype == np.float32
    difference = np.abs(logits - golden["logits"]).max()
    assert 0 < difference < manifest.golden_tolerance_reduced


def test_products_have_weights_in_float16(half: Path) -> None:
    """Every matrix of weights; the file is smaller than the weights in float32."""
    graph = onnx.load(half).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = [types[node.input[1]] for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert set(weights) == {TensorProto.FLOAT16}
    assert half.name == HALF_GRAPH


def test_softmax_layer_norm_and_normalisation_stay_in_float32(half: Path) -> None:
    """As onnx infers the types of what they take."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(half)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)}
    seen = [node for node in graph.node if node.op_type in ("Softmax", "LayerNormalization")]
    assert len(seen) >= 5
    assert {types[node.input[0]] for node in seen} == {TensorProto.FLOAT}
    [images] = [node for node in graph.node if node.op_type == "Cast" and types[node.input[0]] == TensorProto.UINT8]
    assert types[images.output[0]] == TensorProto.FLOAT


def test_model_that_is_converted_is_left_as_it_is() -> None:
    """It may be written as well."""
    weights = onnx.numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "weights")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 2, 2]) for name in ("images", "logits")]
    node = helper.make_node("Conv", ["images", "weights"], ["logits"], "conv")
    model = helper.make_model(helper.make_graph([node], "one", values[:1], values[1:], [weights]))
    before = model.SerializeToString()
    assert to_half(model).graph.initializer[0].data_type == TensorProto.FLOAT16
    assert model.SerializeToString() == before
