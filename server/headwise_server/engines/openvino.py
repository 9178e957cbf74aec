"""OpenVINO on the CPU, with the precision stated explicitly: its own default differs from machine to machine.

A graph in int8 says itself what is in int8; the rest of it runs in the processor's reduced precision, where it has one.
"""

import queue
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from headwise_server.engines import Engine, EngineError, Outputs, Precision, require_integers

WITH_WEIGHTS = ("Convolution", "FullyConnected")  # as OpenVINO calls them once a graph is compiled
INTEGERS = ("i8", "u8")


class OpenVinoSession:
    """A compiled graph and one inference request for each concurrent run."""

    def __init__(self, path: Path, precision: Precision, streams: int, cache: Path) -> None:
        self.precision = precision
        hint = (reduced_precision() or "f32") if precision == "int8" else precision
        properties = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": streams, "PERFORMANCE_HINT": "THROUGHPUT"}
        try:
            compiled = openvino.Core().compile_model(path, "CPU", properties)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot load {path}: {error}") from error
        running = str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        if running != hint:
            raise EngineError(f"expected {path} to run in {hint}, found OpenVINO running it in {running}")
        if precision == "int8":
            _require_integers(path, compiled)
        self._names = [output.get_any_name() for output in compiled.outputs]
        self._requests: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        for _ in range(streams):
            self._requests.put(compiled.create_infer_request())

    def run(self, images_NYXC: NDArray[np.uint8], **others: NDArray[Any]) -> Outputs:
        """Every output of the graph, by name; copies, because the request's memory is used again."""
        request = self._requests.get()
        try:
            request.infer({"images": images_NYXC, **others}, share_inputs=True)
            return {name: request.get_output_tensor(i).data.copy() for i, name in enumerate(self._names)}
        finally:
            self._requests.put(request)


def _require_integers(path: Path, compiled: openvino.CompiledModel) -> None:
    """Check that every convolution and every product with weights was compiled to integers.

    Raises:
        EngineError: some run in another type, or there are none.
    """
    running: list[tuple[str, str]] = []
    for operation in compiled.get_runtime_model().get_ops():
        said = operation.get_rt_info()
        if said["layerType"].value in WITH_WEIGHTS:
            running.append((operation.get_friendly_name(), said["runtimePrecision"].value))
    require_integers(path, [f"{name} in {kind}" for name, kind in running if kind not in INTEGERS], len(running))


def reduced_precision() -> Precision | None:
    """bf16 where the processor computes in it (AMX or AVX512-BF16)."""
    return "bf16" if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else None


def engine() -> Engine:
    """OpenVINO on the CPU."""
    return Engine("openvino", OpenVinoSession, reduced_precision)
