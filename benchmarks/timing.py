"""What the benchmarks share: runners of a graph on each runtime, and medians with quartiles.

Sessions and interleaved timing are those of `exporter bench`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from headwise_exporter.bench.sessions import Precision, Run, open_session, processor_has_bf16
from headwise_exporter.bench.timing import spread
from headwise_exporter.engines import ONNXRUNTIME, OPENVINO
from numpy.typing import NDArray

Runner = Callable[[Path, int], Run]


def runner(engine: str, precision: Precision) -> Runner:
    """A graph, and its threads, on an engine."""
    return lambda path, threads: open_session(path, engine, precision, threads).run


def runners() -> dict[str, Runner]:
    """Every CPU runtime and precision that this processor computes in."""
    precisions: tuple[Precision, ...] = ("f32", "bf16") if processor_has_bf16() else ("f32",)
    openvino = {f"{OPENVINO} {precision}": runner(OPENVINO, precision) for precision in precisions}
    return {f"{ONNXRUNTIME} f32": runner(ONNXRUNTIME, "f32"), **openvino}


def quartiles(ratios: NDArray[np.float64]) -> dict[str, float]:
    """Median and quartiles of a ratio."""
    of_ratios = spread(ratios)
    return {
        "ratio": of_ratios.median,
        "ratio_quartile_low": of_ratios.quartile_low,
        "ratio_quartile_high": of_ratios.quartile_high,
    }


def show_quartiles(figures: dict[str, Any]) -> str:
    """The same for a table."""
    return f"{figures['ratio']:.2f} ({figures['ratio_quartile_low']:.2f}-{figures['ratio_quartile_high']:.2f})"
