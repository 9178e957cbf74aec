"""int8 graphs: made quietly, of weights alone, and nearly what the float32 graph gives."""

import logging
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import processes
import pytest
from headwise.bundle import read_golden_set
from headwise_exporter.export import quantization
from headwise_exporter.export.quantization import INT8_FILES, QuantizationError, open_graph, quantize, require


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "tensorrt"])
def test_int8_graph_gives_nearly_the_same_logits(
    bundle: Path, tmp_path: Path, engine: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Within a tenth of their range, in files of the names that the format has, and without a word."""
    golden = read_golden_set(bundle)
    handlers = list(logging.getLogger().handlers)
    graph = quantize(bundle / "classify.onnx", engine, tmp_path, golden["images"])
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(INT8_FILES[engine])
    difference = np.abs(open_graph(graph, engine)(golden["images"]) - golden["logits"]).max()
    assert 0 < difference < 0.1 * np.ptp(golden["logits"])


def test_products_of_activations_are_not_quantised(bundle: Path, tmp_path: Path) -> None:
    """In ONNX, every product with weights is int8, and none of attention and pooling."""
    graph = onnx.load(quantize(bundle / "classify.onnx", "onnxruntime", tmp_path, read_golden_set(bundle)["images"]))
    made_by = {output: node.op_type for node in graph.graph.node for output in node.output}
    products = [node for node in graph.graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    kinds = [tuple(made_by.get(name) == "DequantizeLinear" for name in node.input[:2]) for node in products]
    of_activations = 5  # two of attention in each of two encoders, and one of pooling
    assert kinds.count((True, True)) == len(kinds) - of_activations > of_activations
    assert graph.opset_import[0].version == 18


def test_graph_for_tensorrt_is_symmetric_with_float_biases(bundle: Path, tmp_path: Path) -> None:
    """Zero points are zero, no number is unsigned, nothing has 32 bits, and what a product gives is not rounded."""
    path = quantize(bundle / "classify.onnx", "tensorrt", tmp_path, read_golden_set(bundle)["images"])
    graph = onnx.load(path).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    scaled = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in scaled:
        zero_point = values[node.input[2]]
        assert zero_point.dtype == np.int8
        assert not zero_point.any()
        assert made_by.get(node.input[0]) not in quantization.QUANTISED
    products = [node for node in graph.node if node.op_type in quantization.QUANTISED]
    assert sum(made_by.get(node.input[1]) == "DequantizeLinear" for node in products) > len(products) // 2


def test_files_name_nothing_of_this_machine(int8_bundle: Path, bundle: Path) -> None:
    """No path is in a graph."""
    for path in int8_bundle.glob("*.int8.*"):
        content = path.read_bytes()
        for place in (str(Path.home()), str(int8_bundle.parent), str(bundle.parent), sys.prefix):
            assert place.encode() not in content


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The one that is missing is named, with the extra."""
    require("numpy")
    monkeypatch.setitem(quantization.NEEDS, "openvino", ("numpy", "no_such_package"))
    with pytest.raises(QuantizationError, match=r"no_such_package missing: pip install 'headwise\[quantize\]'"):
        quantize(tmp_path / "classify.onnx", "openvino", tmp_path, np.zeros((1, 8, 8, 1), np.uint8))


def test_library_that_fails_leaves_no_file(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words are the reason."""

    def fail(graph: Path, target: Path, batches: list[np.ndarray]) -> None:
        target.write_bytes(b"half")
        raise IndexError("no such\naxis")

    monkeypatch.setattr(quantization, "_quantize_for_onnx_runtime", fail)
    with pytest.raises(QuantizationError, match=r"^IndexError: no such axis$"):
        quantize(bundle / "classify.onnx", "onnxruntime", tmp_path, np.zeros((1, 8, 8, 1), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_quantising_is_reported_to_nobody() -> None:
    """nncf is loaded without the package that it reports its use by."""
    code = """
import sys, warnings
import headwise_exporter
warnings.simplefilter("ignore")
import nncf, openvino
from nncf.telemetry import wrapper
assert sys.modules["openvino_telemetry"] is None
assert isinstance(wrapper.telemetry, wrapper.NNCFTelemetryStub)
"""
    processes.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
