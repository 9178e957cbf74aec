"""ONNX Runtime on the CPU: float32, which is the reference, and graphs in int8.

What a graph in int8 comes to is decided as it is opened, by which patterns the runtime knows. So its first run is
profiled: what ran says in which type.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from headwise.cores import usable_cores
from numpy.typing import NDArray

from headwise_server.engines import Engine, EngineError, Outputs, Precision, require_integers

# 8-14 % faster in float32 without it, measured on CCT-7/3x1 with ONNX Runtime 1.32.
DISABLED_OPTIMIZERS = ("SkipLayerNormFusion",)

INTEGER_PRODUCTS = frozenset(
    ("QLinearConv", "ConvInteger", "QLinearMatMul", "QGemm", "MatMulInteger", "MatMulIntegerToFloat")
)
FLOAT_PRODUCTS_WITH_WEIGHTS = frozenset(("Conv", "FusedConv", "Gemm", "FusedGemm"))
FLOAT_PRODUCTS = frozenset(("MatMul", "FusedMatMul"))

Provider = str | tuple[str, dict[str, Any]]


class OnnxRuntimeSession:
    """A session on an ordered list of providers, the first of which must be in use."""

    def __init__(
        self,
        path: Path,
        precision: Precision,
        *,
        providers: Sequence[Provider],
        options: onnxruntime.SessionOptions,
        disabled_optimizers: Sequence[str] = (),
    ) -> None:
        self.precision = precision
        wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
        try:
            self._session = onnxruntime.InferenceSession(
                path,
                options,
                providers=list(providers),
                disabled_optimizers=list(disabled_optimizers),
                enable_fallback=0,  # it would open the graph again, with other providers, and print that
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise EngineError(f"{wanted} cannot load {path}: {error}") from error
        running = self._session.get_providers()
        if running[:1] != [wanted]:
            raise EngineError(f"expected {path} to run on {wanted}, found {', '.join(running)}")
        self._names = [output.name for output in self._session.get_outputs()]

    def require_integers(self, path: Path) -> None:
        """Run one black image of a session that profiles, and look at what ran.

        Raises:
            EngineError: a convolution or a product with weights ran in another type, or none ran.
        """
        _, *shape = self._session.get_inputs()[0].shape
        self.run(np.zeros((1, *shape), np.uint8))
        events = json.loads(Path(self._session.end_profiling()).read_text("utf-8"))
        ran = [event["args"] for event in events if event.get("cat") == "Node" and "op_name" in event.get("args", {})]
        elsewise = [node["op_name"] for node in ran if _is_float_product(node)]
        integers = sum(node["op_name"] in INTEGER_PRODUCTS for node in ran)
        require_integers(path, elsewise, len(elsewise) + integers)

    def run(self, images_NYXC: NDArray[np.uint8], **others: NDArray[Any]) -> Outputs:
        """Every output of the graph, by name."""
        values = self._session.run(self._names, {"images": images_NYXC, **others})
        return dict(zip(self._names, values, strict=True))


def _is_float_product(node: Mapping[str, Any]) -> bool:
    """Whether a node that ran is a convolution or a product with a matrix of weights, in another type than int8.

    Weights are matrices, and no inputs any more where the runtime has packed them; activations that are multiplied with
    each other have a batch.
    """
    if node["op_name"] in FLOAT_PRODUCTS_WITH_WEIGHTS:
        return True
    shapes = [shape for typed in node["input_type_shape"] for shape in typed.values()]
    return node["op_name"] in FLOAT_PRODUCTS and (len(shapes) < 2 or len(shapes[1]) == 2)


def session_options(streams: int) -> onnxruntime.SessionOptions:
    """One thread for each concurrent run: several of those beat one run on several threads (measured on 2 cores).

    A single stream has the cores that this process may use. The runtime's own choice is all of the machine: on one core
    of two that was a third as fast (measured).
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1 if streams > 1 else usable_cores()
    return options


def _open_session(path: Path, precision: Precision, streams: int, cache: Path) -> OnnxRuntimeSession:
    if precision not in ("f32", "int8"):
        raise EngineError(f"expected f32 or int8, which ONNX Runtime computes in on a CPU, found {precision}")
    options = session_options(streams)
    with tempfile.TemporaryDirectory(prefix="headwise-") as folder:
        if precision == "int8":
            # Sums of products are exact also where the processor would saturate them; free where it would not.
            options.add_session_config_entry("session.x64quantprecision", "1")
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "first_run")
        session = OnnxRuntimeSession(
            path,
            precision,
            providers=["CPUExecutionProvider"],
            options=options,
            disabled_optimizers=DISABLED_OPTIMIZERS,
        )
        if precision == "int8":
            session.require_integers(path)
        return session


def engine() -> Engine:
    """ONNX Runtime on the CPU."""
    return Engine("onnxruntime", _open_session, lambda: None)
