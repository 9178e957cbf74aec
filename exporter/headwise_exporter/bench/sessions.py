"""Open a graph on a runtime so that it runs on the provider and in the type that were asked for, or not at all.

Options are those of the server's engines, but for the threads: a bench states them, and idle ones must not spin,
because other graphs are timed in turn with this one. What was asked for is then compared with what runs: provider,
precision hint, and (`check_types`) the types of the products after the runtime's own optimisation.

Never run on a GPU so far: `cuda` and `tensorrt`.
"""

import importlib.util
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from headwise_exporter.engines import CUDA, ENGINES, GPU_ENGINES, ONNXRUNTIME, OPENVINO, TENSORRT
from headwise_exporter.errors import ExporterError

Precision = Literal["f32", "bf16", "f16", "int8"]
Outputs = dict[str, NDArray[Any]]
Run = Callable[..., Outputs]  # of images, and by name of what else the graph takes

DISABLED_OPTIMIZERS = ("SkipLayerNormFusion",)  # slower with it (measured with 1.32)
PROVIDERS: Final = {
    ONNXRUNTIME: ("CPUExecutionProvider",),
    CUDA: ("CUDAExecutionProvider",),
    TENSORRT: ("TensorrtExecutionProvider", "CUDAExecutionProvider"),  # the second for what the first does not take
}
# Operations that hold nearly all of a model's arithmetic: by ONNX Runtime's names, and by OpenVINO's.
FLOAT_PRODUCTS = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Conv", "FusedConv", "NhwcFusedConv", "Attention"}
INTEGER_PRODUCTS = {"QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"} | {
    "QGemm",
    "QLinearConv",
    "ConvInteger",
}
OPENVINO_PRODUCTS = {"FullyConnected", "MatMul", "Convolution", "GroupConvolution"}
OPENVINO_TYPES = {"i8": "int8", "u8": "int8"}  # its names for types, where they are not ours


class SessionError(ExporterError):
    """A graph does not run here as it was asked to."""


@dataclass(frozen=True)
class Opened:
    """A graph on a runtime, ready to run."""

    run: Run
    product_types: Callable[[], Counter[str]]  # how many matrix products and convolutions run in each type


def device(engine: str) -> str:
    """What an engine runs on: `cpu` or `gpu`."""
    return "gpu" if engine in GPU_ENGINES else "cpu"


def missing(engine: str) -> str | None:
    """Why an engine cannot run here; None where it may, which is sure once a session is open.

    Raises:
        SessionError: there is no such engine.
    """
    if engine not in ENGINES:
        raise SessionError(f"unknown engine {engine!r}; expected one of: {', '.join(ENGINES)}")
    if engine == OPENVINO:
        here = importlib.util.find_spec("openvino") is not None
        return None if here else "expected the package openvino, found none. Run: pip install 'headwise[cpu]'"
    available = onnxruntime.get_available_providers()
    provider = PROVIDERS[engine][0]
    return None if provider in available else f"expected {provider}, found {', '.join(available)}"


def processor_has_bf16() -> bool:
    """Whether this processor computes in bf16 (AMX, AVX512-BF16); elsewhere OpenVINO runs float32 instead."""
    import openvino  # need not be installed

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def open_session(path: Path, engine: str, precision: Precision, threads: int) -> Opened:
    """Open a graph.

    Args:
        threads: of one run, on the CPU.

    Raises:
        SessionError: the engine is not here, cannot load the graph, or would run it elsewhere or in another precision.
    """
    if reason := missing(engine):
        raise SessionError(f"{engine} cannot run here: {reason}.")
    return _open_openvino(path, precision, threads) if engine == OPENVINO else _open_onnxruntime(path, engine, threads)


def check_types(path: Path, engine: str, precision: Precision, opened: Opened) -> None:
    """Check that most matrix products and convolutions run in the precision asked for, in float32 all of them.

    A GPU's are not looked at: the provider compiles them, and a graph that it does not take as a whole fails to load.

    Raises:
        SessionError: they run in another type; it says how many in which.
    """
    if engine in GPU_ENGINES:
        return
    types = opened.product_types()
    asked, products = types[precision], types.total()
    if not (asked == products if precision == "f32" else 2 * asked > products):
        types_here = ", ".join(f"{count} in {name}" for name, count in types.most_common()) or "none"
        raise SessionError(
            f"expected the matrix products and convolutions of {path.name} to run in {precision} on {engine}, found "
            f"{types_here}. Time it as what it is, or use a graph and a machine for {precision}."
        )


def _onnxruntime_options(engine: str, threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    # Sums of integer products are exact also where the processor would saturate them.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if engine in GPU_ENGINES:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def _onnxruntime_session(path: Path, engine: str, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    providers = list(PROVIDERS[engine])
    try:
        if engine in GPU_ENGINES:
            onnxruntime.preload_dlls()  # CUDA and cuDNN from NVIDIA's wheels, which no search path leads to
        session = onnxruntime.InferenceSession(
            path, options, providers=providers, disabled_optimizers=list(DISABLED_OPTIMIZERS), enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise SessionError(f"{engine} cannot load {path}: {error}") from error
    if (running := session.get_providers())[:1] != providers[:1]:
        raise SessionError(f"expected {path} to run on {providers[0]}, found {', '.join(running)}.")
    return session


def _open_onnxruntime(path: Path, engine: str, threads: int) -> Opened:
    session = _onnxruntime_session(path, engine, _onnxruntime_options(engine, threads))
    names = [output.name for output in session.get_outputs()]
    first = session.get_inputs()[0].name

    def run(images: NDArray[Any], **others: NDArray[Any]) -> Outputs:
        return dict(zip(names, session.run(names, {first: images, **others}), strict=True))

    return Opened(run, lambda: _onnxruntime_types(path, engine, threads))


def _onnxruntime_types(path: Path, engine: str, threads: int) -> Counter[str]:
    """Types of the products in the graph as ONNX Runtime has optimised it."""
    import onnx  # not in a fresh process, whose memory is measured

    options = _onnxruntime_options(engine, threads)
    options.log_severity_level = 3  # it warns that the file is for this machine alone
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        _onnxruntime_session(path, engine, options)
        graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    halves = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    types: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type in INTEGER_PRODUCTS:
            types["int8"] += 1
        elif node.op_type in FLOAT_PRODUCTS:
            types["f16" if halves & set(node.input) else "f32"] += 1
    return types


def _open_openvino(path: Path, precision: Precision, threads: int) -> Opened:
    import openvino  # need not be installed

    rest = "bf16" if processor_has_bf16() else "f32"  # of an integer graph
    hint = rest if precision == "int8" else precision
    properties = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
    try:
        compiled = openvino.Core().compile_model(path, "CPU", properties)
    except RuntimeError as error:
        raise SessionError(f"OpenVINO cannot load {path}: {error}") from error
    running = str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
    if running != hint:
        raise SessionError(
            f"expected {path} to run in {hint}, found OpenVINO running it in {running}: this processor does not "
            f"compute in {hint}. Leave {precision} out here."
        )
    request = compiled.create_infer_request()
    names = [output.get_any_name() for output in compiled.outputs]

    def run(images: NDArray[Any], **others: NDArray[Any]) -> Outputs:
        inputs: dict[Any, NDArray[Any]] = {0: images, **others}
        request.infer(inputs, share_inputs=True)
        return {name: request.get_output_tensor(i).data.copy() for i, name in enumerate(names)}

    return Opened(run, lambda: _openvino_types(compiled))


def _openvino_types(compiled: Any) -> Counter[str]:
    """Types of the products in the graph as OpenVINO has compiled it."""
    described = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ordered_ops()]
    types = (info["runtimePrecision"].value for info in described if info["layerType"].value in OPENVINO_PRODUCTS)
    return Counter(OPENVINO_TYPES.get(name, name) for name in types)


def zeros(shape: Sequence[int]) -> NDArray[np.uint8]:
    """Images to run a graph on where their content is of no consequence."""
    return np.zeros(shape, np.uint8)
