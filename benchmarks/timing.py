"""What the benchmarks share: runners of a graph on each runtime, interleaved timing, and medians with quartiles."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions

Run = Callable[[NDArray[np.uint8]], Any]
WARM_UP_ROUNDS = 5


def onnxruntime_runner(path: Path, threads: int) -> Run:
    """ONNX Runtime in float32 on the CPU."""
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would slow the other graph
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


def openvino_runner(precision: str) -> Callable[[Path, int], Run]:
    """OpenVINO on the CPU at an inference precision."""

    def make(path: Path, threads: int) -> Run:
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1}
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        request = compiled.create_infer_request()
        return lambda images: request.infer([images], share_inputs=True)

    return make


def processor_has_bf16() -> bool:
    """Whether the processor computes in bf16; elsewhere it would be emulated."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def runners() -> dict[str, Callable[[Path, int], Run]]:
    """Every runtime and precision that this processor computes in."""
    runners = {"onnxruntime f32": onnxruntime_runner, "openvino f32": openvino_runner("f32")}
    return runners | ({"openvino bf16": openvino_runner("bf16")} if processor_has_bf16() else {})


def interleaved_seconds(runs: Sequence[Run], images: NDArray[np.uint8], rounds: int) -> NDArray[np.float64]:
    """Wall time of each run in each round (rounds, runs), the runs in turn, so that a slow moment meets all."""

    def seconds(run: Run) -> float:
        started = time.perf_counter()
        run(images)
        return time.perf_counter() - started

    times = [[seconds(run) for run in runs] for _ in range(WARM_UP_ROUNDS + rounds)]
    return np.array(times[WARM_UP_ROUNDS:])


def quartiles(ratios: NDArray[np.float64]) -> dict[str, float]:
    """Median and quartiles of a ratio."""
    low, ratio, high = np.percentile(ratios, (25, 50, 75))
    return {"ratio": ratio, "ratio_quartile_low": low, "ratio_quartile_high": high}


def show_quartiles(figures: dict[str, Any]) -> str:
    """The same for a table."""
    return f"{figures['ratio']:.2f} ({figures['ratio_quartile_low']:.2f}-{figures['ratio_quartile_high']:.2f})"
