"""Static int8 graphs of `classify.onnx`, each for one engine, which is the only one that runs it fast.

Weights become signed 8-bit numbers with a scale for each output channel; activations 8-bit numbers with one scale and
zero point, from their smallest and largest values over calibration images. Convolutions and products with weights are
quantised. Products of activations (attention, pooling) are not: they are no faster in int8 and cost accuracy.

    onnxruntime  ONNX, QDQ, unsigned activations, MinMax by batches (`onnxruntime.quantization`)
    openvino     OpenVINO's own format (.xml and .bin), by nncf: preset MIXED, model type TRANSFORMER, smooth
                 quantisation, bias correction
    tensorrt     ONNX, QDQ, all numbers signed and symmetric, biases in float32, nothing rounded after a product, as
                 TensorRT takes them; ranges as for ONNX Runtime. Never run on a GPU so far

Processors without VNNI add two products of 8 bits in 16 bits, and saturate: the accuracy of a CIFAR-100 model fell from
64.9 to 49.9 %. So ONNX Runtime is asked for exact sums (`onnx_runtime_options`; free with VNNI), and for OpenVINO
weights use half of their range (nncf's overflow fix): what was accepted here then holds on other processors.

A range is the mean over batches of 16 images of each batch's range. For OpenVINO, batches of 1 double what the logits
are off by. For ONNX Runtime, the range over all images loses 0.36 and 0.46 points of 64.82 %, the mean of ranges 0.20
and 0.12 (two samples of 512 calibration images, 5,000 validation images). What lies beyond the mean is clipped: the
largest difference of any image grows, on Flowers-102 from 0.38 to 0.87 of a range of 10, while as many labels stay.
"""

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from headwise_exporter.engines import ONNXRUNTIME, OPENVINO, TENSORRT
from headwise_exporter.errors import ExporterError

CALIBRATION_BATCH = 16
QUANTISED = ("Conv", "MatMul", "Gemm")
INT8_FILES = {
    ONNXRUNTIME: ("classify.onnxruntime.int8.onnx",),
    OPENVINO: ("classify.openvino.int8.xml", "classify.openvino.int8.bin"),
    TENSORRT: ("classify.tensorrt.int8.onnx",),
}
FOR_ONNX_RUNTIME = {"CalibMovingAverage": True}  # a mean of the batches' ranges
FOR_TENSORRT = {
    **FOR_ONNX_RUNTIME,
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": list(QUANTISED),
}
NEEDS = {ONNXRUNTIME: (), OPENVINO: ("openvino", "nncf"), TENSORRT: ()}  # packages beside the exporter's own

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # images (N, Y, X, C) to logits (N, K)


class QuantizationError(ExporterError):
    """An int8 graph cannot be made or run: a package is missing, or fails."""


def require(*packages: str) -> None:
    """Check that packages are installed.

    Raises:
        QuantizationError: one is missing; the message says what to install.
    """
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        raise QuantizationError(f"{' and '.join(missing)} missing: pip install 'headwise[quantize]'")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow what the libraries print, log and warn of; their errors are exceptions and pass."""
    root = logging.getLogger()
    handlers, disabled = list(root.handlers), root.manager.disable
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers  # logging.warning() adds one where there is none


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """Calibration images as ONNX Runtime asks for them."""

    def __init__(self, batches: list[NDArray[np.uint8]]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}


def _quantize_with_onnx_runtime(
    graph: Path, target: Path, batches: list[NDArray[np.uint8]], activations: QuantType, options: dict[str, Any]
) -> None:
    model = onnx.load(graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    of_activations = [
        node.name for node in model.graph.node if node.op_type == "MatMul" and not weights.intersection(node.input)
    ]
    quantize_static(
        model,
        target,
        _Batches(batches),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(QUANTISED),
        nodes_to_exclude=of_activations,
        per_channel=True,
        activation_type=activations,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options=options,
    )


def _quantize_for_onnx_runtime(graph: Path, target: Path, batches: list[NDArray[np.uint8]]) -> None:
    _quantize_with_onnx_runtime(graph, target, batches, QuantType.QUInt8, FOR_ONNX_RUNTIME)


def _quantize_for_tensorrt(graph: Path, target: Path, batches: list[NDArray[np.uint8]]) -> None:
    _quantize_with_onnx_runtime(graph, target, batches, QuantType.QInt8, FOR_TENSORRT)


def _quantize_for_openvino(graph: Path, target: Path, batches: list[NDArray[np.uint8]]) -> None:
    import nncf  # both take seconds to import, and need not be installed
    import openvino

    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(graph)
    of_activations = [
        operation.get_friendly_name()
        for operation in model.get_ops()
        if operation.get_type_name() == "MatMul" and operation.input_value(1).get_node().get_type_name() != "Constant"
    ]
    quantised = nncf.quantize(
        model,
        nncf.Dataset(batches),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(batches),
        ignored_scope=nncf.IgnoredScope(names=of_activations),
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
    )
    openvino.save_model(quantised, target, compress_to_fp16=False)


def quantize(graph: Path, engine: str, folder: Path, images_NYXC: NDArray[np.uint8]) -> Path:
    """Write the int8 graph of a float32 one for an engine, under its names in `INT8_FILES`; returns the first.

    Args:
        graph: of `export_graphs`, its weights beside it.
        images_NYXC: that the ranges of activations are read from; training images.

    Raises:
        QuantizationError: a package is missing, or cannot do it; then no file stays.
    """
    require(*NEEDS[engine])
    target = folder / INT8_FILES[engine][0]
    batches = [images_NYXC[at : at + CALIBRATION_BATCH] for at in range(0, len(images_NYXC), CALIBRATION_BATCH)]
    make = {
        ONNXRUNTIME: _quantize_for_onnx_runtime,
        OPENVINO: _quantize_for_openvino,
        TENSORRT: _quantize_for_tensorrt,
    }[engine]
    try:
        with _quiet():
            make(graph, target, batches)
    except OSError:  # of the disk
        raise
    except Exception as error:  # whatever the libraries raise; they have no base class in common
        for name in INT8_FILES[engine]:
            (folder / name).unlink(missing_ok=True)
        raise QuantizationError(" ".join(f"{type(error).__name__}: {error}".split())) from error
    return target


def onnx_runtime_options() -> onnxruntime.SessionOptions:
    """Options under which int8 sums are exact on every processor."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _open_onnx_runtime(graph: Path) -> Run:
    session = onnxruntime.InferenceSession(graph, onnx_runtime_options(), providers=["CPUExecutionProvider"])

    def run(images_NYXC: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits_NK: NDArray[np.float32] = session.run(["logits"], {"images": images_NYXC})[0]
        return logits_NK

    return run


def _open_openvino(graph: Path) -> Run:
    require("openvino")
    import openvino

    # What is not in int8 stays in float32: bf16 would make the figures those of this processor.
    compiled: Any = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()

    def run(images_NYXC: NDArray[np.uint8]) -> NDArray[np.float32]:
        request.infer([images_NYXC], share_inputs=True)
        logits_NK: NDArray[np.float32] = request.get_output_tensor(0).data.copy()
        return logits_NK

    return run


def open_graph(graph: Path, engine: str) -> Run:
    """What runs a graph on the CPU, on its own engine or, where that is for GPUs, on ONNX Runtime.

    Raises:
        QuantizationError: the engine is not installed.
    """
    return _open_openvino(graph) if engine == OPENVINO else _open_onnx_runtime(graph)
