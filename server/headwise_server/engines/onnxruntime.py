"""ONNX Runtime on the CPU, float32: the reference."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from headwise.cores import usable_cores
from numpy.typing import NDArray

from headwise_server.engines import Engine, EngineError, Outputs, Precision

# 8-14 % faster in float32 without it, measured on CCT-7/3x1 with ONNX Runtime 1.32.
DISABLED_OPTIMIZERS = ("SkipLayerNormFusion",)

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

    def run(self, images_NYXC: NDArray[np.uint8]) -> Outputs:
        """Every output of the graph, by name."""
        return dict(zip(self._names, self._session.run(self._names, {"images": images_NYXC}), strict=True))


def session_options(streams: int) -> onnxruntime.SessionOptions:
    """One thread for each concurrent run: several of those beat one run on several threads (measured on 2 cores).

    A single stream has the cores that this process may use. The runtime's own choice is all of the machine: on one core
    of two that was a third as fast (measured).
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1 if streams > 1 else usable_cores()
    return options


def _open_session(path: Path, precision: Precision, streams: int, cache: Path) -> OnnxRuntimeSession:
    return OnnxRuntimeSession(
        path,
        precision,
        providers=["CPUExecutionProvider"],
        options=session_options(streams),
        disabled_optimizers=DISABLED_OPTIMIZERS,
    )


def engine() -> Engine:
    """ONNX Runtime on the CPU."""
    return Engine("onnxruntime", _open_session, lambda: None)
